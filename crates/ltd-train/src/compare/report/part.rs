//! What contenders made of one task at one temperature.

use std::collections::BTreeMap;

use ltd_engine::{CycleStats, SamplingParams};
use ltd_policy::DraftSource;
use ltd_run::statistics::{CONFIDENCE, Resampled};
use serde::Serialize;

use super::ceiling::Ceiling;
use crate::compare::header::{Compared, Role};
use crate::compare::results::{Follows, Turn};
use crate::evaluate::{Answer, Comparison, Measurement, Opposition, Tally, percent};

/// One task at one temperature.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) task: String,
    pub(super) sampling: SamplingParams,
    /// Questions that were measured.
    pub(super) questions: usize,
    /// Answers of each contender to them: turns and repetitions.
    pub(super) answers: usize,
    /// Questions that ended early: their next turn does not fit the caches.
    pub(super) ended_early: usize,
    /// The constant that the others are measured against: the fastest here, `ar` where none was
    /// measured to the end.
    pub(super) best_constant: String,
    /// The rule of copies that the others are measured against: the fastest here; `null` without
    /// one.
    pub(super) best_copy_rule: Option<String>,
    /// The fastest of all that decide nothing: constants and fixed rules of copies, published ones
    /// included.
    pub(super) best_static: String,
    /// Share of plain decoding's tokens that are in loops.
    pub(super) loop_share: f64,
    pub(super) contenders: Vec<Row>,
    /// What was possible; `null` without a recording.
    pub(super) ceiling: Option<Ceiling>,
    /// What each policy gains over the fastest published rule; empty without one.
    pub(super) over_published: Vec<Gain>,
    /// Categories of the questions, if there are several.
    pub(super) categories: Vec<Category>,
    /// The cycles of each contender, question by question.
    #[serde(skip)]
    pub(super) measured: Vec<Measurement>,
    /// Places of the questions in their file, ascending, and how many answers each has.
    #[serde(skip)]
    pub(super) asked: Vec<(usize, usize)>,
}

/// A contender in a part.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) comparison: Comparison,
    /// Throughput over that of the best static setting.
    pub(super) over_static: Ratio,
    /// Share of the throughput that was possible which it leaves; `null` without a recording.
    pub(super) regret: Option<f64>,
    /// Share of the way from the best static setting to what was possible that it goes.
    pub(super) closed: Option<f64>,
    /// Cycles with a tree by draft depth.
    pub(super) depths: BTreeMap<usize, usize>,
    /// Cycles by candidates verified.
    pub(super) sizes: BTreeMap<usize, usize>,
    /// Cycles by what they drafted from.
    pub(super) sources: Sources,
}

/// Cycles by what they drafted from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sources {
    pub(super) tree: usize,
    pub(super) copy: usize,
    pub(super) merged: usize,
    /// Steps of plain decoding.
    pub(super) none: usize,
}

/// A throughput over another one on the same questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Ratio {
    pub(super) value: f64,
    /// 95 % interval of it (bootstrap over questions, both together).
    pub(super) interval: [f64; 2],
    /// The interval with Bonferroni's correction for all contenders of the comparison.
    pub(super) corrected: [f64; 2],
    /// Questions that it is of.
    pub(super) questions: usize,
    /// Those of the task that has fewest.
    pub(super) fewest: usize,
    /// Whether one is faster than the other, as far as the corrected interval tells.
    pub(super) sure: bool,
}

/// Fewest questions of which an interval that is drawn from them tells that a gain is no chance.
pub(super) const FEWEST_QUESTIONS: usize = 10;
/// And of each task, where it is a mean over tasks.
pub(super) const FEWEST_OF_A_TASK: usize = 5;

/// How much faster a contender is than another one.
#[derive(Debug, Serialize)]
pub(super) struct Gain {
    pub(super) of: String,
    pub(super) over: String,
    pub(super) ratio: Ratio,
}

/// What contenders made of one category of questions.
#[derive(Debug, Serialize)]
pub(super) struct Category {
    pub(super) name: String,
    pub(super) questions: usize,
    /// In the order of the contenders.
    pub(super) contenders: Vec<CategoryRow>,
}

/// A contender in a category.
#[derive(Debug, Serialize)]
pub(super) struct CategoryRow {
    pub(super) tokens_per_second: f64,
    /// Throughput over plain decoding's.
    pub(super) speedup: f64,
    pub(super) acceptance_length: f64,
}

impl Ratio {
    /// What a contender is over another, one of `comparisons` such ratios.
    pub(super) fn of(of: &Measurement, over: &Measurement, comparisons: usize) -> Self {
        Self::mean(&[(of, over)], comparisons)
    }

    /// Mean over tasks of what a contender is over another, one of `comparisons` such ratios.
    pub(super) fn mean(tasks: &[(&Measurement, &Measurement)], comparisons: usize) -> Self {
        let prompts: Vec<_> = tasks.iter().map(|(of, over)| (&of.prompts[..], &over.prompts[..])).collect();
        let resampled = Resampled::mean_ratio(&prompts);
        let sum: f64 = tasks.iter().map(|(of, over)| rate(of) / rate(over)).sum();
        let corrected @ (low, high) = resampled.interval(corrected_confidence(comparisons));
        let questions = prompts.iter().map(|(of, _)| of.len()).sum();
        let fewest = prompts.iter().map(|(of, _)| of.len()).min().unwrap_or(0);
        let enough = questions >= FEWEST_QUESTIONS && fewest >= FEWEST_OF_A_TASK;
        Self {
            value: sum / tasks.len() as f64,
            interval: resampled.interval(CONFIDENCE).into(),
            corrected: corrected.into(),
            questions,
            fewest,
            sure: enough && (low > 1.0 || high < 1.0),
        }
    }

    /// In words, with a star where the corrected interval leaves out that both are equal.
    pub(super) fn percent(&self) -> String {
        let [low, high] = self.interval.map(percent);
        let star = if self.sure { "*" } else { "" };
        format!("{} % ({low} .. {high}){star}", percent(self.value))
    }
}

/// The confidence of each of some intervals with which all are right as often as one of 95 %
/// (Bonferroni).
fn corrected_confidence(comparisons: usize) -> f64 {
    1.0 - (1.0 - CONFIDENCE) / comparisons.max(1) as f64
}

impl Part {
    /// What `turns` say, those of one task at one temperature, of the contenders at `places`; none
    /// if nothing was measured.
    pub(super) fn of(
        compared: &Compared,
        turns: &[&Turn],
        task: usize,
        sampling: usize,
        places: &[usize],
    ) -> Option<Self> {
        let roles: Vec<Role> = places.iter().map(|&place| compared.contenders[place].role).collect();
        let tally = tally(compared, turns, places);
        let (answers, asked) = (tally.measured, tally.asked());
        if answers == 0 {
            return None;
        }
        let measured = tally.finish();
        let fastest = |wanted: &[Role]| {
            let those = roles.iter().zip(&measured).filter(|(role, _)| wanted.contains(role));
            those.map(|(_, measured)| measured).max_by(|a, b| rate(a).total_cmp(&rate(b)))
        };
        // Where all of a kind failed, plain decoding is what is left to be measured against.
        let (constant, rule) = (fastest(&[Role::Constant]).unwrap_or(&measured[0]), fastest(&[Role::Rule]));
        let unchanging = places.iter().zip(&measured);
        let unchanging = unchanging.filter(|(place, _)| compared.contenders[**place].setting.is_some());
        let best_static = unchanging.map(|(_, measured)| measured).max_by(|a, b| rate(a).total_cmp(&rate(b)));
        let best_static = best_static.unwrap_or(&measured[0]);
        let policies = roles.iter().zip(&measured).filter(|(role, _)| **role == Role::Policy);
        let comparisons = compared.contenders.len() - 1;
        let gain = |of: &Measurement, over: &Measurement| {
            let ratio = Ratio::of(of, over, comparisons);
            Gain { of: of.name.clone(), over: over.name.clone(), ratio }
        };
        let over_published = fastest(&[Role::Published])
            .map(|published| policies.map(|(_, policy)| gain(policy, published)).collect::<Vec<_>>());
        let opposition = Opposition { plain: &measured[0], constant, rule };
        let mut sources = vec![Sources::default(); places.len()];
        for turn in turns {
            let answers = places.iter().filter_map(|&place| turn.answer(place));
            for (sources, answer) in sources.iter_mut().zip(answers) {
                sources.add(&answer);
            }
        }
        let row = |(measurement, sources): (&Measurement, Sources)| {
            let total = measurement.total();
            Row {
                comparison: Comparison::new(measurement, opposition),
                over_static: Ratio::of(measurement, best_static, comparisons),
                regret: None,
                closed: None,
                depths: total.depths,
                sizes: total.sizes,
                sources,
            }
        };
        Some(Self {
            task: compared.tasks[task].name.clone(),
            sampling: compared.samplings[sampling],
            questions: measured[0].prompts.len(),
            answers,
            ended_early: turns.iter().filter(|turn| turn.follows == Follows::NoRoom).count(),
            best_constant: constant.name.clone(),
            best_copy_rule: rule.map(|rule| rule.name.clone()),
            best_static: best_static.name.clone(),
            ceiling: None,
            loop_share: measured[0].loop_share(),
            contenders: measured.iter().zip(sources).map(row).collect(),
            over_published: over_published.unwrap_or_default(),
            categories: categories(compared, turns, places),
            measured,
            asked,
        })
    }

    /// Task and temperature, in words.
    pub(super) fn title(&self) -> String {
        format!("{}, {}", self.task, self.sampling)
    }

    /// The contender of a name.
    pub(super) fn measured(&self, name: &str) -> Option<&Measurement> {
        self.measured.iter().find(|measured| measured.name == name)
    }
}

impl Sources {
    fn add(&mut self, answer: &Answer) {
        for outcome in &answer.outcomes {
            let kind = match outcome.source {
                _ if outcome.verification_size == 0 => &mut self.none,
                DraftSource::Tree => &mut self.tree,
                DraftSource::Copy { .. } => &mut self.copy,
                DraftSource::Merged { .. } => &mut self.merged,
            };
            *kind += 1;
        }
    }
}

/// The contenders at `places` on some turns.
fn tally(compared: &Compared, turns: &[&Turn], places: &[usize]) -> Tally {
    let mut tally = Tally::new(places.iter().map(|&place| compared.contenders[place].name.clone()));
    for turn in turns {
        let answers = places.iter().map(|&place| turn.answer(place));
        let answers: Option<Vec<Answer>> = answers.collect();
        tally.add(turn.question as usize, answers.expect("invariant: whoever failed is left out"));
    }
    tally
}

/// The categories of some turns, if there are several.
fn categories(compared: &Compared, turns: &[&Turn], places: &[usize]) -> Vec<Category> {
    let mut by_name: BTreeMap<&str, Vec<&Turn>> = BTreeMap::new();
    for &turn in turns {
        by_name.entry(turn.category.as_deref().unwrap_or("none")).or_default().push(turn);
    }
    if by_name.len() < 2 {
        return Vec::new();
    }
    let category = |(name, turns): (&str, Vec<&Turn>)| {
        let tally = tally(compared, &turns, places);
        if tally.measured == 0 {
            return None;
        }
        let measured = tally.finish();
        let plain = rate(&measured[0]);
        let row = |measured: &Measurement| {
            let total = measured.total();
            CategoryRow {
                tokens_per_second: total.tokens_per_second(),
                speedup: total.tokens_per_second() / plain,
                acceptance_length: total.acceptance_length(),
            }
        };
        Some(Category {
            name: name.to_owned(),
            questions: measured[0].prompts.len(),
            contenders: measured.iter().map(row).collect(),
        })
    };
    by_name.into_iter().filter_map(category).collect()
}

/// `sum(tau) / sum(T)` of a contender.
pub(super) fn rate(measured: &Measurement) -> f64 {
    CycleStats::merged(&measured.prompts).tokens_per_second()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltd_engine::CycleTiming;

    use super::*;

    fn measured(name: &str, questions: usize, ms: impl Fn(usize) -> u64) -> Measurement {
        let prompt = |question| CycleStats {
            cycles: 1,
            tokens: 10,
            timing: CycleTiming { verify: Duration::from_millis(ms(question)), ..CycleTiming::default() },
            ..CycleStats::default()
        };
        Measurement {
            name: name.to_owned(),
            prompts: (0..questions).map(prompt).collect(),
            ..Measurement::default()
        }
    }

    #[test]
    fn what_may_be_chance_has_no_star() {
        let ratio = |questions, ms: fn(usize) -> u64, comparisons| {
            let [of, over] = [measured("of", questions, ms), measured("over", questions, |_| 100)];
            Ratio::of(&of, &over, comparisons)
        };
        let faster = ratio(10, |_| 80, 5);
        assert_eq!((faster.value, faster.interval, faster.sure), (1.25, [1.25, 1.25], true));
        assert_eq!(faster.percent(), "+25.0 % (+25.0 .. +25.0)*");
        assert!(!ratio(9, |_| 80, 5).sure, "of too few questions");
        let mean = |questions| {
            let [of, over] = [measured("of", questions, |_| 80), measured("over", questions, |_| 100)];
            Ratio::mean(&[(&of, &over), (&of, &over)], 5)
        };
        assert!(mean(5).sure && !mean(4).sure);
        // Now faster, now slower: sure of one comparison, and of none among many.
        let uneven: fn(usize) -> u64 = |question| if question % 3 == 0 { 105 } else { 85 };
        let (alone, among_many) = (ratio(12, uneven, 1), ratio(12, uneven, 1000));
        assert_eq!(alone.interval, among_many.interval);
        assert!(alone.sure && !among_many.sure, "{alone:?} {among_many:?}");
        assert!(among_many.percent().ends_with(')'));
    }
}
