//! What a stage learns in.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use ltd_engine::{Controller, Sampler, Static, StopRule};
use ltd_env::{
    DepthEnv, Env, LiveCycles, PromptStream, RandomDepth, ReplayCycles, RewardMeter, SizeEnv, SourceEnv,
    stream,
};
use ltd_policy::{Actions, Merged, PolicyKind, SizeActions, SourceActions};
use rand::Rng;

use super::Trainer;
use crate::Result;
use crate::ppo::Learner;
use crate::recorded::Recorded;
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

    /// How the policy of a task learns: of live cycles only what was sampled is known, and one is
    /// timed at a time.
    pub(super) fn ppo(&self, task: PolicyTask) -> PpoConfig {
        let ppo = match task.kind {
            PolicyKind::Depth => &self.config.depth.ppo,
            PolicyKind::Size => &self.config.size.ppo,
            PolicyKind::Source => &self.config.source.ppo,
        };
        let advantage = if task.backend == Backend::Live { Advantage::Sampled } else { ppo.advantage };
        // Two live cycles at a time would disturb each other.
        let n_envs = if task.backend == Backend::Live { 1 } else { ppo.n_envs };
        PpoConfig { advantage, n_envs, ..ppo.clone() }
    }

    /// Chooses the tokens of whatever `purpose` decodes.
    pub(super) fn sampler(&self, purpose: &str) -> Sampler {
        let seed = stream(self.config.seed, &format!("sampling {purpose}")).random();
        Sampler::new(self.config.sampling, seed).expect("invariant: the configuration was checked")
    }

    /// What a policy learns in: recorded cycles, several environments side by side if the
    /// configuration has it so, or live ones. `numbers` are those of this rank among all.
    pub(super) fn environments(&self, name: &str, task: PolicyTask, numbers: Range<usize>) -> Result<Envs> {
        if let (Some(recorded), Backend::Replay) = (&self.recorded, task.backend) {
            let envs = numbers.map(|number| self.recorded_environment(recorded, name, task, number));
            let mut envs = envs.collect::<Result<Vec<_>>>()?;
            return Ok(match envs.pop() {
                Some(only) if envs.is_empty() => Envs::One(only),
                last => Envs::Several(envs.into_iter().chain(last).collect()),
            });
        }
        let name = numbered(name, numbers.start);
        let seed = stream(self.config.seed, &name).random();
        let ids = self.prompts.train.iter().map(|prompt| prompt.ids.clone()).collect();
        let stop = StopRule { max_new_tokens: self.config.max_new_tokens, eos: self.eos.clone() };
        let sampler = self.sampler(&name);
        let cycles = LiveCycles::new(Rc::clone(&self.engine), PromptStream::new(ids, seed), stop, sampler)
            .with_interrupt(self.interrupt.clone());
        let (counterpart, layout, meter) =
            (self.counterpart(task, seed), self.config.layout(task.kind), self.meter());
        Ok(Envs::One(match self.actions(task.kind)? {
            Actions::Depth(actions) => Box::new(DepthEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Size(actions) => Box::new(SizeEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Source(actions) => Box::new(SourceEnv::new(cycles, counterpart, actions, layout, meter)),
        }))
    }

    fn recorded_environment(
        &self,
        recorded: &Recorded,
        name: &str,
        task: PolicyTask,
        number: usize,
    ) -> Result<Box<dyn Env + Send>> {
        let seed = stream(self.config.seed, &numbered(name, number)).random();
        let cycles = ReplayCycles::new(Arc::clone(&recorded.train), recorded.costs.clone(), seed)?;
        let cycles = match &recorded.scatter {
            Some(scatter) => cycles.with_noise(scatter.clone()),
            None => cycles,
        };
        let (counterpart, layout, meter) =
            (self.counterpart(task, seed), self.config.layout(task.kind), self.meter());
        Ok(match self.actions(task.kind)? {
            Actions::Depth(actions) => Box::new(DepthEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Size(actions) => Box::new(SizeEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Source(actions) => Box::new(SourceEnv::new(cycles, counterpart, actions, layout, meter)),
        })
    }

    /// Who makes the decisions that are not learned here: of it, no others are ever asked.
    fn counterpart(&self, task: PolicyTask, seed: u64) -> Box<dyn Controller> {
        let StaticSetting { depth, size } = self.config.evaluation.default;
        match task.counterpart {
            Counterpart::RandomDepth(range) => Box::new(RandomDepth::new(range.min..=range.max, size, seed)),
            Counterpart::FixedSize(size) => Box::new(Static { depth, size }),
            Counterpart::Frozen => self.pair.controller(),
        }
    }

    fn meter(&self) -> RewardMeter {
        RewardMeter::new(self.config.reward)
    }
}

/// The name of the streams of an environment; the first one's is the stage's.
fn numbered(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name} {number}") }
}

/// The environments of a rank.
pub(super) enum Envs {
    /// One, each of whose steps is seen.
    One(Box<dyn Env>),
    /// Several that take steps side by side.
    Several(Vec<Box<dyn Env + Send>>),
}

impl Envs {
    fn all(&self) -> Vec<&dyn Env> {
        match self {
            Self::One(env) => vec![env.as_ref()],
            Self::Several(envs) => envs.iter().map(|env| env.as_ref() as &dyn Env).collect(),
        }
    }

    /// Length of an observation and number of actions.
    pub(super) fn shape(&self) -> (usize, usize) {
        let env = self.all()[0];
        (env.observation_len(), env.n_actions())
    }

    /// Where each stands.
    pub(super) fn states(&self) -> Vec<serde_json::Value> {
        self.all().into_iter().map(Env::state).collect()
    }

    /// Returns to such states, which are as many, and has the learner see what is due.
    pub(super) fn restore(&mut self, states: &[serde_json::Value], learner: &mut Learner) -> Result<()> {
        match self {
            Self::One(env) => env.restore(states[0].clone(), learner.pending_observation())?,
            Self::Several(envs) => {
                for (number, (env, state)) in envs.iter_mut().zip(states).enumerate() {
                    env.restore(state.clone(), learner.pending_observation_of(number))?;
                }
            }
        }
        Ok(())
    }

    /// What the reward compares with, in tokens per second, where it does: the mean over
    /// environments.
    pub(super) fn lambda(&self) -> Option<f64> {
        let lambdas: Option<Vec<f64>> = self.all().into_iter().map(Env::lambda).collect();
        lambdas.map(|lambdas| lambdas.iter().sum::<f64>() / lambdas.len() as f64)
    }
}
