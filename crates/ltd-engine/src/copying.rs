//! Cycles that copy what was said before, in place of drafting a tree.
//!
//! The draft model is not asked. What it has not read of the text, with the features of that text,
//! waits for the next cycle with a tree, whose root expansion reads it.

use std::time::Instant;

use ltd_cycle::Recall;
use ltd_policy::{DraftSource, SourceSummary};
use tch::Tensor;

use crate::cycle::VerifiedTree;
use crate::prefill::joined;
use crate::session::Session;
use crate::timing::{Clock, timed};
use crate::{CycleOutcome, CycleTiming, Engine, Error, Result, VerificationTree};

const ROWS: i64 = 0;
/// Rows of features that wait for the draft at most: before they would be more, it reads them at
/// the beginning of a copying cycle, on its clock. (Unit tests have short sequences.)
const MOST_UNREAD: usize = if cfg!(test) { 100 } else { 1024 };

impl Engine {
    /// What is known of a sequence before a cycle begins: what was said before, and what its cycles
    /// yielded since this was first asked.
    ///
    /// # Errors
    /// If the sequence is of another engine.
    pub fn source_summary(&self, session: &mut Session) -> Result<SourceSummary> {
        session.check_engine(self.identity)?;
        let unread = session.unread();
        Ok(session.recall().summary(unread))
    }

    /// A whole cycle that verifies at most `chain` tokens that followed the latest tokens when they
    /// were said before, and commits what is accepted. Where nothing is known that could be copied,
    /// it is a step of plain decoding.
    ///
    /// # Errors
    /// If the cache is full, the sequence is of another engine, was decoded plainly or has a cycle
    /// under way, or a model fails.
    pub fn copy(&self, session: &mut Session, chain: usize) -> Result<CycleOutcome> {
        self.copy_tree(session, chain).map(|(outcome, _)| outcome)
    }

    /// [`Engine::copy`], and the chain that was verified.
    pub(crate) fn copy_tree(
        &self,
        session: &mut Session,
        chain: usize,
    ) -> Result<(CycleOutcome, VerifiedTree)> {
        session.check_engine(self.identity)?;
        if session.is_full() {
            return Err(Error::CacheFull { capacity: self.capacity() });
        }
        if session.features.is_none() {
            return Err(Error::NoFeatures);
        }
        let context_length = session.context_length();
        let room = self.capacity() - context_length - 1;
        let start = Instant::now();
        let recall = session.recall();
        let match_length = recall.match_length();
        let tokens = recall.chain(chain.min(room));
        let mut timing = CycleTiming { draft: start.elapsed(), ..CycleTiming::default() };
        let verification = VerificationTree::chain(session.root, &tokens);
        if session.unread() + verification.rows() > MOST_UNREAD {
            let (read, elapsed) = timed(&self.devices, || self.catch_up(session));
            timing.draft += elapsed;
            read?;
        }
        let clock = Clock::start(&self.devices);
        let (accepted_rows, next_token) =
            self.verify_rows(session, &verification, &mut timing.forwards, &clock)?;
        timing.verify = clock.elapsed();
        self.capture_graph(session);
        let accepted_ids = session.append(&verification, &accepted_rows, next_token);
        let outcome = CycleOutcome {
            source: DraftSource::Copy { chain },
            match_length,
            drafted: None,
            copied: (!tokens.is_empty()).then(|| accepted_ids.len() - 1),
            accepted_ids,
            next_token,
            verification_size: tokens.len(),
            requested_size: chain,
            context_length,
            timing,
            ..CycleOutcome::default()
        };
        session.observe(&outcome);
        Ok((outcome, VerifiedTree { tree: None, verification, accepted_rows }))
    }

    /// Has the draft read all but the last position, from which the next tree will grow. If it
    /// fails, the sequence is as before.
    fn catch_up(&self, session: &mut Session) -> Result<()> {
        session.settle()?;
        let parts = session.features.as_ref().ok_or(Error::NoFeatures)?;
        let features = joined(parts.iter().map(Tensor::shallow_clone).collect())?;
        let (before, read) = (session.draft_cache.len(), features.size()[0] - 1);
        if read == 0 {
            return Ok(());
        }
        let following = &session.tokens[session.draft_cache.len() as usize + 1..];
        let features_read = features.f_narrow(ROWS, 0, read)?;
        if let Err(error) = self.draft_stable_rows(following, &features_read, &mut session.draft_cache) {
            session.draft_cache.set_len(before);
            return Err(error);
        }
        // A copy: a view would keep the features of all of it alive.
        session.features = Some(vec![features.f_narrow_copy(ROWS, read, 1)?]);
        Ok(())
    }
}

impl Session {
    /// What was said so far, ready to be copied.
    pub(crate) fn recall(&mut self) -> &Recall {
        let recall = self.recall.get_or_insert_with(|| Recall::new(self.prompt_len));
        recall.read(&self.tokens, self.root);
        recall
    }

    /// Notes a cycle for the choice of what to draft from, if there is such a choice.
    pub(crate) fn observe(&mut self, outcome: &CycleOutcome) {
        if let Some(recall) = &mut self.recall {
            recall.observe(outcome);
        }
    }

    /// Appends the accepted tokens of a verification, which it returns, and goes on to the next
    /// root.
    pub(crate) fn append(
        &mut self,
        verification: &VerificationTree,
        accepted_rows: &[usize],
        next_token: u32,
    ) -> Vec<u32> {
        let accepted: Vec<u32> = accepted_rows.iter().map(|&row| verification.tokens[row]).collect();
        self.tokens.extend_from_slice(&accepted);
        self.root = next_token;
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::{PAIRS, folders};
    use crate::{DtypeSetting, EngineConfig, Static};

    /// Keys and values of the same position, computed in batches of other shapes.
    const TOLERANCE: f64 = 1e-4;

    #[test]
    fn the_draft_reads_many_copied_tokens_in_time() {
        for pair in PAIRS {
            let [target, draft] = folders(pair);
            let config = EngineConfig { dtype: DtypeSetting::F32, ..EngineConfig::new(target, draft) };
            let engine = Engine::load(&config).expect("the engine loads");
            let prompt: Vec<u32> = (0..20).map(|at| 4 + at * at % 256).collect();
            let mut session = engine.prefill(&prompt, None).expect("prefill");
            let mut most = 0;
            while session.context_length() < prompt.len() + 3 * MOST_UNREAD {
                engine.copy(&mut session, 30).expect("a cycle");
                most = most.max(session.unread());
                assert!(session.unread() <= MOST_UNREAD, "{pair}: {} rows", session.unread());
            }
            assert!(most > MOST_UNREAD / 2, "{pair}: {most} rows at most");
            engine.run_cycle(&mut session, &mut Static { depth: 3, size: 12 }).expect("a cycle");
            let mut plain = engine.prefill(session.tokens(), None).expect("prefill");
            let read = session.draft_cache.len();
            let expected = plain.draft_cache.certain().narrow(3, 0, read);
            let difference = (session.draft_cache.certain() - expected).abs().max().double_value(&[]);
            assert!(difference < TOLERANCE, "{pair}: {difference}");
        }
    }

    #[test]
    fn a_sequence_that_was_decoded_plainly_has_nothing_for_the_draft_to_read() {
        let [target, draft] = folders(PAIRS[0]);
        let engine = Engine::load(&EngineConfig::new(target, draft)).expect("the engine loads");
        let mut session = engine.prefill(&[5, 6, 7, 5, 6], None).expect("prefill");
        engine.autoregressive_step(&mut session).expect("a step");
        assert!(matches!(engine.copy(&mut session, 4), Err(Error::NoFeatures)));
        let mut session = engine.prefill(&[5, 6, 7, 5, 6], None).expect("prefill");
        let cycle = engine.begin_cycle(&mut session, 4).expect("a cycle");
        assert!(matches!(engine.copy(&mut session, 4), Err(Error::NoFeatures)), "a cycle is under way");
        engine.verify(&mut session, cycle, 4).expect("it goes on");
        engine.copy(&mut session, 4).expect("a copy");
    }
}
