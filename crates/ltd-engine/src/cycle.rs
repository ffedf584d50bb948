//! The draft-and-verify cycle: the one path that serving, evaluation and training share.

use std::time::{Duration, Instant};

use ltd_cycle::{Chain, Glimpse, GrowingTree, Looks, draft};
use ltd_policy::{Agreement, Calibration, CycleSummary, DraftSource};
use tch::{Device, Tensor};

use crate::blame::Read;
use crate::identity::Identity;
use crate::model::{AttentionMask, LogitRows, Rows, best_log_probs, entropies};
use crate::prefill::joined;
use crate::session::Session;
use crate::timing::Clock;
use crate::{
    Controller, Cycle, CycleOutcome, CycleTiming, DraftTree, Engine, Error, Result, VerificationTree,
};

const ROWS: i64 = 0;

/// A cycle under way: its draft tree, what the next level needs, and its clock. Always a fresh
/// value: nothing of one cycle can be seen in the next.
pub struct CycleState {
    /// Tells it from all others: what it holds is of one session, where that stood when it began.
    identity: Identity,
    /// Rows are those of the draft's cache beyond its stable ones.
    growing: GrowingTree,
    /// Draft output of the last level's rows, `[rows, hidden]`.
    hidden: Tensor,
    /// Rows of each level's forward.
    level_rows: Vec<usize>,
    /// What its controller looks at.
    looks: Looks,
    /// As [`Glimpse::entropies`], if it looks at them.
    entropies: Vec<f32>,
    /// As [`Glimpse::states`], if it looks at them.
    states: Vec<f32>,
    context_length: usize,
    timing: CycleTiming,
}

impl CycleState {
    /// Draft forwards made after the root expansion.
    pub fn draft_depth(&self) -> usize {
        self.tree().depth()
    }

    /// The tree so far.
    pub fn tree(&self) -> &DraftTree {
        self.growing.tree()
    }

    /// Expands no more than the best `rows` candidates, at least one, in the next level: to
    /// measure what such a level takes.
    pub fn narrow(&mut self, rows: usize) {
        self.growing.narrow(rows);
    }

    /// Adds the entropies of the groups of a level, those of groups without candidates included.
    fn push_entropies(&mut self, of_level: &[f32]) {
        let groups = self.entropies.len() + self.tree().beam_width();
        self.entropies.extend_from_slice(of_level);
        self.entropies.resize(groups, 0.0);
    }

    /// Adds what a controller looks at of a level that has no candidates.
    fn show_nothing(&mut self) {
        if self.looks.entropies {
            self.push_entropies(&[]);
        }
        if self.looks.states {
            let hidden = self.hidden.size()[1] as usize;
            self.states.resize(self.states.len() + hidden, 0.0);
        }
    }

    /// Adds what a controller looks at of a level.
    fn show(&mut self, hidden: &Tensor, logits: &Tensor) -> Result<()> {
        if self.looks.entropies {
            self.push_entropies(&entropies(logits)?);
        }
        if self.looks.states {
            // The best candidate's row is the first.
            self.states.extend(Vec::<f32>::try_from(hidden.get(0))?);
        }
        Ok(())
    }

    /// Where the time went so far.
    pub fn timing(&self) -> CycleTiming {
        self.timing
    }
}

impl Cycle for CycleState {
    fn summary(&self) -> CycleSummary<'_> {
        let tree = self.tree();
        CycleSummary {
            scores: tree.scores(),
            beam_width: tree.beam_width(),
            frontier: tree.frontier().len(),
            draft_depth: tree.depth(),
            context_length: self.context_length,
        }
    }

    fn glimpse(&self) -> Option<Glimpse<'_>> {
        self.looks.any().then_some(Glimpse { entropies: &self.entropies, states: &self.states })
    }

    fn add_policy_time(&mut self, elapsed: Duration) {
        self.timing.policy += elapsed;
    }
}

/// The verified tree of a cycle, for dumps and inspection.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedTree {
    /// All candidates; none where the cycle copied.
    pub tree: Option<DraftTree>,
    /// Those that were verified.
    pub verification: VerificationTree,
    /// Rows of the accepted path, root first.
    pub accepted_rows: Vec<usize>,
}

impl Engine {
    /// Starts a cycle that will verify at most `size_limit` candidates: root expansion.
    pub fn begin_cycle(&self, session: &mut Session, size_limit: usize) -> Result<CycleState> {
        self.begin(session, size_limit, Looks::NOTHING)
    }

    /// Starts a cycle that a controller will steer: within its size limit, and with what it looks
    /// at.
    pub fn begin_cycle_for(
        &self,
        session: &mut Session,
        controller: &(impl Controller + ?Sized),
    ) -> Result<CycleState> {
        self.begin(session, controller.size_limit(), controller.looks())
    }

    fn begin(&self, session: &mut Session, size_limit: usize, looks: Looks) -> Result<CycleState> {
        session.check_engine(self.identity)?;
        if session.is_full() {
            return Err(Error::CacheFull { capacity: self.capacity() });
        }
        if session.features.is_none() {
            return Err(Error::NoFeatures);
        }
        let mut forwards = Duration::ZERO;
        let clock = Clock::start(&self.devices);
        session.settle()?;
        let features = joined(session.features.take().unwrap_or_default())?;
        let from = session.draft_cache.len() as usize + 1;
        let following: Vec<u32> = session.tokens[from..].iter().copied().chain([session.root]).collect();
        let (hidden, logits) = self.forward(&mut forwards, || {
            let hidden = self.draft_stable_rows(&following, &features, &mut session.draft_cache)?;
            let last = hidden.narrow(ROWS, following.len() as i64 - 1, 1);
            let logits = self.draft.logits(&last)?;
            Ok::<_, Error>((last, logits))
        })?;
        let best = best_log_probs(&logits, self.beam_width())?;
        let waited = clock.wait();
        let level = self.draft.continuations(best, &waited)?;
        let read = Read { tokens: &following, features: Some((from - 1, &features)) };
        self.check_scores(&level.log_probs, 0, |_| session.context_length(), &read)?;
        let entropies = if looks.entropies { entropies(&logits)? } else { Vec::new() };
        let tree = DraftTree::within(&level.log_probs, level.tokens, size_limit);
        let draft = clock.elapsed();
        let identity = Identity::new();
        session.cycle = Some(identity);
        Ok(CycleState {
            identity,
            growing: GrowingTree::new(tree),
            hidden,
            level_rows: Vec::new(),
            looks,
            entropies,
            states: Vec::new(),
            context_length: session.context_length(),
            timing: CycleTiming { draft, forwards, ..CycleTiming::default() },
        })
    }

    /// Drafts one more level. Where nothing is left that could be verified, it is empty and takes
    /// no forward.
    pub fn expand(&self, session: &mut Session, cycle: &mut CycleState) -> Result<()> {
        session.check_cycle(self.identity, cycle.identity)?;
        if cycle.draft_depth() >= self.max_depth() {
            return Err(Error::DepthLimit { depth: self.max_depth() });
        }
        if cycle.tree().frontier().is_empty() {
            cycle.growing.push_level(0, &[], &[]);
            cycle.level_rows.push(0);
            cycle.show_nothing();
            return Ok(());
        }
        let clock = Clock::start(&self.devices);
        self.expand_frontier(session, cycle, &clock)?;
        cycle.timing.draft += clock.elapsed();
        Ok(())
    }

    fn expand_frontier(&self, session: &Session, cycle: &mut CycleState, clock: &Clock) -> Result<()> {
        let (width, depth) = (cycle.tree().beam_width(), cycle.draft_depth());
        let tokens: Vec<u32> = cycle.growing.frontier_tokens().collect();
        let count = tokens.len();
        let first_row: usize = cycle.level_rows.iter().sum();
        let parents: Vec<i64> = cycle.growing.parents().iter().map(|&row| row as i64).collect();

        // Each node sees the stable cache, its ancestors and itself.
        let tree_rows = first_row + count;
        let mut sees = vec![false; count * tree_rows];
        for (row, sees) in sees.chunks_exact_mut(tree_rows).enumerate() {
            cycle.growing.seen_by(row, first_row).for_each(|seen| sees[seen] = true);
        }
        let stable = session.draft_cache.len();
        let mask = &AttentionMask::tree(stable, sees);
        let positions = &vec![(cycle.context_length + depth) as i64; count];
        let rows = Rows { tokens: &tokens, positions, past: stable + first_row as i64, mask };
        let (hidden, logits) = self.forward(&mut cycle.timing.forwards, || {
            let hidden = self.draft.forward(&rows, &cycle.hidden, Some(&parents), &session.draft_cache)?;
            let logits = self.draft.logits(&hidden)?;
            Ok::<_, Error>((hidden, logits))
        })?;
        let best = best_log_probs(&logits, width)?;
        let level = self.draft.continuations(best, &clock.wait())?;
        let read = Read { tokens: &tokens, features: None };
        self.check_scores(&level.log_probs, depth + 1, |_| cycle.context_length, &read)?;

        cycle.show(&hidden, &logits)?;
        cycle.growing.push_level(first_row, &level.log_probs, &level.tokens);
        cycle.hidden = hidden;
        cycle.level_rows.push(count);
        Ok(())
    }

    /// Verifies the best `size` candidates, commits what is accepted and ends the cycle. The size
    /// is cut to what the cache has room for.
    pub fn verify(&self, session: &mut Session, cycle: CycleState, size: usize) -> Result<CycleOutcome> {
        self.verify_tree(session, cycle, size).map(|(outcome, _)| outcome)
    }

    /// [`Engine::verify`], and the tree that was verified.
    pub fn verify_tree(
        &self,
        session: &mut Session,
        cycle: CycleState,
        size: usize,
    ) -> Result<(CycleOutcome, VerifiedTree)> {
        self.verify_with(session, cycle, size, None)
    }

    /// [`Engine::verify`] of the most probable candidates of the cycle's tree and of at most
    /// `chain` tokens that followed the latest tokens when they were said before.
    pub fn merge(
        &self,
        session: &mut Session,
        cycle: CycleState,
        size: usize,
        chain: usize,
        calibration: &Calibration,
    ) -> Result<CycleOutcome> {
        self.verify_with(session, cycle, size, Some((chain, calibration))).map(|(outcome, _)| outcome)
    }

    fn verify_with(
        &self,
        session: &mut Session,
        cycle: CycleState,
        size: usize,
        merged: Option<(usize, &Calibration)>,
    ) -> Result<(CycleOutcome, VerifiedTree)> {
        session.check_cycle(self.identity, cycle.identity)?;
        session.cycle = None;
        let room = self.capacity() - session.context_length() - 1;
        let CycleState { growing, level_rows, context_length, mut timing, .. } = cycle;
        let tree = growing.into_tree();
        let mut forwards = Duration::ZERO;
        let (mut source, mut match_length) = (DraftSource::Tree, 0);
        let clock = Clock::start(&self.devices);
        let most = size.min(room);
        let verification = match merged {
            None => tree.select(session.root, most),
            Some((chain, calibration)) => {
                let recall = session.recall();
                (source, match_length) = (DraftSource::Merged { chain }, recall.match_length());
                let tokens = recall.chain(chain.min(room));
                if tokens.is_empty() {
                    tree.select(session.root, most)
                } else {
                    tree.merge(session.root, most, &Chain { tokens: &tokens, match_length, calibration })
                }
            }
        };
        let (accepted_rows, next_token) = self.verify_rows(session, &verification, &mut forwards, &clock)?;
        timing.verify = clock.elapsed();
        timing.forwards += forwards;
        self.capture_graph(session);
        let accepted_ids = session.append(&verification, &accepted_rows, next_token);
        let [drafted, copied] = verification.sources(&accepted_rows);
        let outcome = CycleOutcome {
            source,
            match_length,
            drafted: Some(drafted),
            copied: (!verification.chain_rows.is_empty()).then_some(copied),
            accepted_ids,
            next_token,
            draft_depth: tree.depth(),
            level_rows,
            verification_size: verification.rows() - 1,
            requested_size: size,
            context_length,
            timing,
        };
        session.observe(&outcome);
        Ok((outcome, VerifiedTree { tree: Some(tree), verification, accepted_rows }))
    }

    /// One target forward over the tree, and acceptance: the rows of the accepted path and the
    /// token after it. What was accepted is put in its place when the next phase begins.
    pub(crate) fn verify_rows(
        &self,
        session: &mut Session,
        verification: &VerificationTree,
        forwards: &mut Duration,
        clock: &Clock,
    ) -> Result<(Vec<usize>, u32)> {
        session.settle()?;
        let context = session.target_cache.len();
        let positions: Vec<i64> = verification.depths.iter().map(|&depth| context + depth as i64).collect();
        let mask = &AttentionMask::tree(context, verification.mask());
        let rows = Rows { tokens: &verification.tokens, positions: &positions, past: context, mask };
        let context_length = session.context_length();
        let next_position = |row: usize| context_length + verification.depths[row] + 1;
        let (accepted, next_token, features) = if self.device == Device::Cpu {
            let forward = || self.target.forward(&rows, &[], &session.target_cache, LogitRows::All);
            let output = self.forward(forwards, forward)?;
            // Only the rows of the path are looked at: the argmax of all would take as long as half
            // a layer.
            let (accepted, next_token) = verification.accept(|row| {
                let logits = output.logits.narrow(ROWS, row as i64, 1);
                Ok::<_, Error>(session.sampler.tokens(&logits, &[next_position(row)])?[0])
            })?;
            (accepted, next_token, output.features)
        } else {
            // One transfer for all rows.
            let next_positions: Vec<usize> = (0..verification.rows()).map(next_position).collect();
            let (choices, features) = self.choose_after(session, &rows, &next_positions, forwards)?;
            let choices = choices.read(&clock.wait(), &next_positions)?;
            let (accepted, next_token) = verification.accept(|row| Ok::<_, Error>(choices[row]))?;
            (accepted, next_token, features)
        };
        session.accept(accepted.clone(), features);
        Ok((accepted, next_token))
    }

    /// One whole cycle under a controller: what serving and evaluation run.
    pub fn run_cycle(&self, session: &mut Session, controller: &mut dyn Controller) -> Result<CycleOutcome> {
        self.run_cycle_tree(session, controller).map(|(outcome, _)| outcome)
    }

    /// [`Engine::run_cycle`], and the tree that was verified.
    pub fn run_cycle_tree(
        &self,
        session: &mut Session,
        controller: &mut dyn Controller,
    ) -> Result<(CycleOutcome, VerifiedTree)> {
        controller.begin_cycle();
        let (source, match_length, choosing) = self.choose_source(session, controller)?;
        let (mut outcome, tree) = match source {
            DraftSource::Copy { chain } => self.copy_tree(session, chain)?,
            DraftSource::Tree | DraftSource::Merged { .. } => {
                let mut cycle = self.begin_cycle_for(session, controller)?;
                let mut chain = source.merged_chain();
                if match_length > 0 {
                    let start = Instant::now();
                    if let Some(agreement) = self.agreement(session, &cycle)? {
                        chain = controller.merge_with(chain, agreement);
                    }
                    cycle.add_policy_time(start.elapsed());
                }
                draft(controller, &mut cycle, self.max_depth(), |cycle| self.expand(session, cycle))?;
                let size = cycle.decide(|summary| controller.verification_size(summary));
                match chain {
                    Some(chain) => {
                        self.verify_with(session, cycle, size, Some((chain, &*controller.calibration())))?
                    }
                    None => self.verify_with(session, cycle, size, None)?,
                }
            }
        };
        outcome.match_length = match_length;
        outcome.timing.policy += choosing;
        controller.observe(&outcome);
        Ok((outcome, tree))
    }

    /// What the draft model thinks of the first token that would be copied, once the root expansion
    /// of a cycle is made; none where nothing would.
    pub fn agreement(&self, session: &mut Session, cycle: &CycleState) -> Result<Option<Agreement>> {
        session.check_cycle(self.identity, cycle.identity)?;
        let after_root = &cycle.tree().tokens()[..cycle.tree().beam_width()];
        let chain = session.recall().chain(1);
        Ok(chain.first().map(|&token| Agreement::of(token, after_root)))
    }

    /// What a controller drafts from, the length of the match that it saw, and how long it took.
    fn choose_source(
        &self,
        session: &mut Session,
        controller: &mut dyn Controller,
    ) -> Result<(DraftSource, usize, Duration)> {
        if !controller.chooses_source() {
            return Ok((DraftSource::Tree, 0, Duration::ZERO));
        }
        let start = Instant::now();
        let summary = self.source_summary(session)?;
        let source = controller.source(&summary);
        Ok((source, summary.match_length, start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pairs::{PAIRS, folders};
    use crate::{DtypeSetting, EngineConfig, Static, WholeBeam};

    /// Keys and values of the same position, computed in batches of other shapes.
    const TOLERANCE: f64 = 1e-4;

    fn engine(pair: &str) -> Engine {
        let [target, draft] = folders(pair);
        let config = EngineConfig::new(target, draft);
        Engine::load(&EngineConfig { dtype: DtypeSetting::F32, ..config }).expect("the engine loads")
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
        // Where all cycles copied after a prompt of one token, the draft has read nothing.
        if a.numel() == 0 { 0.0 } else { (a - b).abs().max().double_value(&[]) }
    }

    #[test]
    fn what_cannot_be_put_in_its_place_is_not_lost() {
        for pair in PAIRS {
            let engine = engine(pair);
            let mut session = engine.prefill(&[40, 90, 120], None).expect("prefill");
            let mut shape = Static { depth: 3, size: 12 };
            // Until rows have to be moved.
            for cycle in 0.. {
                engine.run_cycle(&mut session, &mut shape).expect("a cycle");
                if !session.target_cache.is_settled() {
                    break;
                }
                assert!(cycle < 40, "{pair}: the path is always the first rows");
            }
            let (rows, features) = session.accepted.take().expect("accepted rows");
            // A row that is not there stands for memory that is not there.
            let broken = [&rows[..], &[usize::MAX >> 1]].concat();
            session.accepted = Some((broken, features.shallow_clone()));
            engine.begin_cycle(&mut session, 12).err().expect("it fails");
            assert!(!session.target_cache.is_settled(), "{pair}");
            session.accepted = Some((rows, features));
            engine.run_cycle(&mut session, &mut shape).expect("a cycle");
            let mut plain = engine.prefill(session.tokens(), None).expect("prefill");
            let difference =
                largest_difference(&session.target_cache.certain(), &plain.target_cache.certain());
            assert!(plain.root() == session.root() && difference < TOLERANCE, "{pair}: {difference}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_not_expanded_would_not_have_been_verified(
            prompt in prop::collection::vec(4u32..260, 1..30),
            shapes in prop::collection::vec((0usize..=12, 1usize..=60), 1..5),
        ) {
            for pair in PAIRS {
                let engine = engine(pair);
                let mut sessions = [0, 1].map(|_| engine.prefill(&prompt, None).expect("prefill"));
                for &(depth, size) in &shapes {
                    let fixed = Static { depth, size };
                    let [narrow, whole] = &mut sessions;
                    let (narrow, found) = engine.run_cycle_tree(narrow, &mut { fixed }).expect("a cycle");
                    let (whole, expected) = engine.run_cycle_tree(whole, &mut WholeBeam(fixed)).expect("a cycle");
                    prop_assert_eq!(&found.verification.tokens, &expected.verification.tokens, "{}", pair);
                    prop_assert_eq!(found.verification.mask(), expected.verification.mask(), "{}", pair);
                    let (narrow_end, whole_end) =
                        ((narrow.accepted_ids, narrow.next_token), (whole.accepted_ids, whole.next_token));
                    prop_assert_eq!(narrow_end, whole_end, "{}", pair);
                    let width = engine.beam_width();
                    prop_assert_eq!(whole.level_rows, vec![width; depth], "{}", pair);
                    // No more than can be verified, and no level of nothing.
                    let most = width.min(size);
                    prop_assert!(narrow.level_rows.iter().all(|rows| (1..=most).contains(rows)), "{}", pair);
                    prop_assert_eq!(narrow.draft_depth, narrow.level_rows.len(), "{}", pair);
                }
            }
        }

        #[test]
        fn caches_after_cycles_equal_those_of_a_plain_forward(
            prompt in prop::collection::vec(4u32..260, 1..30),
            // Some cycles copy in place of drafting; the draft reads later what they accepted.
            shapes in prop::collection::vec((0usize..=12, 1usize..=300, prop::option::of(0usize..30)), 1..8),
        ) {
            for pair in PAIRS {
                let engine = engine(pair);
                let mut session = engine.prefill(&prompt, None).expect("prefill");
                for &(depth, size, copied) in &shapes {
                    match copied {
                        Some(chain) => engine.copy(&mut session, chain),
                        None => engine.run_cycle(&mut session, &mut Static { depth, size }),
                    }
                    .expect("a cycle");
                }
                let mut plain = engine.prefill(session.tokens(), None).expect("prefill");
                prop_assert_eq!(plain.root(), session.root(), "{}", pair);
                let (found, expected) = (session.target_cache.certain(), plain.target_cache.certain());
                prop_assert_eq!(found.size(), expected.size(), "{}", pair);
                let difference = largest_difference(&found, &expected);
                prop_assert!(difference < TOLERANCE, "{}, target: {}", pair, difference);
                // The draft has not read what the last cycle accepted, nor what those before it
                // copied.
                let read = session.draft_cache.len();
                let expected = plain.draft_cache.certain().narrow(3, 0, read);
                let difference = largest_difference(&session.draft_cache.certain(), &expected);
                prop_assert!(difference < TOLERANCE, "{}, draft: {}", pair, difference);
            }
        }
    }
}
