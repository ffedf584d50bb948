//! What a stage learns in.

use std::rc::Rc;
use std::sync::Arc;

use ltd_engine::{Controller, Sampler, Static, StopRule};
use ltd_env::{
    CycleBackend, DepthEnv, Env, LiveCycles, PromptStream, RandomDepth, ReplayCycles, RewardMeter, SizeEnv,
    SourceEnv, stream,
};
use ltd_policy::{Actions, Merged, PolicyKind, SizeActions, SourceActions};
use rand::Rng;

use super::Trainer;
use crate::Result;
use ltd_run::config::{Advantage, Backend, PpoConfig, SourceConfig, StaticSetting};
use ltd_run::config::{Counterpart, PolicyTask, Stage, StageTask};

impl Trainer {
    pub(super) fn actions(&self, kind: PolicyKind) -> Result<Actions> {
        Ok(match kind {
            PolicyKind::Depth => Actions::Depth(self.config.depth.actions),
            PolicyKind::Size => Actions::Size(self.sizes()?),
            PolicyKind::Source => Actions::Source(self.sources()),
        })
    }

    /// What to draft from, to choose among. Without recordings, trees are merged by the draft
    /// model's own probabilities.
    pub(super) fn sources(&self) -> SourceActions {
        let SourceConfig { chains, merged, .. } = &self.config.source;
        let fitted = self.recorded.as_ref().and_then(|recorded| recorded.calibration.clone());
        let calibration = fitted.unwrap_or_default();
        let merged = merged.map(|chain| Merged { chain, calibration });
        SourceActions { chains: chains.clone(), merged }
    }

    /// Verification sizes to choose among: no larger than the predictor's stage found worth it, if
    /// there was one.
    pub(super) fn sizes(&self) -> Result<SizeActions> {
        let finished = &self.plan[..self.checkpoint.finished_stages];
        match self.predictor_stage().filter(|stage| finished.contains(stage)) {
            None => Ok(self.config.size.sizes.clone()),
            Some(_) => Ok(self.factored()?.predictor.actions().size.clone()),
        }
    }

    pub(super) fn predictor_stage(&self) -> Option<&Stage> {
        self.plan.iter().find(|stage| matches!(stage.task, StageTask::Predictor(_)))
    }

    /// How the policy of a task learns: of live cycles only what was sampled is known.
    pub(super) fn ppo(&self, task: PolicyTask) -> PpoConfig {
        let ppo = match task.kind {
            PolicyKind::Depth => &self.config.depth.ppo,
            PolicyKind::Size => &self.config.size.ppo,
            PolicyKind::Source => &self.config.source.ppo,
        };
        let advantage = if task.backend == Backend::Live { Advantage::Sampled } else { ppo.advantage };
        PpoConfig { advantage, ..ppo.clone() }
    }

    /// Chooses the tokens of whatever `purpose` decodes.
    pub(super) fn sampler(&self, purpose: &str) -> Sampler {
        let seed = stream(self.config.seed, &format!("sampling {purpose}")).random();
        Sampler::new(self.config.sampling, seed).expect("invariant: the configuration was checked")
    }

    /// What a policy learns in: recorded cycles or live ones.
    pub(super) fn environment(&self, name: &str, task: PolicyTask) -> Result<Box<dyn Env>> {
        let seed = stream(self.config.seed, name).random();
        if let (Some(recorded), Backend::Replay) = (&self.recorded, task.backend) {
            let (trace, costs) = (Arc::clone(&recorded.train), recorded.costs.clone());
            let cycles = ReplayCycles::new(trace, costs, seed)?;
            let cycles = match &recorded.scatter {
                Some(scatter) => cycles.with_noise(scatter.clone()),
                None => cycles,
            };
            return self.environment_over(cycles, task, seed);
        }
        let ids = self.prompts.train.iter().map(|prompt| prompt.ids.clone()).collect();
        let stop = StopRule { max_new_tokens: self.config.max_new_tokens, eos: self.eos.clone() };
        let sampler = self.sampler(name);
        let cycles = LiveCycles::new(Rc::clone(&self.engine), PromptStream::new(ids, seed), stop, sampler)
            .with_interrupt(self.interrupt.clone());
        self.environment_over(cycles, task, seed)
    }

    fn environment_over(
        &self,
        cycles: impl CycleBackend + 'static,
        task: PolicyTask,
        seed: u64,
    ) -> Result<Box<dyn Env>> {
        // Of a counterpart, only the decisions that are not learned here are ever asked.
        let StaticSetting { depth, size } = self.config.evaluation.default;
        let counterpart: Box<dyn Controller> = match task.counterpart {
            Counterpart::RandomDepth(range) => Box::new(RandomDepth::new(range.min..=range.max, size, seed)),
            Counterpart::FixedSize(size) => Box::new(Static { depth, size }),
            Counterpart::Frozen => self.pair.controller(),
        };
        let (layout, meter) = (self.config.layout(task.kind), RewardMeter::new(self.config.reward));
        Ok(match self.actions(task.kind)? {
            Actions::Depth(actions) => Box::new(DepthEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Size(actions) => Box::new(SizeEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Source(actions) => Box::new(SourceEnv::new(cycles, counterpart, actions, layout, meter)),
        })
    }
}
