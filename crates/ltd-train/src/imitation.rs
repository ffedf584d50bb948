//! Policies that learn to decide as another controller does.

use ltd_engine::{Controller, Glimpse, Looks};
use ltd_env::oracle::decide_at_every_position;
use ltd_env::trace::Trace;
use ltd_env::{Interrupt, stream};
use ltd_policy::{
    Actions, CycleSummary, DepthActions, DepthRule, DraftSource, FrozenPolicy, Mlp, ObservationLayout,
    SizeActions, SourceActions, SourceSummary,
};
use rand::seq::SliceRandom;
use tch::{Kind, Tensor};

use crate::Result;
use crate::autograd::{Adam, Network};
use crate::predictor::Walks;
use ltd_run::config::ImitationStage;

/// Observations kept with a policy, to check copies of it.
const PROBES: usize = 32;
/// As where PPO begins: a policy that prefers nothing.
const ACTION_GAIN: f64 = 0.01;
const ADAM_EPS: f64 = 1e-5;

/// Decisions of a controller and what a policy would have seen when they were due.
pub(crate) struct Examples {
    layout: ObservationLayout,
    actions: Actions,
    /// `[decisions, observation]`.
    observations: Vec<f32>,
    /// Index of the action, `[decisions]`.
    chosen: Vec<i64>,
}

impl Examples {
    fn new(layout: ObservationLayout, actions: Actions) -> Self {
        Self { layout, actions, observations: Vec::new(), chosen: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.chosen.len()
    }

    fn note(&mut self, summary: &CycleSummary, action: usize) {
        self.add(action, |layout, observation| layout.write_into(summary, observation));
    }

    fn add(&mut self, action: usize, write: impl FnOnce(&ObservationLayout, &mut [f32])) {
        let start = self.observations.len();
        self.observations.resize(start + self.layout.len(), 0.0);
        write(&self.layout, &mut self.observations[start..]);
        self.chosen.push(action as i64);
    }
}

/// All decisions of `teacher` at all recorded positions: of the depth, then of the size. It must
/// choose among these actions.
///
/// # Errors
/// If there is no decision to learn from, or there is a wish to stop.
pub(crate) fn examples(
    trace: &Trace,
    teacher: &mut dyn Controller,
    depth: (ObservationLayout, DepthActions),
    size: (ObservationLayout, SizeActions),
    interrupt: &Interrupt,
) -> Result<[Examples; 2]> {
    let mut watched = Watched {
        teacher,
        depth_actions: depth.1,
        sizes: size.1.sizes.clone(),
        depth: Examples::new(depth.0, Actions::Depth(depth.1)),
        size: Examples::new(size.0, Actions::Size(size.1)),
    };
    decide_at_every_position(trace, &mut watched, interrupt)?;
    if watched.depth.len() == 0 {
        let (cycles, min_depth) = (watched.size.len(), depth.1.min_depth);
        return Err(ltd_env::Error::NoDecision { cycles, min_depth }.into());
    }
    Ok([watched.depth, watched.size])
}

/// What `teacher` drafts from wherever it has a choice among `actions`, at the places of some
/// walks.
///
/// # Errors
/// If there is no choice to learn from.
pub(crate) fn source_examples(
    walks: &Walks,
    teacher: &mut dyn FnMut(usize, &SourceSummary) -> DraftSource,
    layout: ObservationLayout,
    actions: &SourceActions,
) -> Result<Examples> {
    let mut examples = Examples::new(layout, Actions::Source(actions.clone()));
    for (number, summary) in &walks.places {
        if !actions.asks(summary) {
            continue;
        }
        let chosen = teacher(*number, summary);
        let action = (0..actions.count()).find(|&action| actions.source(action) == chosen);
        let action = action.expect("invariant: the teacher has the same chains");
        examples.add(action, |layout, observation| layout.write_sequence_into(summary, observation));
    }
    if examples.len() == 0 {
        return Err(ltd_env::Error::NothingToCopy { cycles: walks.places.len() }.into());
    }
    Ok(examples)
}

/// A controller whose decisions are noted down.
struct Watched<'t> {
    teacher: &'t mut dyn Controller,
    depth_actions: DepthActions,
    sizes: Vec<usize>,
    depth: Examples,
    size: Examples,
}

impl Controller for Watched<'_> {
    fn size_limit(&self) -> usize {
        self.teacher.size_limit()
    }

    fn begin_cycle(&mut self) {
        self.teacher.begin_cycle();
    }

    fn looks(&self) -> Looks {
        self.teacher.looks()
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        self.teacher.look(summary, glimpse);
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        let goes_on = self.teacher.continue_drafting(summary);
        if self.depth_actions.rule_at(summary.draft_depth) == DepthRule::Ask {
            let action = if goes_on { DepthActions::CONTINUE } else { DepthActions::STOP };
            self.depth.note(summary, action);
        }
        goes_on
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        let size = self.teacher.verification_size(summary);
        let action = self.sizes.iter().position(|known| *known == size);
        self.size.note(summary, action.expect("invariant: the teacher has the same sizes"));
        size
    }
}

/// A policy that makes the same decisions, and the share of them that it does make. `observer` is
/// told the epochs that are over.
pub(crate) fn imitate(
    examples: &Examples,
    hidden: &[usize],
    stage: ImitationStage,
    seed: u64,
    interrupt: &Interrupt,
    observer: &mut dyn FnMut(usize),
) -> Result<(FrozenPolicy, f64)> {
    let mut random = stream(seed, &format!("imitation {}", examples.actions.kind()));
    let (inputs, count) = (examples.layout.len(), examples.len());
    let network = Network::new(inputs, hidden, examples.actions.count(), ACTION_GAIN, &mut random);
    let observations = Tensor::from_slice(&examples.observations).view([count as i64, inputs as i64]);
    let chosen = Tensor::from_slice(&examples.chosen);
    let parameters = network.parameters();
    let mut adam = Adam::new(&parameters, ADAM_EPS);
    let mut order: Vec<i64> = (0..count as i64).collect();
    let steps = (stage.epochs * count.div_ceil(stage.batch_size)) as f64;
    for epoch in 1..=stage.epochs {
        order.shuffle(&mut random);
        for rows in order.chunks(stage.batch_size) {
            interrupt.check()?;
            let rows = Tensor::from_slice(rows);
            let logits = network.forward(&observations.index_select(0, &rows));
            let loss = logits.cross_entropy_for_logits(&chosen.index_select(0, &rows));
            for parameter in &parameters {
                parameter.shallow_clone().zero_grad();
            }
            loss.backward();
            let rest = 1.0 - adam.steps() as f64 / steps;
            adam.step(&parameters, stage.learning_rate * rest);
        }
        observer(epoch);
    }
    let agreement = tch::no_grad(|| {
        let same = network.forward(&observations).argmax(-1, false).eq_tensor(&chosen);
        same.to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    });
    let stride = count.div_ceil(PROBES);
    let probes =
        (0..count).step_by(stride).map(|row| examples.observations[row * inputs..][..inputs].to_vec());
    let mlp = Mlp::new(&network.to_linears());
    let policy = FrozenPolicy::new(examples.layout.clone(), examples.actions.clone(), mlp, probes.collect());
    Ok((policy, agreement))
}
