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
    /// The actions that were not taken too, where their outcomes are known.
    pub every_action: Option<EveryAction>,
}

/// All actions of some steps.
#[derive(Debug, Clone, PartialEq)]
pub struct EveryAction<T = Array2<f32>> {
    /// Log-probability of each action under the networks that acted, `[n_steps, n_actions]`.
    pub log_probs: T,
    /// Advantage of each action, `[n_steps, n_actions]`.
    pub advantages: T,
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
    /// All actions, each `[batch, n_actions]`, where their outcomes are known.
    pub every_action: Option<EveryAction<Tensor>>,
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

    /// All steps as tensors.
    pub fn tensors(&self) -> Minibatch {
        let column = |column: &Array1<f32>| Tensor::from_slice(&column.to_vec());
        Minibatch {
            observations: matrix(&self.observations),
            actions: Tensor::from_slice(&self.actions.to_vec()),
            log_probs: column(&self.log_probs),
            advantages: column(&self.advantages),
            returns: column(&self.returns),
            every_action: self.every_action.as_ref().map(|every| EveryAction {
                log_probs: matrix(&every.log_probs),
                advantages: matrix(&every.advantages),
            }),
        }
    }

    /// Share of the returns' variance that the values explain: 1 is perfect, 0 as good as a
    /// constant. `NaN` if all returns are equal.
    pub fn explained_variance(&self) -> f64 {
        let variance = |values: &Array1<f32>| values.mapv(f64::from).var(0.0);
        let returns = variance(&self.returns);
        if returns == 0.0 { f64::NAN } else { 1.0 - variance(&(&self.returns - &self.values)) / returns }
    }
}

impl Minibatch {
    /// The steps `rows` of these.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let rows = Tensor::from_slice(&rows.iter().map(|&row| row as i64).collect::<Vec<_>>());
        let pick = |tensor: &Tensor| tensor.index_select(0, &rows);
        Self {
            observations: pick(&self.observations),
            actions: pick(&self.actions),
            log_probs: pick(&self.log_probs),
            advantages: pick(&self.advantages),
            returns: pick(&self.returns),
            every_action: self.every_action.as_ref().map(|every| EveryAction {
                log_probs: pick(&every.log_probs),
                advantages: pick(&every.advantages),
            }),
        }
    }
}

fn matrix(values: &Array2<f32>) -> Tensor {
    let (rows, columns) = values.dim();
    Tensor::from_slice(&values.iter().copied().collect::<Vec<_>>()).view([rows as i64, columns as i64])
}
