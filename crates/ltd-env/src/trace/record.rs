//! From a prompt to a traced sequence.

use ltd_engine::{Along, Copying, Engine, Sampler, Static, StopRule};
use ltd_policy::CopyRule;

use super::{TraceHeader, TracedSequence};
use crate::{Interrupt, Result};

/// What the continuation is decoded with: cheap on any hardware, and any setting yields the same
/// tokens.
const DECODER: Copying<Static> = Copying {
    rule: CopyRule { match_length: 2, chain: 4 },
    merged: None,
    trees: Static { depth: 1, size: 4 },
};

/// Decodes a prompt as the header says and grows the trees that it asks for, `batch` positions at a
/// time. `prompt` is its number in its file, and that of the sequence to the sampler; `seed` has no
/// effect at temperature 0, where it must be 0. Soon after there is a wish to stop, it fails with
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn record_sequence(
    engine: &Engine,
    header: &TraceHeader,
    (prompt, seed): (u32, u64),
    ids: &[u32],
    batch: usize,
    interrupt: &Interrupt,
) -> Result<TracedSequence> {
    let stop = StopRule { max_new_tokens: header.max_new_tokens, eos: header.eos.clone() };
    let sampler = Sampler::new(header.sampling, seed)?.for_sequence(prompt.into());
    let mut session = engine.prefill_keeping(ids, sampler)?;
    // A path may reach beyond the end of the generation.
    let beyond = header.depth + 2;
    let tokens = loop {
        let mut tokens = session.tokens().to_vec();
        tokens.push(session.root());
        let roots = stop.roots(&tokens[ids.len()..], engine.capacity() - ids.len());
        if session.is_full() || tokens.len() >= ids.len() + roots + beyond {
            break tokens;
        }
        interrupt.check()?;
        engine.run_cycle(&mut session, &mut DECODER.clone())?;
    };
    let roots = stop.roots(&tokens[ids.len()..], engine.capacity() - ids.len());
    let mut sequence = TracedSequence::new(header, prompt, ids.len(), tokens.clone()).with_seed(seed);
    let along = Along {
        first: ids.len(),
        every: header.every,
        depth: header.depth,
        batch,
        entropies: header.entropies,
        hidden: header.hidden.is_some(),
        states: header.states.is_some(),
    };
    let read = session.reading(ids.len() + roots)?;
    let read = read.expect("invariant: features are kept, of more tokens than have trees");
    engine.trees_along(&read, &along, |grown| {
        sequence.push(&grown);
        interrupt.check()
    })?;
    Ok(sequence)
}
