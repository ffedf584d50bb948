//! Decoding prompts, contenders in turns of a few tokens.

use std::time::Duration;

use ltd_engine::{
    Controller, CycleOutcome, CycleStats, Generation, Sampler, Session, Static, StopRule, WholeBeam,
};
use ltd_run::Progress;
use rand::seq::SliceRandom;

use super::spread::Spread;
use super::subject::Subject;
use crate::error::Result;

/// Cycles or plain steps that a contender makes in a row.
const TURN: usize = 4;
/// Cycles of each contender before any is counted.
const WARM_UP: usize = 4;

/// A way to decode and what was measured of it.
pub(super) struct Contender {
    tree: Option<Static>,
    times: Vec<Duration>,
    stats: CycleStats,
}

impl Contender {
    /// Cycles with a fixed tree, or plain decoding without one.
    pub(super) fn new(tree: Option<Static>) -> Self {
        Self { tree, times: Vec::new(), stats: CycleStats::default() }
    }

    pub(super) fn tree(&self) -> Option<Static> {
        self.tree
    }

    pub(super) fn stats(&self) -> &CycleStats {
        &self.stats
    }

    /// Milliseconds of a cycle or a plain step.
    pub(super) fn cycle_ms(&self) -> Spread {
        Spread::of_ms(self.times.iter().copied())
    }

    fn step(&mut self, subject: &Subject, answer: &mut Generation) -> Result<Option<CycleOutcome>> {
        // Cycles as EAGLE-3's.
        let mut tree = self.tree.map(WholeBeam);
        let controller = tree.as_mut().map(|tree| tree as &mut dyn Controller);
        Ok(answer.advance(&subject.engine, controller)?)
    }

    fn timed_step(&mut self, subject: &Subject, answer: &mut Generation) -> Result<()> {
        if let Some(outcome) = self.step(subject, answer)? {
            self.times.push(outcome.timing.total());
            self.stats.add(&outcome);
        }
        Ok(())
    }

    /// Runs a few cycles that are not counted, and leaves the memory they used.
    fn warm_up(&mut self, subject: &Subject) -> Result<Session> {
        let endless = StopRule { max_new_tokens: usize::MAX, eos: Vec::new() };
        let mut answer = subject.engine.generate(&subject.prompts[0], Sampler::greedy(), endless, None)?;
        for _ in 0..WARM_UP {
            self.step(subject, &mut answer)?;
        }
        Ok(answer.into_session())
    }
}

/// All contenders decode all prompts, `max_new_tokens` each at most.
pub(super) fn decode(
    subject: &Subject,
    contenders: &mut [Contender],
    max_new_tokens: usize,
    progress: Progress,
) -> Result<()> {
    let stop = StopRule { max_new_tokens, eos: subject.eos.clone() };
    let mut random = ltd_env::stream(0, "turns");
    let mut task = progress.task("decoding", subject.prompts.len());
    let warm_up = contenders.iter_mut().map(|contender| contender.warm_up(subject).map(Some));
    let mut recycled: Vec<Option<Session>> = warm_up.collect::<Result<_>>()?;
    for (done, prompt) in subject.prompts.iter().enumerate() {
        let answers = recycled
            .iter_mut()
            .map(|memory| subject.engine.generate(prompt, Sampler::greedy(), stop.clone(), memory.take()));
        let mut answers: Vec<Generation> = answers.collect::<ltd_engine::Result<_>>()?;
        let mut unfinished: Vec<usize> = (0..contenders.len()).collect();
        while !unfinished.is_empty() {
            unfinished.shuffle(&mut random);
            for &index in &unfinished {
                for _ in 0..TURN {
                    contenders[index].timed_step(subject, &mut answers[index])?;
                }
            }
            unfinished.retain(|&index| answers[index].ended().is_none());
        }
        recycled = answers.into_iter().map(|answer| Some(answer.into_session())).collect();
        let share = (done + 1) as f64 / subject.prompts.len() as f64;
        task.update(done + 1, share, "prompts");
    }
    task.finish(&format!("{} prompts", subject.prompts.len()));
    Ok(())
}
