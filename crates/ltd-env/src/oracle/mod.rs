//! What is possible on a trace at the costs of a machine: constants, foresight, and any controller
//! in between.
//!
//! Throughput is a ratio of sums. Its optimum is found by maximising `sum(tau) - lambda * sum(T)`
//! with `lambda` the throughput found so far, until it stays (Dinkelbach 1967, "On nonlinear
//! fractional programming").
//!
//! Constants and foresight decide in no time, and expand no candidate that their size could not
//! verify; a controller's decisions take what the table says.
//!
//! Everything here needs a trace without gaps ([`Trace::read_replayable`]). What takes long ends
//! soon after there is a wish to stop, with [`Error::Interrupted`](crate::Error::Interrupted).

mod copies;
mod merged;

use std::ops::Add;
use std::sync::Arc;

use ltd_cycle::{Controller, Cycle, CycleOutcome, CycleStats, MAX_DEPTH, Yields, source_summary};
use ltd_policy::DraftSource;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::replay::RecordedTree;
use crate::trace::{Outline, Trace, TraceHeader, TracedSequence};
use crate::{Copied, Costs, Interrupt, Result};

pub use copies::{
    Copies, CopyConstant, Horizon, LOOP, MATCHES, Sources, clairvoyant_source, copy_rules, loop_share,
    looping, without_loops,
};
pub use merged::{MergedConstant, merged_rule};

/// Depths and sizes that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// Draft depths.
    pub depths: Vec<usize>,
    /// Verification sizes.
    pub sizes: Vec<usize>,
}

impl Choices {
    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.depths.iter().flat_map(|&depth| self.sizes.iter().map(move |&size| (depth, size)))
    }

    fn place(&self, size: usize) -> usize {
        self.sizes.iter().position(|known| *known == size).expect("invariant: sizes come from the pairs")
    }
}

/// A constant setting, and what it yields.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// Draft depth.
    pub depth: usize,
    /// Verification size.
    pub size: usize,
    /// Tokens and time on the whole trace.
    pub sums: Sums,
}

impl Constant {
    /// `sum(tau) / sum(T)`.
    pub fn tokens_per_second(&self) -> f64 {
        self.sums.tokens_per_second()
    }
}

/// Tokens, and the time they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Sum of acceptance lengths.
    pub tokens: f64,
    /// Sum of cycle times.
    pub seconds: f64,
}

impl Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { tokens: self.tokens + other.tokens, seconds: self.seconds + other.seconds }
    }
}

impl Sums {
    /// `tokens / seconds`.
    pub fn tokens_per_second(self) -> f64 {
        self.tokens / self.seconds
    }
}

/// Throughput of every constant, in the order of [`Choices::pairs`].
pub fn constants(
    trace: &Trace,
    costs: &Costs,
    choices: &Choices,
    interrupt: &Interrupt,
) -> Result<Vec<Constant>> {
    constants_within(trace, costs, choices, interrupt, |size| size)
}

/// [`constants`] whose levels expand the whole beam, as EAGLE-3 drafts.
pub fn whole_beam_constants(
    trace: &Trace,
    costs: &Costs,
    choices: &Choices,
    interrupt: &Interrupt,
) -> Result<Vec<Constant>> {
    constants_within(trace, costs, choices, interrupt, |_| usize::MAX)
}

/// Constants that draft for as many candidates as `size_limit` says of their size.
fn constants_within(
    trace: &Trace,
    costs: &Costs,
    choices: &Choices,
    interrupt: &Interrupt,
    size_limit: impl Fn(usize) -> usize + Sync,
) -> Result<Vec<Constant>> {
    let (pairs, costs): (Vec<_>, _) = (choices.pairs().collect(), &costs.without_decisions());
    let limits: Vec<usize> = choices.sizes.iter().map(|&size| size_limit(size)).collect();
    let expansions = Expansions::of(trace, &limits, interrupt)?;
    let constant = |&(depth, size): &(usize, usize)| {
        interrupt.check()?;
        let place = choices.place(size);
        let sums = trace.outlines().enumerate().map(|(number, sequence)| {
            let expanded = expansions.of_sequence(number, place);
            let (mut sums, mut at, mut rows) = (Sums::default(), 0, 1);
            while at < sequence.len() {
                let level_rows = expanded.level_rows(at, depth);
                let outcome = outcome(trace, sequence, costs, at, rows, level_rows, size);
                sums = sums + outcome;
                rows = outcome.tokens as usize;
                at += rows;
            }
            sums
        });
        Ok(Constant { depth, size, sums: sums.fold(Sums::default(), Sums::add) })
    };
    pairs.par_iter().map(constant).collect()
}

/// The fastest of some constants.
///
/// # Panics
/// If there are none.
pub fn best(constants: &[Constant]) -> Constant {
    let by_speed = |a: &&Constant, b: &&Constant| a.tokens_per_second().total_cmp(&b.tokens_per_second());
    *constants.iter().max_by(by_speed).expect("invariant: there is a constant")
}

/// Candidates that the levels of every recorded tree expand where no more than some numbers are
/// verified. All that the oracle needs of the scores, a byte per level, which the trace remembers.
struct Expansions {
    /// Per sequence and number, `[positions, depth]`.
    sequences: Vec<Vec<Arc<[u8]>>>,
    depth: usize,
}

/// [`Expansions`] of a sequence where no more than one number is verified.
#[derive(Clone, Copy)]
struct Expanded<'e> {
    rows: &'e [u8],
    depth: usize,
}

impl Expansions {
    fn of(trace: &Trace, size_limits: &[usize], interrupt: &Interrupt) -> Result<Self> {
        let header = &trace.header;
        // With more than there are, all are the same.
        let all = header.scores_per_position();
        let limits: Vec<usize> = size_limits.iter().map(|&limit| limit.min(all)).collect();
        let of_sequence = |sequence: &TracedSequence, size_limit| {
            interrupt.check()?;
            let mut expanded = Vec::with_capacity(sequence.len() * header.depth);
            for at in 0..sequence.len() {
                let tree = RecordedTree { header, position: sequence.position(at) };
                let mut cycle = tree.begin(size_limit);
                for _ in 0..header.depth {
                    tree.expand(&mut cycle);
                }
                // A beam is no wider.
                expanded.extend(cycle.level_rows().iter().map(|&rows| rows as u8));
            }
            Ok(expanded.into())
        };
        let sequences = (0..trace.len()).into_par_iter();
        let sequences = sequences.map(|number| trace.tables(number, &limits, of_sequence));
        Ok(Self { sequences: sequences.collect::<Result<_>>()?, depth: header.depth })
    }

    /// Those of a sequence, where the number in `place` is the most.
    fn of_sequence(&self, number: usize, place: usize) -> Expanded<'_> {
        Expanded { rows: &self.sequences[number][place], depth: self.depth }
    }
}

impl<'e> Expanded<'e> {
    /// Candidates that the first `depth` levels at a position expand.
    fn level_rows(self, at: usize, depth: usize) -> &'e [u8] {
        &self.rows[at * self.depth..][..depth]
    }
}

/// Throughput of the best choice at every position, made with knowledge of the whole continuation:
/// no policy can be faster on this trace at these costs.
pub fn clairvoyant(trace: &Trace, costs: &Costs, choices: &Choices, interrupt: &Interrupt) -> Result<f64> {
    let costs = &costs.without_decisions();
    let expansions = Expansions::of(trace, &choices.sizes, interrupt)?;
    highest_ratio(trace, interrupt, |number, lambda| {
        best_path(trace, number, &expansions, costs, choices, lambda)
    })
}

/// The highest `sum(tau) / sum(T)` over all sequences, of ways through a sequence that are best for
/// a `lambda`.
fn highest_ratio(
    trace: &Trace,
    interrupt: &Interrupt,
    best: impl Fn(usize, f64) -> Sums + Sync,
) -> Result<f64> {
    let mut lambda = 0.0;
    loop {
        let numbers = (0..trace.len()).into_par_iter();
        let sums = numbers.map(|number| interrupt.check().map(|()| best(number, lambda)));
        // In order: sums do not depend on the threads.
        let sums = sums.collect::<Result<Vec<Sums>>>()?;
        let found = sums.into_iter().fold(Sums::default(), Sums::add).tokens_per_second();
        // There are finitely many ways. Of those that are best within the horizon of the sequence,
        // each is an improvement; else the search ends with the first that is none.
        if found <= lambda * (1.0 + 1e-9) {
            return Ok(found.max(lambda));
        }
        lambda = found;
    }
}

/// The share of the way from a constant's throughput to the clairvoyant's that is gone; `None`
/// where there is none to go.
pub fn closed(reached: f64, constant: f64, clairvoyant: f64) -> Option<f64> {
    (clairvoyant > constant).then(|| (reached - constant) / (clairvoyant - constant))
}

/// The way through a sequence with the largest `tokens - lambda * seconds`: a dynamic programme
/// from its end.
fn best_path(
    trace: &Trace,
    number: usize,
    expansions: &Expansions,
    costs: &Costs,
    choices: &Choices,
    lambda: f64,
) -> Sums {
    let sequence = trace.outline(number);
    let n = sequence.len();
    // From each position on, as if the draft had to read one row there.
    let mut ahead = vec![Sums::default(); n + 1];
    let gain = |sums: Sums| sums.tokens - lambda * sums.seconds;
    let mut levels = Levels::new(choices);
    for at in (0..n).rev() {
        levels.price(sequence, number, expansions, costs, at);
        let best = choices.pairs().map(|(depth, size)| {
            let here = levels.outcome(trace, sequence, costs, at, depth, choices.place(size));
            let tokens = here.tokens as usize;
            let next = at + tokens;
            // The next cycle's root expansion reads what this one accepts.
            let rows = if next < n { further_rows_seconds(sequence, costs, next, tokens) } else { 0.0 };
            here + Sums { tokens: 0.0, seconds: rows } + ahead[next.min(n)]
        });
        ahead[at] = best.max_by(|a, b| gain(*a).total_cmp(&gain(*b))).unwrap_or_default();
    }
    ahead[0]
}

/// What the levels at a position take, for all depths and sizes that may be chosen there.
struct Levels<'c> {
    sizes: &'c [usize],
    deepest: usize,
    /// Milliseconds of the first levels, `[sizes, 1 + deepest]`.
    milliseconds: Vec<f64>,
}

impl<'c> Levels<'c> {
    fn new(choices: &'c Choices) -> Self {
        let deepest = choices.depths.iter().copied().max().unwrap_or(0);
        Self { sizes: &choices.sizes, deepest, milliseconds: Vec::new() }
    }

    /// Goes to a position of sequence `number`.
    fn price(
        &mut self,
        sequence: &Outline,
        number: usize,
        expansions: &Expansions,
        costs: &Costs,
        at: usize,
    ) {
        self.milliseconds.clear();
        for place in 0..self.sizes.len() {
            let rows = expansions.of_sequence(number, place).level_rows(at, self.deepest);
            let mut sum = 0.0;
            self.milliseconds.push(sum);
            self.milliseconds.extend((1..).zip(rows).map(|(depth, &rows)| {
                sum += costs.model.level_ms(depth, rows.into(), sequence.root(at));
                sum
            }));
        }
    }

    /// Tokens and time of a cycle at that position, before which the draft has not read one row.
    fn outcome(
        &self,
        trace: &Trace,
        sequence: &Outline,
        costs: &Costs,
        at: usize,
        depth: usize,
        place: usize,
    ) -> Sums {
        let context = sequence.root(at);
        let size = trace.header.verified(self.sizes[place], depth, context);
        let draft = costs.root_ms(1, context) + self.milliseconds[place * (1 + self.deepest) + depth];
        let timing = costs.cycle(depth, draft, costs.model.verify_ms(size, context));
        Sums {
            tokens: (sequence.accepted(at, depth, size) + 1) as f64,
            seconds: timing.total().as_secs_f64(),
        }
    }
}

/// What a root expansion of `rows` rows takes beyond one of one row.
fn further_rows_seconds(sequence: &Outline, costs: &Costs, position: usize, rows: usize) -> f64 {
    let context = sequence.prompt_len + position;
    (costs.model.root_ms(rows, context) - costs.model.root_ms(1, context)) * 1e-3
}

/// Tokens and time of a cycle whose levels expand `level_rows` candidates. `rows` are those that
/// the draft had not read.
fn outcome(
    trace: &Trace,
    sequence: &Outline,
    costs: &Costs,
    position: usize,
    rows: usize,
    level_rows: &[u8],
    size: usize,
) -> Sums {
    let (depth, context) = (level_rows.len(), sequence.root(position));
    let size = trace.header.verified(size, depth, context);
    let mut expanded = [0; MAX_DEPTH];
    expanded.iter_mut().zip(level_rows).for_each(|(rows, &known)| *rows = known.into());
    let seconds = costs.timing(&expanded[..depth], size, context, rows).total().as_secs_f64();
    Sums { tokens: (sequence.accepted(position, depth, size) + 1) as f64, seconds }
}

/// Decodes all sequences of a trace under one controller, in order; `visit` sees each cycle.
///
/// # Errors
/// If the controller merges and the trace lacks the tokens of the candidates, or what
/// it looks at.
pub fn replay(
    trace: &Trace,
    costs: &Costs,
    controller: &mut dyn Controller,
    visit: &mut dyn FnMut(&CycleOutcome),
) -> Result<CycleStats> {
    let mut stats = CycleStats::default();
    for sequence in trace.sequences() {
        stats.merge(&replay_sequence(&trace.header, &*sequence?, costs, controller, visit)?);
    }
    Ok(stats)
}

/// Decodes all sequences of a trace at the same time, each under a controller of its own that
/// `controller` makes for it; statistics of each sequence, in their order. The same cycles as
/// [`replay`]'s if a controller remembers nothing of the cycles before, as learned ones do not.
pub fn replay_parallel(
    trace: &Trace,
    costs: &Costs,
    controller: impl Fn(&Outline) -> Box<dyn Controller> + Sync,
) -> Result<Vec<CycleStats>> {
    let stats = (0..trace.len()).into_par_iter().map(|number| {
        let sequence = &*trace.sequence(number)?;
        replay_sequence(&trace.header, sequence, costs, controller(sequence).as_mut(), &mut |_| ())
    });
    stats.collect()
}

/// Lets a controller decide on the tree of every recorded position, in order, whatever it decided
/// before.
pub fn decide_at_every_position(
    trace: &Trace,
    controller: &mut dyn Controller,
    interrupt: &Interrupt,
) -> Result<()> {
    let header = &trace.header;
    for sequence in trace.sequences() {
        interrupt.check()?;
        decide_along(header, &*sequence?, controller)?;
    }
    Ok(())
}

/// [`decide_at_every_position`] of one sequence.
///
/// # Errors
/// If the trace lacks what the controller looks at.
pub fn decide_along(
    header: &TraceHeader,
    sequence: &TracedSequence,
    controller: &mut dyn Controller,
) -> Result<()> {
    for at in 0..sequence.len() {
        let tree = RecordedTree { header, position: sequence.position(at) };
        controller.begin_cycle();
        let mut cycle = tree.begin_for(controller)?;
        tree.draft(controller, &mut cycle);
        controller.verification_size(&cycle.summary());
    }
    Ok(())
}

/// Decodes one sequence of a trace under a controller; `visit` sees each cycle.
///
/// # Errors
/// If the controller merges and the trace lacks the tokens of the candidates, or what
/// it looks at.
pub fn replay_sequence(
    header: &TraceHeader,
    sequence: &TracedSequence,
    costs: &Costs,
    controller: &mut dyn Controller,
    visit: &mut dyn FnMut(&CycleOutcome),
) -> Result<CycleStats> {
    let copied = controller.chooses_source().then(|| Copied::along(sequence));
    let (mut stats, mut yields) = (CycleStats::default(), Yields::default());
    let (mut at, mut unread) = (0, 1);
    while at < sequence.len() {
        controller.begin_cycle();
        let root = sequence.root(at);
        let here = copied.as_ref().map(|copied| copied[at]);
        let source = here.map_or(DraftSource::Tree, |copied| {
            let said = &sequence.tokens[..=root];
            controller.source(&source_summary(said, copied.found, sequence.prompt_len, unread, yields))
        });
        let outcome = if let (DraftSource::Copy { chain }, Some(copied)) = (source, here) {
            let outcome = copied.verify(header, &sequence.tokens, root, costs, chain);
            unread += outcome.acceptance_length();
            outcome
        } else {
            let tree = RecordedTree { header, position: sequence.position(at) };
            let mut cycle = tree.begin_for(controller)?;
            let mut chain = source.merged_chain();
            let agreement = here.and_then(|copied| tree.agreement(&sequence.tokens, copied));
            if let Some(agreement) = agreement {
                chain = controller.merge_with(chain, agreement);
            }
            tree.draft(controller, &mut cycle);
            let size = controller.verification_size(&cycle.summary());
            let outcome = if let (Some(chain), Some(copied)) = (chain, here) {
                let calibration = controller.calibration();
                let with = (copied, chain);
                tree.merge(&cycle, &sequence.tokens, costs, unread, size, with, &calibration)?
            } else {
                tree.verify(&cycle, &sequence.tokens, costs, unread, size)
            };
            unread = outcome.acceptance_length();
            CycleOutcome { match_length: here.map_or(0, |copied| copied.length()), ..outcome }
        };
        yields.observe(&outcome);
        controller.observe(&outcome);
        visit(&outcome);
        stats.add(&outcome);
        at += outcome.acceptance_length();
    }
    Ok(stats)
}
