//! Matrix products with weights.

use tch::Tensor;

use super::packed::{Fused, PackedWeight};

/// `y = weight * x`, with the fastest kernel that the device has for it.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
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
        let packed = PackedWeight::new(&weight);
        Self { weight: packed.map_or_else(|| Weight::Plain(weight), Weight::Packed) }
    }

    /// `[n, inputs] -> [n, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => x.linear(weight, None::<&Tensor>),
            Weight::Packed(weight) => weight.forward(x, Fused::Nothing),
        }
    }

    /// `silu(y)`.
    pub(crate) fn forward_silu(&self, x: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => x.linear(weight, None::<&Tensor>).silu(),
            Weight::Packed(weight) => weight.forward(x, Fused::Silu),
        }
    }

    /// `y * other`, with `other` of `y`'s shape.
    pub(crate) fn forward_times(&self, x: &Tensor, other: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => x.linear(weight, None::<&Tensor>) * other,
            Weight::Packed(weight) => weight.forward(x, Fused::Times(other)),
        }
    }

    /// `y + other`, with `other` of `y`'s shape.
    pub(crate) fn forward_plus(&self, x: &Tensor, other: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => x.linear(weight, None::<&Tensor>) + other,
            Weight::Packed(weight) => weight.forward(x, Fused::Plus(other)),
        }
    }
}
