//! A multi-layer perceptron on plain arrays, forward and backward.
//!
//! Matrix products are `matrixmultiply`'s, which finds the processor's instructions at run time.
//! Rows are computed in blocks of [`BLOCK`], whatever the number of threads, and sums over blocks
//! have a fixed order: results are the same bits on 1 thread and on many.

use std::ops::AddAssign;

use ltd_policy::Linear;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use tch::Tensor;

use super::tensors;

/// Rows that are computed together, by one thread.
const BLOCK: usize = 32;
/// Parameters that are worked on together, by one thread.
pub(super) const CHUNK: usize = 1 << 14;

/// Linear layers with `ReLU` between them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Perceptron {
    /// Inputs, then the outputs of each layer.
    widths: Vec<usize>,
    /// Layer by layer the weight, `[outputs, inputs]` row-major, then the bias.
    parameters: Vec<f32>,
}

/// Where a layer is among the parameters.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    inputs: usize,
    outputs: usize,
}

impl Place {
    /// The weight's shape.
    fn shape(self) -> (usize, usize) {
        (self.outputs, self.inputs)
    }

    /// Weight and bias in a list as long as the parameters.
    fn of(self, parameters: &[f32]) -> (ArrayView2<'_, f32>, &[f32]) {
        let layer = &parameters[self.start..self.end()];
        let (weight, bias) = layer.split_at(self.inputs * self.outputs);
        (matrix(weight, self.shape()), bias)
    }

    fn of_mut(self, parameters: &mut [f32]) -> (&mut [f32], &mut [f32]) {
        let end = self.end();
        parameters[self.start..end].split_at_mut(self.inputs * self.outputs)
    }

    fn end(self) -> usize {
        self.start + (self.inputs + 1) * self.outputs
    }
}

impl Perceptron {
    /// A network of these layers.
    pub(super) fn new(layers: &[Linear]) -> Self {
        let inputs = layers.iter().take(1).map(|layer| layer.inputs);
        Self {
            widths: inputs.chain(layers.iter().map(Linear::outputs)).collect(),
            parameters: layers.iter().flat_map(|layer| [&layer.weight[..], &layer.bias].concat()).collect(),
        }
    }

    /// The same shape with parameters that are all zero.
    pub(super) fn zeros_like(&self) -> Self {
        Self { widths: self.widths.clone(), parameters: vec![0.0; self.parameters.len()] }
    }

    /// The layers as serving evaluates them.
    pub(super) fn to_linears(&self) -> Vec<Linear> {
        let linears = self.places().map(|place| {
            let (weight, bias) = place.of(&self.parameters);
            let weight = weight.iter().copied().collect();
            Linear { weight, bias: bias.to_vec(), inputs: place.inputs }
        });
        linears.collect()
    }

    /// Width of an observation.
    pub(super) fn inputs(&self) -> usize {
        self.widths[0]
    }

    /// Width of a result.
    pub(super) fn outputs(&self) -> usize {
        self.widths[self.widths.len() - 1]
    }

    /// Weights and biases.
    pub(super) fn n_tensors(&self) -> usize {
        2 * (self.widths.len() - 1)
    }

    /// All numbers of the network, in the order of its layers.
    pub(super) fn parameters_mut(&mut self) -> &mut [f32] {
        &mut self.parameters
    }

    /// Weights and biases as tensors; `name` is told the number of each.
    pub(super) fn named_tensors(&self, name: impl Fn(usize) -> String) -> Vec<(String, Tensor)> {
        let parts = self.places().flat_map(|place| {
            let (weight, bias) =
                self.parameters[place.start..place.end()].split_at(place.inputs * place.outputs);
            let [rows, columns] = [place.outputs as i64, place.inputs as i64];
            [tensors::tensor(weight, &[rows, columns]), tensors::tensor(bias, &[rows])]
        });
        parts.enumerate().map(|(number, tensor)| (name(number), tensor)).collect()
    }

    /// Takes over the tensors of these names; says what differs if they have another shape.
    pub(super) fn load(
        &mut self,
        from: &[(String, Tensor)],
        name: impl Fn(usize) -> String,
    ) -> Result<(), String> {
        for (number, place) in self.places().enumerate().collect::<Vec<_>>() {
            let [rows, columns] = [place.outputs as i64, place.inputs as i64];
            let (weight, bias) = place.of_mut(&mut self.parameters);
            weight.copy_from_slice(&tensors::values(from, &name(2 * number), &[rows, columns])?);
            bias.copy_from_slice(&tensors::values(from, &name(2 * number + 1), &[rows])?);
        }
        Ok(())
    }

    /// Takes over layers of the same shape; says what differs if they have another.
    pub(super) fn copy_from(&mut self, layers: &[Linear]) -> Result<(), String> {
        let shape = |layers: &[Linear]| -> Vec<[usize; 2]> {
            layers.iter().map(|layer| [layer.outputs(), layer.inputs]).collect()
        };
        let (found, expected) = (shape(layers), shape(&self.to_linears()));
        if found != expected {
            return Err(format!("has layers of shape {found:?}, expected {expected:?}"));
        }
        *self = Self::new(layers);
        Ok(())
    }

    /// Results of `[rows, inputs]`: `[rows, outputs]`, both row-major.
    pub(super) fn forward(&self, inputs: &[f32]) -> Vec<f32> {
        let rows = inputs.len() / self.inputs();
        let mut results = vec![0.0; rows * self.outputs()];
        let blocks = inputs.par_chunks(BLOCK * self.inputs());
        blocks.zip(results.par_chunks_mut(BLOCK * self.outputs())).for_each(|(inputs, results)| {
            let mut activations = vec![inputs.to_vec()];
            self.forward_block(inputs.len() / self.inputs(), &mut activations);
            results.copy_from_slice(&activations[activations.len() - 1]);
        });
        results
    }

    /// Adds the results of all layers to a block's inputs.
    fn forward_block(&self, rows: usize, activations: &mut Vec<Vec<f32>>) {
        let layers = self.widths.len() - 1;
        activations.resize_with(layers + 1, Vec::new);
        for (number, place) in self.places().enumerate() {
            let (weight, bias) = place.of(&self.parameters);
            let (before, after) = activations.split_at_mut(number + 1);
            let (x, y) = (&before[number], &mut after[0]);
            y.clear();
            (0..rows).for_each(|_| y.extend_from_slice(bias));
            multiply(matrix(x, (rows, place.inputs)), weight.t(), 1.0, y);
            if number + 1 < layers {
                // What is no number stays none.
                for value in y {
                    *value = if *value < 0.0 { 0.0 } else { *value };
                }
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> + use<'_> {
        self.widths.windows(2).scan(0, |start, pair| {
            let place = Place { start: *start, inputs: pair[0], outputs: pair[1] };
            *start = place.end();
            Some(place)
        })
    }
}

/// One block of rows on its way through a network and back; kept for the next ones.
#[derive(Debug, Default)]
struct Block<S> {
    /// Inputs and the results of each layer, `[rows, width]`.
    activations: Vec<Vec<f32>>,
    /// Gradient with respect to the results of the layer at hand, `[rows, width]`.
    delta: Vec<f32>,
    /// The same of the layer before it.
    delta_before: Vec<f32>,
    /// Gradient with respect to the parameters.
    gradient: Vec<f32>,
    /// What the loss sums up beside.
    sums: S,
}

/// Gradients of losses with respect to a network's parameters, and the memory that this takes.
#[derive(Debug, Default)]
pub(super) struct Gradient<S> {
    blocks: Vec<Block<S>>,
}

impl<S: Default + Copy + Send + Sync + AddAssign> Gradient<S> {
    /// Computes the gradient of a sum over `rows` of `observations` (`[steps, inputs]`, row-major).
    /// `loss` is told some of the rows and the network's results there, `[rows, outputs]`, which it
    /// may overwrite; it writes the gradient with respect to them, and returns what it sums up.
    /// Returns these sums, and the squared norm of the gradient.
    pub(super) fn compute(
        &mut self,
        network: &Perceptron,
        observations: &[f32],
        rows: &[usize],
        loss: impl Fn(&[usize], &mut [f32], &mut [f32]) -> S + Sync,
    ) -> (S, f64) {
        self.blocks.resize_with(rows.len().div_ceil(BLOCK), Block::default);
        self.blocks.par_iter_mut().zip(rows.par_chunks(BLOCK)).for_each(|(block, rows)| {
            block.forward(network, observations, rows);
            block.differentiate(network, rows, &loss);
            block.backward(network, rows.len());
        });
        let mut sums = S::default();
        self.blocks.iter().for_each(|block| sums += block.sums);
        (sums, self.add_up())
    }

    /// Adds the gradients of the other blocks to that of the first; returns the squared norm.
    fn add_up(&mut self) -> f64 {
        let Some((first, others)) = self.blocks.split_first_mut() else { return 0.0 };
        let chunks = first.gradient.par_chunks_mut(CHUNK).enumerate();
        let squares: Vec<f64> = chunks
            .map(|(number, sum)| {
                for block in &*others {
                    let part = &block.gradient[number * CHUNK..][..sum.len()];
                    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
                squared_norm(sum)
            })
            .collect();
        squares.iter().sum()
    }
}

impl<S> Gradient<S> {
    /// The gradient that was computed last, in the order of the parameters.
    pub(super) fn values(&self) -> &[f32] {
        self.blocks.first().map_or(&[], |block| &block.gradient)
    }
}

impl<S> Block<S> {
    fn forward(&mut self, network: &Perceptron, observations: &[f32], rows: &[usize]) {
        self.activations.resize_with(1, Vec::new);
        let inputs = &mut self.activations[0];
        inputs.clear();
        for row in rows {
            inputs.extend_from_slice(&observations[row * network.inputs()..][..network.inputs()]);
        }
        network.forward_block(rows.len(), &mut self.activations);
    }

    fn differentiate(
        &mut self,
        network: &Perceptron,
        rows: &[usize],
        loss: &impl Fn(&[usize], &mut [f32], &mut [f32]) -> S,
    ) {
        self.delta.clear();
        self.delta.resize(rows.len() * network.outputs(), 0.0);
        let results = self.activations.last_mut().expect("invariant: there are inputs");
        self.sums = loss(rows, results, &mut self.delta);
    }

    fn backward(&mut self, network: &Perceptron, rows: usize) {
        self.gradient.resize(network.parameters.len(), 0.0);
        let places: Vec<Place> = network.places().collect();
        for (number, place) in places.iter().enumerate().rev() {
            let x = &self.activations[number];
            let delta = matrix(&self.delta, (rows, place.outputs));
            let (weight, bias) = place.of_mut(&mut self.gradient);
            multiply(delta.t(), matrix(x, (rows, place.inputs)), 0.0, weight);
            bias.fill(0.0);
            for delta in self.delta.chunks_exact(place.outputs) {
                bias.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += delta);
            }
            if number > 0 {
                self.delta_before.resize(rows * place.inputs, 0.0);
                multiply(delta, place.of(&network.parameters).0, 0.0, &mut self.delta_before);
                for (delta, x) in self.delta_before.iter_mut().zip(x) {
                    *delta = if *x <= 0.0 { 0.0 } else { *delta };
                }
                std::mem::swap(&mut self.delta, &mut self.delta_before);
            }
        }
    }
}

fn matrix(values: &[f32], shape: (usize, usize)) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape(shape, values).expect("invariant: rows and columns are all there is")
}

/// `result = left * right + kept * result`, row-major.
fn multiply(left: ArrayView2<f32>, right: ArrayView2<f32>, kept: f32, result: &mut [f32]) {
    let shape = (left.nrows(), right.ncols());
    let mut result = ArrayViewMut2::from_shape(shape, result).expect("invariant: it has the product's shape");
    general_mat_mul(1.0, &left, &right, kept, &mut result);
}

fn squared_norm(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk.map(f64::from)) {
            *sum += value * value;
        }
    }
    let rest: f64 = rest.iter().map(|&value| f64::from(value).powi(2)).sum();
    sums.iter().sum::<f64>() + rest
}
