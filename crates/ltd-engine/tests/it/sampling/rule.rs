//! Whatever the tree, the tokens have the target's distribution, jointly; and rules that are wrong
//! are found out.

use std::collections::HashMap;
use std::convert::Infallible;

use ltd_engine::{Sampler, SamplingParams};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tch::Tensor;

use super::SETTINGS;
use super::statistics::Fit;
use super::toy::{CELLS, LENGTH, Shape, Tree, cell, normalise, sequence_probabilities, shapes};

/// Sequences drawn for each shape and setting.
const DRAWS: usize = 4000;
/// Positions that a sequence owns in the sampler's stream.
const STRIDE: usize = 16;

/// How cycles choose: for sequences that all stand after the same context, `(path, next token)` of
/// each; `starts` are the positions of their next tokens.
trait Rule {
    fn cycles(&mut self, tree: &Tree, starts: &[usize]) -> Vec<(Vec<usize>, u32)>;
}

/// The engine's.
struct Engines(Sampler);

impl Rule for Engines {
    fn cycles(&mut self, tree: &Tree, starts: &[usize]) -> Vec<(Vec<usize>, u32)> {
        let depths = &tree.verification.depths;
        follow(&self.0, tree, starts.len(), |cycle, row| starts[cycle] + depths[row])
    }
}

/// Broken: all depths of a cycle share a random number.
struct OneNumberPerCycle(Sampler);

impl Rule for OneNumberPerCycle {
    fn cycles(&mut self, tree: &Tree, starts: &[usize]) -> Vec<(Vec<usize>, u32)> {
        follow(&self.0, tree, starts.len(), |cycle, _| starts[cycle])
    }
}

fn follow(
    sampler: &Sampler,
    tree: &Tree,
    count: usize,
    position: impl Fn(usize, usize) -> usize,
) -> Vec<(Vec<usize>, u32)> {
    let rows = tree.verification.rows();
    let positions: Vec<usize> = (0..count)
        .flat_map(|cycle| (0..rows).map(move |row| (cycle, row)))
        .map(|(c, r)| position(c, r))
        .collect();
    let choices = sampler.tokens(&tree.logits.repeat([count as i64, 1]), &positions).expect("tokens");
    let accept = |choices: &[u32]| tree.verification.accept(|row| Ok::<_, Infallible>(choices[row]));
    choices.chunks_exact(rows).map(|choices| accept(choices).expect("nothing can fail")).collect()
}

/// Recursive rejection as it is written in the literature, one random number per child, and what
/// can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Right,
    /// After a rejection the next child is accepted with its first probability.
    NotNormalised,
    /// A rejected child keeps its probability.
    NotZeroed,
    /// A child is accepted if it is the target's most probable token.
    Argmax,
    /// The draft's probability stands in for the certainty of the candidate.
    DraftProbability,
}

struct Literal {
    variant: Variant,
    random: ChaCha8Rng,
}

impl Literal {
    fn uniform(&mut self) -> f64 {
        f64::from(self.random.next_u32()) / 2_f64.powi(32)
    }

    fn draw(&mut self, p: &[f64]) -> u32 {
        let total: f64 = p.iter().sum();
        if total == 0.0 {
            // A broken rule can reject all there is; it has to say something.
            return self.random.next_u32() % p.len() as u32;
        }
        let mut u = self.uniform() * total;
        let hit = p.iter().position(|&probability| {
            u -= probability;
            u < 0.0
        });
        hit.expect("a token") as u32
    }

    fn accepts(&mut self, p: &[f64], token: usize, draft_probability: f64) -> bool {
        match self.variant {
            Variant::Argmax => p.iter().all(|&other| other <= p[token]),
            Variant::DraftProbability => self.uniform() < p[token] / draft_probability,
            _ => self.uniform() < p[token],
        }
    }

    fn cycle(&mut self, tree: &Tree) -> (Vec<usize>, u32) {
        let verification = &tree.verification;
        let mut path = vec![0];
        loop {
            let row = path[path.len() - 1];
            let mut p = tree.distributions[row].clone();
            let children =
                (row + 1..verification.rows()).filter(|&child| verification.parent_rows[child - 1] == row);
            let mut accepted = None;
            for child in children {
                let token = verification.tokens[child] as usize;
                if self.accepts(&p, token, tree.draft_probabilities[child]) {
                    accepted = Some(child);
                    break;
                }
                if self.variant != Variant::NotZeroed {
                    p[token] = 0.0;
                }
                if !matches!(self.variant, Variant::NotNormalised | Variant::NotZeroed) {
                    normalise(&mut p);
                }
            }
            match accepted {
                Some(child) => path.push(child),
                None => return (path, self.draw(&p)),
            }
        }
    }
}

impl Rule for Literal {
    fn cycles(&mut self, tree: &Tree, starts: &[usize]) -> Vec<(Vec<usize>, u32)> {
        starts.iter().map(|_| self.cycle(tree)).collect()
    }
}

/// How often each sequence of [`LENGTH`] tokens comes out.
fn counts(rule: &mut dyn Rule, shape: Shape, params: &SamplingParams) -> Vec<f64> {
    let mut counts = vec![0.0; CELLS];
    // Sequences under way, by what they hold so far.
    let mut waiting: HashMap<Vec<u32>, Vec<usize>> = HashMap::from([(Vec::new(), (0..DRAWS).collect())]);
    while let Some(context) = waiting.keys().min().cloned() {
        let sequences = waiting.remove(&context).expect("it is there");
        let tree = Tree::new(&context, shape, params);
        let starts: Vec<usize> = sequences.iter().map(|number| number * STRIDE + context.len()).collect();
        for (number, (path, next)) in sequences.into_iter().zip(rule.cycles(&tree, &starts)) {
            let accepted = path[1..].iter().map(|&row| tree.verification.tokens[row]);
            let sequence: Vec<u32> = context.iter().copied().chain(accepted).chain([next]).collect();
            if sequence.len() < LENGTH {
                waiting.entry(sequence).or_default().push(number);
            } else {
                counts[cell(&sequence)] += 1.0;
            }
        }
    }
    counts
}

/// The test: how well a rule's sequences fit the target's distribution, for each shape.
fn fits(
    rule: &mut dyn FnMut(u64, SamplingParams) -> Box<dyn Rule>,
    params: SamplingParams,
) -> Vec<(Shape, Fit)> {
    let probabilities = sequence_probabilities(&params);
    // Each shape has a seed of its own.
    let shapes = shapes().into_iter().zip(1000..);
    shapes
        .map(|(shape, seed)| {
            let counts = counts(rule(seed, params).as_mut(), shape, &params);
            assert_eq!(counts.iter().sum::<f64>(), DRAWS as f64);
            (shape, Fit::of(&counts, &probabilities))
        })
        .collect()
}

fn assert_fits(mut rule: impl FnMut(u64, SamplingParams) -> Box<dyn Rule>) {
    for params in SETTINGS {
        let fits = fits(&mut rule, params);
        assert!(fits.len() > 50 && fits.len() <= 100);
        for (shape, fit) in &fits {
            assert!(fit.is_good_in_family(), "{shape:?} {params}: z = {:.2}", fit.z());
        }
        let all: Fit = fits.iter().map(|(_, fit)| *fit).sum();
        assert!(all.is_good(), "{params}: z = {:.2}", all.z());
    }
}

/// The same test refuses the rule, for shape after shape.
fn assert_fails(name: &str, mut rule: impl FnMut(u64, SamplingParams) -> Box<dyn Rule>) {
    for params in SETTINGS {
        let fits = fits(&mut rule, params);
        let all: Fit = fits.iter().map(|(_, fit)| *fit).sum();
        assert!(!all.is_good(), "{name}, {params}: z = {:.2}", all.z());
        let found_out = fits.iter().filter(|(_, fit)| !fit.is_good_in_family()).count();
        assert!(found_out * 4 > fits.len(), "{name}, {params}: only {found_out} of {} shapes", fits.len());
    }
}

fn literal(variant: Variant) -> impl FnMut(u64, SamplingParams) -> Box<dyn Rule> {
    move |seed, _| Box::new(Literal { variant, random: ChaCha8Rng::seed_from_u64(seed) })
}

#[test]
fn tokens_have_the_targets_distribution_whatever_the_tree() {
    assert_fits(|seed, params| Box::new(Engines(Sampler::new(params, seed).expect("a sampler"))));
}

#[test]
fn recursive_rejection_as_published_has_it_too() {
    assert_fits(literal(Variant::Right));
}

#[test]
fn broken_rules_fail_the_same_test() {
    for variant in [Variant::NotNormalised, Variant::NotZeroed, Variant::Argmax, Variant::DraftProbability] {
        assert_fails(&format!("{variant:?}"), literal(variant));
    }
    assert_fails("one number per cycle", |seed, params| {
        Box::new(OneNumberPerCycle(Sampler::new(params, seed).expect("a sampler")))
    });
}

#[test]
fn a_token_that_was_cut_never_comes() {
    let params = SamplingParams { temperature: 1.0, top_p: 0.5, top_k: Some(2) };
    let sampler = Sampler::new(params, 3).expect("a sampler");
    let logits = Tensor::from_slice(&[0.0_f32, 3.0, -1.0, 3.1, 2.9]).view([1, 5]).repeat([5000, 1]);
    let positions: Vec<usize> = (0..5000).collect();
    let tokens = sampler.tokens(&logits, &positions).expect("tokens");
    // Of tokens 3 and 1, the first alone has more than half.
    assert!(tokens.iter().all(|&token| token == 3));
    let params = SamplingParams { top_p: 0.55, ..params };
    let tokens = Sampler::new(params, 3).expect("a sampler").tokens(&logits, &positions).expect("tokens");
    assert!(tokens.iter().all(|token| [1, 3].contains(token)) && tokens.contains(&1) && tokens.contains(&3));
}
