//! Where contenders are measured against each other: same process, same prompts, in turns of a few
//! tokens.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_distributed::Group;
use ltd_engine::text::Prompt;
use ltd_engine::{CycleOutcome, Engine, Generation, Sampler, StopRule};
use ltd_env::{Costs, Interrupt};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::slowdown::Slowdowns;
use super::{Contender, Measurement, Tally};
use crate::{Error, Result};
use ltd_run::Progress;

/// Tokens that each contender decodes before anything is measured.
const WARM_UP_TOKENS: usize = 8;
/// Tokens that a contender produces before the next one's turn.
const TOKENS_PER_TURN: usize = 8;

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
    /// Ranks, each of which takes its share of the prompts.
    pub(crate) group: &'a Group,
}

/// A contender's answer to one prompt.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) outcomes: Vec<CycleOutcome>,
    pub(super) slowdowns: Slowdowns,
    pub(crate) output: Vec<u32>,
}

impl Answer {
    /// One that was decoded earlier.
    pub(crate) fn recorded(outcomes: Vec<CycleOutcome>, output: Vec<u32>) -> Self {
        Self { outcomes, output, slowdowns: Slowdowns::default() }
    }
}

/// A contender on its way through a prompt.
enum Runner {
    Decoding(Box<Decoding>),
    /// What went wrong.
    Failed(Error),
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
    /// out. Of several ranks each takes every so-manieth prompt, with all contenders, and all learn
    /// what came of all.
    ///
    /// # Errors
    /// If there was no cycle at all, or a contender fails.
    pub(crate) fn measure(
        &self,
        name: &str,
        contenders: &mut [Contender],
        prompts: &[Prompt],
        limit: Option<Duration>,
    ) -> Result<Vec<Measurement>> {
        let least_prompts = 2usize.div_ceil(self.group.size());
        let mut tally = Tally::new(contenders.iter().map(|contender| contender.name.clone()));
        let mut answered = Vec::new();
        let mut racing: Vec<&mut Contender> = contenders.iter_mut().collect();
        let mut task = self.progress.task(name, prompts.len());
        self.warm_up(&mut racing, &prompts[0].ids)?;
        let (start, runs_on) = (Instant::now(), self.engine.runs_on());
        let share = prompts.iter().enumerate().skip(self.group.rank()).step_by(self.group.size());
        for (index, prompt) in share {
            if answered.len() >= least_prompts && limit.is_some_and(|limit| start.elapsed() > limit) {
                break;
            }
            let sampler = self.sampler.for_sequence(index as u64);
            let answers = self.race(&mut racing, &prompt.ids, &sampler, &self.stop)?;
            self.check_graphs(&runs_on)?;
            let answers = answers.into_iter().collect::<Result<Vec<Answer>>>()?;
            if answers.iter().all(|answer| !answer.outcomes.is_empty()) {
                answered.push((index, answers));
            }
            let by_count = (index + 1) as f64 / prompts.len() as f64;
            let by_time = limit.map_or(0.0, |limit| start.elapsed().as_secs_f64() / limit.as_secs_f64());
            task.update(index + 1, by_count.max(by_time).min(1.0), "prompts");
        }
        for (index, answers) in exchange(self.group, name, answered)? {
            tally.add(index, answers);
        }
        if tally.measured == 0 {
            return Err(Error::NothingMeasured { task: name.to_owned(), prompts: prompts.len() });
        }
        let contenders = count(contenders.len(), "contender");
        task.finish(&format!("{contenders} measured on {}", count(tally.measured, "prompt")));
        Ok(tally.finish())
    }

    /// A few tokens of each, from which nobody learns.
    pub(crate) fn warm_up(&self, contenders: &mut [&mut Contender], prompt: &[u32]) -> Result<()> {
        let states: Vec<serde_json::Value> = contenders.iter().map(|contender| contender.state()).collect();
        let stop = StopRule { max_new_tokens: WARM_UP_TOKENS, eos: Vec::new() };
        self.race(contenders, prompt, &self.sampler, &stop)?;
        for (contender, state) in contenders.iter_mut().zip(&states) {
            contender.restore(state);
        }
        Ok(())
    }

    /// Fails if the engine has given up graphs since it ran on `runs_on`: what was measured before
    /// is of graphs, what comes is not.
    pub(crate) fn check_graphs(&self, runs_on: &str) -> Result<()> {
        if self.engine.runs_on() == runs_on {
            return Ok(());
        }
        let problem = self.engine.late_warning().unwrap_or_default();
        Err(ltd_run::Error::HalfGraphs(problem.to_owned()).into())
    }

    /// All contenders answer one prompt, a few tokens each in turns of random order: what disturbs
    /// the machine for a second disturbs all of them alike, and nobody always runs after the
    /// slowest. One that fails takes no more turns, and the others go on.
    ///
    /// # Errors
    /// If there is a wish to stop.
    pub(crate) fn race(
        &self,
        contenders: &mut [&mut Contender],
        prompt: &[u32],
        sampler: &Sampler,
        stop: &StopRule,
    ) -> Result<Vec<Result<Answer>>> {
        let mut runners = Vec::with_capacity(contenders.len());
        for contender in contenders.iter_mut() {
            self.interrupt.check()?;
            let memory = contender.memory.take();
            let generation = self.engine.generate(prompt, sampler.clone(), stop.clone(), memory);
            runners.push(generation.map_or_else(
                |error| Runner::Failed(error.into()),
                |generation| Runner::Decoding(Box::new(Decoding::new(generation))),
            ));
        }
        // Any order does; the same prompt has the same ones.
        let mut random = ltd_env::stream(prompt.len() as u64, "turns");
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        while runners.iter().any(Runner::is_under_way) {
            order.shuffle(&mut random);
            for &who in &order {
                let Runner::Decoding(decoding) = &mut runners[who] else { continue };
                match self.advance(contenders[who], decoding) {
                    Err(error) if error.is_interrupt() => return Err(error),
                    Err(error) => runners[who] = Runner::Failed(error),
                    Ok(()) => (),
                }
            }
        }
        let finished = runners.into_iter().zip(contenders).map(|(runner, contender)| match runner {
            Runner::Failed(error) => Err(error),
            Runner::Decoding(decoding) => {
                let Decoding { generation, outcomes, slowdowns, .. } = *decoding;
                let output = generation.output();
                contender.memory = Some(generation.into_session());
                Ok(Answer { outcomes, slowdowns, output })
            }
        });
        Ok(finished.collect())
    }

    /// One contender's turn.
    fn advance(&self, contender: &mut Contender, answer: &mut Decoding) -> Result<()> {
        let goal = answer.tokens + TOKENS_PER_TURN;
        while answer.tokens < goal && !answer.finished {
            self.interrupt.check()?;
            let controller = contender.controller.as_deref_mut();
            // A controller may be anybody's. Both of what it could leave half-done end with it.
            let step = AssertUnwindSafe(|| answer.generation.advance(self.engine, controller));
            let step = catch_unwind(step).map_err(|payload| {
                let message = payload.downcast_ref::<String>().cloned();
                let message = message.or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()));
                Error::Panicked { who: contender.name.clone(), message: message.unwrap_or_default() }
            });
            let Some(outcome) = step?? else {
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

/// The answers of all ranks, by number of the prompt. They travel in several messages: there may be
/// many.
fn exchange(
    group: &Group,
    name: &str,
    answered: Vec<(usize, Vec<Answer>)>,
) -> Result<Vec<(usize, Vec<Answer>)>> {
    /// Bytes of a message, if one prompt's answers are not more.
    const AT_A_TIME: usize = 4 << 20;
    if group.size() == 1 {
        return Ok(answered);
    }
    let (what, mut all) = (format!("answers of {name}"), Vec::new());
    let lines = answered.into_iter().map(|answer| {
        let mut line = serde_json::to_vec(&answer).expect("invariant: answers are plain data");
        line.push(b'\n');
        line
    });
    let mut lines = lines.peekable();
    loop {
        let mut part = lines.next().unwrap_or_default();
        while let Some(line) = lines.next_if(|line| part.len() + line.len() <= AT_A_TIME) {
            part.extend(line);
        }
        // Behind the lines, whether there are more of them.
        part.push(u8::from(lines.peek().is_some()));
        let mut more = false;
        for (rank, part) in group.all_gather(&what, part)?.iter().enumerate() {
            let (flag, lines) = part.split_last().unwrap_or((&0, &[]));
            more |= *flag == 1;
            for answer in serde_json::Deserializer::from_slice(lines).into_iter() {
                all.push(answer.map_err(|error| {
                    let (what, problem) = (what.clone(), error.to_string());
                    ltd_distributed::Error::Message { rank, what, problem }
                })?);
            }
        }
        if !more {
            all.sort_by_key(|(index, _)| *index);
            return Ok(all);
        }
    }
}

impl Runner {
    fn is_under_way(&self) -> bool {
        matches!(self, Self::Decoding(decoding) if !decoding.finished)
    }
}

impl Decoding {
    fn new(generation: Generation) -> Self {
        Self {
            generation,
            outcomes: Vec::new(),
            tokens: 0,
            slowdowns: Slowdowns::default(),
            unread: 1,
            finished: false,
        }
    }
}
