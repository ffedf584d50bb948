//! Frozen policies that decide inside the decode loop.

use std::sync::Arc;

use crate::action::{DepthActions, DepthRule, SizeActions};
use crate::network::{Actions, Frozen, FrozenPolicy, Outputs};
use crate::network::{Mlp, Scratch, argmax};
use crate::observation::{CycleSummary, ObservationLayout};
use crate::source::{DraftSource, SourceActions, SourceSummary};

/// A folded network with its buffers: deciding allocates nothing.
#[derive(Debug)]
pub(crate) struct Evaluator {
    layout: ObservationLayout,
    /// Shared by all that decide alike: each sequence of a server has buffers of its own.
    mlp: Arc<Mlp>,
    observation: Vec<f32>,
    scratch: Scratch,
}

impl Clone for Evaluator {
    /// With the same network, and buffers that are as large from the beginning.
    fn clone(&self) -> Self {
        Self {
            layout: self.layout.clone(),
            mlp: Arc::clone(&self.mlp),
            observation: self.observation.clone(),
            scratch: self.mlp.scratch(),
        }
    }
}

impl Evaluator {
    pub(crate) fn new<O: Outputs>(policy: &Frozen<O>) -> Self {
        let layout = policy.layout().folded();
        let mlp = policy.mlp().folded(policy.layout());
        let (observation, scratch) = (vec![0.0; layout.len()], mlp.scratch());
        Self { layout, mlp: Arc::new(mlp), observation, scratch }
    }

    /// The network's outputs.
    pub(crate) fn forward(&mut self, summary: &CycleSummary) -> &[f32] {
        self.layout.write_into(summary, &mut self.observation);
        self.mlp.forward(&self.observation, &mut self.scratch)
    }

    /// The network's outputs for a sequence before a cycle.
    pub(crate) fn forward_sequence(&mut self, summary: &SourceSummary) -> &[f32] {
        self.layout.write_sequence_into(summary, &mut self.observation);
        self.mlp.forward(&self.observation, &mut self.scratch)
    }

    fn decide(&mut self, summary: &CycleSummary) -> usize {
        argmax(self.forward(summary))
    }
}

/// Decides when to stop drafting.
#[derive(Debug, Clone)]
pub struct DepthPolicy {
    evaluator: Evaluator,
    actions: DepthActions,
}

/// Decides how many candidates to verify.
#[derive(Debug, Clone)]
pub struct SizePolicy {
    evaluator: Evaluator,
    actions: SizeActions,
}

/// Decides what to draft from.
#[derive(Debug, Clone)]
pub struct SourcePolicy {
    evaluator: Evaluator,
    actions: SourceActions,
}

impl SourcePolicy {
    /// Readies a frozen policy, `None` if it is one for another decision.
    pub fn new(policy: &FrozenPolicy) -> Option<Self> {
        match policy.actions() {
            Actions::Source(actions) => {
                Some(Self { evaluator: Evaluator::new(policy), actions: actions.clone() })
            }
            Actions::Depth(_) | Actions::Size(_) => None,
        }
    }

    /// What it chooses among.
    pub fn actions(&self) -> &SourceActions {
        &self.actions
    }

    /// What to draft from.
    pub fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        if !self.actions.asks(summary) {
            return DraftSource::Tree;
        }
        self.actions.source(argmax(self.evaluator.forward_sequence(summary)))
    }
}

impl DepthPolicy {
    /// Readies a frozen policy, `None` if it is one for another decision.
    pub fn new(policy: &FrozenPolicy) -> Option<Self> {
        match policy.actions() {
            Actions::Depth(actions) => Some(Self { evaluator: Evaluator::new(policy), actions: *actions }),
            Actions::Size(_) | Actions::Source(_) => None,
        }
    }

    /// Whether it sees every candidate that a level can have: then all have to be expanded, also
    /// those that cannot be verified.
    pub fn needs_whole_levels(&self) -> bool {
        self.evaluator.layout.needs_whole_levels()
    }

    /// Whether to draft one more level.
    pub fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        match self.actions.rule_at(summary.draft_depth) {
            DepthRule::Continue => true,
            DepthRule::Stop => false,
            DepthRule::Ask => self.evaluator.decide(summary) == DepthActions::CONTINUE,
        }
    }
}

impl SizePolicy {
    /// Readies a frozen policy, `None` if it is one for another decision.
    pub fn new(policy: &FrozenPolicy) -> Option<Self> {
        match policy.actions() {
            Actions::Size(actions) => {
                Some(Self { evaluator: Evaluator::new(policy), actions: actions.clone() })
            }
            Actions::Depth(_) | Actions::Source(_) => None,
        }
    }

    /// Whether it sees every candidate that a level can have: then all have to be expanded, also
    /// those that cannot be verified.
    pub fn needs_whole_levels(&self) -> bool {
        self.evaluator.layout.needs_whole_levels()
    }

    /// The largest size that it may choose.
    pub fn size_limit(&self) -> usize {
        self.actions.largest()
    }

    /// Candidates to verify.
    pub fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        self.actions.sizes[self.evaluator.decide(summary)]
    }
}
