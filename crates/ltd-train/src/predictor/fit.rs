//! From recordings to a factored policy.

use ltd_engine::Learned;
use ltd_env::oracle::Constant;
use ltd_env::trace::Trace;
use ltd_policy::{
    DepthActions, FactoredActions, FactoredPolicy, FactoredRule, FactoredSource, FrozenPredictor,
    ObservationLayout, SizeActions, SourceActions, SourceOutcomes,
};
use ltd_run::Interrupt;

use super::records::Records;
use super::rule::{settle, settle_source};
use super::samples::Samples;
use super::source::Walks;
use super::train::{Epoch, train};
use crate::Result;
use crate::evaluate::{Contender, Measurement};
use crate::recorded::Recorded;
use ltd_run::config::PredictorStage;

/// Limits of the size that are tried: that of the best constant, and the next ones.
const LIMITS: usize = 3;

/// Samples per gradient step of the source's predictor at most.
const SOURCE_BATCH: usize = 64;

/// A factored policy, and what it reaches on the held-out recordings.
pub(crate) struct Fitted {
    pub(crate) predictor: FrozenPredictor,
    pub(crate) rule: FactoredRule,
    /// How it decides what to draft from, if that gains anything there.
    pub(crate) source: Option<FactoredSource>,
    pub(crate) measured: Measurement,
}

/// Among which sizes to choose, for each limit that is tried: the smaller the largest size, the
/// less is drafted that could only be verified with more; the more the fewer outcomes remain.
pub(crate) fn size_tables(
    sizes: &SizeActions,
    constants: &[Constant],
    stage: &PredictorStage,
) -> Vec<SizeActions> {
    if !stage.find_size_limit {
        return vec![sizes.clone()];
    }
    let best = constants[0].size;
    let up_to = |count: usize| SizeActions { sizes: sizes.sizes[..count].to_vec() };
    let first = sizes.sizes.partition_point(|&size| size < best) + 1;
    // A choice needs two sizes.
    let first = first.clamp(2, sizes.sizes.len());
    (first..=sizes.sizes.len()).take(LIMITS).map(up_to).collect()
}

/// Fits a predictor for each of some tables of sizes, finds its rule, and keeps the policy that is
/// fastest on the held-out recordings. `observer` sees each epoch of each table and says whether to
/// go on; nothing is returned if not even one was fitted.
#[expect(clippy::too_many_arguments, reason = "what is learned from, what is learned, and who watches")]
pub(crate) fn fit(
    recorded: &Recorded,
    layout: &ObservationLayout,
    depth: DepthActions,
    tables: &[SizeActions],
    chains: Option<&SourceActions>,
    stage: &PredictorStage,
    seed: u64,
    interrupt: &Interrupt,
    observer: &mut dyn FnMut(&Epoch, usize) -> bool,
) -> Result<Fitted> {
    let start = recorded.constants()[0].tokens_per_second();
    let [train_trace, check_trace] = learned_from(recorded, stage);
    let mut best: Option<Fitted> = None;
    let mut goes_on = true;
    for size in tables {
        let actions = FactoredActions { depth, size: size.clone() };
        let samples = Samples::of(&train_trace, layout, &actions, interrupt)?;
        let held_out = Samples::of(&check_trace, layout, &actions, interrupt)?;
        let mut observe = |epoch: &Epoch| {
            goes_on = observer(epoch, samples.len());
            goes_on
        };
        let sees = (layout.clone(), actions);
        let predictor = train(&samples, &held_out, sees, stage, seed, interrupt, &mut observe)?;
        let rule = settle(&predictor, &recorded.table, &train_trace, start, interrupt)?;
        let controller = Learned::from(FactoredPolicy::new(&predictor, &recorded.table, rule));
        let measured = recorded.measure(&mut [Contender::new("factored", Box::new(controller))])?.remove(0);
        let rate = |measured: &Measurement| measured.total().tokens_per_second();
        if best.as_ref().is_none_or(|best| rate(&measured) > rate(&best.measured)) {
            best = Some(Fitted { predictor, rule, source: None, measured });
        }
        if !goes_on {
            break;
        }
    }
    let trees = best.expect("invariant: there is a table of sizes");
    match chains.filter(|_| goes_on) {
        Some(chains) => with_source(trees, chains, recorded, stage, seed, interrupt, observer),
        None => Ok(trees),
    }
}

/// The recordings that a predictor learns from, and those that it is checked on.
fn learned_from(recorded: &Recorded, stage: &PredictorStage) -> [Trace; 2] {
    [&*recorded.train, &recorded.held_out].map(|trace| trace.at_most(stage.max_positions))
}

/// The same policy with a choice of what to draft from, if it is faster on the held-out recordings.
fn with_source(
    trees: Fitted,
    chains: &SourceActions,
    recorded: &Recorded,
    stage: &PredictorStage,
    seed: u64,
    interrupt: &Interrupt,
    observer: &mut dyn FnMut(&Epoch, usize) -> bool,
) -> Result<Fitted> {
    let Fitted { predictor, rule, .. } = &trees;
    let places = chains.chains.last().copied().expect("invariant: a table has a chain");
    let outcomes = SourceOutcomes { source: chains.clone(), trees: predictor.actions().clone(), places };
    let [train_trace, check_trace] = learned_from(recorded, stage);
    // Of all that is said, which is in memory anyway.
    let records = Records::of(&recorded.train);
    let ObservationLayout { beam_width, depth_cap, .. } = *predictor.layout();
    // Only merged trees are decided again.
    let layout = if chains.merged.is_some() {
        ObservationLayout::sequence_with_agreement(beam_width, depth_cap)
    } else {
        ObservationLayout::sequence_with_tokens(beam_width, depth_cap)
    };
    let samples = |trace| {
        let walks = Walks::through(trace, &recorded.costs, chains, recorded.shape(), seed, interrupt)?;
        walks.samples(&layout, &outcomes, &records, interrupt)
    };
    let (train_samples, held_out) = (samples(&train_trace)?, samples(&check_trace)?);
    let mut observe = |epoch: &Epoch| observer(epoch, train_samples.len());
    let sees = (layout.clone(), outcomes.clone());
    // A cycle is seen once, not after each depth: fewer samples, smaller steps.
    let stage = &PredictorStage { batch_size: stage.batch_size.min(SOURCE_BATCH), ..stage.clone() };
    let source = train(&train_samples, &held_out, sees, stage, seed, interrupt, &mut observe)?;
    let (rule, source) =
        settle_source(predictor, &source, Some(&records), *rule, &recorded.table, &train_trace, interrupt)?;
    let policy = FactoredPolicy::new(predictor, &recorded.table, rule).with_source(&source);
    let controller = Box::new(Learned::from(policy));
    let measured = recorded.measure(&mut [Contender::new("factored", controller)])?.remove(0);
    let rate = |measured: &Measurement| measured.total().tokens_per_second();
    if rate(&measured) <= rate(&trees.measured) {
        return Ok(trees);
    }
    Ok(Fitted { predictor: trees.predictor, rule, source: Some(source), measured })
}

#[cfg(test)]
mod tests {
    use ltd_env::oracle::Sums;

    use super::*;

    #[test]
    fn limits_begin_with_the_best_constants_size() {
        let sizes = SizeActions { sizes: vec![2, 4, 8, 16, 32] };
        let largest = |best: usize, find_size_limit: bool| -> Vec<usize> {
            let constant = Constant { depth: 1, size: best, sums: Sums { tokens: 1.0, seconds: 1.0 } };
            let stage = PredictorStage { find_size_limit, ..PredictorStage::default() };
            size_tables(&sizes, &[constant], &stage).iter().map(SizeActions::largest).collect()
        };
        assert_eq!(largest(4, true), [4, 8, 16]);
        // A size between two of the table is within the next larger one.
        assert_eq!(largest(5, true), [8, 16, 32]);
        assert_eq!(largest(1, true), [4, 8, 16], "one size is not a choice");
        assert_eq!(largest(32, true), [32]);
        assert_eq!(largest(60, true), [32]);
        assert_eq!(largest(4, false), [32]);
    }
}
