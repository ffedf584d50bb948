//! Which policies are worth shipping: candidates of all stages against each other and against the
//! strongest setting that does not change.

use ltd_engine::{Controller, Learned};
use ltd_policy::{CopyRule, Fallback, Manifest, Policy, PolicyEntry, SourceChoice, SourceEntry, write_json};
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::validate::expected;
use crate::Result;
use crate::evaluate::{Contender, FixedSetting, Measurement, Prediction};
use ltd_run::config::Minutes;
use ltd_run::statistics::ratio_interval;

/// What a stage left.
pub(super) struct Candidate {
    pub(super) stage: String,
    pub(super) policy: Policy,
}

/// Candidates worth a measurement on the evaluation prompts, and which of them ships.
pub(super) struct Selection {
    /// The best of each kind.
    pub(super) candidates: Vec<Candidate>,
    /// Index of the fastest on the validation prompts.
    pub(super) fastest: usize,
    /// What ships in its place, if it is not worth its time.
    pub(super) fallback: Option<Fallback>,
    /// What replay says of each candidate, if the run has recordings.
    pub(super) predictions: Vec<Prediction>,
}

/// The outcome of the selection: `selected.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Selected {
    /// The stage whose policies are fastest on the validation prompts.
    stage: String,
    /// Throughput of each stage's policies there, and of the strongest fixed setting.
    tokens_per_second: Vec<(String, f64)>,
}

/// Name of the fastest constant among contenders.
pub(super) const BEST_CONSTANT: &str = "best-constant";
/// Name of the fastest rule of copies.
pub(super) const COPY_RULE: &str = "copy-rule";

/// The strongest settings that do not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opponents {
    /// The fastest constant trees.
    pub(super) constant: FixedSetting,
    /// The fastest rule of copies, with the trees between them.
    pub(super) rule: FixedSetting,
    /// Whether the rule is the faster of the two.
    pub(super) rule_is_stronger: bool,
}

impl Opponents {
    /// The faster of the two, with its name.
    pub(super) fn strongest(&self) -> (&'static str, FixedSetting) {
        if self.rule_is_stronger { (COPY_RULE, self.rule) } else { (BEST_CONSTANT, self.constant) }
    }
}

impl Candidate {
    /// `pair` or `factored`.
    pub(super) fn kind(&self) -> &'static str {
        match self.policy {
            Policy::Pair { .. } => "pair",
            Policy::Factored(_) => "factored",
        }
    }

    /// Where it comes from and, where it was given a rule of copies, that.
    pub(super) fn described(&self) -> String {
        match &self.policy {
            Policy::Pair { source: SourceChoice::Rule(rule), .. } => {
                format!("{}, copying {rule}", self.stage)
            }
            _ => self.stage.clone(),
        }
    }

    pub(super) fn controller(&self) -> Box<dyn Controller> {
        Box::new(Learned::of_policy(&self.policy))
    }
}

impl Trainer {
    /// Measures the candidates and the strongest fixed setting side by side on the validation
    /// prompts.
    pub(super) fn select(&self, opponents: &Opponents) -> Result<Selection> {
        let (name, strongest) = opponents.strongest();
        let mut candidates = with_copies(self.candidates()?, opponents.rule.copies);
        if let Some(recorded) = &self.recorded {
            let measured = recorded.measure(&mut contenders(&candidates))?;
            let best = best_of_each_kind(&candidates, &measured);
            candidates = picked(candidates, &best);
        }
        let mut field = contenders(&candidates);
        field.push(Contender::fixed(name, strongest));
        let limit = self.config.evaluation.validation_max_minutes.map(Minutes::duration);
        let prompts = &self.prompts.validation;
        let mut measured = self.arena().measure("selection", &mut field, prompts, limit)?;
        let rates: Vec<(String, f64)> =
            measured.iter().map(|m| (m.name.clone(), m.total().tokens_per_second())).collect();
        let against = measured.pop().expect("invariant: the setting was measured");
        let best = best_of_each_kind(&candidates, &measured);
        let (candidates, measured) = (picked(candidates, &best), picked(measured, &best));
        if !self.group.leads() {
            // What ships is the first rank's to say; all of them are compared.
            return Ok(Selection { candidates, fastest: 0, fallback: None, predictions: Vec::new() });
        }
        let mut predictions: Vec<Prediction> = match &self.recorded {
            Some(recorded) => {
                let named = candidates
                    .iter()
                    .map(|candidate| Contender::new(candidate.kind(), candidate.controller()));
                let chains = &self.config.source.chains;
                recorded.predict(&mut named.collect::<Vec<_>>(), strongest, chains, &self.interrupt)?
            }
            None => Vec::new(),
        };
        for (prediction, measured) in predictions.iter_mut().zip(&measured) {
            let slower = measured.slowdown() / against.slowdown();
            prediction.gain_at_live_times = Some((1.0 + prediction.gain) / slower - 1.0);
        }
        let gains: Vec<Gain> = (0..candidates.len())
            .map(|index| {
                let predicted = predictions.get(index).and_then(|prediction| prediction.gain_at_live_times);
                Gain::new(predicted, &measured[index], &against)
            })
            .collect();
        let by_gain = |a: &usize, b: &usize| gains[*a].expected().total_cmp(&gains[*b].expected());
        let fastest = (0..candidates.len()).max_by(by_gain).expect("invariant: a run has a stage");
        let chosen = &candidates[fastest];
        let reason = gains[fastest].reason_to_fall_back();
        let fallback = reason.map(|reason| strongest.fallback(reason));
        self.progress.say(&match &fallback {
            Some(fallback) => {
                format!("selection  the package will use {strongest}: {}", fallback.reason)
            }
            None => format!(
                "selection  the package will use the {} policy of stage {}",
                chosen.kind(),
                chosen.described()
            ),
        });
        self.note_choice(chosen, &measured[fastest], fallback.as_ref())?;
        let selected = Selected { stage: chosen.stage.clone(), tokens_per_second: rates };
        write_json(&self.run.selected(), &selected)?;
        Ok(Selection { candidates, fastest, fallback, predictions })
    }

    /// The policies of all stages, without what an interrupted selection gave them. A stage that
    /// kept the policy it began with adds none.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for stage in &self.plan {
            let folder = self.run.stage(stage);
            let mut policy = Manifest::load(&folder.manifest())?.load_policy(folder.path())?;
            if let Policy::Pair { source: source @ SourceChoice::Rule(_), .. } = &mut policy {
                *source = SourceChoice::Trees;
            }
            if candidates.iter().all(|known| known.policy != policy) {
                candidates.push(Candidate { stage: stage.name.clone(), policy });
            }
        }
        Ok(candidates)
    }

    /// Writes into the manifest of the chosen stage the rule that its pair copies by, if it was
    /// given one, and what ships in place of its policies, if anything. Other stages have nothing
    /// of the kind: a selection that was interrupted may have ended otherwise.
    fn note_choice(
        &self,
        chosen: &Candidate,
        measured: &Measurement,
        fallback: Option<&Fallback>,
    ) -> Result<()> {
        let given = match &chosen.policy {
            Policy::Pair { source: SourceChoice::Rule(rule), .. } => SourceEntry::Rule(*rule),
            _ => SourceEntry::Trees,
        };
        for stage in &self.plan {
            let path = self.run.stage(stage).manifest();
            let mut manifest = Manifest::load(&path)?;
            let before = manifest.clone();
            let is_chosen = stage.name == chosen.stage;
            if let PolicyEntry::Pair {
                source: source @ (SourceEntry::Trees | SourceEntry::Rule(_)), ..
            } = &mut manifest.policy
            {
                *source = if is_chosen { given.clone() } else { SourceEntry::Trees };
                // With copies it is another policy than the stage measured.
                if is_chosen && given != SourceEntry::Trees {
                    manifest.expected = Some(expected(measured));
                    manifest.acceptance_per_depth = measured.total().acceptance_per_depth();
                }
            }
            manifest.fallback = fallback.filter(|_| is_chosen).cloned();
            if manifest != before {
                write_json(&path, &manifest)?;
            }
        }
        Ok(())
    }
}

/// The candidates, and each pair that only drafts trees once more, copying by the best rule.
fn with_copies(candidates: Vec<Candidate>, rule: Option<CopyRule>) -> Vec<Candidate> {
    let mut all = Vec::new();
    for candidate in candidates {
        let copying = match (&candidate.policy, rule) {
            (Policy::Pair { depth, size, source: SourceChoice::Trees }, Some(rule)) => {
                let (depth, size, source) = (depth.clone(), size.clone(), SourceChoice::Rule(rule));
                Some(Candidate {
                    stage: candidate.stage.clone(),
                    policy: Policy::Pair { depth, size, source },
                })
            }
            _ => None,
        };
        all.push(candidate);
        all.extend(copying);
    }
    all
}

fn contenders(candidates: &[Candidate]) -> Vec<Contender> {
    candidates.iter().map(|candidate| Contender::new(candidate.described(), candidate.controller())).collect()
}

/// Which of the pairs is the fastest, and which of the factored policies. `measured` is in the
/// order of `candidates`.
fn best_of_each_kind(candidates: &[Candidate], measured: &[Measurement]) -> Vec<usize> {
    let rate = |index: usize| measured[index].total().tokens_per_second();
    let mut best: Vec<usize> = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match best.iter_mut().find(|known| candidates[**known].kind() == candidate.kind()) {
            Some(known) if rate(index) > rate(*known) => *known = index,
            Some(_) => {}
            None => best.push(index),
        }
    }
    best
}

/// The items at these places.
fn picked<T>(items: Vec<T>, places: &[usize]) -> Vec<T> {
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    places.iter().map(|&place| items[place].take().expect("invariant: places differ")).collect()
}

/// What a policy gains over the strongest fixed setting.
struct Gain {
    /// On the held-out recordings, at the times of live cycles; `None` without recordings.
    predicted: Option<f64>,
    /// On the validation prompts.
    measured: f64,
    /// The upper end of its 95 % interval.
    at_most: f64,
    prompts: usize,
}

impl Gain {
    fn new(predicted: Option<f64>, measured: &Measurement, fixed: &Measurement) -> Self {
        let rate = |measurement: &Measurement| measurement.total().tokens_per_second();
        let (_, most) = ratio_interval(&measured.prompts, &fixed.prompts);
        Self {
            predicted,
            measured: rate(measured) / rate(fixed) - 1.0,
            at_most: most - 1.0,
            prompts: measured.prompts.len(),
        }
    }

    /// A few validation prompts differ more from each other than policies do from constants: what
    /// replay of many says counts, where there is any.
    fn expected(&self) -> f64 {
        self.predicted.unwrap_or(self.measured)
    }

    /// Why the fixed setting should ship instead, if it should.
    fn reason_to_fall_back(&self) -> Option<String> {
        if let Some(predicted) = self.predicted.filter(|gain| *gain <= 0.0) {
            let percent = -100.0 * predicted;
            return Some(format!(
                "replay of held-out recordings at the times of live cycles predicts that the policies are {percent:.1} % slower"
            ));
        }
        let slower = if self.predicted.is_some() { self.at_most < 0.0 } else { self.measured <= 0.0 };
        let (percent, prompts) = (-100.0 * self.measured, self.prompts);
        slower.then(|| format!("the policies are {percent:.1} % slower on {prompts} validation prompts"))
    }
}

#[cfg(test)]
mod tests {
    use ltd_policy::Choice;

    use super::*;

    #[test]
    fn whatever_is_no_faster_than_the_fixed_setting_falls_back_to_it() {
        let reason = |predicted, measured, at_most| {
            Gain { predicted, measured, at_most, prompts: 8 }.reason_to_fall_back()
        };
        assert_eq!(reason(Some(0.01), 0.02, 0.05), None);
        assert_eq!(reason(None, 0.02, 0.05), None);
        let measured = Some("the policies are 0.4 % slower on 8 validation prompts".to_owned());
        assert_eq!(reason(None, -0.004, 0.01), measured);
        // Where replay says otherwise, a few prompts must leave no doubt.
        assert_eq!(reason(Some(0.01), -0.004, 0.01), None);
        assert_eq!(reason(Some(0.01), -0.004, -0.001), measured);
        let predicted = reason(Some(-0.002), 0.01, 0.05).expect("a reason");
        assert!(
            predicted.ends_with("at the times of live cycles predicts that the policies are 0.2 % slower"),
            "{predicted}"
        );
    }

    #[test]
    fn a_pair_of_trees_is_tried_with_copies_too() {
        let (depth, size) = (Choice::Constant(2), Choice::Constant(8));
        let pair = |source| Policy::Pair { depth: depth.clone(), size: size.clone(), source };
        let candidate = |policy| Candidate { stage: "02-depth".to_owned(), policy };
        let rule = CopyRule { match_length: 2, chain: 8 };
        let found = with_copies(vec![candidate(pair(SourceChoice::Trees))], Some(rule));
        let policies: Vec<&Policy> = found.iter().map(|candidate| &candidate.policy).collect();
        assert_eq!(policies, [&pair(SourceChoice::Trees), &pair(SourceChoice::Rule(rule))]);
        let names: Vec<String> = contenders(&found).into_iter().map(|contender| contender.name).collect();
        assert_eq!(names, ["02-depth", "02-depth, copying 8 tokens where 2 match"]);
        // Who decides by itself is left alone.
        assert_eq!(with_copies(vec![candidate(pair(SourceChoice::Rule(rule)))], Some(rule)).len(), 1);
        assert_eq!(with_copies(vec![candidate(pair(SourceChoice::Trees))], None).len(), 1);
    }

    #[test]
    fn places_are_picked_in_their_order() {
        assert_eq!(picked(vec!['a', 'b', 'c'], &[2, 0]), ['c', 'a']);
    }
}
