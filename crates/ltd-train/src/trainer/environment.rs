//! What a stage learns in.

use std::rc::Rc;
use std::sync::Arc;

use ltd_engine::{Controller, Sampler, Static, StopRule};
use ltd_env::{
    CycleBackend, DepthEnv, Env, LiveCycles, PromptStream, RandomDepth, ReplayCycles, RewardMeter, SizeEnv,
    stream,
};
use ltd_policy::{Actions, PolicyKind};
use rand::Rng;

use super::Trainer;
use crate::Result;
use crate::config::StaticSetting;
use crate::plan::{Counterpart, Stage};
use crate::ppo::PpoConfig;

impl Trainer {
    pub(super) fn actions(&self, kind: PolicyKind) -> Actions {
        match kind {
            PolicyKind::Depth => Actions::Depth(self.config.depth.actions),
            PolicyKind::Size => Actions::Size(self.config.size.sizes.clone()),
        }
    }

    pub(super) fn ppo(&self, kind: PolicyKind) -> &PpoConfig {
        match kind {
            PolicyKind::Depth => &self.config.depth.ppo,
            PolicyKind::Size => &self.config.size.ppo,
        }
    }

    /// Chooses the tokens of whatever `purpose` decodes.
    pub(super) fn sampler(&self, purpose: &str) -> Sampler {
        let seed = stream(self.config.seed, &format!("sampling {purpose}")).random();
        Sampler::new(self.config.sampling, seed).expect("invariant: the configuration was checked")
    }

    /// What a stage learns in: recorded cycles if the run has any, else live ones.
    pub(super) fn environment(&self, stage: &Stage) -> Result<Box<dyn Env>> {
        let seed = stream(self.config.seed, &stage.name).random();
        if let Some(recorded) = &self.recorded {
            let (trace, costs) = (Arc::clone(&recorded.trace), recorded.costs.clone());
            return Ok(self.environment_over(ReplayCycles::new(trace, costs, seed)?, stage, seed));
        }
        let ids = self.prompts.train.iter().map(|prompt| prompt.ids.clone()).collect();
        let stop = StopRule { max_new_tokens: self.config.max_new_tokens, eos: self.eos.clone() };
        let sampler = self.sampler(&stage.name);
        let cycles = LiveCycles::new(Rc::clone(&self.engine), PromptStream::new(ids, seed), stop, sampler);
        Ok(self.environment_over(cycles, stage, seed))
    }

    fn environment_over(
        &self,
        cycles: impl CycleBackend + 'static,
        stage: &Stage,
        seed: u64,
    ) -> Box<dyn Env> {
        // Of a counterpart, only the decision that is not learned here is ever asked.
        let StaticSetting { depth, size } = self.config.evaluation.default;
        let counterpart: Box<dyn Controller> = match stage.counterpart {
            Counterpart::RandomDepth(range) => Box::new(RandomDepth::new(range.min..=range.max, size, seed)),
            Counterpart::FixedSize(size) => Box::new(Static { depth, size }),
            Counterpart::Frozen => self.pair.controller(),
        };
        let (layout, meter) = (self.config.layout(stage.kind), RewardMeter::new(self.config.reward));
        match self.actions(stage.kind) {
            Actions::Depth(actions) => Box::new(DepthEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Size(actions) => Box::new(SizeEnv::new(cycles, counterpart, actions, layout, meter)),
        }
    }
}
