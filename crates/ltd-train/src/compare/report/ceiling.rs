//! What was possible: foresight on recordings of the same questions.

use std::path::{Path, PathBuf};

use ltd_env::oracle::{self, Choices, Copies, Horizon, Sources};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Interrupt};
use ltd_policy::LatencyTable;
use serde::Serialize;

use super::part::{Part, rate};
use crate::compare::header::Compared;
use crate::compare::results::Turn;
use crate::evaluate::{Contender, Measurement};
use crate::{Error, Result};

/// Recordings of questions, and what cycles cost.
pub(super) struct Ceilings {
    traces: Vec<(PathBuf, Trace)>,
    table: LatencyTable,
}

/// The best that was possible on one task at one temperature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Ceiling {
    /// Recorded answers of the task's questions.
    pub(super) answers: usize,
    /// Throughput of foresight of source, depth, size and chain over that of the best static
    /// setting, both replayed.
    pub(super) over_static: f64,
}

impl Ceilings {
    /// Reads traces, and the costs to replay them at.
    pub(super) fn read(traces: &[PathBuf], latency: &Path) -> Result<Self> {
        let table = LatencyTable::read(latency)?;
        let read = |folder: &PathBuf| {
            let trace = Trace::read_replayable(folder)?;
            trace.header.models().check(folder, &latency.display().to_string(), &table.identity.models())?;
            Ok((folder.clone(), trace))
        };
        Ok(Self { traces: traces.iter().map(read).collect::<Result<_>>()?, table })
    }

    /// Fails unless each trace is of what was compared, and of a task and temperature of its own.
    pub(super) fn check(&self, compared: &Compared) -> Result<()> {
        let mut taken: Vec<(usize, usize, &Path)> = Vec::new();
        for (folder, trace) in &self.traces {
            let problem =
                |problem: String| Err(Error::Recorded(format!("--trace: {}: {problem}", folder.display())));
            let header = &trace.header;
            if (&header.target.sha256, &header.draft.sha256) != (&compared.target, &compared.draft) {
                return problem("is of other models than the comparison".to_owned());
            }
            for (what, found, least) in [
                ("depth", header.depth, compared.max_depth),
                ("max_new_tokens", header.max_new_tokens, compared.max_new_tokens),
            ] {
                if found < least {
                    return problem(format!(
                        "its {what} is {found}, expected at least {least}, the comparison's"
                    ));
                }
            }
            if header.beam_width != compared.beam_width {
                let (found, expected) = (header.beam_width, compared.beam_width);
                return problem(format!("its beam_width is {found}, expected {expected}, the comparison's"));
            }
            let places = (0..compared.tasks.len())
                .flat_map(|task| (0..compared.samplings.len()).map(move |sampling| (task, sampling)));
            let place = places.into_iter().find(|&(task, sampling)| is_of(trace, compared, task, sampling));
            let Some((task, sampling)) = place else {
                return problem(
                    "has no answer to a question of the comparison: expected the same file of questions, \
                     temperature and seed"
                        .to_owned(),
                );
            };
            if let Some((.., other)) = taken.iter().find(|(other, at, _)| (*other, *at) == (task, sampling)) {
                let other = other.display();
                return problem(format!(
                    "has answers to the same task as {other}: merge them (ltd-trace merge)"
                ));
            }
            taken.push((task, sampling, folder));
        }
        Ok(())
    }

    /// What was possible on a task at a temperature; none without a recording of what was measured.
    pub(super) fn of(
        &self,
        compared: &Compared,
        turns: &[Turn],
        task: usize,
        sampling: usize,
        part: &Part,
    ) -> Result<Option<Ceiling>> {
        let mut recorded =
            self.traces.iter().map(|(_, trace)| answers(trace, compared, turns, task, sampling));
        let Some(trace) = recorded.find(|trace| !trace.is_empty()) else {
            return Ok(None);
        };
        let costs = Costs { model: self.table.model(), decision: self.table.decision };
        let best = compared.contenders.iter().find(|entrant| entrant.name == part.best_static);
        // Where all of them failed, there is nothing to measure foresight against.
        let Some((best, setting)) = best.and_then(|best| Some((best, best.setting?))) else {
            return Ok(None);
        };
        // As foresight, it decides in no time.
        let interrupt = &Interrupt::default();
        let mut best_static = Contender::unchanging(best.name.clone(), setting);
        let measured: Measurement = best_static.replay(&trace, &costs.without_decisions(), interrupt)?;
        let deepest = self.table.level.counts().last().copied().unwrap_or(0).min(trace.header.depth);
        let trees = Choices { depths: (0..=deepest).collect(), sizes: self.table.verify.counts() };
        // A chain of no tokens is plain decoding.
        let chains = std::iter::once(0).chain(trees.sizes.iter().copied()).collect();
        let (copies, sources) = (Copies::of(&trace), Sources { trees, chains });
        let foresight =
            oracle::clairvoyant_source(&trace, &costs, &sources, &copies, Horizon::Sequence, interrupt)?;
        Ok(Some(Ceiling { answers: trace.len(), over_static: foresight / rate(&measured) }))
    }
}

impl Ceiling {
    /// Share of what was possible that a contender leaves, by its throughput over that of the best
    /// static setting.
    pub(super) fn regret(&self, over_static: f64) -> f64 {
        1.0 - over_static / self.over_static
    }

    /// Share of the way from the best static setting to what was possible that it goes; none where
    /// there is none to go.
    pub(super) fn closed(&self, over_static: f64) -> Option<f64> {
        oracle::closed(over_static, 1.0, self.over_static)
    }
}

/// Whether a trace is of a task at a temperature, whether or not the comparison came that far.
fn is_of(trace: &Trace, compared: &Compared, task: usize, sampling: usize) -> bool {
    let sampling = &compared.samplings[sampling];
    let repetitions = 0..compared.repetitions as u64;
    let mut seeds = repetitions.map(|repetition| compared.seed.wrapping_add(repetition));
    let mut answers = trace.outlines().filter(|sequence| !sequence.is_empty());
    compared.tasks[task].file_sha256 == trace.header.questions_sha256
        && trace.header.sampling.is_as(sampling)
        && (sampling.is_greedy() || seeds.any(|seed| answers.clone().any(|answer| answer.seed == seed)))
        && answers.next().is_some()
}

/// Recorded answers to the questions of a task at a temperature that were measured.
fn answers(trace: &Trace, compared: &Compared, turns: &[Turn], task: usize, sampling: usize) -> Trace {
    if !is_of(trace, compared, task, sampling) {
        return trace.part([]);
    }
    let greedy = compared.samplings[sampling].is_greedy();
    let measured = |number: &usize| {
        let sequence = trace.outline(*number);
        !sequence.is_empty()
            && turns.iter().any(|turn| {
                (turn.task, turn.sampling, turn.number) == (task, sampling, 0)
                    && turn.question == u64::from(sequence.prompt)
                    && (greedy || sequence.seed == compared.seed.wrapping_add(turn.repetition as u64))
            })
    };
    trace.part((0..trace.len()).filter(measured)).cut(|_| compared.max_new_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_possible_is_a_ceiling() {
        let ceiling = Ceiling { answers: 3, over_static: 1.5 };
        assert_eq!((ceiling.regret(1.5), ceiling.closed(1.5)), (0.0, Some(1.0)));
        assert_eq!((ceiling.regret(0.75), ceiling.closed(1.25)), (0.5, Some(0.5)));
        let none = Ceiling { answers: 3, over_static: 1.0 };
        assert_eq!(none.closed(0.9), None);
    }
}
