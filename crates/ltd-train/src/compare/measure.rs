//! All contenders on all questions, into the results.

use std::time::{Duration, Instant};

use ltd_console::count;
use ltd_engine::text::TextModel;
use ltd_engine::{Sampler, SamplingParams};

use super::plan::{Case, Conversation, Task, plan};
use super::results::{AnswerLine, Follows, Results, Turn};
use crate::evaluate::{Arena, Contender};
use crate::{Error, Result};

/// Fewest questions that are asked, whatever the time.
const LEAST_CASES: usize = 2;

/// What is asked, and how.
pub(super) struct Questions<'a> {
    pub(super) tasks: &'a [Task],
    pub(super) samplings: &'a [SamplingParams],
    pub(super) repetitions: usize,
    pub(super) seed: u64,
    pub(super) text: &'a TextModel,
}

/// A contender in the race, until it fails.
struct Lane {
    contender: Contender,
    failed: Option<String>,
}

impl Questions<'_> {
    /// Lets all contenders answer the questions with the numbers `own`, or as many as fit in
    /// `limit`, and keeps every turn. What is there already is not decoded again. A contender that
    /// fails takes no further part.
    ///
    /// # Errors
    /// If plain decoding fails, or there was no cycle at all though there are questions.
    pub(super) fn measure(
        &self,
        arena: &Arena,
        contenders: Vec<Contender>,
        own: impl Iterator<Item = usize>,
        limit: Option<Duration>,
        results: &mut Results,
    ) -> Result<()> {
        let mut lanes: Vec<Lane> =
            contenders.into_iter().map(|contender| Lane { contender, failed: None }).collect();
        let questions: Vec<usize> = self.tasks.iter().map(|task| task.conversations.len()).collect();
        let cases = plan(&questions, self.samplings.len(), self.repetitions, self.seed);
        self.check(&cases, results)?;
        let own: Vec<usize> = own.collect();
        if own.is_empty() {
            return Ok(());
        }
        let (due, mut answers) = resume(&mut lanes, results, self.text)?;
        let mut next = own.partition_point(|number| *number < due);
        let mut task = arena.progress.task("comparison", own.len());
        if next < own.len() {
            arena.warm_up(&mut racing(&mut lanes), &self.tasks[0].conversations[0].first)?;
        }
        let (start, runs_on, begun) = (Instant::now(), arena.engine.runs_on(), next);
        while let Some(&number) = own.get(next) {
            if answers.is_empty() && next >= LEAST_CASES && limit.is_some_and(|limit| start.elapsed() > limit)
            {
                break;
            }
            let turn = self.turn(arena, cases[number], number, &answers, &mut lanes)?;
            arena.check_graphs(&runs_on)?;
            if turn.follows == Follows::Turn {
                answers.push(self.text.decode(turn.said())?);
            } else {
                answers.clear();
                next += 1;
            }
            results.add(turn)?;
            let done = (next - begun) as f64 / (own.len() - begun) as f64;
            let by_time = limit.map_or(0.0, |limit| start.elapsed().as_secs_f64() / limit.as_secs_f64());
            task.update(next, done.max(by_time).min(1.0), "questions");
        }
        let measured = results.turns.iter().any(Turn::counts);
        if !measured {
            return Err(Error::NothingMeasured { task: "comparison".to_owned(), prompts: next });
        }
        task.finish(&format!("{} on {}", count(lanes.len(), "contender"), count(next, "question")));
        if next < own.len() {
            let (all, goes_on) =
                (own.len(), if results.are_kept() { ": the same command goes on" } else { "" });
            arena.progress.say(&format!("ended by --max-minutes after {next} of {all} questions{goes_on}"));
        }
        Ok(())
    }

    /// Fails unless what was measured is of the questions that are asked.
    fn check(&self, cases: &[Case], results: &Results) -> Result<()> {
        for turn in &results.turns {
            let Case { task, conversation, .. } = cases[turn.case];
            let asked = &self.tasks[task].conversations[conversation];
            if (turn.question, &turn.id) != (asked.number, &asked.id) {
                let (found, expected) = (&turn.id, &asked.id);
                let what = format!("case {} is question {found}, expected {expected}", turn.case);
                return Err(results.damaged(&what));
            }
        }
        Ok(())
    }

    /// One turn of a question by all that have not failed.
    fn turn(
        &self,
        arena: &Arena,
        case: Case,
        number: usize,
        answers: &[String],
        lanes: &mut [Lane],
    ) -> Result<Turn> {
        let conversation = &self.tasks[case.task].conversations[case.conversation];
        let prompt = conversation.turn(answers, self.text, arena.engine, &arena.stop)?;
        let Some(prompt) = prompt else {
            let (id, turn) = (&conversation.id, answers.len() + 1);
            let problem = format!("the results tell of turn {turn} of question {id}, which there is not");
            return Err(Error::Recorded(problem));
        };
        let sampler =
            Sampler::new(self.samplings[case.sampling], self.seed.wrapping_add(case.repetition as u64))?;
        let sampler = sampler.for_sequence(conversation.number);
        let mut raced = arena.race(&mut racing(lanes), &prompt, &sampler, &arena.stop)?.into_iter();
        let mut told = Vec::with_capacity(lanes.len());
        for (index, lane) in lanes.iter_mut().enumerate() {
            let answer = match lane.failed.clone() {
                Some(why) => Err(why),
                None => match raced.next().expect("invariant: all that have not failed raced") {
                    // Without it there is nothing to compare with.
                    Err(error) if index == 0 => return Err(error),
                    Err(error) => {
                        arena.progress.say(&format!(
                            "warning: {} failed and takes no further part: {error}; a file of its own can have \
                             it once more",
                            lane.contender.name
                        ));
                        let why = error.to_string();
                        lane.failed = Some(why.clone());
                        Err(why)
                    }
                    Ok(answer) => Ok(answer),
                },
            };
            told.push(AnswerLine::new(answer, lane.contender.state()));
        }
        let mut turn = Turn {
            case: number,
            number: answers.len(),
            task: case.task,
            question: conversation.number,
            id: conversation.id.clone(),
            category: conversation.category.clone(),
            sampling: case.sampling,
            repetition: case.repetition,
            prompt_tokens: prompt.len(),
            follows: Follows::Question,
            pieces: Vec::new(),
            answers: told,
        };
        turn.pieces = self.text.pieces(turn.said())?;
        turn.follows = self.follows(arena, conversation, answers, &turn)?;
        Ok(turn)
    }

    /// What comes after a turn.
    fn follows(
        &self,
        arena: &Arena,
        conversation: &Conversation,
        answers: &[String],
        turn: &Turn,
    ) -> Result<Follows> {
        let answers = [answers, &[self.text.decode(turn.said())?]].concat();
        if !conversation.goes_on(answers.len()) {
            return Ok(Follows::Question);
        }
        let next = conversation.turn(&answers, self.text, arena.engine, &arena.stop)?;
        Ok(if next.is_some() { Follows::Turn } else { Follows::NoRoom })
    }
}

/// Returns the contenders to where the results leave them. The next case, and the answers of its
/// turns that are there.
fn resume(lanes: &mut [Lane], results: &Results, text: &TextModel) -> Result<(usize, Vec<String>)> {
    let Some(last) = results.turns.last() else { return Ok((0, Vec::new())) };
    for (place, (lane, state)) in lanes.iter_mut().zip(last.states()).enumerate() {
        lane.contender.restore(state);
        lane.failed = last.failure(place).map(str::to_owned);
        if lane.contender.state() != *state {
            return Err(results.damaged(&format!("no state of {}", lane.contender.name)));
        }
    }
    if last.follows != Follows::Turn {
        return Ok((last.case + 1, Vec::new()));
    }
    let turns = results.turns.iter().filter(|turn| turn.case == last.case);
    let answers = turns.map(|turn| Ok(text.decode(turn.said())?));
    Ok((last.case, answers.collect::<Result<_>>()?))
}

/// Those that have not failed.
fn racing(lanes: &mut [Lane]) -> Vec<&mut Contender> {
    let racing = lanes.iter_mut().filter(|lane| lane.failed.is_none());
    racing.map(|lane| &mut lane.contender).collect()
}

#[cfg(test)]
mod tests {
    use ltd_distributed::Group;
    use ltd_engine::{Controller, DtypeSetting, Engine, EngineConfig, StopRule};
    use ltd_policy::CycleSummary;
    use ltd_run::config::{PromptSet, StaticSetting};
    use ltd_run::{Interrupt, Progress};

    use super::*;

    /// Breaks after some cycles.
    struct Fragile(usize);

    impl Controller for Fragile {
        fn begin_cycle(&mut self) {
            assert!(self.0 > 0, "no cycle is left of those it had");
            self.0 -= 1;
        }

        fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
            summary.draft_depth < 1
        }

        fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
            4
        }

        fn state(&self) -> serde_json::Value {
            self.0.into()
        }

        fn restore(&mut self, state: &serde_json::Value) {
            self.0 = state.as_u64().map_or(self.0, |left| left as usize);
        }
    }

    #[test]
    fn who_fails_is_told_and_the_others_go_on() {
        let tiny = |part: &str| {
            std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../../tests/fixtures/tiny-pair")
                .join(part)
        };
        let config = EngineConfig::new(tiny("target"), tiny("draft"));
        let config = EngineConfig { dtype: DtypeSetting::F32, ..config };
        let text = TextModel::of(&config).expect("a text model");
        let engine = Engine::open(&config, &text).expect("an engine");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("q.jsonl");
        let lines = [[5, 6, 7], [8, 9, 10], [40, 90, 120]].map(|ids| format!("{{\"token_ids\": {ids:?}}}\n"));
        std::fs::write(&file, lines.concat()).expect("written");
        let set = PromptSet { file, skip: 0, take: None };
        let (task, left_out) = Task::read(&set, &text, &engine, 24).expect("a task");
        assert_eq!(left_out, None);
        let interrupt = Interrupt::default();
        let arena = Arena {
            engine: &engine,
            stop: StopRule { max_new_tokens: 24, eos: Vec::new() },
            sampler: Sampler::new(SamplingParams::default(), 0).expect("a sampler"),
            costs: None,
            interrupt: &interrupt,
            progress: Progress::Silent,
            group: &Group::alone(),
        };
        let questions = Questions {
            tasks: &[task],
            samplings: &[SamplingParams::default()],
            repetitions: 1,
            seed: 3,
            text: &text,
        };
        let contenders = |cycles: usize| {
            vec![
                Contender::autoregressive(),
                Contender::new("fragile", Box::new(Fragile(cycles))),
                Contender::fixed("constant", StaticSetting { depth: 1, size: 4 }.into()),
            ]
        };
        let mut results = Results::passing();
        questions.measure(&arena, contenders(1000), 0..3, None, &mut results).expect("all can");
        let cycles = |turn: &Turn| turn.answers[1].cycles();
        let first = cycles(&results.turns[0]);
        assert!(first > 2 && results.turns.iter().all(|turn| turn.failure(1).is_none()));
        assert_eq!(
            results.turns[0].states().nth(1),
            Some(&(1000 - first).into()),
            "the warm-up does not count"
        );

        // It breaks within the second question.
        let mut results = Results::passing();
        questions.measure(&arena, contenders(first + 2), 0..3, None, &mut results).expect("the others can");
        let why = "fragile panicked: no cycle is left of those it had";
        let told: Vec<Option<&str>> = results.turns.iter().map(|turn| turn.failure(1)).collect();
        assert_eq!(told, [None, Some(why), Some(why)]);
        for turn in &results.turns {
            let answer = turn.answer(2).expect("it did not fail");
            assert_eq!((answer.output.len(), &answer.output[..]), (24, turn.said()));
            assert!(turn.counts());
        }

        // Where it is gone on with, it stays out.
        let last = results.turns.pop().expect("a turn");
        questions.measure(&arena, contenders(1000), 0..3, None, &mut results).expect("the others can");
        assert_eq!(results.turns[2].failure(1), Some(why));
        assert_eq!(results.turns[2].said(), last.said());
        // And nothing can be compared without plain decoding.
        let mut broken = contenders(1000);
        broken.swap(0, 1);
        broken[0] = Contender::new("fragile", Box::new(Fragile(1)));
        let error =
            questions.measure(&arena, broken, 0..3, None, &mut Results::passing()).expect_err("it fails");
        assert!(error.to_string().contains("fragile panicked"), "{error}");
    }
}
