//! Cycles whose cost is wanted and not their text.

use tch::Tensor;

use crate::{Engine, Error, Result, Session};

/// A sequence at which a cycle of any context length can begin, again and again. What the caches
/// hold are keys and values of some tokens: the cost of a cycle is real, its text is not.
pub struct Rehearsal {
    session: Session,
    tokens: Vec<u32>,
}

impl Engine {
    /// Readies a rehearsal that is as long as `tokens`.
    pub fn rehearsal(&self, tokens: Vec<u32>) -> Result<Rehearsal> {
        Ok(Rehearsal { session: self.prefill(&tokens, None)?, tokens })
    }
}

impl Rehearsal {
    /// Forwards that have been captured as CUDA graphs: one more after each that was the first of
    /// its form, and took the time of its kernels.
    pub fn captured_graphs(&self) -> usize {
        self.session.captured_graphs()
    }

    /// The sequence with `context` tokens, of which the draft has not read the last `rows`, as
    /// after a cycle that accepted so many: they are not at their places yet.
    ///
    /// # Errors
    /// If the rehearsal is shorter or of another engine, or there are no `rows` rows to read.
    pub fn at(&mut self, engine: &Engine, context: usize, rows: usize) -> Result<&mut Session> {
        self.session.check_engine(engine.identity)?;
        let known = self.tokens.len();
        if context > known || rows == 0 || rows > context {
            return Err(Error::Rehearsal { context, rows, known });
        }
        let session = &mut self.session;
        session.cycle = None;
        session.tokens.clear();
        session.tokens.extend_from_slice(&self.tokens[..context]);
        session.root = self.tokens[context % known];
        // The last rows were accepted in a tree, every other row of it if there is room.
        let stride = if context + rows <= session.capacity { 2 } else { 1 };
        let accepted: Vec<usize> = (0..rows).map(|row| row * stride).collect();
        session.target_cache.set_len((context - rows) as i64);
        // A row of the draft belongs to a position and the token after it.
        session.draft_cache.set_len((context - rows) as i64);
        let width = 3 * engine.target.config().block.hidden;
        let options = (engine.dtype().chosen.kind(), engine.device);
        let features = Tensor::f_zeros([(rows * stride) as i64, width], options)?;
        session.features = None;
        session.accept(accepted, features);
        (session.recall, session.prompt_len) = (None, context);
        Ok(session)
    }
}
