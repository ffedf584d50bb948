//! Settings and the policy on recorded trees: the same text, at the same costs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ltd_contenders::SglangEma;
use ltd_cycle::{Controller, CopiesAlone, CycleStats, Learned};
use ltd_env::oracle::{self, Choices, Copies, Horizon, Sources};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Interrupt};
use ltd_policy::{CopyRule, LONGEST_MATCH, LatencyTable, PolicyPackage};

use super::known::{Known, Rated};
use super::setting::{Setting, Trees};
use crate::{Error, Result};

/// Lengths that adaptive chains choose among, at most: every set of so many is tried.
const LENGTHS: usize = 3;

/// A recording, and what its cycles cost.
#[derive(Debug)]
struct Priced {
    folder: PathBuf,
    trace: Trace,
    table: LatencyTable,
    costs: Costs,
}

/// What settings and a policy are compared on.
#[derive(Debug)]
pub struct Recordings {
    /// Of the policy's own trees.
    trees: Priced,
    /// The same text, with chains.
    chains: Option<Priced>,
}

impl Priced {
    /// Reads a recording that `option` named, and its costs.
    fn read(option: &'static str, folder: &Path, latency: &Path) -> Result<Self> {
        let trace = Trace::read_replayable(folder)?;
        for shard in &trace.truncated {
            ltd_console::note!("{}: the last chunk is cut off and was passed over", shard.display());
        }
        if trace.positions() == 0 {
            let problem = "has no position to replay, expected recorded answers in its shards".to_owned();
            return Err(Error::Recording { option, path: folder.to_owned(), problem });
        }
        let table = LatencyTable::read(latency)?;
        trace.header.models().check(folder, &latency.display().to_string(), &table.identity.models())?;
        let costs = Costs { model: table.model(), decision: table.decision };
        Ok(Self { folder: folder.to_owned(), trace, table, costs })
    }

    /// Depths and sizes that the table has costs for.
    fn choices(&self) -> Choices {
        let deepest = self.table.level.counts().last().copied().unwrap_or(0).min(self.trace.header.depth);
        Choices { depths: (0..=deepest).collect(), sizes: self.table.verify.counts() }
    }

    /// Tokens per second under a controller whose decisions take no time.
    fn speed<C: Controller + 'static>(&self, controller: impl Fn() -> C + Sync) -> Result<f64> {
        let costs = self.costs.without_decisions();
        let parts = oracle::replay_parallel(&self.trace, &costs, |_| Box::new(controller()))?;
        Ok(CycleStats::merged(&parts).tokens_per_second())
    }

    /// The prompts, with the seed of each continuation.
    fn prompts(&self) -> BTreeSet<(u32, u64, &[u32])> {
        let sequences = self.trace.outlines();
        sequences
            .map(|sequence| (sequence.prompt, sequence.seed, &sequence.tokens[..sequence.prompt_len]))
            .collect()
    }
}

impl Recordings {
    /// Reads what `--trace`, `--latency`, `--chains` and `--chains-latency` name.
    ///
    /// # Errors
    /// If a table is not of its trace's models, or chains are no chains or of another text.
    pub fn read(trees: (&Path, &Path), chains: Option<(&Path, &Path)>) -> Result<Self> {
        let trees = Priced::read("--trace", trees.0, trees.1)?;
        let chains = chains.map(|(folder, latency)| Priced::read("--chains", folder, latency)).transpose()?;
        if let Some(chains) = &chains {
            let fail = |problem: String| Error::Recording {
                option: "--chains",
                path: chains.folder.clone(),
                problem,
            };
            let (ours, theirs) = (&chains.trace.header, &trees.trace.header);
            if ours.beam_width != 1 {
                let problem = format!("has trees of beam width {}, expected chains: 1", ours.beam_width);
                return Err(fail(problem));
            }
            let whose = trees.folder.display();
            let same_models = ltd_policy::Models { beam_width: 1, ..theirs.models() };
            ours.models().check(&chains.folder, &whose.to_string(), &same_models)?;
            if ours.sampling != theirs.sampling {
                return Err(fail(format!("is {}, {whose} is {}", ours.sampling, theirs.sampling)));
            }
            let (ours, theirs) = (&chains.table.identity, &trees.table.identity);
            let mut differences = theirs.conditions().differences(&ours.conditions());
            if ours.machine != theirs.machine {
                differences.push(format!("machine {} (here: {})", theirs.machine, ours.machine));
            }
            if !differences.is_empty() {
                let problem = format!("its costs are not those of {whose}: {}", differences.join(", "));
                return Err(fail(problem));
            }
            if chains.prompts() != trees.prompts() {
                return Err(fail(format!(
                    "has other prompts than {whose}, and speeds are compared on the same"
                )));
            }
        }
        Ok(Self { trees, chains })
    }

    /// What a package of `folder` and all settings reach.
    pub fn known(&self, folder: &Path, package: &PolicyPackage) -> Result<Known> {
        // Nothing is lost that an interruption could save: it ends the program at once.
        let interrupt = &Interrupt::default();
        let Priced { folder: trace_folder, trace, costs, .. } = &self.trees;
        let (header, named) = (&trace.header, trace_folder.display().to_string());
        package.check_steers(folder, &named, Some(&header.models()), header.beam_width, header.depth)?;
        if package.policy.merges() && !header.has_candidates() {
            let problem = ltd_env::Error::NoCandidates.to_string();
            return Err(ltd_env::Error::Trace { path: trace_folder.clone(), problem }.into());
        }
        if let Some(warning) = package.warning(&ltd_policy::Conditions::of_sampling(header.sampling)) {
            ltd_console::note!("ltd-export: warning: {}: {warning}", folder.display());
        }
        // The policy itself, whatever it falls back to.
        let policy = Learned::of_policy(&package.policy);
        let parts = oracle::replay_parallel(trace, costs, |_| Box::new(policy.clone()))?;
        let policy = CycleStats::merged(&parts).tokens_per_second();

        // A rule that never copies.
        let never = CopyRule { match_length: LONGEST_MATCH + 1, chain: 1 };
        let plain = self.trees.speed(|| CopiesAlone(never))?;

        let (choices, copies) = (self.trees.choices(), Copies::of(trace));
        // A chain of no tokens is plain decoding.
        let chains = std::iter::once(0).chain(choices.sizes.iter().copied()).collect();
        let sources = Sources { trees: choices.clone(), chains };
        let oracle =
            oracle::clairvoyant_source(trace, costs, &sources, &copies, Horizon::Sequence, interrupt)?;

        let mut settings = copies_alone(&self.trees)?;
        let widths = [Some(&self.trees), self.chains.as_ref()];
        for priced in widths.into_iter().flatten() {
            settings.extend(trees(priced, interrupt)?);
            if priced.trace.header.beam_width == 1 {
                settings.extend(adaptive_chains(priced)?);
            }
        }
        let speed = |rated: &Rated| rated.tokens_per_second.unwrap_or_default();
        settings.sort_by(|a, b| speed(b).total_cmp(&speed(a)));
        let prompts = ltd_console::count(trace.prompts(), "prompt");
        let chains = self.chains.as_ref().map(|chains| format!(" and {}", chains.folder.display()));
        let basis = format!(
            "replay of {named}{}, {prompts}, at the costs of {}",
            chains.unwrap_or_default(),
            self.trees.table.identity.machine
        );
        Ok(Known {
            origin: basis.clone(),
            settings,
            plain: Some(plain),
            policy: Some(policy),
            oracle: Some(oracle),
            basis,
            narrow_levels: false,
        })
    }
}

fn rated(setting: Setting, tokens_per_second: f64) -> Rated {
    Rated { setting, tokens_per_second: Some(tokens_per_second) }
}

/// Trees, and rules of copies with the trees that suit them. Servers draft as EAGLE-3 does, whose
/// levels expand the whole beam; with copies between, levels are priced as they are here.
fn trees(priced: &Priced, interrupt: &Interrupt) -> Result<Vec<Rated>> {
    let Priced { trace, costs, .. } = priced;
    let (choices, beam_width) = (priced.choices(), trace.header.beam_width);
    let constants = oracle::whole_beam_constants(trace, costs, &choices, interrupt)?;
    let rules =
        oracle::copy_rules(trace, costs, &choices, oracle::best(&constants), &Copies::of(trace), interrupt)?;
    let shape =
        |constant: &oracle::Constant| Trees { beam_width, depth: constant.depth, size: constant.size };
    let trees = constants.iter().filter(|constant| {
        // A chain that drafts more than it verifies is a slower form of a shorter one.
        beam_width > 1 || constant.size > constant.depth
    });
    let trees = trees.map(|constant| rated(Setting::Trees(shape(constant)), constant.tokens_per_second()));
    let rules = rules.iter().map(|found| {
        let speed = found.constant.tokens_per_second();
        rated(Setting::CopiesAndTrees(found.rule, shape(&found.constant)), speed)
    });
    Ok(trees.chain(rules).collect())
}

/// Rules of copies with plain decoding between them, with every chain that the table has a size
/// for.
fn copies_alone(priced: &Priced) -> Result<Vec<Rated>> {
    let chains = priced.table.verify.counts();
    let rules = oracle::MATCHES
        .iter()
        .flat_map(|&match_length| chains.iter().map(move |&chain| CopyRule { match_length, chain }));
    let price = |rule: CopyRule| Ok(rated(Setting::Copies(rule), priced.speed(|| CopiesAlone(rule))?));
    rules.filter(|rule| rule.problem().is_none()).map(price).collect()
}

/// Chains by what was accepted lately, between every few lengths. One rule goes through all
/// sequences, as a server keeps it between requests.
fn adaptive_chains(priced: &Priced) -> Result<Vec<Rated>> {
    let longest =
        priced.choices().depths.len().min(priced.table.verify.counts().last().copied().unwrap_or(0));
    let costs = priced.costs.without_decisions();
    let price = |lengths: Vec<usize>| {
        let mut rule = SglangEma::new(lengths.clone());
        rule.size = longest;
        let stats = oracle::replay(&priced.trace, &costs, &mut rule, &mut |_| ())?;
        Ok(rated(Setting::AdaptiveChains(lengths), stats.tokens_per_second()))
    };
    sets(longest).into_iter().map(price).collect()
}

/// Ascending sets of two to [`LENGTHS`] numbers from 1 to `longest`.
fn sets(longest: usize) -> Vec<Vec<usize>> {
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut of_one_size: Vec<Vec<usize>> = (1..=longest).map(|length| vec![length]).collect();
    for _ in 1..LENGTHS {
        let longer = of_one_size.iter().flat_map(|set| {
            let last = set.last().copied().unwrap_or(0);
            (last + 1..=longest).map(move |length| [&set[..], &[length]].concat())
        });
        of_one_size = longer.collect();
        found.extend(of_one_size.iter().cloned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_chains_are_tried_between_two_and_three_lengths() {
        assert_eq!(sets(3), [vec![1, 2], vec![1, 3], vec![2, 3], vec![1, 2, 3]]);
        assert_eq!(sets(7).len(), 21 + 35);
        assert!(sets(1).is_empty() && sets(0).is_empty());
    }
}
