//! Who decides what to draft from, how deep to draft and how many candidates to verify.

use std::borrow::Cow;

use ltd_policy::{
    Agreement, Calibration, Choice, CopyRule, CycleSummary, DepthPolicy, DraftSource, FactoredPolicy, Policy,
    PolicyPackage, SizePolicy, SourceChoice, SourcePolicy, SourceSummary,
};

use crate::CycleOutcome;

/// What a controller looks at of a draft beside its scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looks {
    /// At [`Glimpse::entropies`].
    pub entropies: bool,
    /// At [`Glimpse::states`].
    pub states: bool,
}

impl Looks {
    /// At nothing else.
    pub const NOTHING: Self = Self { entropies: false, states: false };
    /// At entropies.
    pub const ENTROPIES: Self = Self { entropies: true, states: false };
    /// At states.
    pub const STATES: Self = Self { entropies: false, states: true };

    /// Whether it looks at anything.
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::NOTHING
    }
}

/// What a controller that [looks](Controller::looks) sees of a draft beside its scores. Plain data:
/// the same in decoding and in recordings. Empty is what it does not look at.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Glimpse<'a> {
    /// Entropy, in nats, of the draft's distribution that each group of `W` candidates is the top
    /// of: after the root, then after each candidate that was expanded, level after level, `[1 +
    /// draft_depth * W]`. 0 where a group has no candidates.
    pub entropies: &'a [f32],
    /// The draft's output, before its last norm, after the best candidate of each level that was
    /// expanded, `[draft_depth, hidden]`. 0 where none was.
    pub states: &'a [f32],
}

impl<'a> Glimpse<'a> {
    /// Of entropies alone.
    #[must_use]
    pub fn of_entropies(entropies: &'a [f32]) -> Self {
        Self { entropies, ..Self::default() }
    }

    /// The state after the best candidate of the level before the newest, `[hidden]`; empty after
    /// the root expansion.
    #[must_use]
    pub fn last_state(&self, summary: &CycleSummary) -> &'a [f32] {
        let hidden = self.states.len().checked_div(summary.draft_depth).unwrap_or(0);
        &self.states[self.states.len() - hidden..]
    }

    /// Entropies of the newest level: one after the root expansion, `W` after each further draft
    /// forward.
    pub fn last_level(&self, summary: &CycleSummary) -> &'a [f32] {
        let groups = if summary.draft_depth == 0 { 1 } else { summary.beam_width };
        &self.entropies[self.entropies.len() - groups..]
    }
}

/// Steers a cycle. Static settings, heuristics and learned policies all implement it. They can go
/// to another thread: recorded cycles are steered on several.
pub trait Controller: Send {
    /// The largest size that it may choose. Candidates that cannot be among so many are not
    /// expanded; the cycle's outcome is the same.
    fn size_limit(&self) -> usize {
        usize::MAX
    }

    /// Called when a cycle starts, before its first decision.
    fn begin_cycle(&mut self) {}

    /// Whether it chooses what to draft from. Sequences remember what was said only for such a one.
    fn chooses_source(&self) -> bool {
        false
    }

    /// What to draft from. Asked first, before any forward, of one that
    /// [chooses](Controller::chooses_source); the other decisions are those of a cycle with a tree.
    fn source(&mut self, _summary: &SourceSummary) -> DraftSource {
        DraftSource::Tree
    }

    /// The chain that a cycle's tree is merged with, none for a tree alone: `chain` until now. The
    /// root expansion has shown what the draft model thinks of the first token to copy. Asked of
    /// one that chooses, in cycles with a tree, where something can be copied; not on recordings
    /// without the candidates' tokens.
    fn merge_with(&mut self, chain: Option<usize>, _agreement: Agreement) -> Option<usize> {
        chain
    }

    /// How probable candidates of a merged tree are. Asked of one that merges.
    fn calibration(&self) -> Cow<'_, Calibration> {
        Cow::Owned(Calibration::default())
    }

    /// What it looks at of a draft beside scores. That is computed for such a one alone, and is
    /// part of the time of its drafts.
    fn looks(&self) -> Looks {
        Looks::NOTHING
    }

    /// Shows one that looks what the newest level adds: after the root expansion and after each
    /// level, before it is asked anything about them.
    fn look(&mut self, _summary: &CycleSummary, _glimpse: &Glimpse) {}

    /// Whether to draft one more level. Asked after the root expansion and after each level while
    /// the depth is below the engine's limit.
    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool;

    /// How many candidates to verify. Asked once per cycle, after drafting.
    fn verification_size(&mut self, summary: &CycleSummary) -> usize;

    /// Called with the outcome of each cycle, outside its clock.
    fn observe(&mut self, _outcome: &CycleOutcome) {}

    /// What later decisions depend on besides the summaries, for a checkpoint; null if nothing.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Returns to a saved state.
    fn restore(&mut self, _state: &serde_json::Value) {}
}

/// A fixed depth and a fixed verification size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Static {
    /// Draft forwards after the root expansion.
    pub depth: usize,
    /// Candidates to verify.
    pub size: usize,
}

impl Controller for Static {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < self.depth
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }
}

/// [`Static`] with levels that expand all of the beam, as EAGLE-3 drafts (arXiv 2503.01840):
/// candidates that will not be verified, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeBeam(pub Static);

impl Controller for WholeBeam {
    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        self.0.continue_drafting(summary)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        self.0.verification_size(summary)
    }
}

/// Copies by a rule, or merges trees with chains by it; another controller decides how deep trees
/// are and how much is verified.
#[derive(Debug, Clone)]
pub struct Copying<C> {
    /// When to copy, and how much.
    pub rule: CopyRule,
    /// How probable candidates are, if trees are merged in place of copying alone.
    pub merged: Option<Calibration>,
    /// Steers the cycles with a tree.
    pub trees: C,
}

impl<C: Controller> Controller for Copying<C> {
    fn size_limit(&self) -> usize {
        self.trees.size_limit()
    }

    fn begin_cycle(&mut self) {
        self.trees.begin_cycle();
    }

    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        match self.rule.source(summary) {
            DraftSource::Copy { chain } if self.merged.is_some() => DraftSource::Merged { chain },
            source => source,
        }
    }

    fn calibration(&self) -> Cow<'_, Calibration> {
        match &self.merged {
            Some(calibration) => Cow::Borrowed(calibration),
            None => Cow::Owned(Calibration::default()),
        }
    }

    fn looks(&self) -> Looks {
        self.trees.looks()
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        self.trees.look(summary, glimpse);
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        self.trees.continue_drafting(summary)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        self.trees.verification_size(summary)
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        self.trees.observe(outcome);
    }

    fn state(&self) -> serde_json::Value {
        self.trees.state()
    }

    fn restore(&mut self, state: &serde_json::Value) {
        self.trees.restore(state);
    }
}

/// Copies by a rule, and decodes plainly where it does not copy: for targets whose draft is not
/// worth its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiesAlone(pub CopyRule);

impl Controller for CopiesAlone {
    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        match self.0.source(summary) {
            DraftSource::Tree => DraftSource::Copy { chain: 0 },
            copy => copy,
        }
    }

    fn continue_drafting(&mut self, _summary: &CycleSummary) -> bool {
        false
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        1
    }
}

/// What a package holds: a pair of frozen policies, either of which may be a constant, or a
/// factored policy.
#[derive(Debug, Clone)]
pub struct Learned(Decider);

#[derive(Debug, Clone)]
enum Decider {
    Pair { depth: DepthDecider, size: SizeDecider, source: SourceDecider },
    Factored(Box<FactoredPolicy>),
}

#[derive(Debug, Clone)]
enum DepthDecider {
    Policy(Box<DepthPolicy>),
    Constant(usize),
}

#[derive(Debug, Clone)]
enum SizeDecider {
    Policy(Box<SizePolicy>),
    Constant(usize),
}

#[derive(Debug, Clone)]
enum SourceDecider {
    Policy(Box<SourcePolicy>),
    Rule(CopyRule),
    Trees,
}

impl Learned {
    /// Readies a package, which was checked when it was loaded: its fallback if it names one, else
    /// its policy.
    pub fn of_package(package: &PolicyPackage) -> Self {
        if let Some(fallback) = &package.manifest.fallback {
            return Self(Decider::Pair {
                depth: DepthDecider::Constant(fallback.depth),
                size: SizeDecider::Constant(fallback.size),
                source: fallback.copies.map_or(SourceDecider::Trees, SourceDecider::Rule),
            });
        }
        Self::of_policy(&package.policy)
    }

    /// Readies a policy, which was checked when it was loaded.
    pub fn of_policy(policy: &Policy) -> Self {
        match policy {
            Policy::Pair { depth, size, source } => Self::new(depth, size, source)
                .expect("invariant: a pair's policies are where their kind belongs"),
            Policy::Factored(factored) => Self(Decider::Factored(Box::new(FactoredPolicy::of(factored)))),
        }
    }

    /// Readies the choices of a pair; `None` if a policy is there for the wrong decision.
    pub fn new(depth: &Choice, size: &Choice, source: &SourceChoice) -> Option<Self> {
        let depth = match depth {
            Choice::Learned(policy) => DepthDecider::Policy(Box::new(DepthPolicy::new(policy)?)),
            Choice::Constant(depth) => DepthDecider::Constant(*depth),
        };
        let size = match size {
            Choice::Learned(policy) => SizeDecider::Policy(Box::new(SizePolicy::new(policy)?)),
            Choice::Constant(size) => SizeDecider::Constant(*size),
        };
        let source = match source {
            SourceChoice::Learned(policy) => SourceDecider::Policy(Box::new(SourcePolicy::new(policy)?)),
            SourceChoice::Rule(rule) => SourceDecider::Rule(*rule),
            SourceChoice::Trees => SourceDecider::Trees,
        };
        Some(Self(Decider::Pair { depth, size, source }))
    }

    /// [`FactoredPolicy::expected_of_chains`]; nothing of a pair, which learned no numbers.
    pub fn expected_of_chains(&mut self, summary: &SourceSummary) -> Vec<(usize, f32)> {
        match &mut self.0 {
            Decider::Factored(policy) => policy.expected_of_chains(summary),
            Decider::Pair { .. } => Vec::new(),
        }
    }
}

impl From<FactoredPolicy> for Learned {
    fn from(policy: FactoredPolicy) -> Self {
        Self(Decider::Factored(Box::new(policy)))
    }
}

impl Controller for Learned {
    fn size_limit(&self) -> usize {
        match &self.0 {
            Decider::Factored(policy) => policy.size_limit(),
            // What such a policy sees must not depend on what can be verified.
            Decider::Pair { depth: DepthDecider::Policy(policy), .. } if policy.needs_whole_levels() => {
                usize::MAX
            }
            Decider::Pair { size: SizeDecider::Policy(policy), .. } if policy.needs_whole_levels() => {
                usize::MAX
            }
            Decider::Pair { size: SizeDecider::Policy(policy), .. } => policy.size_limit(),
            Decider::Pair { size: SizeDecider::Constant(size), .. } => *size,
        }
    }

    fn begin_cycle(&mut self) {
        if let Decider::Factored(policy) = &mut self.0 {
            policy.begin_cycle();
        }
    }

    fn chooses_source(&self) -> bool {
        match &self.0 {
            Decider::Factored(policy) => policy.chooses_source(),
            Decider::Pair { source, .. } => !matches!(source, SourceDecider::Trees),
        }
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        match &mut self.0 {
            Decider::Factored(policy) => policy.source(summary),
            Decider::Pair { source: SourceDecider::Policy(policy), .. } => policy.source(summary),
            Decider::Pair { source: SourceDecider::Rule(rule), .. } => rule.source(summary),
            Decider::Pair { source: SourceDecider::Trees, .. } => DraftSource::Tree,
        }
    }

    fn merge_with(&mut self, chain: Option<usize>, agreement: Agreement) -> Option<usize> {
        match &mut self.0 {
            Decider::Factored(policy) => policy.merge_with(chain, agreement),
            Decider::Pair { .. } => chain,
        }
    }

    fn calibration(&self) -> Cow<'_, Calibration> {
        let merged = match &self.0 {
            Decider::Factored(policy) => policy.merged(),
            Decider::Pair { source: SourceDecider::Policy(policy), .. } => policy.actions().merged.as_ref(),
            Decider::Pair { .. } => None,
        };
        match merged {
            Some(merged) => Cow::Borrowed(&merged.calibration),
            None => Cow::Owned(Calibration::default()),
        }
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        match &mut self.0 {
            Decider::Factored(policy) => policy.continue_drafting(summary),
            Decider::Pair { depth: DepthDecider::Policy(policy), .. } => policy.continue_drafting(summary),
            Decider::Pair { depth: DepthDecider::Constant(depth), .. } => summary.draft_depth < *depth,
        }
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        match &mut self.0 {
            Decider::Factored(policy) => policy.verification_size(summary),
            Decider::Pair { size: SizeDecider::Policy(policy), .. } => policy.verification_size(summary),
            Decider::Pair { size: SizeDecider::Constant(size), .. } => *size,
        }
    }
}
