//! The factored policy: a network predicts what would be accepted, a measured table says what it
//! would cost.

mod outcomes;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::action::{DepthActions, DepthRule, SizeActions, tree_candidates};
use crate::decider::Evaluator;
use crate::latency::{LatencyModel, LatencyTable};
use crate::network::{Frozen, Outputs};
use crate::observation::{CycleSummary, Source};
use crate::source::{Agreement, DraftSource, Merged, SourceSummary};
use crate::tokens::TokenRecord;

pub use outcomes::{FrozenSourcePredictor, SourceOutcomes};

/// Deeper than any draft: a bound on what a file can ask for.
const DEEPEST: usize = 64;

/// The depths and sizes between which a factored policy decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactoredActions {
    /// Where drafting may stop, and after which levels it is asked.
    pub depth: DepthActions,
    /// Candidates that may be verified.
    pub size: SizeActions,
}

/// A predictor of accepted draft tokens that no longer learns; its outputs are the expected
/// numbers per final depth and size, `[stops][sizes]`.
pub type FrozenPredictor = Frozen<FactoredActions>;

impl FactoredActions {
    /// The depths at which drafting can end, ascending: where it is asked, and the deepest.
    pub fn stops(&self) -> impl Iterator<Item = usize> + '_ {
        (0..=self.depth.max_depth).filter(|&depth| self.depth.rule_at(depth) != DepthRule::Continue)
    }
}

impl Outputs for FactoredActions {
    fn kind_name(&self) -> String {
        "factored".to_owned()
    }

    fn output_count(&self) -> usize {
        self.stops().count() * self.size.sizes.len()
    }

    fn problem(&self, depth_cap: usize) -> Option<String> {
        let depth = self.depth.problems(depth_cap.min(DEEPEST)).into_iter().next();
        depth
            .map(|(key, problem)| format!("depth.{key} {problem}"))
            .or_else(|| self.size.problem().map(|problem| format!("size {problem}")))
    }
}

/// A margin by which nothing is better.
pub const NEVER: f64 = 1e6;

/// How a factored policy decides what to draft from.
#[derive(Debug, Clone, PartialEq)]
pub struct FactoredSource {
    /// What would be accepted.
    pub predictor: FrozenSourcePredictor,
    /// Tokens by which a copy must be better than the best tree. Above 0 where trees turn out
    /// better than what is known before them tells.
    pub margin: f64,
    /// The same of a merged tree; [`NEVER`] merges none.
    pub merged_margin: f64,
    /// Log-odds by which a copied token is taken to be less certain than predicted: the chain that
    /// is chosen among many is more often one whose prediction is too high than too low.
    pub caution: f64,
    /// What recordings tell of tokens, if the predictor [sees](Source::Trust) it.
    pub tokens: Option<Arc<TokenRecord>>,
}

impl FactoredSource {
    /// What is impossible about its numbers or the record, if anything.
    fn problem(&self) -> Option<String> {
        if self.predictor.layout().shows(Source::Trust) != self.tokens.is_some() {
            let problem = if self.tokens.is_some() {
                "is given, but the layout does not show trust"
            } else {
                "is missing, but the layout shows trust"
            };
            return Some(format!("source.tokens: {problem}"));
        }
        let numbers =
            [("margin", self.margin), ("merged_margin", self.merged_margin), ("caution", self.caution)];
        let problem = numbers.into_iter().find(|(_, number)| !number.is_finite());
        problem.map(|(name, number)| format!("source.{name}: is {number}, must be a number"))
    }
}

/// A factored policy with all that it decides from.
#[derive(Debug, Clone, PartialEq)]
pub struct Factored {
    /// What would be accepted: knows nothing of the machine.
    pub predictor: FrozenPredictor,
    /// What it would cost: knows nothing of the text.
    pub latency: LatencyTable,
    /// How the two are weighed.
    pub rule: FactoredRule,
    /// What to draft from; none always drafts trees.
    pub source: Option<FactoredSource>,
}

impl Factored {
    /// What is impossible about how it weighs, if anything.
    pub(crate) fn rule_problem(&self) -> Option<String> {
        self.rule.problem().or_else(|| self.source.as_ref().and_then(FactoredSource::problem))
    }
}

/// How a factored policy weighs tokens against time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FactoredRule {
    /// What time is worth, `lambda`: at the throughput that the decisions themselves reach, they
    /// maximise it (the fixed point of fractional programming: Dinkelbach 1967).
    pub tokens_per_second: f64,
    /// Tokens by which a deeper ending must be better. The best of many predictions is more often
    /// one that is too high than one that is too low, and there are more endings ahead than here.
    pub margin: f64,
}

impl FactoredRule {
    /// What is impossible about the rule, if anything.
    pub fn problem(&self) -> Option<String> {
        let Self { tokens_per_second, margin } = self;
        if !(tokens_per_second.is_finite() && *tokens_per_second > 0.0) {
            return Some(format!("tokens_per_second: is {tokens_per_second}, must be positive"));
        }
        let holds = margin.is_finite() && *margin >= 0.0;
        (!holds).then(|| format!("margin: is {margin}, must be at least 0"))
    }
}

/// Decides both depth and size by `1 + E[accepted] - lambda * T`, ready to use: a decision
/// allocates nothing.
#[derive(Debug, Clone)]
pub struct FactoredPolicy {
    evaluator: Evaluator,
    actions: FactoredActions,
    stops: Vec<usize>,
    beam_width: usize,
    latency: Arc<LatencyModel>,
    depth_decision_ms: f64,
    tokens_per_ms: f64,
    margin: f64,
    /// Expected accepted draft tokens, `[stops][sizes]`, of the latest prediction.
    expected: Vec<f32>,
    /// Depth at which it was decided to stop, and the size that goes with it.
    decided: Option<(usize, usize)>,
    source: Option<SourceValues>,
}

/// What the choice of the source needs.
#[derive(Debug, Clone)]
struct SourceValues {
    evaluator: Evaluator,
    outcomes: Arc<SourceOutcomes>,
    tokens: Option<Arc<TokenRecord>>,
    stops: Vec<usize>,
    margin: f64,
    merged_margin: f64,
    caution: f32,
    /// Whether it may merge, and its predictor knows what the draft model thinks of a copy.
    decides_again: bool,
    /// What was known when the source was chosen.
    before: SourceSummary,
    /// Depth and size of the merged tree that was chosen.
    plan: Option<(usize, usize)>,
}

/// What ways to go on are worth, in tokens.
#[derive(Debug, Clone, Copy)]
struct Worth {
    /// The best chain.
    chain: (usize, f64),
    /// Depth and size of the best merged tree.
    merged: Option<((usize, usize), f64)>,
    /// The best tree.
    tree: f64,
}

/// A way to end a cycle.
#[derive(Debug, Clone, Copy)]
struct Ending {
    size: usize,
    /// `1 + E[accepted]` less what the time still to be spent is worth, in tokens.
    value: f64,
}

impl FactoredPolicy {
    /// Readies the policy of a package, which was checked when it was loaded.
    pub fn of(factored: &Factored) -> Self {
        let policy = Self::new(&factored.predictor, &factored.latency, factored.rule);
        match &factored.source {
            Some(source) => policy.with_source(source),
            None => policy,
        }
    }

    /// Readies a predictor with a machine's table.
    ///
    /// # Panics
    /// If the table has [`problems`](LatencyTable::problems), or the [rule](FactoredRule::problem)
    /// has.
    pub fn new(predictor: &FrozenPredictor, table: &LatencyTable, rule: FactoredRule) -> Self {
        assert_eq!(rule.problem(), None, "a rule that was checked");
        let actions = predictor.actions().clone();
        Self {
            evaluator: Evaluator::new(predictor),
            stops: actions.stops().collect(),
            beam_width: predictor.layout().beam_width,
            latency: Arc::new(table.model()),
            depth_decision_ms: table.decision.depth_us / 1e3,
            tokens_per_ms: rule.tokens_per_second / 1e3,
            margin: rule.margin,
            expected: vec![0.0; actions.output_count()],
            decided: None,
            actions,
            source: None,
        }
    }

    /// The same policy, which decides what to draft from, too.
    #[must_use]
    pub fn with_source(self, source: &FactoredSource) -> Self {
        let outcomes = Arc::new(source.predictor.actions().clone());
        let values = SourceValues {
            evaluator: Evaluator::new(&source.predictor),
            tokens: source.tokens.clone(),
            stops: outcomes.trees.stops().collect(),
            margin: source.margin,
            merged_margin: source.merged_margin,
            caution: source.caution as f32,
            decides_again: outcomes.source.merged.is_some()
                && source.merged_margin < NEVER
                && source.predictor.layout().shows(Source::Agreement),
            before: SourceSummary::default(),
            plan: None,
            outcomes,
        };
        Self { source: Some(values), ..self }
    }

    /// Whether it decides what to draft from.
    pub fn chooses_source(&self) -> bool {
        self.source.is_some()
    }

    /// How trees are merged with chains, if they are.
    pub fn merged(&self) -> Option<&Merged> {
        self.source.as_ref()?.outcomes.source.merged.as_ref()
    }

    /// What to draft from: the chain or the merged tree that is worth most, `1 + E[accepted] -
    /// lambda * T`, if that is more than the best tree by its margin. Whatever the cycle, the draft
    /// reads each accepted token once, now or later: only what a root expansion takes beyond that
    /// is the tree's. Depth and size of a merged tree are decided here, too.
    pub fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        let Some(values) = &mut self.source else { return DraftSource::Tree };
        let summary = &values.tokens.as_ref().map_or(*summary, |tokens| tokens.tell(summary));
        (values.before, values.plan) = (*summary, None);
        if !values.outcomes.source.asks(summary) {
            return DraftSource::Tree;
        }
        let root_ms = self.latency.root_ms(1, summary.context_length);
        let Worth { chain, merged, tree } = self.worth(summary, root_ms);
        let (chain, of_chain) = chain;
        let of_merged = merged.map_or(f64::NEG_INFINITY, |(_, value)| value);
        match self.merged_chain() {
            Some(chain) if of_merged > of_chain.max(tree) => {
                self.set_plan(merged.map(|(plan, _)| plan));
                DraftSource::Merged { chain }
            }
            _ if of_chain > tree => DraftSource::Copy { chain },
            _ => DraftSource::Tree,
        }
    }

    /// The chain that the tree under way is merged with, now that the draft model has shown what it
    /// thinks of the first token to copy; before it was `chain`, and is still if the predictor does
    /// not know that. Depth and size of a merged tree are decided anew.
    pub fn merge_with(&mut self, chain: Option<usize>, agreement: Agreement) -> Option<usize> {
        let Some(values) = self.source.as_ref().filter(|values| values.decides_again) else { return chain };
        let summary = SourceSummary { agreement: Some(agreement), ..values.before };
        // The root expansion is made, whatever follows.
        let Worth { merged, tree, .. } = self.worth(&summary, 0.0);
        let better = merged.filter(|&(_, value)| value > tree);
        self.set_plan(better.map(|(plan, _)| plan));
        better.and(self.merged_chain())
    }

    /// What the ways to go on are worth, less their margins; where nothing matches, no tree is
    /// merged.
    fn worth(&mut self, summary: &SourceSummary, root_ms: f64) -> Worth {
        let values = self.source.as_mut().expect("invariant: asked of one that chooses");
        let SourceValues { evaluator, outcomes, stops, margin, merged_margin, caution, .. } = values;
        let (latency, context, trees) = (&self.latency, summary.context_length, &outcomes.trees);
        let expected = evaluator.forward_sequence(summary);
        let (of_copies, of_trees) = expected.split_at(outcomes.copy_outputs());
        let (of_trees, of_merged) = of_trees.split_at(trees.output_count());
        let value = |expected: f32, ms: f64| f64::from(expected.max(0.0)) - self.tokens_per_ms * ms;
        let mut worth = Worth { chain: (0, f64::NEG_INFINITY), merged: None, tree: f64::NEG_INFINITY };
        for (chain, expected) in outcomes.of_chains(of_copies, *caution) {
            let copied = if summary.match_length > 0 { chain } else { 0 };
            let expected = if copied > 0 { expected } else { 0.0 };
            let value = value(expected, latency.verify_ms(copied, context)) - *margin;
            if value > worth.chain.1 {
                worth.chain = (chain, value);
            }
        }
        let merged = outcomes.source.merged.as_ref().filter(|_| summary.match_length > 0);
        let sizes = &trees.size.sizes;
        for (row, &depth) in stops.iter().enumerate() {
            let asked = (0..=depth).filter(|&depth| trees.depth.rule_at(depth) == DepthRule::Ask).count();
            let levels_ms = latency.levels_ms(0..depth, self.beam_width.min(sizes[sizes.len() - 1]), context);
            let deciding_ms = asked as f64 * self.depth_decision_ms;
            let candidates = tree_candidates(self.beam_width, depth);
            for (column, &size) in sizes.iter().enumerate() {
                let at = row * sizes.len() + column;
                let drafting_ms = root_ms + levels_ms;
                let ms = drafting_ms + deciding_ms + latency.verify_ms(size.min(candidates), context);
                worth.tree = worth.tree.max(value(of_trees[at], ms));
                let (Some(merged), Some(&expected)) = (merged, of_merged.get(at)) else { continue };
                let ms = drafting_ms + latency.verify_ms(size.min(candidates + merged.chain), context);
                let value = value(expected, ms) - *merged_margin;
                if worth.merged.is_none_or(|(_, best)| value > best) {
                    worth.merged = Some(((depth, size), value));
                }
            }
        }
        worth
    }

    /// The chains that may be copied, and how many of their tokens are expected to be accepted: for
    /// a program that weighs them against times of its own. Nothing if it does not choose sources.
    pub fn expected_of_chains(&mut self, summary: &SourceSummary) -> Vec<(usize, f32)> {
        let Some(values) = &mut self.source else { return Vec::new() };
        let summary = values.tokens.as_ref().map_or(*summary, |tokens| tokens.tell(summary));
        let expected = values.evaluator.forward_sequence(&summary);
        let of_copies = &expected[..values.outcomes.copy_outputs()];
        let chains = values.outcomes.of_chains(of_copies, values.caution);
        // Where nothing matches there is nothing to copy.
        let copies = summary.match_length > 0;
        chains.map(|(chain, expected)| (chain, if copies { expected.max(0.0) } else { 0.0 })).collect()
    }

    fn merged_chain(&self) -> Option<usize> {
        self.merged().map(|merged| merged.chain)
    }

    fn set_plan(&mut self, plan: Option<(usize, usize)>) {
        if let Some(values) = &mut self.source {
            values.plan = plan;
        }
    }

    /// The largest size that it may choose.
    pub fn size_limit(&self) -> usize {
        self.actions.size.largest()
    }

    /// Forgets what was decided in the cycle before.
    pub fn begin_cycle(&mut self) {
        self.decided = None;
        if let Some(source) = &mut self.source {
            source.plan = None;
        }
    }

    /// Depth and size of the merged tree under way.
    fn plan(&self) -> Option<(usize, usize)> {
        self.source.as_ref()?.plan
    }

    /// Whether to draft one more level: if some deeper ending is worth more than the best one here,
    /// by the margin.
    pub fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        if let Some((depth, _)) = self.plan() {
            return summary.draft_depth < depth;
        }
        self.decided = None;
        match self.actions.depth.rule_at(summary.draft_depth) {
            DepthRule::Continue => return true,
            DepthRule::Stop => return false,
            DepthRule::Ask => {}
        }
        self.predict(summary);
        let now = self.row(summary.draft_depth);
        let here = self.best_ending(now, summary.draft_depth, summary);
        let later = now + 1..self.stops.len();
        let wanted = here.value + self.margin;
        let goes_on =
            later.into_iter().any(|row| self.best_ending(row, self.stops[row], summary).value > wanted);
        if !goes_on {
            self.decided = Some((summary.draft_depth, here.size));
        }
        goes_on
    }

    /// Candidates to verify.
    pub fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        if let Some((_, size)) = self.plan() {
            return size;
        }
        if let Some((depth, size)) = self.decided.take()
            && depth == summary.draft_depth
        {
            return size;
        }
        self.predict(summary);
        self.best_ending(self.row(summary.draft_depth), summary.draft_depth, summary).size
    }

    fn predict(&mut self, summary: &CycleSummary) {
        self.expected.copy_from_slice(self.evaluator.forward(summary));
    }

    /// The deepest stop that a tree of this depth has reached; the first stop if an engine's own
    /// limit is below it.
    fn row(&self, depth: usize) -> usize {
        self.stops.partition_point(|&stop| stop <= depth).saturating_sub(1)
    }

    /// The best size for a cycle that ends at `depth`, the smallest among equals. Time already
    /// spent is common to all endings and left out.
    fn best_ending(&self, row: usize, depth: usize, summary: &CycleSummary) -> Ending {
        let (drafted, context) = (summary.draft_depth, summary.context_length);
        let sizes = &self.actions.size.sizes;
        // How much deeper frontiers will be smaller is not known.
        let levels_ms = self.latency.levels_ms(drafted..depth, summary.frontier, context);
        let asked =
            (drafted + 1..=depth).filter(|&depth| self.actions.depth.rule_at(depth) == DepthRule::Ask);
        let drafting_ms = levels_ms + asked.count() as f64 * self.depth_decision_ms;
        let candidates = tree_candidates(self.beam_width, depth);
        let expected = &self.expected[row * sizes.len()..][..sizes.len()];
        let mut best = Ending { size: sizes[0], value: f64::NEG_INFINITY };
        for (&size, &expected) in sizes.iter().zip(expected) {
            let ms = drafting_ms + self.latency.verify_ms(size.min(candidates), context);
            let value = 1.0 + f64::from(expected) - self.tokens_per_ms * ms;
            if value > best.value {
                best = Ending { size, value };
            }
        }
        best
    }
}
