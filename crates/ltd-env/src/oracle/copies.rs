//! What a copy source is worth on a trace: chains of what was said before, in place of trees.
//!
//! A copying cycle drafts nothing. The draft reads later what was copied, in the root expansion of
//! the next cycle with a tree.

use std::ops::Add;

use ltd_cycle::CopySource;
use ltd_policy::CopyRule;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Choices, Constant, Expansions, Levels, Sums, outcome};
use crate::trace::{Outline, Trace};
use crate::{Copied, Costs, Interrupt, Result};

/// Matches from which on a rule copies.
pub const MATCHES: [usize; 9] = [1, 2, 3, 4, 5, 6, 8, 12, 16];
/// Tokens of an answer's own that it must say again, to be in a loop.
pub const LOOP: usize = 16;

/// What copying comes to at every position of a trace.
#[derive(Debug)]
pub struct Copies {
    /// Per sequence and position.
    sequences: Vec<Vec<Copied>>,
}

/// A rule of copies, and the depth and size of the cycles between them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CopyConstant {
    /// When to copy, and how much.
    pub rule: CopyRule,
    /// The other cycles' depth and size, and tokens and time of all cycles.
    pub constant: Constant,
}

impl Copies {
    /// What the latest earlier occurrence comes to, in prompt and output.
    pub fn of(trace: &Trace) -> Self {
        let numbers = (0..trace.len()).into_par_iter();
        Self { sequences: numbers.map(|number| Copied::along(trace.outline(number))).collect() }
    }
}

/// Rules with chains of the verification sizes among `choices`, fastest first, in two steps: every
/// match and chain with the best constant, then every constant with the fastest of these.
///
/// # Panics
/// If there is no choice.
pub fn copy_rules(
    trace: &Trace,
    costs: &Costs,
    choices: &Choices,
    constant: Constant,
    copies: &Copies,
    interrupt: &Interrupt,
) -> Result<Vec<CopyConstant>> {
    let costs = &costs.without_decisions();
    let expansions = Expansions::of(trace, &choices.sizes, interrupt)?;
    let with = |rule, (depth, size)| {
        interrupt.check()?;
        let found = CopyConstant { rule, constant: Constant { depth, size, ..constant } };
        let sums = found.sums(trace, costs, copies, &expansions, choices.place(size));
        Ok(CopyConstant { constant: Constant { sums, ..found.constant }, ..found })
    };
    let rules = MATCHES
        .iter()
        .flat_map(|&match_length| choices.sizes.iter().map(move |&chain| CopyRule { match_length, chain }));
    let found = rules.map(|rule| with(rule, (constant.depth, constant.size)));
    let mut found: Vec<CopyConstant> = found.collect::<Result<_>>()?;
    let speed = |found: &CopyConstant| found.constant.tokens_per_second();
    let by_speed = |a: &CopyConstant, b: &CopyConstant| speed(b).total_cmp(&speed(a));
    found.sort_by(by_speed);
    let rule = found[0].rule;
    let others = choices.pairs().filter(|pair| *pair != (constant.depth, constant.size));
    found.extend(others.map(|pair| with(rule, pair)).collect::<Result<Vec<_>>>()?);
    found.sort_by(by_speed);
    Ok(found)
}

impl CopyConstant {
    /// `place` is that of its size among those of the expansions.
    fn sums(
        &self,
        trace: &Trace,
        costs: &Costs,
        copies: &Copies,
        expansions: &Expansions,
        place: usize,
    ) -> Sums {
        let Self { rule, constant: Constant { depth, size, .. } } = *self;
        let sequences = copies.sequences.par_iter().enumerate();
        let sums = sequences.map(|(number, copied)| {
            let (sequence, expanded) = (trace.outline(number), expansions.of_sequence(number, place));
            let (mut sums, mut at, mut unread) = (Sums::default(), 0, 1);
            while at < sequence.len() {
                let here = if copied[at].length() >= rule.match_length {
                    copying(trace, sequence, costs, at, copied[at], rule.chain)
                } else {
                    let level_rows = expanded.level_rows(at, depth);
                    outcome(trace, sequence, costs, at, std::mem::take(&mut unread), level_rows, size)
                };
                sums = sums + here;
                unread += here.tokens as usize;
                at += here.tokens as usize;
            }
            sums
        });
        sums.collect::<Vec<_>>().into_iter().fold(Sums::default(), Sums::add)
    }
}

/// Tokens and time of a cycle that copies; a chain of no tokens is a step of plain decoding.
fn copying(
    trace: &Trace,
    sequence: &Outline,
    costs: &Costs,
    at: usize,
    copied: Copied,
    chain: usize,
) -> Sums {
    let outcome = copied.verify(&trace.header, &sequence.tokens, sequence.root(at), costs, chain);
    Sums { tokens: outcome.acceptance_length() as f64, seconds: outcome.timing.total().as_secs_f64() }
}

/// What foresight may choose from at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Trees.
    pub trees: Choices,
    /// Chains that are copied, if anything is; one of 0 tokens is plain decoding.
    pub chains: Vec<usize>,
}

/// What a choice with foresight looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Horizon {
    /// All cycles to come: what a choice costs later ones, and where it leads.
    Sequence,
    /// The cycle alone, as PPO does, whose episodes are single cycles.
    Cycle,
}

/// Throughput of the best choice of source, and of its depth, size or chain, at every position,
/// with knowledge of the whole continuation, as [`super::clairvoyant`]. The draft pays for reading
/// what the cycle before accepted, not for what was copied before that: with the horizon of the
/// sequence, nothing is faster.
///
/// # Panics
/// If there is nothing to choose from.
pub fn clairvoyant_source(
    trace: &Trace,
    costs: &Costs,
    sources: &Sources,
    copies: &Copies,
    horizon: Horizon,
    interrupt: &Interrupt,
) -> Result<f64> {
    let costs = &costs.without_decisions();
    let expansions = Expansions::of(trace, &sources.trees.sizes, interrupt)?;
    super::highest_ratio(trace, interrupt, |number, lambda| {
        best_path(trace, number, &expansions, costs, sources, &copies.sequences[number], horizon, lambda)
    })
}

/// What a choice comes to.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Its cycle.
    cycle: Sums,
    /// The cycle and all after it.
    all: Sums,
}

/// The way through a sequence with the largest `tokens - lambda * seconds` within the horizon of
/// each choice.
#[expect(clippy::too_many_arguments, reason = "a sequence and all that is known of it")]
fn best_path(
    trace: &Trace,
    number: usize,
    expansions: &Expansions,
    costs: &Costs,
    sources: &Sources,
    copied: &[Copied],
    horizon: Horizon,
    lambda: f64,
) -> Sums {
    let sequence = trace.outline(number);
    let n = sequence.len();
    let gain = |way: &Way| {
        let Sums { tokens, seconds } = if horizon == Horizon::Sequence { way.all } else { way.cycle };
        tokens - lambda * seconds
    };
    let better = |a: Way, b: Way| if gain(&b) > gain(&a) { b } else { a };
    // From each position on, if the cycle there has a tree, as if the draft had to read one row,
    // and if it copies. There is nothing behind the end.
    let mut ahead: Vec<[Option<Way>; 2]> = vec![[None; 2]; n];
    let after = |ahead: &[[Option<Way>; 2]], at: usize, cycle: Sums| {
        let tokens = cycle.tokens as usize;
        let next = at + tokens;
        let Some([tree, copy]) = ahead.get(next) else { return Way { cycle, all: cycle } };
        let tree = tree.map(|Way { cycle, all }| {
            let seconds = super::further_rows_seconds(sequence, costs, next, tokens);
            let reading = Sums { tokens: 0.0, seconds };
            Way { cycle: cycle + reading, all: all + reading }
        });
        let rest = tree.into_iter().chain(*copy).reduce(better);
        Way { cycle, all: cycle + rest.expect("invariant: there is a choice at every position").all }
    };
    let mut levels = Levels::new(&sources.trees);
    for at in (0..n).rev() {
        levels.price(sequence, number, expansions, costs, at);
        let trees = sources.trees.pairs().map(|(depth, size)| {
            let place = sources.trees.place(size);
            after(&ahead, at, levels.outcome(trace, sequence, costs, at, depth, place))
        });
        let tree = trees.reduce(better);
        let chains = sources.chains.iter().filter(|&&chain| chain == 0 || copied[at].found.is_some());
        let chains =
            chains.map(|&chain| after(&ahead, at, copying(trace, sequence, costs, at, copied[at], chain)));
        ahead[at] = [tree, chains.reduce(better)];
    }
    let first = ahead.first().into_iter().flatten().copied().flatten();
    first.reduce(better).map_or(Sums::default(), |way| way.all)
}

/// The share of a trace's tokens that are in a loop: in [`LOOP`] tokens or more that the answer has
/// said before.
pub fn loop_share(trace: &Trace) -> f64 {
    let looping: usize = trace.outlines().map(|sequence| looping(output(sequence)).count()).sum();
    looping as f64 / trace.positions().max(1) as f64
}

/// The trace with each answer cut where its first loop begins.
#[must_use]
pub fn without_loops(trace: &Trace) -> Trace {
    trace.cut(|sequence| looping(output(sequence)).next().unwrap_or(sequence.len()))
}

fn output(sequence: &Outline) -> &[u32] {
    &sequence.tokens[sequence.prompt_len..][..sequence.len()]
}

/// Places of an answer's tokens that are in a loop, ascending: in [`LOOP`] tokens or more that the
/// answer has said before.
pub fn looping(output: &[u32]) -> impl Iterator<Item = usize> {
    let mut source = CopySource::new(LOOP);
    let mut inside = vec![false; output.len()];
    for (at, token) in output.iter().enumerate() {
        source.extend(&[*token]);
        if source.find().is_some_and(|found| found.length == LOOP) {
            inside[at + 1 - LOOP..=at].fill(true);
        }
    }
    inside.into_iter().enumerate().filter_map(|(at, inside)| inside.then_some(at))
}
