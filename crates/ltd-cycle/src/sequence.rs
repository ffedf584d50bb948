//! The decisions of one sequence whose models another program runs.

use ltd_policy::{Agreement, CycleSummary, DraftSource, MAX_SIZE, PolicyPackage, SourceSummary};

use crate::{
    Chain, Controller, CycleOutcome, DraftTree, GrowingTree, Learned, Recall, VerificationTree, goes_on,
};

/// Steers the cycles of one sequence by a package's policy, for a program that runs its own models.
/// The engine of this project asks the same controller the same questions in the same order.
///
/// A cycle begins with the choice of its source. With a tree, levels are added while the policy
/// wants more. The target then verifies a tree of tokens, and what it accepted is committed.
///
/// ```
/// use ltd_cycle::{Sequence, VerificationTree};
/// use ltd_policy::{DraftSource, PolicyPackage};
///
/// /// A draft model: the `W` best continuations of each node of the frontier, at first of the root.
/// fn draft(sequence: &Sequence) -> (Vec<f32>, Vec<u32>) {
///     let nodes = sequence.growing().map_or(1, |growing| growing.parents().len());
///     let (log_probs, tokens) = (0..sequence.beam_width() as u32).map(|place| (-1.0 - place as f32, place)).unzip();
///     let (log_probs, tokens): (Vec<f32>, Vec<u32>) = (log_probs, tokens);
///     (log_probs.repeat(nodes), tokens.repeat(nodes))
/// }
///
/// /// A target: the draft tokens that it accepts, and its own token after them.
/// fn verify(tree: &VerificationTree) -> (Vec<u32>, u32) {
///     (tree.tokens[1..].first().copied().into_iter().collect(), 7)
/// }
///
/// let package = PolicyPackage::load("../../tests/fixtures/policies/pair".as_ref())?;
/// let mut sequence = Sequence::new(&package, &[3, 1, 4], 1);
/// while sequence.context_length() < 20 {
///     if !matches!(sequence.begin(), DraftSource::Copy { .. }) {
///         loop {
///             let (log_probs, tokens) = draft(&sequence);
///             sequence.push_level(&log_probs, &tokens)?;
///             if !sequence.continue_drafting()? {
///                 break;
///             }
///         }
///     }
///     let (accepted, next) = verify(sequence.verification(usize::MAX)?);
///     sequence.commit(&accepted, next);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sequence {
    controller: Learned,
    /// Kept for a policy that chooses what to draft from.
    recall: Option<Recall>,
    beam_width: usize,
    max_depth: usize,
    root: u32,
    context_length: usize,
    /// Tokens that the draft model has not read.
    unread: usize,
    stage: Stage,
    /// What the target was asked to verify.
    verification: Option<VerificationTree>,
}

/// How far a cycle is.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a sequence has one")]
enum Stage {
    /// None is under way.
    Between,
    /// The root expansion is to come.
    Begun { source: DraftSource },
    /// A tree grows.
    Drafting { growing: GrowingTree, rows: usize, source: DraftSource, size: Option<usize> },
    /// A chain is copied.
    Copying { chain: usize },
}

/// A call that a sequence cannot follow.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SequenceError {
    /// Something comes first.
    #[error("{call}: {found}: expected {first} first")]
    Order {
        /// What was called.
        call: &'static str,
        /// How far the sequence is.
        found: &'static str,
        /// What should have been called.
        first: &'static str,
    },
    /// A longer copy than is possible.
    #[error("begin_copy: expected a chain of at most {MAX_SIZE} tokens, found {chain}")]
    Chain {
        /// Its tokens.
        chain: usize,
    },
    /// A level of another shape than the tree's.
    #[error("{what}: expected {rows} rows of {columns}, found {found} numbers")]
    Shape {
        /// Which numbers.
        what: &'static str,
        /// Rows expected: nodes of the frontier.
        rows: usize,
        /// Numbers of each, the beam width.
        columns: usize,
        /// Numbers found.
        found: usize,
    },
    /// What is not the log-prob of a continuation, or is out of order.
    #[error("log_probs[{row}][{column}]: expected {expected}, found {found}")]
    LogProb {
        /// Node of the frontier.
        row: usize,
        /// Number of the continuation.
        column: usize,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: f32,
    },
    /// The tree is as deep as the policy drafts.
    #[error("push_level: the tree has {depth} levels below the first, as deep as the policy drafts")]
    Depth {
        /// Its depth.
        depth: usize,
    },
}

/// By how much rounding may lift a log-prob above 0.
const ROUNDING: f32 = 1e-2;

/// Whether a number can be the logarithm of a probability, but for rounding.
pub fn is_log_prob(number: f32) -> bool {
    number <= ROUNDING
}

impl Sequence {
    /// A sequence of this prompt, after which the target said `root`.
    pub fn new(package: &PolicyPackage, prompt: &[u32], root: u32) -> Self {
        let shape = [package.manifest.beam_width, package.deepest()];
        Self::steered_by(Learned::of_package(package), shape, prompt, root)
    }

    /// The same with a policy that is in no package: its beam width, and the deepest draft that it
    /// may ask for.
    pub fn steered_by(
        controller: Learned,
        [beam_width, max_depth]: [usize; 2],
        prompt: &[u32],
        root: u32,
    ) -> Self {
        let recall = controller.chooses_source().then(|| {
            let mut recall = Recall::new(prompt.len());
            recall.read(prompt, root);
            recall
        });
        Self {
            controller,
            recall,
            beam_width,
            max_depth,
            root,
            context_length: prompt.len(),
            unread: 1,
            stage: Stage::Between,
            verification: None,
        }
    }

    /// The token that the next cycle begins with: the target's own, which it has not read.
    pub fn root(&self) -> u32 {
        self.root
    }

    /// Tokens before the root.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Continuations of each node, `W`.
    pub fn beam_width(&self) -> usize {
        self.beam_width
    }

    /// The most candidates that are verified of a tree.
    pub fn size_limit(&self) -> usize {
        self.controller.size_limit()
    }

    /// The tree under way, if one is.
    pub fn growing(&self) -> Option<&GrowingTree> {
        match &self.stage {
            Stage::Drafting { growing, .. } => Some(growing),
            _ => None,
        }
    }

    /// What is known before a cycle; nothing of a policy that does not choose sources.
    pub fn source_summary(&self) -> Option<SourceSummary> {
        self.recall.as_ref().map(|recall| recall.summary(self.unread))
    }

    /// The chains that may be copied now, and how many of their tokens a factored policy expects to
    /// be accepted: for a program that weighs them against times of its own.
    pub fn expected_of_chains(&mut self) -> Vec<(usize, f32)> {
        match self.source_summary() {
            Some(summary) => self.controller.expected_of_chains(&summary),
            None => Vec::new(),
        }
    }

    /// Begins a cycle: what it drafts from. A cycle that was not committed is forgotten.
    pub fn begin(&mut self) -> DraftSource {
        self.verification = None;
        self.controller.begin_cycle();
        let source = match self.source_summary() {
            Some(summary) => self.controller.source(&summary),
            None => DraftSource::Tree,
        };
        self.stage = match source {
            DraftSource::Copy { chain } => Stage::Copying { chain },
            DraftSource::Tree | DraftSource::Merged { .. } => Stage::Begun { source },
        };
        source
    }

    /// Begins a cycle that copies `chain` tokens, whatever the policy thinks of it; with 0, or
    /// where nothing was said before, it is a step of plain decoding.
    pub fn begin_copy(&mut self, chain: usize) -> Result<(), SequenceError> {
        if chain > MAX_SIZE {
            return Err(SequenceError::Chain { chain });
        }
        self.verification = None;
        self.controller.begin_cycle();
        self.stage = Stage::Copying { chain };
        Ok(())
    }

    /// Adds a level: log-probs and tokens of the `W` best continuations of each node of the
    /// frontier, best first, `[frontier, W]`; first those of the root, `[1, W]`. A program that
    /// expands the whole beam passes the first rows of it, as many as
    /// [the frontier](GrowingTree::frontier_tokens) has: the others cannot be verified.
    pub fn push_level(&mut self, log_probs: &[f32], tokens: &[u32]) -> Result<(), SequenceError> {
        let (rows, depth) = match &self.stage {
            Stage::Begun { .. } => (1, None),
            Stage::Drafting { growing, .. } => (growing.parents().len(), Some(growing.tree().depth())),
            Stage::Between | Stage::Copying { .. } => return Err(self.out_of_turn("push_level")),
        };
        if let Some(depth) = depth.filter(|depth| *depth >= self.max_depth) {
            return Err(SequenceError::Depth { depth });
        }
        check_level(log_probs, tokens, rows, self.beam_width)?;
        match &mut self.stage {
            Stage::Drafting { growing, rows: before, size, .. } => {
                growing.push_level(*before, log_probs, tokens);
                *before += rows;
                *size = None;
            }
            _ => self.begin_tree(log_probs, tokens),
        }
        Ok(())
    }

    /// The tree of the root expansion, which shows what the draft model thinks of the copy.
    fn begin_tree(&mut self, log_probs: &[f32], tokens: &[u32]) {
        let Stage::Begun { mut source } = self.stage else { return };
        if let Some(copied) = self.source_summary().and_then(|summary| summary.copied) {
            let agreement = Agreement::of(copied, tokens);
            source = match self.controller.merge_with(source.merged_chain(), agreement) {
                Some(chain) => DraftSource::Merged { chain },
                None => DraftSource::Tree,
            };
        }
        let tree = DraftTree::within(log_probs, tokens.to_vec(), self.controller.size_limit());
        self.stage = Stage::Drafting { growing: GrowingTree::new(tree), rows: 0, source, size: None };
    }

    /// Whether to add one more level. Asked after each.
    pub fn continue_drafting(&mut self) -> Result<bool, SequenceError> {
        let Stage::Drafting { growing, .. } = &self.stage else {
            return Err(self.out_of_turn("continue_drafting"));
        };
        let summary = summary_of(growing, self.context_length);
        Ok(goes_on(&mut self.controller, &summary, self.max_depth))
    }

    /// Candidates to verify: of a tree as many as the policy chooses, of a copy the chain.
    pub fn verification_size(&mut self) -> Result<usize, SequenceError> {
        match &mut self.stage {
            Stage::Drafting { growing, size, .. } => {
                let summary = summary_of(growing, self.context_length);
                Ok(*size.get_or_insert_with(|| self.controller.verification_size(&summary)))
            }
            Stage::Copying { chain } => Ok(*chain),
            Stage::Between | Stage::Begun { .. } => Err(self.out_of_turn("verification_size")),
        }
    }

    /// The tree of tokens that the target verifies, root first, with no more than `at_most`
    /// candidates: what the caches have room for. Asked again, it is made anew; what is committed
    /// is compared with the latest.
    pub fn verification(&mut self, at_most: usize) -> Result<&VerificationTree, SequenceError> {
        let Ok(size) = self.verification_size() else { return Err(self.out_of_turn("verification")) };
        let size = size.min(at_most);
        let (root, recall) = (self.root, self.recall.as_ref());
        let chain_of = |chain: usize| recall.map(|recall| recall.chain(chain)).unwrap_or_default();
        let tree = match &self.stage {
            Stage::Drafting { growing, source, .. } => {
                let tokens = source.merged_chain().map(|chain| chain_of(chain.min(at_most)));
                match tokens.filter(|tokens| !tokens.is_empty()) {
                    Some(tokens) => {
                        let match_length = recall.map_or(0, Recall::match_length);
                        let calibration = &*self.controller.calibration();
                        growing.tree().merge(
                            root,
                            size,
                            &Chain { tokens: &tokens, match_length, calibration },
                        )
                    }
                    None => growing.tree().select(root, size),
                }
            }
            _ => VerificationTree::chain(root, &chain_of(size)),
        };
        Ok(self.verification.insert(tree))
    }

    /// Ends the cycle: the draft tokens that the target accepted, and its own token after them. It
    /// may be one of plain decoding, or one whose tree was another than that of
    /// [`Sequence::verification`].
    pub fn commit(&mut self, accepted: &[u32], next: u32) {
        if self.verification.is_none() {
            // A tree that was never asked for is that of the policy's choice.
            let _ = self.verification(usize::MAX);
        }
        let accepted_ids = [&[self.root], accepted].concat();
        let outcome = CycleOutcome { accepted_ids, next_token: next, ..self.outcome(accepted) };
        // A tree grows from all that was said: the draft model has read it.
        let before = if outcome.drafted.is_some() { 0 } else { self.unread };
        self.unread = before + outcome.acceptance_length();
        self.context_length += outcome.acceptance_length();
        self.controller.observe(&outcome);
        if let Some(recall) = &mut self.recall {
            recall.observe(&outcome);
            recall.append(accepted);
            recall.append(&[next]);
        }
        self.root = next;
        (self.stage, self.verification) = (Stage::Between, None);
    }

    /// What the cycle drafted from, and what came of it; of a step of plain decoding nothing.
    fn outcome(&self, accepted: &[u32]) -> CycleOutcome {
        let context_length = self.context_length;
        let Some(verification) = &self.verification else {
            return CycleOutcome { context_length, ..CycleOutcome::default() };
        };
        let [drafted, copied] = verification.sources(&verification.along(accepted));
        let (source, depth) = match &self.stage {
            Stage::Drafting { growing, source, .. } => (*source, Some(growing.tree().depth())),
            Stage::Copying { chain } => (DraftSource::Copy { chain: *chain }, None),
            Stage::Between | Stage::Begun { .. } => (DraftSource::Tree, None),
        };
        CycleOutcome {
            source,
            match_length: self.recall.as_ref().map_or(0, Recall::match_length),
            drafted: depth.map(|_| drafted),
            copied: (!verification.chain_rows.is_empty()).then_some(copied),
            draft_depth: depth.unwrap_or(0),
            verification_size: verification.rows() - 1,
            context_length,
            ..CycleOutcome::default()
        }
    }

    fn out_of_turn(&self, call: &'static str) -> SequenceError {
        let (found, first) = match &self.stage {
            Stage::Between => ("no cycle is under way", "begin"),
            Stage::Begun { .. } => ("the cycle has no tree yet", "push_level"),
            Stage::Drafting { .. } => ("a tree is under way", "verification"),
            Stage::Copying { .. } => ("the cycle copies and has no tree", "verification and commit"),
        };
        SequenceError::Order { call, found, first }
    }
}

fn summary_of(growing: &GrowingTree, context_length: usize) -> CycleSummary<'_> {
    let tree = growing.tree();
    CycleSummary {
        scores: tree.scores(),
        beam_width: tree.beam_width(),
        frontier: tree.frontier().len(),
        draft_depth: tree.depth(),
        context_length,
    }
}

/// Numbers that would spoil the scores of a tree, or their order.
fn check_level(log_probs: &[f32], tokens: &[u32], rows: usize, columns: usize) -> Result<(), SequenceError> {
    for (what, found) in [("log_probs", log_probs.len()), ("tokens", tokens.len())] {
        if found != rows * columns {
            return Err(SequenceError::Shape { what, rows, columns, found });
        }
    }
    for (row, of_row) in log_probs.chunks_exact(columns).enumerate() {
        let mut before = ROUNDING;
        for (column, &found) in of_row.iter().enumerate() {
            let expected = if !is_log_prob(found) {
                "a logarithm of a probability"
            } else if found > before {
                "the best continuations first"
            } else {
                before = found;
                continue;
            };
            return Err(SequenceError::LogProb { row, column, expected, found });
        }
    }
    Ok(())
}
