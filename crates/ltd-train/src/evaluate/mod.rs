//! Measuring ways to decode against each other: same process, same prompts, in turns of a few
//! tokens.

mod comparison;
mod fixed;
mod results;
mod slowdown;
mod summary;

use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_engine::text::Prompt;
use ltd_engine::{
    Controller, CycleOutcome, CycleStats, Engine, Generation, Sampler, Session, Static, StopRule, WholeBeam,
};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Interrupt, oracle};

pub(crate) use comparison::{
    Comparison, Opposition, comparison_table, loops_table, percent, table, waits_table,
};
pub(crate) use fixed::FixedSetting;
pub(crate) use results::{
    Compared, Entrant, Header, NOTHING_YET, Results, Role, differing, read_header, read_results,
};
pub(crate) use summary::{EAGLE_CONSTANT, GridPoint, Prediction, Summary};

use crate::{Error, Result};
use ltd_run::Progress;
use ltd_run::config::StaticSetting;
use slowdown::Slowdowns;

/// Tokens that each contender decodes before anything is measured.
const WARM_UP_TOKENS: usize = 8;
/// Tokens that a contender produces before the next one's turn.
const TOKENS_PER_TURN: usize = 8;

/// A way to decode.
pub(crate) struct Contender {
    pub(crate) name: String,
    /// Who steers; nobody in plain decoding.
    controller: Option<Box<dyn Controller>>,
    /// Whether decisions take time; those of a constant do not.
    decides: bool,
}

impl Contender {
    /// Plain autoregressive decoding.
    pub(crate) fn autoregressive() -> Self {
        Self { name: "ar".to_owned(), controller: None, decides: false }
    }

    /// Decoding under a controller.
    pub(crate) fn new(name: impl Into<String>, controller: Box<dyn Controller>) -> Self {
        Self { name: name.into(), controller: Some(controller), decides: true }
    }

    /// Decoding with trees of one shape.
    pub(crate) fn constant(name: impl Into<String>, setting: StaticSetting) -> Self {
        let fixed = Static { depth: setting.depth, size: setting.size };
        Self { name: name.into(), controller: Some(Box::new(fixed)), decides: false }
    }

    /// Decoding by a setting that does not change.
    pub(crate) fn fixed(name: impl Into<String>, setting: FixedSetting) -> Self {
        Self { name: name.into(), controller: Some(setting.controller()), decides: false }
    }

    /// [`Contender::constant`] whose levels expand the whole beam, as EAGLE-3 drafts.
    pub(crate) fn whole_beam(name: impl Into<String>, setting: StaticSetting) -> Self {
        let fixed = WholeBeam(Static { depth: setting.depth, size: setting.size });
        Self { name: name.into(), controller: Some(Box::new(fixed)), decides: false }
    }

    /// What later decisions depend on; null if nothing.
    fn state(&self) -> serde_json::Value {
        self.controller.as_ref().map(|controller| controller.state()).unwrap_or_default()
    }

    /// Returns to such a state.
    fn restore(&mut self, state: &serde_json::Value) {
        if let (Some(controller), false) = (&mut self.controller, state.is_null()) {
            controller.restore(state);
        }
    }

    /// Steers recorded cycles in place of live ones.
    pub(crate) fn replay(&mut self, trace: &Trace, costs: &Costs) -> Result<Measurement> {
        let mut measurement = Measurement { name: self.name.clone(), ..Measurement::default() };
        if let Some(controller) = &mut self.controller {
            let controller = controller.as_mut();
            for sequence in &trace.sequences {
                let stats = oracle::replay_sequence(&trace.header, sequence, costs, controller, &mut |_| ())?;
                measurement.prompts.push(stats);
            }
            // Whatever decides, the text is the target's.
            measurement.same_output = trace.sequences.len();
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

/// Where contenders are measured.
pub(crate) struct Arena<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) stop: StopRule,
    /// All contenders draw with the same numbers: up to rounding, they decode the same text.
    pub(crate) sampler: Sampler,
    /// What cycles should take, if that was measured.
    pub(crate) costs: Option<&'a Costs>,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) progress: Progress,
}

/// A contender's answer to one prompt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    outcomes: Vec<CycleOutcome>,
    slowdowns: Slowdowns,
    output: Vec<u32>,
}

/// An answer under way.
struct Decoding {
    generation: Generation,
    outcomes: Vec<CycleOutcome>,
    /// Tokens of them.
    tokens: usize,
    /// What its cycles took over what they should have.
    slowdowns: Slowdowns,
    /// Tokens that the draft has not read: what the cycle before accepted, and those that copied
    /// before it.
    unread: usize,
    finished: bool,
}

impl Arena<'_> {
    /// Lets all contenders decode all prompts, or as many as fit in `limit` (two at least). An
    /// answer that ends before its first token has no cycle, says nothing of anybody, and is left
    /// out.
    ///
    /// # Errors
    /// If there was no cycle at all, or a model fails.
    pub(crate) fn measure(
        &self,
        name: &str,
        contenders: &mut [Contender],
        prompts: &[Prompt],
        limit: Option<Duration>,
    ) -> Result<Vec<Measurement>> {
        self.measure_into(name, contenders, prompts, limit, None)
    }

    /// [`Arena::measure`], keeping each prompt in a file. What is there already is not measured
    /// again.
    pub(crate) fn measure_into(
        &self,
        name: &str,
        contenders: &mut [Contender],
        prompts: &[Prompt],
        limit: Option<Duration>,
        mut results: Option<&mut Results>,
    ) -> Result<Vec<Measurement>> {
        const LEAST_PROMPTS: usize = 2;
        let mut tally = Tally::new(contenders.iter().map(|contender| contender.name.clone()));
        let mut memory: Vec<Option<Session>> = contenders.iter().map(|_| None).collect();
        let mut task = self.progress.task(name, prompts.len());
        let warm_up = StopRule { max_new_tokens: WARM_UP_TOKENS, eos: Vec::new() };
        let mut states: Vec<serde_json::Value> = contenders.iter().map(Contender::state).collect();
        if let Some(results) = &results {
            let kept: Vec<serde_json::Value> = results.states().cloned().collect();
            if !kept.is_empty() {
                states = kept;
            }
        }
        if results.as_ref().is_none_or(|results| results.len() < prompts.len()) {
            self.race(contenders, &prompts[0], &self.sampler, &warm_up, &mut memory)?;
        }
        // Nobody learns from the warm-up.
        for (contender, state) in contenders.iter_mut().zip(&states) {
            contender.restore(state);
            if let (Some(results), true) = (&results, contender.state() != *state) {
                let problem = format!("its last line is damaged: no state of {}", contender.name);
                return Err(Error::Results { path: results.path().to_owned(), problem });
            }
        }
        let (start, runs_on) = (Instant::now(), self.engine.runs_on());
        for (index, prompt) in prompts.iter().enumerate() {
            if let Some(answers) = results.as_ref().and_then(|results| results.answers(index)) {
                tally.add(answers);
                task.update(index + 1, (index + 1) as f64 / prompts.len() as f64, "prompts");
                continue;
            }
            if tally.measured >= LEAST_PROMPTS && limit.is_some_and(|limit| start.elapsed() > limit) {
                break;
            }
            let sampler = self.sampler.for_sequence(index as u64);
            let answers = self.race(contenders, prompt, &sampler, &self.stop, &mut memory)?;
            if self.engine.runs_on() != runs_on {
                // What was measured before is of graphs.
                let problem = self.engine.late_warning().unwrap_or_default();
                return Err(ltd_run::Error::HalfGraphs(problem.to_owned()).into());
            }
            if let Some(results) = &mut results {
                results.add(&prompt.id, &answers, contenders.iter().map(Contender::state).collect())?;
            }
            tally.add(answers);
            let by_count = (index + 1) as f64 / prompts.len() as f64;
            let by_time = limit.map_or(0.0, |limit| start.elapsed().as_secs_f64() / limit.as_secs_f64());
            task.update(index + 1, by_count.max(by_time).min(1.0), "prompts");
        }
        if tally.measured == 0 {
            return Err(Error::NothingMeasured { task: name.to_owned(), prompts: prompts.len() });
        }
        let contenders = count(contenders.len(), "contender");
        task.finish(&format!("{contenders} measured on {}", count(tally.measured, "prompt")));
        Ok(tally.finish())
    }

    /// All contenders answer one prompt, a few tokens each in turn: what disturbs the machine for a
    /// second disturbs all of them alike. Statistics and output of each.
    fn race(
        &self,
        contenders: &mut [Contender],
        prompt: &Prompt,
        sampler: &Sampler,
        stop: &StopRule,
        memory: &mut [Option<Session>],
    ) -> Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(contenders.len());
        for memory in memory.iter_mut() {
            self.interrupt.check()?;
            let generation =
                self.engine.generate(&prompt.ids, sampler.clone(), stop.clone(), memory.take())?;
            answers.push(Decoding {
                generation,
                outcomes: Vec::new(),
                tokens: 0,
                slowdowns: Slowdowns::default(),
                unread: 1,
                finished: false,
            });
        }
        let mut first = 0;
        while answers.iter().any(|answer| !answer.finished) {
            for turn in 0..contenders.len() {
                // Another one goes first each time: none always runs after the slowest.
                let who = (first + turn) % contenders.len();
                self.advance(&mut contenders[who], &mut answers[who])?;
            }
            first += 1;
        }
        let finished = answers.into_iter().zip(memory).map(|(answer, memory)| {
            let output = answer.generation.output();
            *memory = Some(answer.generation.into_session());
            Answer { outcomes: answer.outcomes, slowdowns: answer.slowdowns, output }
        });
        Ok(finished.collect())
    }

    /// One contender's turn.
    fn advance(&self, contender: &mut Contender, answer: &mut Decoding) -> Result<()> {
        let goal = answer.tokens + TOKENS_PER_TURN;
        while answer.tokens < goal && !answer.finished {
            self.interrupt.check()?;
            let controller = contender.controller.as_deref_mut();
            let Some(outcome) = answer.generation.advance(self.engine, controller)? else {
                answer.finished = true;
                break;
            };
            if let Some(costs) = self.costs {
                let timing = costs.of(&outcome, answer.unread);
                let expected = if contender.decides { timing.total() } else { timing.draft + timing.verify };
                answer.slowdowns.add(&outcome, expected);
            }
            answer.unread = answer.generation.session().unread();
            answer.tokens += outcome.acceptance_length();
            answer.outcomes.push(outcome);
        }
        Ok(())
    }
}

/// What contenders made of the prompts so far. Whether they were measured now or read from a file
/// makes no difference.
pub(crate) struct Tally {
    measurements: Vec<Measurement>,
    /// Cycles before the first loop, of the prompts that have one, for each contender.
    cut_prompts: Vec<Vec<CycleStats>>,
    /// Prompts that count.
    pub(crate) measured: usize,
    /// The first contender's tokens, and those of them in loops.
    said: usize,
    looping: usize,
}

impl Tally {
    /// Nothing yet, of contenders with these names.
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let measurements: Vec<Measurement> =
            names.into_iter().map(|name| Measurement { name, ..Measurement::default() }).collect();
        let cut_prompts = vec![Vec::new(); measurements.len()];
        Self { measurements, cut_prompts, measured: 0, said: 0, looping: 0 }
    }

    /// Adds the answers to a prompt, in the order of the contenders. They do not count if one of
    /// them ended before its first cycle.
    pub(crate) fn add(&mut self, answers: Vec<Answer>) {
        if answers.iter().any(|answer| answer.outcomes.is_empty()) {
            return;
        }
        self.measured += 1;
        let reference = answers[0].output.clone();
        self.said += reference.len();
        let (cut, in_loops) = before_loop(&reference);
        self.looping += in_loops;
        for ((measurement, cuts), answer) in
            self.measurements.iter_mut().zip(&mut self.cut_prompts).zip(answers)
        {
            let Answer { outcomes, slowdowns, output } = answer;
            let mut stats = CycleStats::default();
            for outcome in &outcomes {
                stats.add(outcome);
            }
            measurement.prompts.push(stats);
            if cut > 0 {
                cuts.push(until(&outcomes, cut));
            }
            measurement.waits.extend(outcomes.iter().map(|outcome| outcome.timing.total()));
            measurement.slowdowns.merge(slowdowns);
            measurement.same_output += usize::from(output == reference);
        }
    }

    /// All of it.
    pub(crate) fn finish(self) -> Vec<Measurement> {
        let share = self.looping as f64 / self.said.max(1) as f64;
        let cut_prompts = self.cut_prompts.into_iter();
        let with_cut = self.measurements.into_iter().zip(cut_prompts).map(|(measurement, prompts)| {
            let before_loops =
                (self.looping > 0 && !prompts.is_empty()).then_some(BeforeLoops { share, prompts });
            Measurement { before_loops, ..measurement }
        });
        with_cut.collect()
    }
}

/// How many tokens cycles yield before an answer begins to loop, all if it never does, and how many
/// of its tokens are in loops. Its first token comes from reading the prompt, and from no cycle.
fn before_loop(output: &[u32]) -> (usize, usize) {
    let mut looping = oracle::looping(output);
    let first = looping.next();
    first.map_or((usize::MAX, 0), |first| (first.saturating_sub(1), 1 + looping.count()))
}

/// Tokens and time of the cycles that yield the first `tokens` tokens. A cycle that yields more is
/// counted with its whole time, and with those of its tokens that are wanted.
fn until(cycles: &[CycleOutcome], tokens: usize) -> CycleStats {
    let mut sum = CycleStats::default();
    for cycle in cycles {
        if sum.tokens >= tokens {
            break;
        }
        sum.cycles += 1;
        sum.tokens += cycle.acceptance_length();
        sum.timing += cycle.timing;
    }
    sum.tokens = sum.tokens.min(tokens);
    sum
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltd_engine::CycleTiming;

    use super::*;

    #[test]
    fn an_answer_is_cut_before_the_token_that_begins_its_first_loop() {
        let said: Vec<u32> = (0..20).collect();
        assert_eq!(before_loop(&said), (usize::MAX, 0));
        // Tokens 20 to 35 repeat 0 to 15. Cycles yield 19 of the 20 before them.
        let looping: Vec<u32> = said.iter().chain(&said[..16]).copied().collect();
        assert_eq!(before_loop(&looping), (19, 16));
        // One that loops from its second token on has no cycle before that.
        assert_eq!(before_loop(&[7; 17]), (0, 16));
    }

    #[test]
    fn an_answer_is_cut_within_a_cycle_whose_time_it_keeps() {
        let cycle = |tokens: usize, ms| CycleOutcome {
            accepted_ids: vec![0; tokens],
            timing: CycleTiming { verify: Duration::from_millis(ms), ..CycleTiming::default() },
            ..CycleOutcome::default()
        };
        let cycles = [cycle(3, 10), cycle(1, 7), cycle(4, 12)];
        for (tokens, expected) in [
            (0, (0, 0, 0)),
            (1, (1, 1, 10)),
            (3, (1, 3, 10)),
            (4, (2, 4, 17)),
            (6, (3, 6, 29)),
            (usize::MAX, (3, 8, 29)),
        ] {
            let found = until(&cycles, tokens);
            let found = (found.cycles, found.tokens, found.timing.total().as_millis());
            assert_eq!(found, expected, "{tokens}");
        }
    }
}
