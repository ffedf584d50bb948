//! One sequence being generated.

use ltd_cycle::Recall;
use tch::Tensor;

use crate::graphs::Graphs;
use crate::identity::Identity;
use crate::kv_cache::KvCache;
use crate::reading::Reading;
use crate::{Continuation, Error, Result, Sampler};

const ROWS: i64 = 0;

/// A sequence: its tokens, the caches of both models, and the features that the draft has not read
/// yet.
pub struct Session {
    /// Whose it is: the caches fit that engine only.
    pub(crate) engine: Identity,
    /// The cycle under way.
    pub(crate) cycle: Option<Identity>,
    /// Tokens whose keys and values the target has cached.
    pub(crate) tokens: Vec<u32>,
    pub(crate) root: u32,
    pub(crate) target_cache: KvCache,
    pub(crate) draft_cache: KvCache,
    /// Features of the positions from the draft cache's end to the target cache's, in parts of
    /// `[rows, 3 * hidden]`; but for those of `accepted`.
    pub(crate) features: Option<Vec<Tensor>>,
    /// What the last verification accepted: its rows, and the features of all that it verified.
    /// [`Session::settle`] takes what is wanted.
    pub(crate) accepted: Option<(Vec<usize>, Tensor)>,
    /// Forwards over the target's cache that were captured, if any are to be.
    pub(crate) graphs: Option<Graphs>,
    /// Features of all cached positions in parts, if they are kept.
    pub(crate) kept: Option<Vec<Tensor>>,
    pub(crate) capacity: usize,
    /// Chooses the target's tokens.
    pub(crate) sampler: Sampler,
    pub(crate) prompt_len: usize,
    /// What was said, if a controller chose what to draft from.
    pub(crate) recall: Option<Recall>,
}

impl Session {
    /// Fails unless this is a session of such an engine.
    pub(crate) fn check_engine(&self, engine: Identity) -> Result<()> {
        if self.engine == engine { Ok(()) } else { Err(Error::ForeignSession) }
    }

    /// Fails unless this is a session of such an engine, in which such a cycle is under way.
    pub(crate) fn check_cycle(&self, engine: Identity, cycle: Identity) -> Result<()> {
        self.check_engine(engine)?;
        if self.cycle == Some(cycle) { Ok(()) } else { Err(Error::ForeignCycle) }
    }

    /// Notes what a verification accepted. The device is asked to put it in its place when the next
    /// phase begins, on the clock of that.
    pub(crate) fn accept(&mut self, rows: Vec<usize>, features: Tensor) {
        self.target_cache.commit(&rows);
        self.features.get_or_insert_default();
        self.accepted = Some((rows, features));
    }

    /// Puts what was accepted in its place, before anything reads it. If there is no memory for
    /// it, nothing has changed.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let accepted = self.accepted.as_ref().map(|(rows, features)| {
            // Copied: a view would keep the features of all that was verified alive. No indices
            // have to be sent to the device.
            let rows = rows.iter().map(|&row| features.f_narrow(ROWS, row as i64, 1));
            Ok::<_, Error>(Tensor::f_cat(&rows.collect::<Result<Vec<_>, _>>()?, ROWS)?)
        });
        let accepted = accepted.transpose()?;
        self.target_cache.settle()?;
        if let Some(features) = accepted {
            self.accepted = None;
            self.kept.iter_mut().for_each(|kept| kept.push(features.shallow_clone()));
            self.features.iter_mut().for_each(|unread| unread.push(features.shallow_clone()));
        }
        Ok(())
    }

    /// All tokens whose keys and values are cached: the prompt and what was appended since.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The target's last token, not yet cached: root of the next draft tree.
    pub fn root(&self) -> u32 {
        self.root
    }

    /// Cached tokens, `L`: the root's position.
    pub fn context_length(&self) -> usize {
        self.tokens.len()
    }

    /// Who chooses the target's tokens from its logits.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Tokens that the draft has not read: the next root expansion reads them all.
    pub fn unread(&self) -> usize {
        (self.target_cache.len() - self.draft_cache.len()) as usize
    }

    /// Whether the cache has no room for the root token.
    pub fn is_full(&self) -> bool {
        self.tokens.len() >= self.capacity
    }

    /// What was generated after a prompt of `prompt_len` tokens.
    ///
    /// # Panics
    /// If the session has fewer tokens.
    pub fn continuation(&self, prompt_len: usize) -> Continuation<'_> {
        Continuation { tokens: &self.tokens[prompt_len..], root: self.root, is_full: self.is_full() }
    }

    /// The first `count` tokens, the root counted, with the features that trees grow from; `None`
    /// if they were not kept ([`Engine::prefill_keeping`](crate::Engine::prefill_keeping)), or
    /// there are fewer tokens.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn reading(&mut self, count: usize) -> Result<Option<Reading>> {
        self.settle()?;
        let Some(kept) = self.kept.as_ref().filter(|_| (1..=self.tokens.len() + 1).contains(&count)) else {
            return Ok(None);
        };
        let mut tokens = self.tokens.clone();
        tokens.push(self.root);
        tokens.truncate(count);
        let features = Tensor::f_cat(kept, 0)?.f_narrow(0, 0, count as i64 - 1)?;
        Ok(Some(Reading { engine: self.engine, tokens, features }))
    }

    /// Features that the next root expansion will read, `[rows, 3 * hidden]` row-major, with the
    /// row length. For inspection and dumps.
    pub fn pending_features(&mut self) -> Result<Option<(Vec<f32>, usize)>> {
        self.settle()?;
        let Some(features) = &self.features else { return Ok(None) };
        let features = Tensor::f_cat(features, 0)?;
        let width = features.size()[1] as usize;
        Ok(Some((Vec::try_from(features.f_contiguous()?.view(-1))?, width)))
    }
}
