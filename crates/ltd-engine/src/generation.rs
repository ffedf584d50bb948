//! One answer, from its prompt to its end: the loop of everything that decodes.

use crate::{Controller, CycleOutcome, Engine, Result, Sampler, Session, StopReason, StopRule};

/// An answer under way.
pub struct Generation {
    session: Session,
    prompt_len: usize,
    stop: StopRule,
}

impl Engine {
    /// Reads a prompt and begins its answer, whose tokens `sampler` chooses. The memory of a
    /// finished session of this engine can be passed on with `recycle`.
    ///
    /// # Errors
    /// If the prompt is empty, does not fit the cache or has unknown tokens, or a model fails.
    pub fn generate(
        &self,
        prompt: &[u32],
        sampler: Sampler,
        stop: StopRule,
        recycle: Option<Session>,
    ) -> Result<Generation> {
        let session = self.prefill_sampled(prompt, sampler, recycle)?;
        Ok(Generation { session, prompt_len: prompt.len(), stop })
    }
}

impl Generation {
    /// The next cycle under a controller, or the next step of plain decoding without one; none when
    /// the answer has ended. `engine` must be the one that began it.
    ///
    /// # Errors
    /// If a model fails, or the engine is another one.
    pub fn advance(
        &mut self,
        engine: &Engine,
        controller: Option<&mut (dyn Controller + '_)>,
    ) -> Result<Option<CycleOutcome>> {
        match self.ended() {
            Some(_) => Ok(None),
            None => engine.step(&mut self.session, controller).map(Some),
        }
    }

    /// Why the answer has ended, if it has.
    pub fn ended(&self) -> Option<StopReason> {
        self.stop.reached(self.session.continuation(self.prompt_len))
    }

    /// Tokens of the answer so far: up to the first that ends it (included) and the limit.
    pub fn output(&self) -> Vec<u32> {
        self.stop.output(self.session.continuation(self.prompt_len))
    }

    /// The sequence, prompt included.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The sequence, for whoever takes a cycle step by step.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The sequence, whose memory another answer may use.
    pub fn into_session(self) -> Session {
        self.session
    }
}
