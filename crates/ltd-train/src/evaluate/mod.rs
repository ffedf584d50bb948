//! Measuring ways to decode against each other.

mod arena;
mod comparison;
mod fixed;
mod slowdown;
mod summary;
mod tally;

use std::time::Duration;

use ltd_engine::{Controller, CycleStats, Session};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Interrupt, oracle};

pub(crate) use arena::{Answer, Arena};

pub(crate) use comparison::{
    Comparison, Opposition, Table, comparison_table, loops_table, percent, waits_table,
};
pub(crate) use fixed::{FixedSetting, StaticEntrant};
pub(crate) use summary::{EAGLE_CONSTANT, GridPoint, Prediction, Summary};
pub(crate) use tally::Tally;

use crate::Result;
use ltd_run::config::StaticSetting;
use slowdown::Slowdowns;

/// A way to decode.
pub(crate) struct Contender {
    pub(crate) name: String,
    /// Who steers; nobody in plain decoding.
    controller: Option<Box<dyn Controller>>,
    /// Whether decisions take time; those of a constant do not.
    decides: bool,
    /// Its last sequence, whose memory the next one uses.
    memory: Option<Session>,
}

impl Contender {
    /// Plain autoregressive decoding.
    pub(crate) fn autoregressive() -> Self {
        Self { name: "ar".to_owned(), controller: None, decides: false, memory: None }
    }

    /// Decoding under a controller.
    pub(crate) fn new(name: impl Into<String>, controller: Box<dyn Controller>) -> Self {
        Self { name: name.into(), controller: Some(controller), decides: true, memory: None }
    }

    /// Decoding by a setting that does not change.
    pub(crate) fn fixed(name: impl Into<String>, setting: FixedSetting) -> Self {
        Self::unchanging(name, StaticEntrant { setting, whole_beam: false })
    }

    /// Trees of one shape, whose levels expand the whole beam, as EAGLE-3 drafts.
    pub(crate) fn whole_beam(name: impl Into<String>, setting: StaticSetting) -> Self {
        Self::unchanging(name, StaticEntrant { setting: setting.into(), whole_beam: true })
    }

    /// Decoding by a setting that does not change, of either kind of levels.
    pub(crate) fn unchanging(name: impl Into<String>, entrant: StaticEntrant) -> Self {
        Self { name: name.into(), controller: Some(entrant.controller()), decides: false, memory: None }
    }

    /// What later decisions depend on; null if nothing.
    pub(crate) fn state(&self) -> serde_json::Value {
        self.controller.as_ref().map(|controller| controller.state()).unwrap_or_default()
    }

    /// Returns to such a state.
    pub(crate) fn restore(&mut self, state: &serde_json::Value) {
        if let (Some(controller), false) = (&mut self.controller, state.is_null()) {
            controller.restore(state);
        }
    }

    /// Steers recorded cycles in place of live ones.
    ///
    /// # Errors
    /// If the trace cannot be read, or there is a wish to stop.
    pub(crate) fn replay(
        &mut self,
        trace: &Trace,
        costs: &Costs,
        interrupt: &Interrupt,
    ) -> Result<Measurement> {
        let mut measurement = Measurement { name: self.name.clone(), ..Measurement::default() };
        if let Some(controller) = &mut self.controller {
            let controller = controller.as_mut();
            // What continuations of one prompt have in common is no evidence: they are one sample.
            let mut last = None;
            for sequence in trace.sequences() {
                interrupt.check()?;
                let sequence = sequence?;
                let stats =
                    oracle::replay_sequence(&trace.header, &sequence, costs, controller, &mut |_| ())?;
                match measurement.prompts.last_mut() {
                    Some(prompt) if last == Some(sequence.prompt) => prompt.merge(&stats),
                    _ => measurement.prompts.push(stats),
                }
                last = Some(sequence.prompt);
            }
            // Whatever decides, the text is the target's.
            measurement.same_output = measurement.prompts.len();
        }
        Ok(measurement)
    }
}

/// What a contender did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measurement {
    pub(crate) name: String,
    /// Its cycles on each prompt.
    pub(crate) prompts: Vec<CycleStats>,
    /// The same up to the first loop of each answer; none in replay, and where nothing loops.
    pub(crate) before_loops: Option<BeforeLoops>,
    /// Prompts whose output equals the first contender's, token for token.
    pub(crate) same_output: usize,
    /// What its cycles took over what they should have, by the arena's costs; empty without any.
    pub(crate) slowdowns: Slowdowns,
    /// Times of all live cycles, prompt after prompt: how long one waits for the next tokens.
    pub(crate) waits: Vec<Duration>,
}

/// Answers that are cut where that of the first contender begins to loop.
#[derive(Debug, Clone)]
pub(crate) struct BeforeLoops {
    /// Share of the first contender's tokens that are in a loop.
    pub(crate) share: f64,
    /// Tokens and times of the cycles that begin before it, of each prompt that has any.
    pub(crate) prompts: Vec<CycleStats>,
}

impl Measurement {
    /// Share of the first contender's tokens that are in loops.
    pub(crate) fn loop_share(&self) -> f64 {
        self.before_loops.as_ref().map_or(0.0, |cut| cut.share)
    }

    /// All its cycles.
    pub(crate) fn total(&self) -> CycleStats {
        CycleStats::merged(&self.prompts)
    }

    /// Time that its cycles took over what they should have.
    ///
    /// # Panics
    /// If there were no costs to compare with.
    pub(crate) fn slowdown(&self) -> f64 {
        self.slowdowns.slowdown().expect("invariant: there were costs")
    }
}
