//! Matrix products with weights.

use tch::Tensor;

use super::packed::{Fused, PackedWeight};
use crate::Result;
use crate::model::weights::Weights;

/// `y = weight * x + bias`, with the fastest kernel that the device has for it.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    /// `[outputs]`.
    bias: Option<Tensor>,
}

#[derive(Debug)]
enum Weight {
    /// `[outputs, inputs]`.
    Plain(Tensor),
    Packed(PackedWeight),
}

impl Linear {
    /// Takes a `[outputs, inputs]` weight.
    pub(crate) fn new(weight: Tensor) -> Self {
        Self::with_bias(weight, None)
    }

    /// Takes a `[outputs, inputs]` weight and an `[outputs]` bias.
    pub(crate) fn with_bias(weight: Tensor, bias: Option<Tensor>) -> Self {
        let packed = PackedWeight::new(&weight);
        Self { weight: packed.map_or_else(|| Weight::Plain(weight), Weight::Packed), bias }
    }

    /// Takes `name.weight` of the shape `[outputs, inputs]`, and `name.bias` if there is to be one.
    pub(crate) fn load(weights: &mut Weights, name: &str, shape: [i64; 2], bias: bool) -> Result<Self> {
        let weight = Self::take_weight(weights, &format!("{name}.weight"), shape)?;
        let bias = bias.then(|| weights.take(&format!("{name}.bias"), &shape[..1])).transpose()?;
        Ok(Self::with_bias(weight, bias))
    }

    /// Takes a weight to make a product of.
    pub(super) fn take_weight(weights: &mut Weights, name: &str, shape: [i64; 2]) -> Result<Tensor> {
        if PackedWeight::is_possible(weights.device(), weights.kind()) {
            weights.take_view(name, &shape)
        } else {
            weights.take(name, &shape)
        }
    }

    /// `[n, inputs] -> [n, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match (&self.weight, &self.bias) {
            (Weight::Plain(weight), bias) => x.linear(weight, bias.as_ref()),
            (Weight::Packed(weight), None) => weight.forward(x, Fused::Nothing),
            (Weight::Packed(weight), Some(bias)) => weight.forward(x, Fused::Nothing) + bias,
        }
    }

    /// `silu(y)`.
    pub(crate) fn forward_silu(&self, x: &Tensor) -> Tensor {
        match self.packed_without_bias() {
            Some(weight) => weight.forward(x, Fused::Silu),
            None => self.forward(x).silu(),
        }
    }

    /// `y * other`, with `other` of `y`'s shape.
    pub(crate) fn forward_times(&self, x: &Tensor, other: &Tensor) -> Tensor {
        match self.packed_without_bias() {
            Some(weight) => weight.forward(x, Fused::Times(other)),
            None => self.forward(x) * other,
        }
    }

    /// `y + other`, with `other` of `y`'s shape.
    pub(crate) fn forward_plus(&self, x: &Tensor, other: &Tensor) -> Tensor {
        match self.packed_without_bias() {
            Some(weight) => weight.forward(x, Fused::Plus(other)),
            None => self.forward(x) + other,
        }
    }

    /// The weight, if what follows the product can be done in the same kernel.
    fn packed_without_bias(&self) -> Option<&PackedWeight> {
        match (&self.weight, &self.bias) {
            (Weight::Packed(weight), None) => Some(weight),
            _ => None,
        }
    }
}
