//! Published rules that decide how deep to draft and how much to verify, to compare policies with.
//! Plain data: no LibTorch.
//!
//! ```
//! // By its name, with published values.
//! let given = ltd_contenders::Given::default();
//! let mut rule = ltd_contenders::controller("gamma-tune", &given).expect("it needs nothing");
//! let summary = ltd_policy::CycleSummary {
//!     scores: &[-0.1, -2.5],
//!     beam_width: 2,
//!     frontier: 2,
//!     draft_depth: 0,
//!     context_length: 120,
//! };
//! assert!(rule.continue_drafting(&summary));
//!
//! // With others.
//! let rule = ltd_contenders::GammaTune { eta: 0.1, ..ltd_contenders::GammaTune::default() };
//! assert_eq!(rule.delta, 2.0);
//! ```
//!
//! | name | rule | source |
//! | --- | --- | --- |
//! | `eagle-default` | a constant, whole levels | arXiv 2503.01840 |
//! | `ddd` | stops where the beam is improbable | arXiv 2409.00142, as in 2603.01639 |
//! | `hugging-face` | two levels more after full acceptance, else one less | transformers |
//! | `gamma-tune` | levels by a moving average of accepted tokens | arXiv 2504.00030 |
//! | `gamma-tune-ltd` | the same, around a default | arXiv 2603.01639 |
//! | `opt-tree`, `opt-tree-code` | stops where a level adds little probability | arXiv 2406.17276 |
//! | `svip` | stops where the draft is uncertain | arXiv 2411.18462 |
//! | `smart` | marginal tokens over marginal time, depth and size | arXiv 2604.09731 |
//! | `d-cut` | marginal tokens over marginal time, size alone | arXiv 2606.01813 |
//! | `ucb1` | a bandit over constants | arXiv 2505.15141 |
//! | `sglang-ema` | tiers of levels by a moving average | `SGLang` |
//! | `sglang-throughput` | levels by shares of acceptance over cost | `SGLang` |
//! | `copy-tensorrt-llm` | copies 8 tokens where 4 match | TensorRT-LLM |
//! | `copy-sam` | copies 40 tokens where 5 match | arXiv 2411.10666 |
//! | `prompt-lookup` | copies 10 tokens where 3 match | [`copy_rules`] |
//!
//! Four rules decide by classifiers that were trained on recordings, [`Classifiers`]:
//!
//! | name | rule | source |
//! | --- | --- | --- |
//! | `disco` | stops where the newest token is improbable | arXiv 2405.04304, as in 2603.01639 |
//! | `c2t` | keeps probable candidates | arXiv 2502.13652, as in 2603.01639 |
//! | `specdec-pp` | stops where a rejection is probable | arXiv 2405.19715 |
//! | `hvd` | copies where enough is expected to be accepted | arXiv 2606.01019 |
//!
//! [`eagle_auto`] has the size that EAGLE measures for itself.
//!
//! # What they share
//!
//! Scores are cumulative natural log-probs of candidates, so that `exp(score)` is the probability
//! of a path, the expected share of cycles that accept it. Rules that count the tokens of a chain
//! count levels here: a tree of depth `D` has `D + 1` levels and accepts at most as many tokens.
//! Those that follow what was accepted learn from cycles with a tree alone, of a merged one from
//! the tokens that the tree had. Sizes are cut by what a tree holds. Candidates that cannot be
//! among those that are verified are not expanded, where a rule's size is known before. Entropies
//! and states are computed for rules that look at them alone, in the time of the draft.

mod c2t;
mod classifiers;
mod costs;
mod d_cut;
mod ddd;
mod disco;
mod entries;
mod gamma_tune;
mod greedy;
mod hugging_face;
mod hvd;
#[cfg(test)]
mod made_up;
mod newest;
mod opt_tree;
mod probabilities;
mod sglang_ema;
mod sglang_throughput;
mod spec_dec;
mod svip;
mod ucb;

pub mod copy_rules;
pub mod eagle_auto;

use ltd_cycle::{Static, WholeBeam};
use ltd_policy::CopyRule;

pub use c2t::C2t;
pub use classifiers::{Classifier, Classifiers, Origin};
pub use costs::Costs;
pub use d_cut::DCut;
pub use ddd::Ddd;
pub use disco::Disco;
pub use entries::{ALL, Entry, Given, Needs, controller};
pub use gamma_tune::GammaTune;
pub use greedy::Smart;
pub use hugging_face::HuggingFace;
pub use hvd::Hvd;
pub use newest::Newest;
pub use opt_tree::{OptTree, Reading};
pub use sglang_ema::SglangEma;
pub use sglang_throughput::SglangThroughput;
pub use spec_dec::{AcceptanceHead, SpecDec};
pub use svip::Svip;
pub use ucb::Ucb1;

/// The constant of EAGLE-3 (arXiv 2503.01840), as it drafts: all of the beam. `depth = 7` and
/// `total_token = 60` of its published code are 7 forwards after the root expansion, and the root
/// with 59 candidates.
pub const EAGLE_DEFAULT: WholeBeam = WholeBeam(Static { depth: 7, size: 59 });

/// A published setting that decides nothing: trees of one shape, all of the beam expanded, and
/// perhaps copies by a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// Its trees.
    pub trees: WholeBeam,
    /// When it copies in place of drafting; never without.
    pub copies: Option<CopyRule>,
}

/// The setting of a contender that decides nothing, with what [`controller`] would keep constant;
/// none of any other.
#[must_use]
pub fn fixed(name: &str, trees: Option<Static>) -> Option<Fixed> {
    if name == "eagle-default" {
        return Some(Fixed { trees: EAGLE_DEFAULT, copies: None });
    }
    let published = copy_rules::ALL.into_iter().find(|rule| rule.name == name)?;
    Some(Fixed { trees: trees.map_or(EAGLE_DEFAULT, WholeBeam), copies: Some(published.rule) })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use ltd_cycle::{Controller, Cycle, CycleOutcome, DraftTree, Glimpse, draft};
    use ltd_policy::{CycleSummary, LatencyTable, MAX_SIZE};
    use proptest::prelude::*;

    use super::*;
    use crate::made_up::{HIDDEN, classifiers, outcome, table};

    /// A contender that has all that it needs.
    fn made(entry: &Entry, table: &LatencyTable, trees: Option<Static>) -> Box<dyn Controller> {
        let given = Given { costs: Some(table), classifiers: Some(&classifiers(0.4)), trees };
        entry.controller(&given).expect("a contender")
    }

    /// A made-up cycle: each level has the same log-probs, one after another of `steps`.
    struct MadeUp {
        tree: DraftTree,
        steps: Vec<u8>,
        entropies: Vec<f32>,
        states: Vec<f32>,
    }

    impl MadeUp {
        fn begin(width: usize, steps: &[u8], size_limit: usize) -> Self {
            let first = log_probs(width, steps);
            let tree = DraftTree::within(&first, (0..width as u32).collect(), size_limit);
            let (entropies, states) = (vec![entropy(steps)], Vec::new());
            Self { tree, steps: steps.to_vec(), entropies, states }
        }

        fn expand(&mut self) {
            self.steps.rotate_left(1);
            let groups = self.entropies.len() + self.tree.beam_width();
            let expanded = std::iter::repeat_n(entropy(&self.steps), self.tree.frontier().len());
            self.entropies.extend(expanded);
            self.entropies.resize(groups, 0.0);
            self.states.extend([entropy(&self.steps); HIDDEN]);
            let count = self.tree.frontier().len() * self.tree.beam_width();
            let tokens: Vec<u32> = (0..count as u32).collect();
            self.tree.push_level(&log_probs(count, &self.steps), &tokens);
        }
    }

    /// So many log-probs; the highest step is an impossible candidate.
    fn log_probs(count: usize, steps: &[u8]) -> Vec<f32> {
        let log_prob = |&step: &u8| if step == 9 { f32::NEG_INFINITY } else { -0.3 * f32::from(step) };
        steps.iter().cycle().take(count).map(log_prob).collect()
    }

    /// An entropy, another one for each first step.
    fn entropy(steps: &[u8]) -> f32 {
        0.2 * f32::from(steps[0])
    }

    impl Cycle for MadeUp {
        fn summary(&self) -> CycleSummary<'_> {
            CycleSummary {
                scores: self.tree.scores(),
                beam_width: self.tree.beam_width(),
                frontier: self.tree.frontier().len(),
                draft_depth: self.tree.depth(),
                context_length: 100,
            }
        }

        fn glimpse(&self) -> Option<Glimpse<'_>> {
            Some(Glimpse { entropies: &self.entropies, states: &self.states })
        }

        fn add_policy_time(&mut self, _elapsed: Duration) {}
    }

    #[test]
    fn every_name_makes_a_contender_of_what_it_needs() {
        let (table, classifiers) = (table(4, 1.0, |size| 10.0 + 0.1 * size), classifiers(0.4));
        for entry in ALL {
            let costs = Given { costs: Some(&table), ..Given::default() };
            let judging = Given { classifiers: Some(&classifiers), ..Given::default() };
            let made = [Given::default(), costs, judging].map(|given| entry.controller(&given).is_some());
            let expected = match entry.needs() {
                Needs::Nothing => [true, true, true],
                Needs::Costs => [false, true, false],
                Needs::Classifiers => [false, false, true],
            };
            assert_eq!(made, expected, "{}", entry.name);
            let of_name = ALL.iter().filter(|other| other.name == entry.name).count();
            assert_eq!(of_name, 1, "{}", entry.name);
        }
        assert!(controller("ddd", &Given::default()).is_some());
        assert!(controller("no such rule", &Given::default()).is_none());
    }

    #[test]
    fn what_decides_nothing_is_known_by_its_numbers() {
        let trees = Static { depth: 1, size: 3 };
        let found: Vec<(&str, Fixed)> =
            ALL.iter().filter_map(|entry| Some((entry.name, fixed(entry.name, Some(trees))?))).collect();
        let rule = |match_length, chain| Some(CopyRule { match_length, chain });
        let of = |trees: WholeBeam, copies| Fixed { trees, copies };
        assert_eq!(
            found,
            [
                ("eagle-default", of(EAGLE_DEFAULT, None)),
                ("copy-tensorrt-llm", of(WholeBeam(trees), rule(4, 8))),
                ("copy-sam", of(WholeBeam(trees), rule(5, 40))),
                ("prompt-lookup", of(WholeBeam(trees), rule(3, 10))),
            ]
        );
        assert_eq!(fixed("copy-sam", None).map(|fixed| fixed.trees), Some(EAGLE_DEFAULT));
        assert_eq!(fixed("ddd", None), None);
    }

    #[test]
    fn what_is_constant_can_be_another() {
        let table = table(4, 1.0, |size| 10.0 + 0.1 * size);
        // The depth and the size of a fresh rule, of a tree whose levels are all equally good.
        let decided = |entry: &Entry, trees| {
            let mut rule = made(entry, &table, trees);
            let mut cycle = MadeUp::begin(4, &[0], 64);
            let limit = rule.size_limit();
            let Ok(()) = draft(&mut *rule, &mut cycle, 12, |cycle| {
                cycle.expand();
                Ok::<(), Infallible>(())
            });
            (cycle.tree.depth(), rule.verification_size(&cycle.summary()).min(limit))
        };
        for entry in ALL {
            let other = decided(entry, Some(Static { depth: 1, size: 3 }));
            let differs = other != decided(entry, None);
            let hint = "a rule that keeps no part of a tree constant is one that `.chooses_all()`; another \
                        one uses `trees`";
            assert_eq!(differs, entry.keeps_trees, "{}: {other:?}: {hint}", entry.name);
        }
    }

    proptest! {
        #[test]
        fn contenders_steer_any_tree(
            width in 1usize..=4,
            steps in prop::collection::vec(0u8..=9, 1..24),
            cycles in prop::collection::vec((0usize..=12, 0usize..=13, any::<bool>()), 1..40),
            extra in 0u8..4,
        ) {
            let table = table(width, 1.0, |size| 10.0 + 0.1 * f64::from(extra) * size);
            for entry in ALL {
                let mut rule = made(entry, &table, None);
                for &(cap, accepted, has_tree) in &cycles {
                    rule.begin_cycle();
                    let limit = rule.size_limit();
                    let mut cycle = MadeUp::begin(width, &steps, limit);
                    let Ok(()) = draft(&mut *rule, &mut cycle, cap, |cycle| {
                        cycle.expand();
                        Ok::<_, Infallible>(())
                    });
                    let size = cycle.decide(|summary| rule.verification_size(summary));
                    prop_assert!((1..=MAX_SIZE).contains(&size) && size <= limit, "{}: {size}", entry.name);
                    let depth = cycle.tree.depth();
                    let accepted = accepted.min(depth + 1);
                    let drafted = has_tree.then_some(accepted);
                    rule.observe(&CycleOutcome { drafted, ..outcome(depth, accepted) });
                }
                // What is saved is all that its decisions depend on.
                let mut restored = made(entry, &table, None);
                restored.restore(&rule.state());
                for &(cap, accepted, _) in &cycles {
                    let steer = |rule: &mut dyn Controller| {
                        rule.begin_cycle();
                        let mut cycle = MadeUp::begin(width, &steps, rule.size_limit());
                        let Ok(()) = draft(rule, &mut cycle, cap, |cycle| {
                            cycle.expand();
                            Ok::<_, Infallible>(())
                        });
                        let depth = cycle.tree.depth();
                        rule.observe(&outcome(depth, accepted.min(depth + 1)));
                        (depth, cycle.decide(|summary| rule.verification_size(summary)))
                    };
                    let decided = steer(&mut *rule);
                    prop_assert_eq!(steer(&mut *restored), decided, "{}", entry.name);
                }
                // An empty frontier: it is not asked for another level, only for a size.
                let mut cycle = MadeUp::begin(width, &steps, 0);
                prop_assert_eq!(cycle.summary().frontier, 0);
                let size = cycle.decide(|summary| rule.verification_size(summary));
                prop_assert!((1..=MAX_SIZE).contains(&size), "{}: {size}", entry.name);
            }
        }
    }
}
