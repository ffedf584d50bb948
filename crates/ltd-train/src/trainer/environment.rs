//! What a stage learns in.

use std::rc::Rc;

use ltd_engine::{Controller, Sampler, Static, StopRule};
use ltd_env::{DepthEnv, Env, LiveCycles, PromptStream, RandomDepth, RewardMeter, SizeEnv, stream};
use ltd_policy::{Actions, ObservationLayout, PolicyKind};
use rand::Rng;

use super::Trainer;
use crate::config::StaticSetting;
use crate::plan::{Counterpart, Stage};
use crate::ppo::PpoConfig;

impl Trainer {
    pub(super) fn layout(&self, kind: PolicyKind) -> ObservationLayout {
        let (beam_width, depth_cap) = (self.engine.beam_width(), self.engine.max_depth());
        match kind {
            PolicyKind::Depth => ObservationLayout::reference_depth(beam_width, depth_cap),
            PolicyKind::Size => ObservationLayout::reference_size(beam_width, depth_cap),
        }
    }

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

    pub(super) fn environment(&self, stage: &Stage) -> Box<dyn Env> {
        let seed = stream(self.config.seed, &stage.name).random();
        let ids = self.prompts.train.iter().map(|prompt| prompt.ids.clone()).collect();
        let stop = StopRule { max_new_tokens: self.config.max_new_tokens, eos: self.eos.clone() };
        let sampler = self.sampler(&stage.name);
        let cycles = LiveCycles::new(Rc::clone(&self.engine), PromptStream::new(ids, seed), stop, sampler);
        // Of a counterpart, only the decision that is not learned here is ever asked.
        let StaticSetting { depth, size } = self.config.evaluation.default;
        let counterpart: Box<dyn Controller> = match stage.counterpart {
            Counterpart::RandomDepth(range) => Box::new(RandomDepth::new(range.min..=range.max, size, seed)),
            Counterpart::FixedSize(size) => Box::new(Static { depth, size }),
            Counterpart::Frozen => self.pair.controller(),
        };
        let (layout, meter) = (self.layout(stage.kind), RewardMeter::new(self.config.reward));
        match self.actions(stage.kind) {
            Actions::Depth(actions) => Box::new(DepthEnv::new(cycles, counterpart, actions, layout, meter)),
            Actions::Size(actions) => Box::new(SizeEnv::new(cycles, counterpart, actions, layout, meter)),
        }
    }
}
