//! One rollout.

use ndarray::{Array1, Array2, Axis, concatenate};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Steps of one rollout with what PPO needs of them; rows are steps.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutBuffer {
    /// `[n_steps, observation]`.
    pub observations: Array2<f32>,
    /// Action of each step.
    pub actions: Array1<i64>,
    /// Value of each observation under the networks that acted.
    pub values: Array1<f32>,
    /// Log-probability of each action under them.
    pub log_probs: Array1<f32>,
    /// Advantage of each action.
    pub advantages: Array1<f32>,
    /// Target of each value.
    pub returns: Array1<f32>,
    /// The actions that were not taken too, where their outcomes are known.
    pub every_action: Option<EveryAction>,
}

/// All actions of some steps.
#[derive(Debug, Clone, PartialEq)]
pub struct EveryAction {
    /// Log-probability of each action under the networks that acted, `[n_steps, n_actions]`.
    pub log_probs: Array2<f32>,
    /// Advantage of each action, `[n_steps, n_actions]`.
    pub advantages: Array2<f32>,
}

impl RolloutBuffer {
    /// The steps of several, one after another.
    ///
    /// # Panics
    /// If there is none, or they are of different widths.
    pub fn concatenated(parts: &[Self]) -> Self {
        if let [one] = parts {
            return one.clone();
        }
        let all = "invariant: parts are of one learner";
        let rows = |table: fn(&Self) -> &Array2<f32>| {
            concatenate(Axis(0), &parts.iter().map(|part| table(part).view()).collect::<Vec<_>>()).expect(all)
        };
        let column = |column: fn(&Self) -> &Array1<f32>| {
            concatenate(Axis(0), &parts.iter().map(|part| column(part).view()).collect::<Vec<_>>())
                .expect(all)
        };
        let actions: Vec<_> = parts.iter().map(|part| part.actions.view()).collect();
        let every = parts.iter().map(|part| part.every_action.as_ref()).collect::<Option<Vec<_>>>();
        let every_action = every.map(|every| {
            let table = |table: fn(&EveryAction) -> &Array2<f32>| {
                let parts: Vec<_> = every.iter().map(|part| table(part).view()).collect();
                concatenate(Axis(0), &parts).expect(all)
            };
            EveryAction {
                log_probs: table(|part| &part.log_probs),
                advantages: table(|part| &part.advantages),
            }
        });
        Self {
            observations: rows(|part| &part.observations),
            actions: concatenate(Axis(0), &actions).expect(all),
            values: column(|part| &part.values),
            log_probs: column(|part| &part.log_probs),
            advantages: column(|part| &part.advantages),
            returns: column(|part| &part.returns),
            every_action,
        }
    }

    /// Steps.
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// A random order of all steps.
    pub fn shuffled(&self, random: &mut ChaCha8Rng) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(random);
        order
    }

    /// Share of the returns' variance that the values explain: 1 is perfect, 0 as good as a
    /// constant. `NaN` if all returns are equal.
    pub fn explained_variance(&self) -> f64 {
        let variance = |values: &Array1<f32>| values.mapv(f64::from).var(0.0);
        let returns = variance(&self.returns);
        if returns == 0.0 { f64::NAN } else { 1.0 - variance(&(&self.returns - &self.values)) / returns }
    }
}
