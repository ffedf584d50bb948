//! Which policies are worth shipping: candidates of all stages against each other and against the best constant.

use ltd_engine::{Controller, Learned};
use ltd_policy::{Fallback, Manifest, Policy, write_atomically};
use serde::{Deserialize, Serialize};

use super::Trainer;
use crate::Result;
use crate::config::StaticSetting;
use crate::evaluate::{Contender, Measurement, Prediction};

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
    /// Throughput of each stage's policies there, and of the best constant.
    tokens_per_second: Vec<(String, f64)>,
}

/// Name of the fastest constant among contenders.
pub(super) const BEST_CONSTANT: &str = "best-constant";

impl Candidate {
    /// `pair` or `factored`.
    pub(super) fn kind(&self) -> &'static str {
        match self.policy {
            Policy::Pair { .. } => "pair",
            Policy::Factored(_) => "factored",
        }
    }

    pub(super) fn controller(&self) -> Box<dyn Controller> {
        Box::new(Learned::of_policy(&self.policy))
    }
}

impl Trainer {
    /// Measures the candidates and the best constant side by side on the validation prompts. Nothing if it was
    /// interrupted.
    pub(super) fn select(&self, constant: StaticSetting) -> Result<Option<Selection>> {
        let mut candidates = self.candidates()?;
        if let Some(recorded) = &self.recorded {
            let measured = recorded.measure(&mut contenders(&candidates));
            candidates = best_of_each_kind(candidates, &measured);
        }
        let mut field = contenders(&candidates);
        field.push(Contender::constant(BEST_CONSTANT, constant));
        let minutes = self.config.evaluation.validation_max_minutes;
        let prompts = &self.prompts.validation;
        let Some(measured) = self.arena().measure("selection", &mut field, prompts, minutes)? else {
            return Ok(None);
        };
        let rates: Vec<(String, f64)> =
            measured.iter().map(|m| (m.name.clone(), m.total().tokens_per_second())).collect();
        let rate = |name: &str| rates.iter().find(|(known, _)| known == name).map_or(0.0, |(_, rate)| *rate);
        let candidates = best_of_each_kind(candidates, &measured);
        let by_rate =
            |a: &usize, b: &usize| rate(&candidates[*a].stage).total_cmp(&rate(&candidates[*b].stage));
        let fastest = (0..candidates.len()).max_by(by_rate).expect("invariant: a run has a stage");
        let predictions: Vec<Prediction> = match &self.recorded {
            Some(recorded) => {
                let named = candidates
                    .iter()
                    .map(|candidate| Contender::new(candidate.kind(), candidate.controller()));
                recorded.predict(&mut named.collect::<Vec<_>>())
            }
            None => Vec::new(),
        };
        let chosen = &candidates[fastest];
        let prompts = measured[0].prompts.len();
        let reason = reason_to_fall_back(
            predictions.get(fastest).map(|prediction| prediction.gain),
            rate(&chosen.stage) / rate(BEST_CONSTANT) - 1.0,
            prompts,
        );
        let fallback = reason.map(|reason| Fallback { depth: constant.depth, size: constant.size, reason });
        self.progress.say(&match &fallback {
            Some(fallback) => format!(
                "selection  the constant depth {}, size {} ships: {}",
                fallback.depth, fallback.size, fallback.reason
            ),
            None => format!("selection  the {} policy of stage {} ships", chosen.kind(), chosen.stage),
        });
        self.note_fallback(&chosen.stage, fallback.as_ref())?;
        let selected = Selected { stage: chosen.stage.clone(), tokens_per_second: rates };
        let json = serde_json::to_string_pretty(&selected).expect("invariant: plain data") + "\n";
        write_atomically(&self.run.selected(), json.as_bytes())?;
        Ok(Some(Selection { candidates, fastest, fallback, predictions }))
    }

    /// The policies of all stages. A stage that kept the policy it began with adds none.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for stage in &self.plan {
            let folder = self.run.stage(stage);
            let policy = Manifest::load(&folder.manifest())?.load_policy(folder.path())?;
            if candidates.iter().all(|known| known.policy != policy) {
                candidates.push(Candidate { stage: stage.name.clone(), policy });
            }
        }
        Ok(candidates)
    }

    /// Writes into a stage's manifest what ships in place of its policies, if anything.
    fn note_fallback(&self, stage: &str, fallback: Option<&Fallback>) -> Result<()> {
        let stage = self.plan.iter().find(|known| known.name == stage);
        let path = self.run.stage(stage.expect("invariant: candidates come from stages")).manifest();
        let mut manifest = Manifest::load(&path)?;
        manifest.fallback = fallback.cloned();
        Ok(write_atomically(&path, manifest.to_json().as_bytes())?)
    }
}

fn contenders(candidates: &[Candidate]) -> Vec<Contender> {
    candidates.iter().map(|candidate| Contender::new(&*candidate.stage, candidate.controller())).collect()
}

/// Of the pairs the fastest, and likewise of the factored policies. `measured` is in the order of `candidates`.
fn best_of_each_kind(candidates: Vec<Candidate>, measured: &[Measurement]) -> Vec<Candidate> {
    let mut best: Vec<(Candidate, f64)> = Vec::new();
    for (candidate, measured) in candidates.into_iter().zip(measured) {
        let rate = measured.total().tokens_per_second();
        match best.iter_mut().find(|(known, _)| known.kind() == candidate.kind()) {
            Some(known) if rate > known.1 => *known = (candidate, rate),
            Some(_) => {}
            None => best.push((candidate, rate)),
        }
    }
    best.into_iter().map(|(candidate, _)| candidate).collect()
}

/// Why the best constant should ship in place of policies with these gains over it.
fn reason_to_fall_back(predicted: Option<f64>, measured: f64, prompts: usize) -> Option<String> {
    if measured <= 0.0 {
        let percent = 100.0 * measured;
        return Some(format!("the policies are {percent:+.1} % from it on {prompts} validation prompts"));
    }
    let predicted = predicted.filter(|gain| *gain <= 0.0)?;
    Some(format!("replay of held-out recordings predicts a gain of {:+.1} % over it", 100.0 * predicted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_no_faster_than_the_constant_falls_back_to_it() {
        assert_eq!(reason_to_fall_back(Some(0.01), 0.02, 8), None);
        assert_eq!(reason_to_fall_back(None, 0.02, 8), None);
        let measured = reason_to_fall_back(Some(0.01), -0.004, 8).expect("a reason");
        assert_eq!(measured, "the policies are -0.4 % from it on 8 validation prompts");
        let predicted = reason_to_fall_back(Some(-0.002), 0.01, 8).expect("a reason");
        assert_eq!(predicted, "replay of held-out recordings predicts a gain of -0.2 % over it");
    }
}
