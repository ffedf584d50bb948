//! Cycles of real models on real prompts.

use std::rc::Rc;

use ltd_engine::{CycleOutcome, CycleState, Engine, Generation, Sampler, Session, StopRule};
use ltd_policy::{Agreement, Calibration, SourceSummary};
use serde::{Deserialize, Serialize};

use crate::backend::CycleBackend;
use crate::episode::check;
use crate::order::Position;
use crate::prompt_stream::PromptStream;
use crate::{Error, Interrupt, Result};

/// Epochs in which each prompt came at least once, whatever their order, since one that began an
/// answer.
const GREEDY_EPOCHS: usize = 2;
/// The same where answers are drawn: one may end at once by chance.
const SAMPLED_EPOCHS: usize = 100;

/// Decodes prompt after prompt, one cycle at a time. A generation goes on across episodes until its
/// stop rule ends it; then the next prompt is prefilled.
pub struct LiveCycles {
    engine: Rc<Engine>,
    prompts: PromptStream,
    stop: StopRule,
    sampler: Sampler,
    interrupt: Interrupt,
    /// With which trees were merged, if any were: one and the same.
    calibration: Option<Calibration>,
    sequence: Option<Sequence>,
    /// Memory of the last finished one.
    recycled: Option<Session>,
}

/// A sequence under way.
struct Sequence {
    answer: Generation,
    /// Each cycle so far: repeating them gives the same caches, bit for bit, which a prefill of the
    /// tokens would not.
    cycles: Vec<PastCycle>,
    /// Limit of the cycle under way.
    size_limit: usize,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct PastCycle {
    size_limit: usize,
    depth: usize,
    size: usize,
    /// Tokens to copy, if it copied.
    #[serde(default)]
    chain: Option<usize>,
    /// Whether it drafted, too.
    #[serde(default)]
    merged: bool,
}

#[derive(Serialize, Deserialize)]
struct LiveState {
    position: Position,
    /// Cycles of the sequence under way; null if none was begun.
    cycles: Option<Vec<PastCycle>>,
    #[serde(default)]
    calibration: Option<Calibration>,
}

impl Sequence {
    /// Notes a cycle with a tree, which was merged with a chain of so many tokens.
    fn drafted(&mut self, outcome: &CycleOutcome, chain: Option<usize>) {
        self.cycles.push(PastCycle {
            size_limit: self.size_limit,
            depth: outcome.draft_depth,
            size: outcome.verification_size,
            chain,
            merged: chain.is_some(),
        });
    }
}

impl LiveCycles {
    /// Cycles of `engine` over `prompts`. Each sequence is another one to `sampler`: a prompt that
    /// comes again is continued differently.
    pub fn new(engine: Rc<Engine>, prompts: PromptStream, stop: StopRule, sampler: Sampler) -> Self {
        Self {
            engine,
            prompts,
            stop,
            sampler,
            interrupt: Interrupt::default(),
            calibration: None,
            sequence: None,
            recycled: None,
        }
    }

    /// The same cycles, whose return to a saved state ends soon after there is a wish to stop.
    #[must_use]
    pub fn with_interrupt(self, interrupt: Interrupt) -> Self {
        Self { interrupt, ..self }
    }

    /// The sequence to go on with: the present one, or that of the next prompt whose answer has a
    /// token.
    fn sequence(&mut self) -> Result<&mut Sequence> {
        let epochs = if self.sampler.params().is_greedy() { GREEDY_EPOCHS } else { SAMPLED_EPOCHS };
        let most = epochs * self.prompts.len();
        let mut answers = 0;
        while self.sequence.as_ref().is_none_or(|sequence| sequence.answer.ended().is_some()) {
            // From prompt to prompt whoever takes the steps ends between them, and loses none.
            if answers > 0 {
                self.interrupt.check()?;
            }
            if answers == most {
                return Err(Error::NothingToDecode { answers });
            }
            let ended = self.sequence.take().map(|sequence| sequence.answer.into_session());
            self.recycled = ended.or(self.recycled.take());
            self.prompts.advance();
            self.sequence = self.started()?;
            answers += 1;
        }
        Ok(self.sequence.as_mut().expect("invariant: a sequence that ended was replaced"))
    }

    /// The sequence of the prompt that was given last, before its first cycle.
    fn started(&mut self) -> Result<Option<Sequence>> {
        let sampler = self.sampler.for_sequence(self.prompts.given());
        let Some(prompt) = self.prompts.current() else { return Ok(None) };
        let answer = self.engine.generate(prompt, sampler, self.stop.clone(), self.recycled.take())?;
        Ok(Some(Sequence { answer, cycles: Vec::new(), size_limit: usize::MAX }))
    }

    fn under_way(&mut self) -> &mut Sequence {
        self.sequence.as_mut().expect("invariant: a cycle under way belongs to a sequence")
    }
}

impl CycleBackend for LiveCycles {
    type Cycle = CycleState;

    fn ready(&mut self) -> Result<()> {
        self.sequence().map(drop)
    }

    fn source_summary(&mut self) -> Result<SourceSummary> {
        let engine = Rc::clone(&self.engine);
        Ok(engine.source_summary(self.sequence()?.answer.session_mut())?)
    }

    fn copy(&mut self, chain: usize) -> Result<CycleOutcome> {
        let engine = Rc::clone(&self.engine);
        let sequence = self.sequence()?;
        let outcome = engine.copy(sequence.answer.session_mut(), chain)?;
        sequence.cycles.push(PastCycle {
            size_limit: 0,
            depth: 0,
            size: 0,
            chain: Some(chain),
            merged: false,
        });
        Ok(outcome)
    }

    fn begin(&mut self, size_limit: usize) -> Result<CycleState> {
        let engine = Rc::clone(&self.engine);
        let sequence = self.sequence()?;
        sequence.size_limit = size_limit;
        Ok(engine.begin_cycle(sequence.answer.session_mut(), size_limit)?)
    }

    fn agreement(&mut self, cycle: &CycleState) -> Result<Option<Agreement>> {
        let engine = Rc::clone(&self.engine);
        Ok(engine.agreement(self.under_way().answer.session_mut(), cycle)?)
    }

    fn expand(&mut self, cycle: &mut CycleState) -> Result<()> {
        let engine = Rc::clone(&self.engine);
        Ok(engine.expand(self.under_way().answer.session_mut(), cycle)?)
    }

    fn verify(&mut self, cycle: CycleState, size: usize) -> Result<CycleOutcome> {
        let engine = Rc::clone(&self.engine);
        let sequence = self.under_way();
        let outcome = engine.verify(sequence.answer.session_mut(), cycle, size)?;
        sequence.drafted(&outcome, None);
        Ok(outcome)
    }

    fn merge(
        &mut self,
        cycle: CycleState,
        size: usize,
        chain: usize,
        calibration: &Calibration,
    ) -> Result<CycleOutcome> {
        let engine = Rc::clone(&self.engine);
        let sequence = self.under_way();
        let outcome = engine.merge(sequence.answer.session_mut(), cycle, size, chain, calibration)?;
        sequence.drafted(&outcome, Some(chain));
        if self.calibration.is_none() {
            self.calibration = Some(calibration.clone());
        }
        Ok(outcome)
    }

    fn state(&self) -> serde_json::Value {
        let cycles = self.sequence.as_ref().map(|sequence| sequence.cycles.clone());
        let state =
            LiveState { position: self.prompts.position(), cycles, calibration: self.calibration.clone() };
        serde_json::to_value(state).expect("invariant: the state is plain data")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let state: LiveState = serde_json::from_value(state)?;
        self.prompts.restore(state.position);
        if let Some(calibration) = &state.calibration {
            check(calibration)?;
        }
        let merges = state.cycles.iter().flatten().any(|cycle| cycle.merged);
        let calibration = match &state.calibration {
            Some(calibration) => calibration.clone(),
            None if merges => {
                let problem = "cycles were merged, but there is no calibration";
                return Err(Error::State(serde::de::Error::custom(problem)));
            }
            None => Calibration::default(),
        };
        (self.sequence, self.calibration) = (None, state.calibration);
        if let Some(cycles) = state.cycles
            && let Some(mut sequence) = self.started()?
        {
            let session = sequence.answer.session_mut();
            // What cycles yielded is remembered from the first of them on.
            self.engine.source_summary(session)?;
            for &PastCycle { size_limit, depth, size, chain, merged } in &cycles {
                self.interrupt.check()?;
                if let Some(chain) = chain.filter(|_| !merged) {
                    self.engine.copy(session, chain)?;
                    continue;
                }
                let mut cycle = self.engine.begin_cycle(session, size_limit)?;
                for _ in 0..depth {
                    self.engine.expand(session, &mut cycle)?;
                }
                match chain {
                    Some(chain) => self.engine.merge(session, cycle, size, chain, &calibration)?,
                    None => self.engine.verify(session, cycle, size)?,
                };
            }
            self.sequence = Some(Sequence { cycles, ..sequence });
        }
        Ok(())
    }
}
