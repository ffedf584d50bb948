//! Cycles of real models on real prompts.

use std::rc::Rc;
use std::time::Duration;

use ltd_engine::{CycleOutcome, CycleState, Engine, Session, StopRule};
use ltd_policy::CycleSummary;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::backend::{Cycle, CycleBackend};
use crate::prompt_stream::{Position, PromptStream};

/// Decodes prompt after prompt, one cycle at a time. A generation goes on across episodes until its stop rule ends
/// it; then the next prompt is prefilled.
pub struct LiveCycles {
    engine: Rc<Engine>,
    prompts: PromptStream,
    stop: StopRule,
    session: Option<Session>,
    prompt_len: usize,
}

#[derive(Serialize, Deserialize)]
struct LiveState {
    position: Position,
    prompt_len: usize,
    /// Tokens of the sequence so far; empty if none was begun.
    tokens: Vec<u32>,
}

impl Cycle for CycleState {
    fn summary(&self) -> CycleSummary<'_> {
        CycleState::summary(self)
    }

    fn add_policy_time(&mut self, elapsed: Duration) {
        CycleState::add_policy_time(self, elapsed);
    }
}

impl LiveCycles {
    /// Cycles of `engine` over `prompts`.
    pub fn new(engine: Rc<Engine>, prompts: PromptStream, stop: StopRule) -> Self {
        Self { engine, prompts, stop, session: None, prompt_len: 0 }
    }

    /// The sequence to go on with: the present one, or the next prompt's.
    fn session(&mut self) -> Result<&mut Session> {
        let ended =
            self.session.as_ref().is_none_or(|session| self.stop.reached(session, self.prompt_len).is_some());
        let session = if ended {
            let prompt = self.prompts.advance();
            self.prompt_len = prompt.len();
            self.engine.prefill(prompt, self.session.take())?
        } else {
            self.session.take().expect("invariant: a session that has not ended is there")
        };
        Ok(self.session.insert(session))
    }
}

impl CycleBackend for LiveCycles {
    type Cycle = CycleState;

    fn begin(&mut self) -> Result<CycleState> {
        let engine = Rc::clone(&self.engine);
        Ok(engine.begin_cycle(self.session()?)?)
    }

    fn expand(&mut self, cycle: &mut CycleState) -> Result<()> {
        let session = self.session.as_mut().expect("invariant: a cycle under way has a session");
        Ok(self.engine.expand(session, cycle)?)
    }

    fn verify(&mut self, cycle: CycleState, size: usize) -> Result<CycleOutcome> {
        let session = self.session.as_mut().expect("invariant: a cycle under way has a session");
        Ok(self.engine.verify(session, cycle, size)?)
    }

    fn state(&self) -> serde_json::Value {
        let tokens = self.session.as_ref().map(|session| session.tokens().to_vec()).unwrap_or_default();
        let state = LiveState { position: self.prompts.position(), prompt_len: self.prompt_len, tokens };
        serde_json::to_value(state).expect("invariant: the state is plain data")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let state: LiveState = serde_json::from_value(state)?;
        self.prompts.restore(state.position);
        self.prompt_len = state.prompt_len;
        self.session = None;
        if !state.tokens.is_empty() {
            self.session = Some(self.engine.prefill(&state.tokens, None)?);
        }
        Ok(())
    }
}
