//! Who decides how deep to draft and how many candidates to verify.

use ltd_policy::{Choice, CycleSummary, DepthPolicy, FactoredPolicy, Policy, PolicyPackage, SizePolicy};

use crate::CycleOutcome;

/// Steers a cycle. Static settings, heuristics and learned policies all implement it.
pub trait Controller {
    /// The largest size that it may choose. Candidates that cannot be among so many are not
    /// expanded; the cycle's outcome is the same.
    fn size_limit(&self) -> usize {
        usize::MAX
    }

    /// Called when a cycle starts, before its first decision.
    fn begin_cycle(&mut self) {}

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

/// What a package holds: a pair of frozen policies, either of which may be a constant, or a
/// factored policy.
#[derive(Debug, Clone)]
pub struct Learned(Decider);

#[derive(Debug, Clone)]
enum Decider {
    Pair { depth: DepthDecider, size: SizeDecider },
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

impl Learned {
    /// Readies a package, which was checked when it was loaded: its fallback if it names one, else
    /// its policy.
    pub fn of_package(package: &PolicyPackage) -> Self {
        if let Some(fallback) = &package.manifest.fallback {
            let (depth, size) =
                (DepthDecider::Constant(fallback.depth), SizeDecider::Constant(fallback.size));
            return Self(Decider::Pair { depth, size });
        }
        Self::of_policy(&package.policy)
    }

    /// Readies a policy, which was checked when it was loaded.
    pub fn of_policy(policy: &Policy) -> Self {
        match policy {
            Policy::Pair { depth, size } => {
                Self::new(depth, size).expect("invariant: a pair's policies are where their kind belongs")
            }
            Policy::Factored(factored) => Self(Decider::Factored(Box::new(FactoredPolicy::of(factored)))),
        }
    }

    /// Readies the choices of a pair; `None` if a policy is there for the wrong decision.
    pub fn new(depth: &Choice, size: &Choice) -> Option<Self> {
        let depth = match depth {
            Choice::Learned(policy) => DepthDecider::Policy(Box::new(DepthPolicy::new(policy)?)),
            Choice::Constant(depth) => DepthDecider::Constant(*depth),
        };
        let size = match size {
            Choice::Learned(policy) => SizeDecider::Policy(Box::new(SizePolicy::new(policy)?)),
            Choice::Constant(size) => SizeDecider::Constant(*size),
        };
        Some(Self(Decider::Pair { depth, size }))
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
            Decider::Pair { size: SizeDecider::Policy(policy), .. } => policy.size_limit(),
            Decider::Pair { size: SizeDecider::Constant(size), .. } => *size,
        }
    }

    fn begin_cycle(&mut self) {
        if let Decider::Factored(policy) = &mut self.0 {
            policy.begin_cycle();
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
