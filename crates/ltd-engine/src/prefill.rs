//! Reading of certain tokens: a prompt, and what was accepted since.
//!
//! On a CPU only few numbers of rows occur. For each product oneDNN keeps half a megabyte per
//! number of rows, and needs half a millisecond to make it: prompts of a hundred lengths would cost
//! more memory than the models.

use std::ops::Range;

use tch::{Device, Tensor};

use crate::engine::positions;
use crate::kv_cache::KvCache;
use crate::model::{AttentionMask, LogitRows, Rows, TargetOutput};
use crate::session::Session;
use crate::{Engine, Result, Sampler};

const ROWS: i64 = 0;
/// Most rows of a forward on a CPU: more would not be faster.
const MOST_ROWS: usize = 128;
/// Most rows of a forward on a device behind others that are cached: their mask has a column for
/// each of these.
pub(crate) const MOST_MASKED: usize = 1024;
/// Beyond this many rows, their number is a multiple of it; below, a power of two.
const STEP: usize = 32;

/// Rows of a forward on a CPU over `rows` rows that matter and others that do not.
fn padded(rows: usize) -> usize {
    if rows <= STEP { rows.next_power_of_two() } else { rows.next_multiple_of(STEP) }
}

impl Engine {
    /// Runs the target over a prompt, and the draft over all of it but the last position, and
    /// starts a sequence whose tokens `sampler` chooses. The memory of a finished session of this
    /// engine can be passed on with `recycle`.
    pub fn prefill_sampled(
        &self,
        prompt: &[u32],
        sampler: Sampler,
        recycle: Option<Session>,
    ) -> Result<Session> {
        self.start(prompt, sampler, recycle, false)
    }

    /// Starts a sequence whose tokens `sampler` chooses, and which keeps the target's features of
    /// all of it, for [`Session::reading`].
    ///
    /// # Errors
    /// See [`Engine::prefill_sampled`].
    pub fn prefill_keeping(&self, prompt: &[u32], sampler: Sampler) -> Result<Session> {
        self.start(prompt, sampler, None, true)
    }

    fn start(
        &self,
        prompt: &[u32],
        sampler: Sampler,
        recycle: Option<Session>,
        keep: bool,
    ) -> Result<Session> {
        self.check_prompt(prompt)?;
        let (mut target_cache, mut draft_cache, graphs) = if let Some(mut session) = recycle {
            session.check_engine(self.identity)?;
            if session.graphs.is_some() {
                // Graphs read all of a bucket, with no weight, but for that not what is no number.
                session.target_cache.zero()?;
            }
            (session.target_cache, session.draft_cache, session.graphs)
        } else {
            let (target_cache, draft_cache) = self.new_caches()?;
            // What is kept is not decoded for long.
            let graphs = if keep { None } else { self.new_graphs(&target_cache) };
            (target_cache, draft_cache, graphs)
        };
        target_cache.clear();
        draft_cache.clear();
        let n = prompt.len() as i64;
        let output = self.read_prompt(prompt, &mut target_cache)?;
        let root = sampler.tokens(&output.logits, &[prompt.len()])?[0];
        if n > 1 {
            // Only the cache is wanted: the first tree grows from the last position.
            let features = output.features.narrow(0, 0, n - 1);
            let _ = self.draft_stable_rows(&prompt[1..], &features, &mut draft_cache)?;
        }
        Ok(Session {
            engine: self.identity,
            cycle: None,
            tokens: prompt.to_vec(),
            root,
            target_cache,
            draft_cache,
            graphs,
            // A copy: a view would keep the features of the whole prompt alive.
            features: Some(vec![output.features.f_narrow_copy(0, n - 1, 1)?]),
            kept: keep.then(|| vec![output.features]),
            accepted: None,
            capacity: self.capacity(),
            sampler,
            prompt_len: prompt.len(),
            recall: None,
        })
    }

    /// Features of all positions of a prompt, `[n, 3 * hidden]` row-major, with the row length. For
    /// inspection and dumps: decoding keeps only what the draft has not read.
    pub fn target_features(&self, prompt: &[u32]) -> Result<(Vec<f32>, usize)> {
        self.check_prompt(prompt)?;
        let (mut cache, _) = self.new_caches()?;
        let features = self.read_prompt(prompt, &mut cache)?.features;
        let width = features.size()[1] as usize;
        Ok((Vec::try_from(features.view(-1))?, width))
    }

    /// Runs the target over certain tokens, whose keys and values become certain: the logits of the
    /// last row, and the features of all.
    pub(crate) fn read_prompt(&self, tokens: &[u32], cache: &mut KvCache) -> Result<TargetOutput> {
        let mut features = Vec::new();
        let mut last = None;
        for rows in self.pieces(cache.len(), tokens.len()) {
            let (past, n) = (cache.len(), rows.len());
            let more = self.padding(n, self.capacity() - past as usize);
            let (padded_tokens, positions) = padded_rows(&tokens[rows.clone()], past, more);
            let mask = &AttentionMask::causal(past, (n + more) as i64);
            let wanted =
                if rows.end == tokens.len() { LogitRows::One(n as i64 - 1) } else { LogitRows::None };
            let read = Rows { tokens: &padded_tokens, positions: &positions, past, mask };
            let output = self.target.forward(&read, &[], cache, wanted)?;
            cache.advance(n as i64);
            features.push(output.features.narrow(ROWS, 0, n as i64));
            last = Some(output);
        }
        let Some(TargetOutput { logits, randoms, .. }) = last else { unreachable!("there are tokens") };
        Ok(TargetOutput { logits, features: joined(features)?, randoms })
    }

    /// Feeds newly accepted positions to the draft: `tokens[i]` follows the position of `features`
    /// row `i`. Their keys and values become certain. Returns the layer's output, `[n, hidden]`.
    pub(crate) fn draft_stable_rows(
        &self,
        tokens: &[u32],
        features: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let outputs = self.pieces(cache.len(), tokens.len()).map(|rows| {
            let (past, n) = (cache.len(), rows.len());
            let more = self.padding(n, cache.capacity() - past as usize);
            let (tokens, positions) = padded_rows(&tokens[rows.clone()], past, more);
            let features = features.narrow(ROWS, rows.start as i64, n as i64);
            let features =
                if more == 0 { features } else { features.f_constant_pad_nd([0, 0, 0, more as i64])? };
            let hidden = self.draft.project(&features)?;
            let mask = &AttentionMask::causal(past, (n + more) as i64);
            let read = Rows { tokens: &tokens, positions: &positions, past, mask };
            let output = self.draft.forward(&read, &hidden, None, cache)?;
            cache.advance(n as i64);
            Ok(output.narrow(ROWS, 0, n as i64))
        });
        joined(outputs.collect::<Result<_>>()?)
    }

    /// The rows of each forward over `count` rows after `past` others.
    fn pieces(&self, past: i64, count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let most = match self.device {
            Device::Cpu => MOST_ROWS,
            // Without a mask, all at once.
            _ if past == 0 => count,
            _ => MOST_MASKED,
        };
        (0..count).step_by(most.max(1)).map(move |start| start..count.min(start + most))
    }

    /// Rows to add to a forward over `rows` rows, if there is `room` for them in the cache.
    fn padding(&self, rows: usize, room: usize) -> usize {
        let all = if self.device == Device::Cpu { padded(rows) } else { rows };
        if all <= room { all - rows } else { 0 }
    }
}

/// Tokens and positions of rows in sequence with `more` rows after them, which none of them sees
/// and the next forward overwrites.
fn padded_rows(tokens: &[u32], past: i64, more: usize) -> (Vec<u32>, Vec<i64>) {
    let last = past + tokens.len() as i64 - 1;
    let mut positions = positions(past, tokens.len() as i64);
    positions.resize(tokens.len() + more, last);
    let mut tokens = tokens.to_vec();
    tokens.resize(positions.len(), 0);
    (tokens, positions)
}

/// The parts as one tensor, without a copy if there is one.
pub(crate) fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::f_cat(&parts, ROWS)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::{PAIRS, folders};
    use crate::{DtypeSetting, EngineConfig};

    /// f32, products of other numbers of rows.
    const TOLERANCE: f64 = 1e-4;

    #[test]
    fn few_numbers_of_rows_occur() {
        let numbers: std::collections::BTreeSet<usize> = (1..=MOST_ROWS).map(padded).collect();
        assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64, 96, 128]);
        assert!((1..=MOST_ROWS).all(|rows| padded(rows) >= rows));
    }

    #[test]
    fn a_prompt_read_in_padded_pieces_is_the_prompt() {
        PAIRS.into_iter().for_each(assert_pieces_are_the_whole);
    }

    fn assert_pieces_are_the_whole(pair: &str) {
        let [target, draft] = folders(pair);
        let config = EngineConfig::new(target, draft);
        let config = EngineConfig { dtype: DtypeSetting::F32, max_length: Some(300), ..config };
        let engine = Engine::load(&config).expect("the engine loads");
        // The last length leaves no room for padding.
        for length in [1, 3, 33, 128, 129, 200, 299] {
            let prompt: Vec<u32> = (0..length).map(|i| 4 + i * i % 256).collect();
            let mut caches = [(); 2].map(|()| engine.new_caches().expect("caches").0);
            let [pieces, whole] = &mut caches;
            let found = engine.read_prompt(&prompt, pieces).expect("a forward");
            let n = i64::from(length);
            let (mask, positions) = (&AttentionMask::causal(0, n), &positions(0, n));
            let rows = Rows { tokens: &prompt, positions, past: 0, mask };
            let expected = engine.target.forward(&rows, &[], whole, LogitRows::One(n - 1));
            let expected = expected.expect("a forward");
            whole.advance(n);
            assert_eq!(pieces.len(), n);
            let pairs = [
                (found.logits, expected.logits),
                (found.features, expected.features),
                (pieces.certain(), whole.certain()),
            ];
            for (found, expected) in pairs {
                assert_eq!(found.size(), expected.size());
                let difference = (found - expected).abs().max().double_value(&[]);
                assert!(difference < TOLERANCE, "{pair}, {length}: {difference}");
            }
        }
    }
}
