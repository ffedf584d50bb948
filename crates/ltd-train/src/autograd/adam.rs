//! Adam (arXiv 1412.6980) on tensors that know their gradients.

use tch::Tensor;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;

/// First and second moments of a list of parameters, with PyTorch's arithmetic.
#[derive(Debug)]
pub(crate) struct Adam {
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: i64,
    eps: f64,
}

impl Adam {
    /// No moments yet.
    pub(crate) fn new(parameters: &[Tensor], eps: f64) -> Self {
        let zeros = || parameters.iter().map(Tensor::zeros_like).map(|zeros| zeros.set_requires_grad(false));
        Self { first: zeros().collect(), second: zeros().collect(), steps: 0, eps }
    }

    /// Moves each parameter against its gradient.
    pub(crate) fn step(&mut self, parameters: &[Tensor], learning_rate: f64) {
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let (step_size, second_scale) = (learning_rate / correction(BETA_1), correction(BETA_2).sqrt());
        tch::no_grad(|| {
            for ((parameter, first), second) in parameters.iter().zip(&mut self.first).zip(&mut self.second) {
                let gradient = parameter.grad();
                let _ = first.lerp_(&gradient, 1.0 - BETA_1);
                let _ = second.g_mul_scalar_(BETA_2).addcmul_(&gradient, &(&gradient * (1.0 - BETA_2)));
                let denominator = second.sqrt() / second_scale + self.eps;
                let _ = parameter.shallow_clone().g_sub_(&(&*first * step_size / denominator));
            }
        });
    }

    /// Gradient steps so far.
    pub(crate) fn steps(&self) -> i64 {
        self.steps
    }
}
