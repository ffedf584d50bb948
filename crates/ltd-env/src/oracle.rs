//! What is possible on a trace at the costs of a machine: constants, foresight, and any controller in between.
//!
//! Throughput is a ratio of sums. Its optimum is found by maximising `sum(tau) - lambda * sum(T)` with `lambda` the
//! throughput found so far, until it stays (Dinkelbach 1967, "On nonlinear fractional programming").

use ltd_engine::{Controller, CycleOutcome, CycleStats};
use rayon::prelude::*;

use crate::Costs;
use crate::replay::Replayed;
use crate::trace::{Trace, TracedSequence};

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
}

/// A constant setting and its throughput.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constant {
    /// Draft depth.
    pub depth: usize,
    /// Verification size.
    pub size: usize,
    /// `sum(tau) / sum(T)`.
    pub tokens_per_second: f64,
}

/// Tokens and seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    tokens: f64,
    seconds: f64,
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { tokens: self.tokens + other.tokens, seconds: self.seconds + other.seconds }
    }
}

impl Sums {
    fn throughput(self) -> f64 {
        self.tokens / self.seconds
    }
}

/// Throughput of every constant, in the order of [`Choices::pairs`].
pub fn constants(trace: &Trace, costs: &Costs, choices: &Choices) -> Vec<Constant> {
    let pairs: Vec<_> = choices.pairs().collect();
    let constant = |&(depth, size): &(usize, usize)| {
        let sums = trace.sequences.iter().map(|sequence| {
            let (mut sums, mut at, mut rows) = (Sums::default(), 0, 1);
            while at < sequence.len() {
                let outcome = outcome(trace, sequence, costs, at, rows, depth, size);
                sums = sums + outcome;
                rows = outcome.tokens as usize;
                at += rows;
            }
            sums
        });
        let tokens_per_second = sums.fold(Sums::default(), |a, b| a + b).throughput();
        Constant { depth, size, tokens_per_second }
    };
    pairs.par_iter().map(constant).collect()
}

/// The fastest of some constants.
///
/// # Panics
/// If there are none.
pub fn best(constants: &[Constant]) -> Constant {
    let by_speed = |a: &&Constant, b: &&Constant| a.tokens_per_second.total_cmp(&b.tokens_per_second);
    *constants.iter().max_by(by_speed).expect("invariant: there is a constant")
}

/// Throughput of the best choice at every position, made with knowledge of the whole continuation: no policy can be
/// faster on this trace at these costs.
pub fn clairvoyant(trace: &Trace, costs: &Costs, choices: &Choices) -> f64 {
    let mut lambda = 0.0;
    loop {
        let sums =
            trace.sequences.par_iter().map(|sequence| best_path(trace, sequence, costs, choices, lambda));
        let found = sums.reduce(Sums::default, |a, b| a + b).throughput();
        // Each step is an improvement, and there are finitely many ways.
        if found <= lambda * (1.0 + 1e-9) {
            return found.max(lambda);
        }
        lambda = found;
    }
}

/// The way through a sequence with the largest `tokens - lambda * seconds`: a dynamic programme from its end.
fn best_path(
    trace: &Trace,
    sequence: &TracedSequence,
    costs: &Costs,
    choices: &Choices,
    lambda: f64,
) -> Sums {
    let n = sequence.len();
    let mut ahead = vec![Sums::default(); n + 1];
    let gain = |sums: Sums| sums.tokens - lambda * sums.seconds;
    for at in (0..n).rev() {
        let best = choices.pairs().map(|(depth, size)| {
            let here = outcome(trace, sequence, costs, at, 0, depth, size);
            let next = at + here.tokens as usize;
            // The next cycle's root expansion reads what this one accepts.
            let root = if next < n { root_seconds(sequence, costs, next, here.tokens as usize) } else { 0.0 };
            here + Sums { tokens: 0.0, seconds: root } + ahead[next.min(n)]
        });
        ahead[at] = best.max_by(|a, b| gain(*a).total_cmp(&gain(*b))).unwrap_or_default();
    }
    if n == 0 {
        return Sums::default();
    }
    ahead[0] + Sums { tokens: 0.0, seconds: root_seconds(sequence, costs, 0, 1) }
}

fn root_seconds(sequence: &TracedSequence, costs: &Costs, position: usize, rows: usize) -> f64 {
    costs.model.root_ms(rows, sequence.prompt_len + position) * 1e-3
}

/// Tokens and time of a cycle; with 0 `rows`, its root expansion is not counted.
fn outcome(
    trace: &Trace,
    sequence: &TracedSequence,
    costs: &Costs,
    position: usize,
    rows: usize,
    depth: usize,
    size: usize,
) -> Sums {
    let header = &trace.header;
    let traced = sequence.position(position);
    let context = traced.context_length;
    let nodes = header.beam_width + depth * header.beam_width * header.beam_width;
    let size = size.min(nodes).min(header.capacity - context - 1);
    let root = if rows == 0 { 0.0 } else { costs.model.root_ms(rows, context) };
    let model = costs.model.levels_ms(depth, context) + costs.model.verify_ms(size, context);
    let decisions = costs.decision.depth_us * (depth + 1) as f64 + costs.decision.size_us;
    Sums {
        tokens: (traced.accepted(depth, size) + 1) as f64,
        seconds: (root + model) * 1e-3 + decisions * 1e-6,
    }
}

/// Decodes all sequences of a trace under a controller, in order; `visit` sees each cycle.
pub fn replay(
    trace: &Trace,
    costs: &Costs,
    controller: &mut dyn Controller,
    visit: &mut dyn FnMut(&CycleOutcome),
) -> CycleStats {
    let mut stats = CycleStats::default();
    for sequence in &trace.sequences {
        let (mut at, mut rows) = (0, 1);
        while at < sequence.len() {
            let mut cycle = Replayed::new(&trace.header, sequence.position(at));
            controller.begin_cycle();
            while cycle.depth() < trace.header.depth && controller.continue_drafting(&cycle.summary()) {
                cycle.expand();
            }
            let size = controller.verification_size(&cycle.summary());
            let outcome = cycle.verify(&sequence.tokens, costs, rows, size);
            controller.observe(&outcome);
            visit(&outcome);
            stats.add(&outcome);
            rows = outcome.acceptance_length();
            at += rows;
        }
    }
    stats
}
