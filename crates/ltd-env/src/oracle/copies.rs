//! What a copy source is worth on a trace: chains of what was said before, in place of trees.
//!
//! At temperature 0 a chain is accepted as far as the continuation says the same, which follows
//! from the tokens alone. A copying cycle drafts nothing. The draft reads later what was copied, in
//! the root expansion of the next cycle with a tree.

use ltd_cycle::{CopySource, Occurrence};
use rayon::prelude::*;

use super::{Choices, Constant, Expansions, Sums, constants, outcome};
use crate::trace::{Trace, TracedSequence};
use crate::{Costs, Interrupt, Result};

/// Latest tokens that are compared.
pub const LONGEST_MATCH: usize = 16;
/// Matches from which on a rule copies.
const MATCHES: [usize; 9] = [1, 2, 3, 4, 5, 6, 8, 12, 16];
/// Tokens of an answer's own that it must say again, to be in a loop.
pub const LOOP: usize = 16;

/// What copying comes to at every position of a trace.
#[derive(Debug)]
pub struct Copies {
    /// Per sequence and position.
    sequences: Vec<Vec<Copied>>,
}

/// What copying comes to at a position.
#[derive(Debug, Clone, Copy)]
struct Copied {
    /// Latest tokens that were said before, the root included.
    length: usize,
    /// Tokens of an endless chain that are accepted, as far as the continuation is known.
    accepted: usize,
}

/// Copies `chain` tokens where at least `match_length` of the latest ones were said before, and
/// drafts trees of one depth and size elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CopyRule {
    /// Latest tokens that must have been said before.
    pub match_length: usize,
    /// Tokens of a chain.
    pub chain: usize,
    /// The other cycles' depth and size, and tokens and time of all cycles.
    pub constant: Constant,
}

impl Copies {
    /// What the latest earlier occurrence of up to [`LONGEST_MATCH`] tokens comes to, in prompt and
    /// output.
    pub fn of(trace: &Trace) -> Self {
        Self { sequences: trace.sequences.par_iter().map(of_sequence).collect() }
    }
}

fn of_sequence(sequence: &TracedSequence) -> Vec<Copied> {
    let mut source = CopySource::new(LONGEST_MATCH);
    let positions = (0..sequence.len()).map(|at| {
        let root = sequence.root(at);
        source.extend(&sequence.tokens[source.tokens().len()..=root]);
        let Some(found) = source.find() else { return Copied { length: 0, accepted: 0 } };
        // The token after the last accepted one must be known, too.
        let continuation = &sequence.tokens[root + 1..];
        let continuation = &continuation[..continuation.len().saturating_sub(1)];
        Copied { length: found.length, accepted: accepted(&source, found, continuation) }
    });
    positions.collect()
}

/// Tokens at the front of the continuation that a chain has.
fn accepted(source: &CopySource, found: Occurrence, continuation: &[u32]) -> usize {
    let chain = source.chain(found, continuation.len());
    chain.iter().zip(continuation).take_while(|(copied, said)| copied == said).count()
}

/// The fastest rule with chains of the verification sizes among `choices`, in three steps: the best
/// constant, the match and chain that suit it best, the constant that suits these best.
///
/// # Panics
/// If there is no choice.
pub fn copy_rule(
    trace: &Trace,
    costs: &Costs,
    choices: &Choices,
    copies: &Copies,
    interrupt: &Interrupt,
) -> Result<CopyRule> {
    let constant = super::best(&constants(trace, costs, choices, interrupt)?);
    let costs = &costs.without_decisions();
    let expansions = Expansions::of_sizes(trace, &choices.sizes, interrupt)?;
    let with = |match_length, chain, (depth, size)| {
        interrupt.check()?;
        let rule = CopyRule { match_length, chain, constant: Constant { depth, size, ..constant } };
        let sums = rule.sums(trace, costs, copies, &expansions[choices.place(size)]);
        Ok(CopyRule { constant: Constant { sums, ..rule.constant }, ..rule })
    };
    let chains = MATCHES.iter().flat_map(|&length| choices.sizes.iter().map(move |&chain| (length, chain)));
    let rules = chains.map(|(length, chain)| with(length, chain, (constant.depth, constant.size)));
    let CopyRule { match_length, chain, .. } = fastest(rules.collect::<Result<_>>()?);
    let rules = choices.pairs().map(|pair| with(match_length, chain, pair));
    Ok(fastest(rules.collect::<Result<_>>()?))
}

fn fastest(rules: Vec<CopyRule>) -> CopyRule {
    let speed = |rule: &CopyRule| rule.constant.tokens_per_second();
    let fastest = rules.into_iter().max_by(|a, b| speed(a).total_cmp(&speed(b)));
    fastest.expect("invariant: there is a rule")
}

impl CopyRule {
    fn sums(&self, trace: &Trace, costs: &Costs, copies: &Copies, expansions: &Expansions) -> Sums {
        let Constant { depth, size, .. } = self.constant;
        let sequences = trace.sequences.par_iter().zip(&copies.sequences).zip(&expansions.sequences);
        let sums = sequences.map(|((sequence, copied), expanded)| {
            let (mut sums, mut at, mut unread) = (Sums::default(), 0, 1);
            while at < sequence.len() {
                let here = if copied[at].length >= self.match_length {
                    copying(trace, sequence, costs, at, copied[at], self.chain)
                } else {
                    let level_rows = &expanded[at * trace.header.depth..][..depth];
                    outcome(trace, sequence, costs, at, std::mem::take(&mut unread), level_rows, size)
                };
                sums = sums + here;
                unread += here.tokens as usize;
                at += here.tokens as usize;
            }
            sums
        });
        sums.reduce(Sums::default, |a, b| a + b)
    }
}

/// Tokens and time of a cycle that copies; a chain of no tokens is a step of plain decoding.
fn copying(
    trace: &Trace,
    sequence: &TracedSequence,
    costs: &Costs,
    at: usize,
    copied: Copied,
    chain: usize,
) -> Sums {
    let context = sequence.root(at);
    let chain = chain.min(trace.header.capacity.saturating_sub(context + 1));
    let tokens = copied.accepted.min(chain) + 1;
    Sums { tokens: tokens as f64, seconds: costs.model.verify_ms(chain, context) * 1e-3 }
}

/// What foresight may choose from at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Trees.
    pub trees: Choices,
    /// Chains that are copied, if anything is; one of 0 tokens is plain decoding.
    pub chains: Vec<usize>,
}

/// Throughput of the best choice of source, and of its depth, size or chain, at every position,
/// with knowledge of the whole continuation, as [`super::clairvoyant`]. The draft pays for reading
/// what the cycle before accepted, not for what was copied before that: nothing is faster.
///
/// # Panics
/// If there is nothing to choose from.
pub fn clairvoyant_source(
    trace: &Trace,
    costs: &Costs,
    sources: &Sources,
    copies: &Copies,
    interrupt: &Interrupt,
) -> Result<f64> {
    let costs = &costs.without_decisions();
    let expansions = Expansions::of_sizes(trace, &sources.trees.sizes, interrupt)?;
    super::highest_ratio(trace, interrupt, |number, lambda| {
        best_path(trace, number, &expansions, costs, sources, &copies.sequences[number], lambda)
    })
}

/// The way through a sequence with the largest `tokens - lambda * seconds`.
fn best_path(
    trace: &Trace,
    number: usize,
    expansions: &[Expansions],
    costs: &Costs,
    sources: &Sources,
    copied: &[Copied],
    lambda: f64,
) -> Sums {
    let sequence = &trace.sequences[number];
    let n = sequence.len();
    let gain = |sums: &Sums| sums.tokens - lambda * sums.seconds;
    let better = |a: Sums, b: Sums| if gain(&b) > gain(&a) { b } else { a };
    // From each position on, if the cycle there has a tree, as if the draft had to read one row,
    // and if it copies. There is nothing behind the end.
    let mut ahead: Vec<[Option<Sums>; 2]> = vec![[None; 2]; n];
    let after = |ahead: &[[Option<Sums>; 2]], at: usize, here: Sums| {
        let tokens = here.tokens as usize;
        let next = at + tokens;
        let Some([tree, copy]) = ahead.get(next) else { return here };
        let rows = || super::further_rows_seconds(sequence, costs, next, tokens);
        let tree = tree.map(|sums| sums + Sums { tokens: 0.0, seconds: rows() });
        let rest = tree.into_iter().chain(*copy).reduce(better);
        here + rest.expect("invariant: there is a choice at every position")
    };
    for at in (0..n).rev() {
        let trees = sources.trees.pairs().map(|(depth, size)| {
            let expanded = &expansions[sources.trees.place(size)].sequences[number];
            let level_rows = &expanded[at * trace.header.depth..][..depth];
            after(&ahead, at, outcome(trace, sequence, costs, at, 1, level_rows, size))
        });
        let tree = trees.reduce(better);
        let chains = sources.chains.iter().filter(|&&chain| chain == 0 || copied[at].length > 0);
        let chains =
            chains.map(|&chain| after(&ahead, at, copying(trace, sequence, costs, at, copied[at], chain)));
        ahead[at] = [tree, chains.reduce(better)];
    }
    let first = ahead.first().into_iter().flatten().copied().flatten();
    first.reduce(better).unwrap_or_default()
}

/// The share of a trace's tokens that are in a loop: in [`LOOP`] tokens or more that the answer has
/// said before.
pub fn loop_share(trace: &Trace) -> f64 {
    let looping: usize = trace.sequences.iter().map(|sequence| looping(sequence).count()).sum();
    looping as f64 / trace.positions().max(1) as f64
}

/// The trace with each answer cut where its first loop begins.
#[must_use]
pub fn without_loops(trace: &Trace) -> Trace {
    let cut = |sequence: &TracedSequence| {
        let first = looping(sequence).next();
        first.map_or_else(|| sequence.clone(), |first| sequence.first(first))
    };
    Trace { sequences: trace.sequences.iter().map(cut).collect(), ..trace.clone() }
}

/// Positions whose token is in a loop, ascending.
fn looping(sequence: &TracedSequence) -> impl Iterator<Item = usize> {
    let output = &sequence.tokens[sequence.prompt_len..][..sequence.len()];
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
