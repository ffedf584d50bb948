//! Adam (arXiv 1412.6980) with a state that can be saved, which LibTorch's binding does not offer.

use rayon::prelude::*;
use tch::Tensor;

use super::actor_critic::ActorCritic;
use super::perceptron::{CHUNK, Gradient, Perceptron};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;

/// First and second moments of the gradients of two networks, with PyTorch's arithmetic.
#[derive(Debug, Clone)]
pub struct Adam {
    pub(super) policy: Moments,
    pub(super) value: Moments,
    steps: i64,
    eps: f64,
}

/// Those of one network.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    first: Perceptron,
    second: Perceptron,
}

/// What the numbers of a step depend on, gradients and moments apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepSize {
    /// The step over the first moment's correction.
    size: f32,
    /// Root of the second moment's correction.
    second: f32,
    eps: f32,
    /// Gradients are multiplied with it before.
    gradient: f32,
}

impl Adam {
    /// No moments yet.
    pub fn new(networks: &ActorCritic, eps: f64) -> Self {
        let zeros =
            |network: &Perceptron| Moments { first: network.zeros_like(), second: network.zeros_like() };
        Self { policy: zeros(&networks.policy), value: zeros(&networks.value), steps: 0, eps }
    }

    /// Gradient steps so far.
    pub fn steps(&self) -> i64 {
        self.steps
    }

    /// Begins the next step: what [`Moments::step`] needs for it. Gradients are scaled first.
    pub(super) fn next_step(&mut self, learning_rate: f64, gradient_scale: f64) -> StepSize {
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        StepSize {
            size: (learning_rate / correction(BETA_1)) as f32,
            second: correction(BETA_2).sqrt() as f32,
            eps: self.eps as f32,
            gradient: gradient_scale as f32,
        }
    }

    /// Moments by name, for a checkpoint.
    pub(super) fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let value = self.policy.first.n_tensors();
        let moments = [
            ("first", 0, &self.policy.first),
            ("first", value, &self.value.first),
            ("second", 0, &self.policy.second),
            ("second", value, &self.value.second),
        ];
        let named = moments
            .into_iter()
            .flat_map(|(name, start, moment)| moment.named_tensors(|number| numbered(name, start + number)));
        named.collect()
    }

    /// Takes over moments and steps; says what differs if they have another shape.
    pub(super) fn load(&mut self, tensors: &[(String, Tensor)], steps: i64) -> Result<(), String> {
        let value = self.policy.first.n_tensors();
        for (name, start, moment) in [
            ("first", 0, &mut self.policy.first),
            ("first", value, &mut self.value.first),
            ("second", 0, &mut self.policy.second),
            ("second", value, &mut self.value.second),
        ] {
            moment.load(tensors, |number| numbered(name, start + number))?;
        }
        self.steps = steps;
        Ok(())
    }
}

fn numbered(moment: &str, number: usize) -> String {
    format!("adam.{moment}.{number}")
}

impl Moments {
    /// Moves each parameter against its gradient, if a step is due.
    pub(super) fn step<S>(
        &mut self,
        due: Option<StepSize>,
        network: &mut Perceptron,
        gradient: &Gradient<S>,
    ) {
        let Some(step) = due else { return };
        let gradient = gradient.values().par_chunks(CHUNK);
        let first = self.first.parameters_mut().par_chunks_mut(CHUNK);
        let second = self.second.parameters_mut().par_chunks_mut(CHUNK);
        let parameters = network.parameters_mut().par_chunks_mut(CHUNK);
        parameters.zip(gradient).zip(first.zip(second)).for_each(
            |((parameters, gradient), (first, second))| {
                let moments = first.iter_mut().zip(second);
                for ((parameter, gradient), (first, second)) in
                    parameters.iter_mut().zip(gradient).zip(moments)
                {
                    let gradient = gradient * step.gradient;
                    *first += (1.0 - BETA_1) as f32 * (gradient - *first);
                    *second = *second * BETA_2 as f32 + gradient * (gradient * (1.0 - BETA_2) as f32);
                    *parameter -= *first * step.size / (second.sqrt() / step.second + step.eps);
                }
            },
        );
    }
}
