//! A small network evaluated inside the decode loop: a few microseconds, no allocation.

use serde::{Deserialize, Serialize};

use crate::observation::ObservationLayout;

/// One layer as trained: `y = weight * x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Row-major, `[outputs, inputs]`.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
    /// Columns of `weight`.
    pub inputs: usize,
}

impl Linear {
    /// Rows of the weight.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }
}

/// What stands between the layers of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`: what training makes.
    #[default]
    Relu,
    /// The hyperbolic tangent: the default of stable-baselines3, which the published policies have.
    Tanh,
}

impl Activation {
    fn apply(self, values: &mut [f32]) {
        match self {
            Self::Relu => values.iter_mut().for_each(|value| *value = value.max(0.0)),
            Self::Tanh => values.iter_mut().for_each(|value| *value = value.tanh()),
        }
    }
}

/// Linear layers with an activation between them; the last one gives the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Mlp {
    layers: Vec<Layer>,
    activation: Activation,
}

/// Working memory of a forward; made once, reused.
#[derive(Debug, Clone)]
pub struct Scratch {
    activations: [Vec<f32>; 2],
    nonzero: Vec<u32>,
}

/// One layer as evaluated.
#[derive(Debug, Clone, PartialEq)]
struct Layer {
    /// Input-major, `[inputs, outputs]`: an input that is zero (padding, or cut off by `ReLU`)
    /// costs nothing, not even the reading of its weights, which is what a decision in the middle
    /// of decoding waits for.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Outputs from which on a row fills half a page: read one after another, such rows are one stream
/// that the hardware fetches ahead, which pays most when the weights are cold.
const LONG_ROW: usize = 512;
/// Shorter rows with gaps between them are read side by side, to keep several memory streams busy.
const ROWS_AT_ONCE: usize = 8;

impl Mlp {
    /// Takes layers as trained, with `ReLU` between them.
    ///
    /// # Panics
    /// As [`Mlp::with_activation`] does.
    pub fn new(layers: &[Linear]) -> Self {
        Self::with_activation(layers, Activation::Relu)
    }

    /// Takes layers as trained.
    ///
    /// # Panics
    /// If there is none, or if one does not fit the next: files are checked before this is called.
    pub fn with_activation(layers: &[Linear], activation: Activation) -> Self {
        assert!(!layers.is_empty(), "a network needs a layer");
        assert!(
            layers.windows(2).all(|pair| pair[0].outputs() == pair[1].inputs),
            "layers must fit one another"
        );
        Self { layers: layers.iter().map(Layer::new).collect(), activation }
    }

    /// What stands between its layers.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Numbers it reads.
    pub fn inputs(&self) -> usize {
        self.layers[0].inputs()
    }

    /// Numbers it gives.
    pub fn outputs(&self) -> usize {
        self.layers.last().expect("invariant: a network has a layer").bias.len()
    }

    /// Widths of the hidden layers.
    pub fn hidden_widths(&self) -> Vec<usize> {
        let layers = self.to_layers();
        layers[..layers.len() - 1].iter().map(|layer| layer.bias.len()).collect()
    }

    /// The layers as trained, `[outputs, inputs]` weights.
    pub fn to_layers(&self) -> Vec<Linear> {
        self.layers.iter().map(Layer::to_linear).collect()
    }

    /// Working memory for this network.
    pub fn scratch(&self) -> Scratch {
        let widest = self.layers.iter().map(|layer| layer.bias.len().max(layer.inputs())).max().unwrap_or(0);
        Scratch {
            activations: [Vec::with_capacity(widest), Vec::with_capacity(widest)],
            nonzero: Vec::with_capacity(widest),
        }
    }

    /// The logits of an observation, `[inputs] -> [outputs]`.
    ///
    /// # Panics
    /// If the observation has another length than [`Mlp::inputs`].
    pub fn forward<'s>(&self, observation: &[f32], scratch: &'s mut Scratch) -> &'s [f32] {
        assert_eq!(observation.len(), self.inputs(), "observation length");
        let Scratch { activations: [current, next], nonzero } = scratch;
        current.clear();
        current.extend_from_slice(observation);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.forward(current, next, nonzero);
            if index + 1 < self.layers.len() {
                self.activation.apply(next);
            }
            std::mem::swap(current, next);
        }
        current
    }

    /// The same function of the folded observation: weights of inputs that always carry one number
    /// are added up.
    pub(crate) fn folded(&self, layout: &ObservationLayout) -> Self {
        let first = &self.layers[0];
        let outputs = first.bias.len();
        let mut weight = Vec::new();
        for group in layout.folded_groups() {
            let start = weight.len();
            weight.resize(start + outputs, 0.0);
            for input in group {
                let row = &first.weight[input * outputs..][..outputs];
                for (sum, value) in weight[start..].iter_mut().zip(row) {
                    *sum += value;
                }
            }
        }
        let mut layers = vec![Layer { weight, bias: first.bias.clone() }];
        layers.extend_from_slice(&self.layers[1..]);
        Self { layers, activation: self.activation }
    }
}

impl Layer {
    fn new(linear: &Linear) -> Self {
        let (inputs, outputs) = (linear.inputs, linear.outputs());
        assert_eq!(linear.weight.len(), inputs * outputs, "weight size");
        let mut weight = vec![0.0; inputs * outputs];
        for output in 0..outputs {
            for input in 0..inputs {
                weight[input * outputs + output] = linear.weight[output * inputs + input];
            }
        }
        Self { weight, bias: linear.bias.clone() }
    }

    fn to_linear(&self) -> Linear {
        let (inputs, outputs) = (self.inputs(), self.bias.len());
        let mut weight = vec![0.0; inputs * outputs];
        for output in 0..outputs {
            for input in 0..inputs {
                weight[output * inputs + input] = self.weight[input * outputs + output];
            }
        }
        Linear { weight, bias: self.bias.clone(), inputs }
    }

    fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    fn forward(&self, x: &[f32], y: &mut Vec<f32>, nonzero: &mut Vec<u32>) {
        nonzero.clear();
        nonzero.extend((0u32..).zip(x).filter(|(_, value)| **value != 0.0).map(|(input, _)| input));
        y.clear();
        y.extend_from_slice(&self.bias);
        let outputs = y.len();
        let row = |input: u32| &self.weight[input as usize * outputs..][..outputs];
        let side_by_side = if outputs < LONG_ROW { nonzero.len() / ROWS_AT_ONCE * ROWS_AT_ONCE } else { 0 };
        let (grouped, single) = nonzero.split_at(side_by_side);
        for group in grouped.chunks_exact(ROWS_AT_ONCE) {
            let values: [f32; ROWS_AT_ONCE] = std::array::from_fn(|k| x[group[k] as usize]);
            let rows: [&[f32]; ROWS_AT_ONCE] = std::array::from_fn(|k| row(group[k]));
            for (output, y) in y.iter_mut().enumerate() {
                *y += (0..ROWS_AT_ONCE).map(|k| values[k] * rows[k][output]).sum::<f32>();
            }
        }
        for &input in single {
            let value = x[input as usize];
            for (y, weight) in y.iter_mut().zip(row(input)) {
                *y += value * weight;
            }
        }
    }
}

/// Index of the largest logit, the first among equals.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dense(layers: &[Linear], activation: Activation, observation: &[f32]) -> Vec<f32> {
        let mut x: Vec<f64> = observation.iter().map(|&value| f64::from(value)).collect();
        for (index, layer) in layers.iter().enumerate() {
            x = (0..layer.outputs())
                .map(|output| {
                    let row = &layer.weight[output * layer.inputs..][..layer.inputs];
                    let sum: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum();
                    let y = sum + f64::from(layer.bias[output]);
                    match activation {
                        _ if index + 1 == layers.len() => y,
                        Activation::Relu => y.max(0.0),
                        Activation::Tanh => y.tanh(),
                    }
                })
                .collect();
        }
        x.into_iter().map(|value| value as f32).collect()
    }

    fn layer(inputs: usize, outputs: usize) -> impl Strategy<Value = Linear> {
        let numbers = |count| prop::collection::vec(-1.0f32..1.0, count);
        (numbers(inputs * outputs), numbers(outputs)).prop_map(move |(weight, bias)| Linear {
            weight,
            bias,
            inputs,
        })
    }

    proptest! {
        #[test]
        fn a_forward_equals_the_dense_formula(
            layers in (1usize..20, prop_oneof![1usize..20, LONG_ROW..LONG_ROW + 9], 1usize..8)
                .prop_flat_map(|(a, b, c)| (layer(a, b), layer(b, c))),
            values in prop::collection::vec(prop_oneof![Just(0.0f32), -2.0f32..2.0], 20),
            activation in prop::sample::select(vec![Activation::Relu, Activation::Tanh]),
        ) {
            let layers = [layers.0, layers.1];
            let mlp = Mlp::with_activation(&layers, activation);
            let observation = &values[..mlp.inputs()];
            let mut scratch = mlp.scratch();
            // Twice: the scratch of one forward must not be seen in the next.
            mlp.forward(&vec![1.0; mlp.inputs()], &mut scratch);
            let expected = dense(&layers, activation, observation);
            for (found, expected) in mlp.forward(observation, &mut scratch).iter().zip(expected) {
                prop_assert!((found - expected).abs() < 1e-4, "{} {}", found, expected);
            }
            prop_assert_eq!(mlp.to_layers(), layers);
        }
    }
}
