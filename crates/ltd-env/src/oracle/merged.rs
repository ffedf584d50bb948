//! What merged trees add to a rule of copies.

use std::borrow::Cow;
use std::time::Duration;

use ltd_cycle::{Controller, Static};
use ltd_policy::{Calibration, CopyRule, CycleSummary, DraftSource, LONGEST_MATCH, SourceSummary};
use rayon::prelude::*;

use super::{Choices, Constant, CopyConstant, Sums, replay_sequence};
use crate::trace::Trace;
use crate::{Costs, Interrupt, Result};

/// Trees are merged up to this depth and size: where something matches, deeper ones are not worth
/// their levels.
const MOST: (usize, usize) = (3, 24);

/// No match is as long.
const NEVER: usize = LONGEST_MATCH + 1;

/// A rule of copies, which merges trees with chains where less matches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MergedConstant {
    /// Latest tokens that must match to copy; none never copies.
    pub copies_from: Option<usize>,
    /// Tokens to copy, at most where they are merged.
    pub chain: usize,
    /// Depth and size of the merged trees, where at least one token matches, and tokens and time of
    /// all cycles.
    pub merged: Constant,
}

/// The fastest way to merge trees where a rule of copies would draft, or copy with the least match.
///
/// # Errors
/// If the tokens of the candidates were not recorded.
///
/// # Panics
/// If there is no choice.
pub fn merged_rule(
    trace: &Trace,
    costs: &Costs,
    choices: &Choices,
    copies: CopyConstant,
    calibration: &Calibration,
    interrupt: &Interrupt,
) -> Result<MergedConstant> {
    let costs = &costs.without_decisions();
    let CopyRule { match_length, chain } = copies.rule;
    let (deepest, largest) = MOST;
    // Copies from the same match on, from a longer one, or never.
    let mut from: Vec<usize> = (match_length..match_length + 3).chain([NEVER]).collect();
    from.retain(|&from| from <= NEVER);
    from.dedup();
    let smallest = *choices.sizes.iter().min().expect("invariant: there is a choice");
    let pairs: Vec<_> = from
        .iter()
        .flat_map(|&from| choices.pairs().map(move |(depth, size)| (from, depth, size)))
        .filter(|&(_, depth, size)| depth <= deepest && size <= largest.max(smallest))
        .collect();
    let trees = Static { depth: copies.constant.depth, size: copies.constant.size };
    // A sequence is read once for all pairs.
    let of_sequence = |number| {
        let sequence = trace.sequence(number)?;
        let of_pair = |&(match_length, depth, size): &(usize, usize, usize)| {
            interrupt.check()?;
            let rule = CopyRule { match_length, chain };
            let merged = Static { depth, size };
            let mut rules = Rules { rule, trees, merged, calibration, now: trees };
            let stats = replay_sequence(&trace.header, &sequence, costs, &mut rules, &mut |_| ())?;
            Ok((stats.tokens, stats.timing.total()))
        };
        pairs.iter().map(of_pair).collect::<Result<Vec<(usize, Duration)>>>()
    };
    let sums = (0..trace.len()).into_par_iter().map(of_sequence);
    let sums = sums.try_reduce(
        || vec![Default::default(); pairs.len()],
        |a, b| Ok(a.into_iter().zip(b).map(|(a, b)| (a.0 + b.0, a.1 + b.1)).collect()),
    )?;
    let found = pairs.iter().zip(sums).map(|(&(match_length, depth, size), (tokens, time))| {
        let sums = Sums { tokens: tokens as f64, seconds: time.as_secs_f64() };
        let copies_from = (match_length < NEVER).then_some(match_length);
        MergedConstant { copies_from, chain, merged: Constant { depth, size, sums } }
    });
    let speed = |found: &MergedConstant| found.merged.tokens_per_second();
    let best = found.max_by(|a, b| speed(a).total_cmp(&speed(b)));
    Ok(best.expect("invariant: there is a choice"))
}

/// Copies where enough matches, merges where anything does, and drafts elsewhere.
struct Rules<'c> {
    rule: CopyRule,
    trees: Static,
    merged: Static,
    calibration: &'c Calibration,
    /// The trees of the cycle under way.
    now: Static,
}

impl Controller for Rules<'_> {
    fn size_limit(&self) -> usize {
        // Asked when the source is decided.
        self.now.size
    }

    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        let source = match self.rule.source(summary) {
            DraftSource::Tree if summary.match_length > 0 => DraftSource::Merged { chain: self.rule.chain },
            source => source,
        };
        self.now = if source == DraftSource::Tree { self.trees } else { self.merged };
        source
    }

    fn calibration(&self) -> Cow<'_, Calibration> {
        Cow::Borrowed(self.calibration)
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        self.now.continue_drafting(summary)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        self.now.verification_size(summary)
    }
}
