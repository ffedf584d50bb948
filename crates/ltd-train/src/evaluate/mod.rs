//! Measuring ways to decode against each other: same process, same prompts, prompt by prompt in turn.

mod statistics;
mod summary;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ltd_engine::text::Prompt;
use ltd_engine::{Controller, CycleOutcome, CycleStats, Engine, Session, Static, StopRule};
use ltd_policy::CycleSummary;

pub(crate) use statistics::interval;
pub(crate) use summary::{Comparison, GridPoint, Summary};

use crate::Result;
use crate::config::StaticSetting;
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// Tokens that each contender decodes before anything is measured.
const WARM_UP_TOKENS: usize = 12;

/// A way to decode.
pub(crate) struct Contender {
    pub(crate) name: String,
    /// Who steers; nobody in plain decoding.
    controller: Option<Watched>,
}

impl Contender {
    /// Plain autoregressive decoding.
    pub(crate) fn autoregressive() -> Self {
        Self { name: "ar".to_owned(), controller: None }
    }

    /// Decoding under a controller.
    pub(crate) fn new(name: impl Into<String>, controller: Box<dyn Controller>) -> Self {
        let watched = Watched { controller, depths: BTreeSet::new(), sizes: BTreeSet::new() };
        Self { name: name.into(), controller: Some(watched) }
    }

    /// Decoding with trees of one shape.
    pub(crate) fn constant(name: impl Into<String>, setting: StaticSetting) -> Self {
        Self::new(name, Box::new(Static { depth: setting.depth, size: setting.size }))
    }
}

/// A controller, and what it chose: a constant is found by its choices, not by what a small tree made of them.
struct Watched {
    controller: Box<dyn Controller>,
    depths: BTreeSet<usize>,
    sizes: BTreeSet<usize>,
}

impl Controller for Watched {
    fn begin_cycle(&mut self) {
        self.controller.begin_cycle();
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        self.controller.continue_drafting(summary)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        let size = self.controller.verification_size(summary);
        self.depths.insert(summary.draft_depth);
        self.sizes.insert(size);
        size
    }

    fn observe(&mut self, outcome: &CycleOutcome) {
        self.controller.observe(outcome);
    }
}

/// What a contender did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measurement {
    pub(crate) name: String,
    /// Its cycles on each prompt.
    pub(crate) prompts: Vec<CycleStats>,
    /// Prompts whose output equals the first contender's, token for token.
    pub(crate) same_output: usize,
    /// Depths that were chosen.
    pub(crate) depths: BTreeSet<usize>,
    /// Sizes that were chosen.
    pub(crate) sizes: BTreeSet<usize>,
}

impl Measurement {
    /// All its cycles.
    pub(crate) fn total(&self) -> CycleStats {
        let mut total = CycleStats::default();
        for prompt in &self.prompts {
            total.merge(prompt);
        }
        total
    }
}

/// Where contenders are measured.
pub(crate) struct Arena<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) stop: StopRule,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) progress: Progress,
}

impl Arena<'_> {
    /// Lets all contenders decode all prompts, or as many as fit in `max_minutes` (two at least). Nothing if it was
    /// interrupted.
    pub(crate) fn measure(
        &self,
        task: &str,
        contenders: &mut [Contender],
        prompts: &[Prompt],
        max_minutes: Option<f64>,
    ) -> Result<Option<Vec<Measurement>>> {
        const LEAST_PROMPTS: usize = 2;
        let named =
            |contender: &Contender| Measurement { name: contender.name.clone(), ..Measurement::default() };
        let mut measurements: Vec<Measurement> = contenders.iter().map(named).collect();
        let mut task = self.progress.task(task, prompts.len() * contenders.len());
        let mut recycled = None;
        self.warm_up(contenders, &prompts[0], &mut recycled)?;
        let limit = max_minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        let start = Instant::now();
        for (index, prompt) in prompts.iter().enumerate() {
            let over = limit.is_some_and(|limit| start.elapsed() > limit);
            if over && index >= LEAST_PROMPTS {
                break;
            }
            let mut outputs = vec![Vec::new(); contenders.len()];
            for turn in 0..contenders.len() {
                if self.interrupt.requested() {
                    return Ok(None);
                }
                // Another one goes first each time: none always decodes after the slowest.
                let who = (turn + index) % contenders.len();
                let (stats, output) = self.decode(&mut contenders[who], prompt, &self.stop, &mut recycled)?;
                measurements[who].prompts.push(stats);
                outputs[who] = output;
                let done = index * contenders.len() + turn + 1;
                let by_count = done as f64 / (prompts.len() * contenders.len()) as f64;
                let by_time = limit.map_or(0.0, |limit| start.elapsed().as_secs_f64() / limit.as_secs_f64());
                task.update(done, by_count.max(by_time).min(1.0), &contenders[who].name);
            }
            for (measurement, output) in measurements.iter_mut().zip(&outputs) {
                measurement.same_output += usize::from(*output == outputs[0]);
            }
        }
        for (measurement, contender) in measurements.iter_mut().zip(contenders) {
            if let Some(watched) = &contender.controller {
                measurement.depths.clone_from(&watched.depths);
                measurement.sizes.clone_from(&watched.sizes);
            }
        }
        let decoded = measurements[0].prompts.len();
        task.finish(&format!("{} contenders measured on {decoded} prompts", measurements.len()));
        Ok(Some(measurements))
    }

    fn warm_up(
        &self,
        contenders: &mut [Contender],
        prompt: &Prompt,
        recycled: &mut Option<Session>,
    ) -> Result<()> {
        let stop = StopRule { max_new_tokens: WARM_UP_TOKENS, eos: Vec::new() };
        for contender in contenders {
            self.decode(contender, prompt, &stop, recycled)?;
        }
        Ok(())
    }

    fn decode(
        &self,
        contender: &mut Contender,
        prompt: &Prompt,
        stop: &StopRule,
        recycled: &mut Option<Session>,
    ) -> Result<(CycleStats, Vec<u32>)> {
        let mut session = self.engine.prefill(&prompt.ids, recycled.take())?;
        let mut stats = CycleStats::default();
        while stop.reached(&session, prompt.ids.len()).is_none() {
            let controller = contender.controller.as_mut().map(|watched| watched as &mut dyn Controller);
            stats.add(&self.engine.step(&mut session, controller)?);
        }
        let output = stop.output(&session, prompt.ids.len());
        *recycled = Some(session);
        Ok((stats, output))
    }
}
