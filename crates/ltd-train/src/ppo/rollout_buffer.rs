//! One rollout, and its minibatches.

use ndarray::{Array1, Array2};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

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
}

/// Some steps of a rollout as tensors, each `[batch]` (observations `[batch, observation]`).
#[derive(Debug)]
pub struct Minibatch {
    /// Observations.
    pub observations: Tensor,
    /// Actions, int64.
    pub actions: Tensor,
    /// Log-probabilities of the actions when they were taken.
    pub log_probs: Tensor,
    /// Advantages.
    pub advantages: Tensor,
    /// Value targets.
    pub returns: Tensor,
}

impl RolloutBuffer {
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

    /// The steps `rows`.
    pub fn minibatch(&self, rows: &[usize]) -> Minibatch {
        let pick = |column: &Array1<f32>| {
            Tensor::from_slice(&rows.iter().map(|&row| column[row]).collect::<Vec<f32>>())
        };
        let observations: Vec<f32> =
            rows.iter().flat_map(|&row| self.observations.row(row).to_vec()).collect();
        Minibatch {
            observations: Tensor::from_slice(&observations).view([rows.len() as i64, -1]),
            actions: Tensor::from_slice(&rows.iter().map(|&row| self.actions[row]).collect::<Vec<i64>>()),
            log_probs: pick(&self.log_probs),
            advantages: pick(&self.advantages),
            returns: pick(&self.returns),
        }
    }

    /// Share of the returns' variance that the values explain: 1 is perfect, 0 as good as a constant. `NaN` if all
    /// returns are equal.
    pub fn explained_variance(&self) -> f64 {
        let variance = |values: &Array1<f32>| values.mapv(f64::from).var(0.0);
        let returns = variance(&self.returns);
        if returns == 0.0 { f64::NAN } else { 1.0 - variance(&(&self.returns - &self.values)) / returns }
    }
}
