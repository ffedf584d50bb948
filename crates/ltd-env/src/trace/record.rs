//! From a prompt to a traced sequence.

use ltd_engine::{Engine, Static, StopRule};

use super::TracedSequence;
use crate::Result;

/// What the continuation is decoded with: cheap on any hardware, and any setting yields the same tokens.
const DECODER: Static = Static { depth: 1, size: 8 };

/// Decodes a prompt greedily and grows the tree of `depth` levels at every position where a cycle could begin,
/// `batch` positions at a time. `prompt` is its number in its file.
pub fn record_sequence(
    engine: &Engine,
    prompt: u32,
    ids: &[u32],
    stop: &StopRule,
    depth: usize,
    batch: usize,
) -> Result<TracedSequence> {
    let mut session = engine.prefill(ids, None)?;
    // A path may reach beyond the end of the generation.
    let beyond = depth + 2;
    let tokens = loop {
        let mut tokens = session.tokens().to_vec();
        tokens.push(session.root());
        let roots = stop.roots(&tokens[ids.len()..], engine.capacity() - ids.len());
        if session.is_full() || tokens.len() >= ids.len() + roots + beyond {
            break tokens;
        }
        engine.run_cycle(&mut session, &mut DECODER.clone())?;
    };
    let roots = stop.roots(&tokens[ids.len()..], engine.capacity() - ids.len());
    let width = engine.beam_width();
    let mut sequence = TracedSequence::new(prompt, ids.len(), tokens.clone(), width + depth * width * width);
    engine.trees_along(&tokens[..ids.len() + roots], ids.len(), depth, batch, |_, tree| {
        sequence.push(&tree);
        Ok::<_, ltd_engine::Error>(())
    })?;
    Ok(sequence)
}
