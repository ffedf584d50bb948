//! What contenders made of prompts.

use std::collections::BTreeMap;

use ltd_engine::{CycleOutcome, CycleStats};
use ltd_env::oracle;

use super::{Answer, BeforeLoops, Measurement};

/// What contenders made of the prompts so far. Whether they were measured now or read from a file
/// makes no difference.
pub(crate) struct Tally {
    measurements: Vec<Measurement>,
    /// Where a question's cycles are, and of how many answers.
    places: BTreeMap<usize, (usize, usize)>,
    /// Cycles before the first loop, of the questions that have one, for each contender.
    cut_prompts: Vec<Vec<CycleStats>>,
    /// Where a question's are.
    cut_places: BTreeMap<usize, usize>,
    /// Answers that count.
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
        Self {
            measurements,
            places: BTreeMap::new(),
            cut_prompts,
            cut_places: BTreeMap::new(),
            measured: 0,
            said: 0,
            looping: 0,
        }
    }

    /// Adds the answers to a prompt of a question, in the order of the contenders. They do not
    /// count if one of them ended before its first cycle. Turns and repetitions of a question are
    /// one sample: they are not independent.
    pub(crate) fn add(&mut self, question: usize, answers: Vec<Answer>) {
        if answers.iter().any(|answer| answer.outcomes.is_empty()) {
            return;
        }
        self.measured += 1;
        let reference = answers[0].output.clone();
        self.said += reference.len();
        let (cut, in_loops) = before_loop(&reference);
        self.looping += in_loops;
        let fresh = self.places.len();
        let (place, answered) = self.places.entry(question).or_insert((fresh, 0));
        *answered += 1;
        let place = *place;
        let fresh = self.cut_places.len();
        let cut_place = (cut > 0).then(|| *self.cut_places.entry(question).or_insert(fresh));
        for ((measurement, cuts), answer) in
            self.measurements.iter_mut().zip(&mut self.cut_prompts).zip(answers)
        {
            let Answer { outcomes, slowdowns, output } = answer;
            let mut stats = CycleStats::default();
            for outcome in &outcomes {
                stats.add(outcome);
            }
            // What the last cycle yields behind the end of the answer is thrown away: who copies
            // long chains would gain by it.
            stats.tokens = stats.tokens.min(output.len());
            merge_at(&mut measurement.prompts, place, stats);
            if let Some(place) = cut_place {
                merge_at(cuts, place, until(&outcomes, cut));
            }
            measurement.waits.extend(outcomes.iter().map(|outcome| outcome.timing.total()));
            measurement.slowdowns.merge(slowdowns);
            measurement.same_output += usize::from(output == reference);
        }
    }

    /// Questions, ascending, with the number of their answers.
    pub(crate) fn asked(&self) -> Vec<(usize, usize)> {
        self.places.iter().map(|(question, (_, answers))| (*question, *answers)).collect()
    }

    /// All of it, by ascending questions.
    pub(crate) fn finish(self) -> Vec<Measurement> {
        let order: Vec<usize> = self.places.values().map(|(place, _)| *place).collect();
        let cut_order: Vec<usize> = self.cut_places.values().copied().collect();
        let share = self.looping as f64 / self.said.max(1) as f64;
        let cut_prompts = self.cut_prompts.into_iter();
        let with_cut = self.measurements.into_iter().zip(cut_prompts).map(|(mut measurement, prompts)| {
            measurement.prompts = ordered(&order, &measurement.prompts);
            let prompts = ordered(&cut_order, &prompts);
            let before_loops =
                (self.looping > 0 && !prompts.is_empty()).then_some(BeforeLoops { share, prompts });
            Measurement { before_loops, ..measurement }
        });
        with_cut.collect()
    }
}

/// What is at each of some places, which are all there are.
fn ordered(places: &[usize], stats: &[CycleStats]) -> Vec<CycleStats> {
    places.iter().map(|&place| stats[place].clone()).collect()
}

/// Adds to the statistics at a place, which is there or the next.
fn merge_at(all: &mut Vec<CycleStats>, place: usize, stats: CycleStats) {
    match all.get_mut(place) {
        Some(there) => there.merge(&stats),
        None => all.push(stats),
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
    fn turns_and_repetitions_of_a_question_are_one_sample() {
        let answer = |tokens: usize, ms| Answer {
            outcomes: vec![CycleOutcome {
                accepted_ids: vec![0; tokens],
                timing: CycleTiming { verify: Duration::from_millis(ms), ..CycleTiming::default() },
                ..CycleOutcome::default()
            }],
            // One token of the cycle is behind the end.
            output: vec![tokens as u32; tokens - 1],
            ..Answer::default()
        };
        let mut tally = Tally::new(["ar", "other"].map(str::to_owned));
        for (question, tokens, ms) in [(7, 3, 30), (2, 4, 10), (7, 5, 50)] {
            tally.add(question, vec![answer(tokens, ms), answer(tokens, ms / 2)]);
        }
        tally.add(9, vec![Answer::default(), answer(1, 1)]);
        assert_eq!((tally.measured, tally.asked()), (3, vec![(2, 1), (7, 2)]));
        let measured = tally.finish();
        let found: Vec<(usize, usize, u128)> = measured[1]
            .prompts
            .iter()
            .map(|stats| (stats.cycles, stats.tokens, stats.timing.total().as_millis()))
            .collect();
        assert_eq!(found, [(1, 3, 5), (2, 2 + 4, 40)]);
        assert_eq!((measured[1].same_output, measured[1].waits.len()), (3, 3));
    }

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
