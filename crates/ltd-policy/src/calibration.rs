//! How probable it is that a candidate is accepted, whatever proposed it.
//!
//! A tree that holds copied tokens and candidates of the draft model has one budget. What it is
//! spent on is decided by these probabilities.
//!
//! ```
//! use ltd_policy::calibration::Calibration;
//! use ltd_policy::source::Agreement;
//!
//! let calibration = Calibration::default();
//! // The draft model gives a candidate two thirds.
//! assert!((calibration.drafted((2f32 / 3.0).ln()) - 0.667).abs() < 0.01);
//! // Five tokens match: the first that is copied is likelier.
//! let copied = |place| calibration.copied(5, Agreement::First, place);
//! assert!(copied(1) > 0.8);
//! assert!(copied(8) < copied(7));
//! ```

use serde::{Deserialize, Deserializer, Serialize};

use crate::source::{Agreement, LONGEST_MATCH};

/// Scores between which the probability of a draft candidate is interpolated, falling.
pub const SCORES: [f32; 16] =
    [0.0, -0.1, -0.25, -0.5, -0.75, -1.0, -1.5, -2.0, -2.5, -3.0, -4.0, -5.0, -6.0, -8.0, -10.0, -12.0];
/// Places of a chain with a probability of their own.
pub const PLACES: usize = 16;

/// Probabilities of acceptance, fitted on recorded trees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Of a candidate of the draft model with each of [`SCORES`]; never rising.
    pub drafted: Vec<f32>,
    /// Per [`Agreement`], in their order, and length of the match, from 1 to [`LONGEST_MATCH`],
    /// that the first 1, 2, ... [`PLACES`] tokens of a chain are accepted; never rising along a
    /// chain.
    #[serde(deserialize_with = "chains")]
    pub copied: Vec<Vec<Vec<f32>>>,
}

/// Reads chains per agreement, and those of packages up to version 5, which are the same for all.
fn chains<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<Vec<f32>>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected probabilities per agreement, length of the match and place")]
    enum Chains {
        PerAgreement(Vec<Vec<Vec<f32>>>),
        OfAll(Vec<Vec<f32>>),
    }
    Ok(match Chains::deserialize(deserializer)? {
        Chains::PerAgreement(chains) => chains,
        Chains::OfAll(chains) => vec![chains; Agreement::ALL.len()],
    })
}

impl Default for Calibration {
    /// Without recordings: the draft model's own probabilities; and, for a chain, Laplace's rule of
    /// succession, as if each token that matched were one success of a copy.
    fn default() -> Self {
        let laplace = |length: usize, place: usize| (length + 1) as f32 / (length + 1 + place) as f32;
        let chain = |length| (1..=PLACES).map(|place| laplace(length, place)).collect();
        let chains = (1..=LONGEST_MATCH).map(chain).collect();
        Self {
            drafted: SCORES.iter().map(|score| score.exp()).collect(),
            copied: vec![chains; Agreement::ALL.len()],
        }
    }
}

impl Calibration {
    /// Probability that a candidate of the draft model with this score, the logarithm of the
    /// probability of its path, is accepted.
    pub fn drafted(&self, score: f32) -> f32 {
        let above = SCORES.partition_point(|&known| known > score);
        if above == 0 {
            return self.drafted[0];
        }
        let Some(&lower) = SCORES.get(above) else { return self.drafted[SCORES.len() - 1] };
        let upper = SCORES[above - 1];
        let (high, low) = (self.drafted[above - 1], self.drafted[above]);
        let along = (score - lower) / (upper - lower);
        // Rounded, it may not leave the interval: a child must not become likelier than its parent.
        (low + (high - low) * along).clamp(low, high)
    }

    /// Probability that the first `place` tokens of a chain are accepted, where `match_length`
    /// tokens match and the draft model thinks so of the first. Beyond [`PLACES`], each is accepted
    /// with the probability of the last there.
    ///
    /// # Panics
    /// If nothing matches, or `place` is 0.
    pub fn copied(&self, match_length: usize, agreement: Agreement, place: usize) -> f32 {
        let chain = &self.copied[agreement as usize][match_length.min(LONGEST_MATCH) - 1];
        let Some(beyond) = place.checked_sub(PLACES).filter(|&beyond| beyond > 0) else {
            return chain[place - 1];
        };
        let [before, last] = [chain[PLACES - 2], chain[PLACES - 1]];
        let ratio = if before > 0.0 { last / before } else { 0.0 };
        last * ratio.powi(beyond as i32)
    }

    /// The first thing that no calibration can be: its field, and what is wrong.
    pub fn problem(&self) -> Option<(String, String)> {
        let row = |numbers: &[f32], count: usize| {
            if numbers.len() != count {
                return Some(format!("has {} numbers, must have {count}", numbers.len()));
            }
            let probable = numbers.iter().all(|number| (0.0..=1.0).contains(number));
            (!probable || !numbers.is_sorted_by(|a, b| a >= b))
                .then(|| "must be probabilities that never rise".to_owned())
        };
        if let Some(problem) = row(&self.drafted, SCORES.len()) {
            return Some(("drafted".to_owned(), problem));
        }
        let agreements = Agreement::ALL.len();
        if self.copied.len() != agreements {
            let problem = format!("has {} tables, must have {agreements}", self.copied.len());
            return Some(("copied".to_owned(), problem));
        }
        self.copied.iter().enumerate().find_map(|(table, chains)| {
            if chains.len() != LONGEST_MATCH {
                let problem = format!("has {} chains, must have {LONGEST_MATCH}", chains.len());
                return Some((format!("copied[{table}]"), problem));
            }
            let mut chains = chains.iter().enumerate();
            chains.find_map(|(at, chain)| {
                row(chain, PLACES).map(|problem| (format!("copied[{table}][{at}]"), problem))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_recordings_the_models_own_probabilities_hold() {
        let calibration = Calibration::default();
        assert_eq!(calibration.problem(), None);
        for score in [0.0, -0.05, -0.3, -1.0, -1.7, -3.5] {
            assert!((calibration.drafted(score) - f32::exp(score)).abs() < 0.02, "{score}");
        }
        assert_eq!(calibration.drafted(-1.0), f32::exp(-1.0));
        assert_eq!(calibration.drafted(-100.0), f32::exp(-12.0));
        // After one match: 2 of 3, then 3 of 4 of these, and so on.
        for agreement in Agreement::ALL {
            assert_eq!(calibration.copied(1, agreement, 1), 2.0 / 3.0);
            assert_eq!(calibration.copied(1, agreement, 2), 0.5);
            assert_eq!(calibration.copied(20, agreement, 1), calibration.copied(16, agreement, 1));
        }
    }

    #[test]
    fn nothing_becomes_likelier_further_on() {
        let calibration = Calibration::default();
        let falls = |numbers: Vec<f32>| numbers.is_sorted_by(|a, b| a >= b);
        assert!(falls((0..1400).map(|at| calibration.drafted(at as f32 * -0.01)).collect()));
        for length in 1..=LONGEST_MATCH {
            let copied = |place| calibration.copied(length, Agreement::Listed, place);
            assert!(falls((1..=40).map(copied).collect()), "{length}");
        }
    }

    #[test]
    fn impossible_ones_are_named() {
        let good = Calibration::default();
        let mut short = good.clone();
        short.drafted.pop();
        let mut rising = good.clone();
        rising.copied[1][3][5] = 0.99;
        let mut improbable = good.clone();
        improbable.drafted[0] = 1.5;
        let mut fewer = good.clone();
        fewer.copied[2].pop();
        let fewer_tables = Calibration { copied: good.copied[1..].to_vec(), ..good };
        let field = |calibration: &Calibration| calibration.problem().expect("a problem").0;
        assert_eq!(
            [&short, &rising, &improbable, &fewer, &fewer_tables].map(field),
            ["drafted", "copied[1][3]", "drafted", "copied[2]", "copied"]
        );
    }

    #[test]
    fn chains_that_are_the_same_for_all_agreements_are_read() {
        let calibration = Calibration::default();
        let json = |copied: serde_json::Value| {
            serde_json::from_value::<Calibration>(
                serde_json::json!({ "drafted": calibration.drafted, "copied": copied }),
            )
        };
        let per_agreement = serde_json::json!(calibration.copied);
        assert_eq!(json(per_agreement[0].clone()).expect("version 5"), calibration);
        assert_eq!(json(per_agreement).expect("version 6"), calibration);
        let error = json(serde_json::json!([0.5])).expect_err("no table").to_string();
        assert!(error.contains("expected probabilities per agreement"), "{error}");
    }
}
