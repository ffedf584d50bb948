//! Cycles from a trace and a latency table: the same trees, the same outcomes, and the time they
//! would take.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use half::slice::HalfFloatSliceExt;
use ltd_cycle::{
    Candidates, Chain, Contention, Controller, Cycle, CycleOutcome, Glimpse, Looks, Yields, draft,
    source_summary,
};
use ltd_policy::{Agreement, Calibration, CycleSummary, DraftSource, SourceSummary};
use serde::{Deserialize, Serialize};

use crate::backend::CycleBackend;
use crate::copied::Copied;
use crate::costs::Costs;
use crate::noise::{Noise, Scatter};
use crate::order::{Order, Position};
use crate::trace::{Trace, TraceHeader, TracedPosition, TracedSequence};
use crate::{Error, Result};

/// Replays recorded prompts one after another, in an order that is drawn anew for each epoch.
/// Deterministic: the time of a decision is the table's, whatever the learner took, and noise comes
/// from the seed.
pub struct ReplayCycles {
    trace: Arc<Trace>,
    costs: Costs,
    noise: Option<Noise>,
    seed: u64,
    order: Order,
    place: Option<Place>,
    /// The sequence of the place.
    visit: Option<Visit>,
}

/// A sequence, as long as cycles go through it.
struct Visit {
    sequence: Arc<TracedSequence>,
    /// What copying comes to, once that was asked.
    copied: OnceLock<Vec<Copied>>,
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Place {
    sequence: usize,
    position: usize,
    /// Rows that the draft has not read: what the last cycle accepted, and those that copied before
    /// it.
    rows: usize,
    #[serde(default)]
    yields: Yields,
}

#[derive(Serialize, Deserialize)]
struct ReplayState {
    order: Position,
    place: Option<Place>,
    /// Where the noise stands; null if there is none.
    #[serde(default)]
    noise: Option<String>,
}

/// The tree at a position, and how cycles draft and verify it: what [`ReplayCycles`] and
/// [`crate::oracle::replay`] share.
#[derive(Clone, Copy)]
pub struct RecordedTree<'s> {
    /// Of its trace.
    pub header: &'s TraceHeader,
    /// What was recorded.
    pub position: TracedPosition<'s>,
}

/// The part of a recorded cycle that a policy sees.
#[derive(Debug, Clone)]
pub struct ReplayCycle {
    scores: Vec<f32>,
    beam_width: usize,
    contention: Contention,
    /// Candidates that the next level expands.
    frontier: usize,
    /// Candidates that each level expanded.
    level_rows: Vec<usize>,
    /// What its controller looks at.
    looks: Looks,
    /// As [`Glimpse::entropies`], if it looks at them.
    entropies: Vec<f32>,
    /// As [`Glimpse::states`], if it looks at them.
    states: Vec<f32>,
    context_length: usize,
}

impl ReplayCycle {
    /// Candidates that each level expanded.
    pub(crate) fn level_rows(&self) -> &[usize] {
        &self.level_rows
    }

    fn depth(&self) -> usize {
        self.level_rows.len()
    }
}

impl Cycle for ReplayCycle {
    fn summary(&self) -> CycleSummary<'_> {
        CycleSummary {
            scores: &self.scores,
            beam_width: self.beam_width,
            frontier: self.frontier,
            draft_depth: self.depth(),
            context_length: self.context_length,
        }
    }

    fn glimpse(&self) -> Option<Glimpse<'_>> {
        self.looks.any().then_some(Glimpse { entropies: &self.entropies, states: &self.states })
    }

    /// Nothing: decisions have the time of the table.
    fn add_policy_time(&mut self, _elapsed: Duration) {}

    fn decide<T>(&mut self, decide: impl FnOnce(&CycleSummary) -> T) -> T {
        decide(&self.summary())
    }
}

impl RecordedTree<'_> {
    /// A cycle after its root expansion that verifies at most `size_limit` candidates.
    pub fn begin(self, size_limit: usize) -> ReplayCycle {
        let Self { header, position } = self;
        let mut scores = Vec::with_capacity(header.scores_per_position());
        scores.resize(header.beam_width, 0.0);
        position.write_scores(0, &mut scores);
        let beam_width = header.beam_width;
        let mut contention = Contention::new(beam_width, size_limit);
        let frontier = contention.add_level(&scores);
        let level_rows = Vec::with_capacity(header.depth);
        ReplayCycle {
            scores,
            beam_width,
            contention,
            frontier,
            level_rows,
            looks: Looks::NOTHING,
            entropies: Vec::new(),
            states: Vec::new(),
            context_length: position.context_length,
        }
    }

    /// A cycle after its root expansion that a controller will steer: within its size limit, and
    /// with what it looks at.
    ///
    /// # Errors
    /// If what the controller looks at was not recorded.
    pub fn begin_for(self, controller: &(impl Controller + ?Sized)) -> Result<ReplayCycle> {
        let mut cycle = self.begin(controller.size_limit());
        cycle.looks = controller.looks();
        if cycle.looks.entropies {
            let lacks = Error::NothingToShow { what: "entropies", flag: "--entropies" };
            cycle.entropies.push(self.position.entropies.first().ok_or(lacks)?.to_f32());
        }
        if cycle.looks.states && self.header.states.is_none() {
            return Err(Error::NothingToShow { what: "states", flag: "--states" });
        }
        Ok(cycle)
    }

    /// Drafts one more level: of the recorded groups, those of the candidates that are expanded.
    pub fn expand(self, cycle: &mut ReplayCycle) {
        let (from, width) = (cycle.scores.len(), self.header.beam_width);
        cycle.scores.resize(from + width * width, 0.0);
        self.position.write_scores(from, &mut cycle.scores);
        cycle.scores[from + cycle.frontier * width..].fill(f32::NEG_INFINITY);
        if cycle.looks.entropies {
            let (groups, expanded) = (cycle.entropies.len(), cycle.frontier);
            let recorded = &self.position.entropies[groups..][..expanded];
            cycle.entropies.extend(recorded.iter().map(|entropy| entropy.to_f32()));
            cycle.entropies.resize(groups + width, 0.0);
        }
        if let (true, Some(hidden)) = (cycle.looks.states, self.header.states) {
            let from = cycle.states.len();
            cycle.states.resize(from + hidden, 0.0);
            if cycle.frontier > 0 {
                let recorded = &self.position.states[from..][..hidden];
                recorded.convert_to_f32_slice(&mut cycle.states[from..]);
            }
        }
        cycle.level_rows.push(cycle.frontier);
        cycle.frontier = cycle.contention.add_level(&cycle.scores[from..]);
    }

    /// Drafts the levels of a cycle that has begun as the engine does.
    pub(crate) fn draft(self, controller: &mut dyn Controller, cycle: &mut ReplayCycle) {
        let Ok(()) = draft(controller, cycle, self.header.depth, |cycle| {
            self.expand(cycle);
            Ok::<_, Infallible>(())
        });
    }

    /// What the draft model thinks of the first token to copy; none where nothing matches, or the
    /// tokens of the candidates were not recorded. `tokens` are those of its sequence.
    pub fn agreement(&self, tokens: &[u32], copied: Copied) -> Option<Agreement> {
        let after_root = self.position.after_root(self.header.beam_width)?;
        Some(Agreement::of(tokens[copied.found?.end], after_root))
    }

    /// How a cycle ends that merges its tree with at most `length` tokens of what was said before.
    /// `tokens` are those of its sequence, `rows` those that the draft had not read.
    ///
    /// # Errors
    /// If the tokens of the candidates were not recorded.
    #[expect(clippy::too_many_arguments, reason = "a cycle and all that it is merged with")]
    pub(crate) fn merge(
        self,
        cycle: &ReplayCycle,
        tokens: &[u32],
        costs: &Costs,
        rows: usize,
        size: usize,
        (copied, length): (Copied, usize),
        calibration: &Calibration,
    ) -> Result<CycleOutcome> {
        let Self { header, position } = self;
        if copied.found.is_none() {
            let outcome = self.verify(cycle, tokens, costs, rows, size);
            return Ok(CycleOutcome { source: DraftSource::Merged { chain: length }, ..outcome });
        }
        let (candidate_tokens, parents) = self.candidates(&cycle.scores)?;
        let candidates = Candidates {
            beam_width: cycle.beam_width,
            scores: &cycle.scores,
            tokens: candidate_tokens,
            group_parents: &parents,
        };
        let root = position.context_length;
        let room = header.capacity.saturating_sub(root + 1);
        let copied_tokens = copied.chain(tokens, root, length.min(room));
        let chain = Chain { tokens: &copied_tokens, match_length: copied.length(), calibration };
        let verification =
            candidates.merge(tokens[root], size.min(cycle.contention.limit()).min(room), &chain);
        let known = self.known_continuation(tokens);
        let said = |row: usize| known.get(verification.depths[row]).copied();
        let Ok((mut path, _)) = verification.accept(|row| Ok::<_, Infallible>(said(row).unwrap_or(u32::MAX)));
        path.truncate(known.len() + 1);
        let accepted = path.len() - 1;
        let [drafted, copied_tokens] = verification.sources(&path);
        let verified = verification.rows() - 1;
        Ok(CycleOutcome {
            source: DraftSource::Merged { chain: length },
            match_length: copied.length(),
            drafted: Some(drafted),
            copied: (!verification.chain_rows.is_empty()).then_some(copied_tokens),
            accepted_ids: tokens[root..=root + accepted].to_vec(),
            next_token: tokens[root + accepted + 1],
            draft_depth: cycle.depth(),
            level_rows: cycle.level_rows.clone(),
            verification_size: verified,
            requested_size: size,
            context_length: root,
            timing: costs.timing(&cycle.level_rows, verified, root, rows),
        })
    }

    /// The tokens of the candidates with these scores, and what each group of them follows.
    fn candidates(&self, scores: &[f32]) -> Result<(&[u32], Vec<usize>)> {
        let (tokens, mut parents) = self.position.candidates().ok_or(Error::NoCandidates)?;
        let width = self.header.beam_width;
        parents.truncate(scores.len() / width);
        for (parent, group) in parents.iter_mut().zip(scores.chunks_exact(width)) {
            if group[0] == f32::NEG_INFINITY {
                *parent = usize::MAX;
            }
        }
        Ok((&tokens[..scores.len()], parents))
    }

    /// The candidates that the target says, level after level, as far as the tree has them.
    /// `tokens` are those of its sequence.
    ///
    /// # Errors
    /// If the tokens of the candidates were not recorded.
    pub fn path(&self, tokens: &[u32]) -> Result<Vec<usize>> {
        let (candidate_tokens, parents) = self.position.candidates().ok_or(Error::NoCandidates)?;
        let candidates = Candidates {
            beam_width: self.header.beam_width,
            // They play no part.
            scores: &[],
            tokens: candidate_tokens,
            group_parents: &parents,
        };
        Ok(candidates.along(self.known_continuation(tokens)))
    }

    /// What `tokens`, those of its sequence, say after the root and can be accepted: the token
    /// after the last accepted one must be known, too.
    fn known_continuation<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        &tokens[self.position.context_length + 1..tokens.len() - 1]
    }

    /// For each of some ascending depths, the places that the accepted tokens of a tree of that
    /// depth have if it is merged with at most `length` copied tokens: a cycle that verifies at
    /// most `size_limit`, and that verifies `V`, accepts those below `V`. `tokens` are those of its
    /// sequence.
    ///
    /// # Errors
    /// If the tokens of the candidates were not recorded.
    pub fn merged_ranks(
        self,
        depths: &[usize],
        size_limit: usize,
        tokens: &[u32],
        (copied, length): (Copied, usize),
        calibration: &Calibration,
    ) -> Result<Vec<Vec<usize>>> {
        let Self { header, position } = self;
        let mut cycle = self.begin(size_limit);
        let copied_tokens = copied.chain(tokens, position.context_length, length);
        let chain = Chain { tokens: &copied_tokens, match_length: copied.length(), calibration };
        let ranks = |&depth: &usize| {
            while cycle.depth() < depth {
                self.expand(&mut cycle);
            }
            let scores = &cycle.scores[..];
            let (candidate_tokens, parents) = self.candidates(scores)?;
            let candidates = Candidates {
                beam_width: header.beam_width,
                scores,
                tokens: candidate_tokens,
                group_parents: &parents,
            };
            Ok(candidates.merged_ranks(self.known_continuation(tokens), &chain))
        };
        depths.iter().map(ranks).collect()
    }

    /// How a cycle ends. `tokens` are those of its sequence, `rows` those that the draft had not
    /// read.
    pub(crate) fn verify(
        self,
        cycle: &ReplayCycle,
        tokens: &[u32],
        costs: &Costs,
        rows: usize,
        size: usize,
    ) -> CycleOutcome {
        let Self { header, position } = self;
        let root = position.context_length;
        let verified = header.verified(size.min(cycle.contention.limit()), cycle.depth(), root);
        let accepted = position.accepted(cycle.depth(), verified);
        CycleOutcome {
            source: DraftSource::Tree,
            match_length: 0,
            drafted: Some(accepted),
            copied: None,
            accepted_ids: tokens[root..=root + accepted].to_vec(),
            next_token: tokens[root + accepted + 1],
            draft_depth: cycle.depth(),
            level_rows: cycle.level_rows.clone(),
            verification_size: verified,
            requested_size: size,
            context_length: root,
            timing: costs.timing(&cycle.level_rows, verified, root, rows),
        }
    }
}

impl ReplayCycles {
    /// Cycles over the sequences of a trace that have a position.
    ///
    /// # Errors
    /// If there is none, or positions are left out.
    pub fn new(trace: Arc<Trace>, costs: Costs, seed: u64) -> Result<Self> {
        if trace.positions() == 0 {
            return Err(Error::EmptyTrace);
        }
        if trace.header.every != 1 {
            return Err(Error::Gaps { every: trace.header.every });
        }
        let order = Order::new(trace.len(), seed);
        Ok(Self { trace, costs, noise: None, seed, order, place: None, visit: None })
    }

    /// The same cycles, with times that scatter.
    #[must_use]
    pub fn with_noise(self, scatter: Scatter) -> Self {
        Self { noise: Some(Noise::new(scatter, self.seed)), ..self }
    }

    /// What a merged cycle comes to.
    fn merged(
        &self,
        cycle: &ReplayCycle,
        size: usize,
        chain: usize,
        calibration: &Calibration,
    ) -> Result<CycleOutcome> {
        let place = self.place.ok_or(Error::NoEpisode)?;
        let (tokens, with) = (&self.sequence().tokens, (self.copied(place), chain));
        self.tree(place).merge(cycle, tokens, &self.costs, place.rows, size, with, calibration)
    }

    /// Ends a cycle with a tree, whose time scatters.
    fn end(&mut self, mut outcome: CycleOutcome) -> Result<CycleOutcome> {
        let place = self.place.ok_or(Error::NoEpisode)?;
        if let Some(noise) = &mut self.noise {
            let CycleOutcome { ref level_rows, verification_size, context_length, .. } = outcome;
            outcome.timing =
                noise.timing(&self.costs, level_rows, verification_size, context_length, place.rows);
        }
        self.advance(place, &outcome);
        Ok(outcome)
    }

    fn visit(&self) -> &Visit {
        self.visit.as_ref().expect("invariant: a place has its sequence")
    }

    fn sequence(&self) -> &TracedSequence {
        &self.visit().sequence
    }

    /// Goes to a place, which may be in another sequence.
    fn go(&mut self, place: Place) -> Result<()> {
        let sequence = self.trace.sequence(place.sequence)?;
        (self.place, self.visit) = (Some(place), Some(Visit { sequence, copied: OnceLock::new() }));
        Ok(())
    }

    /// Where the next cycle begins.
    fn next_place(&mut self) -> Result<Place> {
        loop {
            match self.place {
                Some(place) if place.position < self.sequence().len() => return Ok(place),
                _ => {
                    let (sequence, yields) = (self.order.advance(), Yields::default());
                    self.go(Place { sequence, position: 0, rows: 1, yields })?;
                }
            }
        }
    }

    /// Goes on behind a cycle.
    fn advance(&mut self, place: Place, outcome: &CycleOutcome) {
        let tokens = outcome.acceptance_length();
        let read = outcome.drafted.is_some();
        let rows = if read { tokens } else { place.rows + tokens };
        let mut yields = place.yields;
        yields.observe(outcome);
        self.place = Some(Place { position: place.position + tokens, rows, yields, ..place });
    }

    fn copied(&self, place: Place) -> Copied {
        let Visit { sequence, copied } = self.visit();
        copied.get_or_init(|| Copied::along(sequence))[place.position]
    }

    fn tree(&self, place: Place) -> RecordedTree<'_> {
        let position = self.sequence().position(place.position);
        RecordedTree { header: &self.trace.header, position }
    }
}

impl CycleBackend for ReplayCycles {
    type Cycle = ReplayCycle;

    fn begin(&mut self, size_limit: usize) -> Result<ReplayCycle> {
        let place = self.next_place()?;
        Ok(self.tree(place).begin(size_limit))
    }

    fn expand(&mut self, cycle: &mut ReplayCycle) -> Result<()> {
        if cycle.depth() >= self.trace.header.depth {
            return Err(Error::DepthLimit { depth: self.trace.header.depth });
        }
        self.tree(self.place.ok_or(Error::NoEpisode)?).expand(cycle);
        Ok(())
    }

    fn verify(&mut self, cycle: ReplayCycle, size: usize) -> Result<CycleOutcome> {
        let outcome = self.foresee(&cycle, size).ok_or(Error::NoEpisode)?;
        self.end(outcome)
    }

    fn agreement(&mut self, _cycle: &ReplayCycle) -> Result<Option<Agreement>> {
        let place = self.place.ok_or(Error::NoEpisode)?;
        Ok(self.tree(place).agreement(&self.sequence().tokens, self.copied(place)))
    }

    fn merge(
        &mut self,
        cycle: ReplayCycle,
        size: usize,
        chain: usize,
        calibration: &Calibration,
    ) -> Result<CycleOutcome> {
        let outcome = self.merged(&cycle, size, chain, calibration)?;
        self.end(outcome)
    }

    fn foresee_merge(
        &self,
        cycle: &ReplayCycle,
        size: usize,
        chain: usize,
        calibration: &Calibration,
    ) -> Result<Option<CycleOutcome>> {
        self.merged(cycle, size, chain, calibration).map(Some)
    }

    fn source_summary(&mut self) -> Result<SourceSummary> {
        let place = self.next_place()?;
        let sequence = self.sequence();
        let (root, prompt_len) = (sequence.root(place.position), sequence.prompt_len);
        let said = &sequence.tokens[..=root];
        Ok(source_summary(said, self.copied(place).found, prompt_len, place.rows, place.yields))
    }

    fn copy(&mut self, chain: usize) -> Result<CycleOutcome> {
        let place = self.next_place()?;
        let mut outcome = self.foresee_copy(chain).ok_or(Error::NoEpisode)?;
        if let Some(noise) = &mut self.noise {
            let CycleOutcome { verification_size, context_length, .. } = outcome;
            outcome.timing = noise.copying(&self.costs, verification_size, context_length);
        }
        self.advance(place, &outcome);
        Ok(outcome)
    }

    fn foresee_copy(&self, chain: usize) -> Option<CycleOutcome> {
        let place = self.place?;
        let sequence = self.sequence();
        let (root, copied) = (sequence.root(place.position), self.copied(place));
        Some(copied.verify(&self.trace.header, &sequence.tokens, root, &self.costs, chain))
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn duplicate(&self, cycle: &ReplayCycle) -> Option<ReplayCycle> {
        Some(cycle.clone())
    }

    fn foresee(&self, cycle: &ReplayCycle, size: usize) -> Option<CycleOutcome> {
        let place = self.place?;
        let tokens = &self.sequence().tokens;
        Some(self.tree(place).verify(cycle, tokens, &self.costs, place.rows, size))
    }

    fn state(&self) -> serde_json::Value {
        let noise = self.noise.as_ref().map(Noise::position);
        let state = ReplayState { order: self.order.position(), place: self.place, noise };
        serde_json::to_value(state).expect("invariant: the state is plain data")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let state: ReplayState = serde_json::from_value(state)?;
        if let (Some(noise), Some(position)) = (&mut self.noise, &state.noise)
            && !noise.restore(position)
        {
            return Err(Error::State(serde::de::Error::custom(format!(
                "noise: `{position}` is not a position"
            ))));
        }
        self.order.restore(state.order);
        (self.place, self.visit) = (None, None);
        match state.place.filter(|place| place.sequence < self.trace.len()) {
            Some(place) => self.go(place),
            None => Ok(()),
        }
    }
}
