//! Matrix products with weights.

use tch::Tensor;

use super::embedding::Embedding;
use super::host::{Biased, Fused, Panels};
use super::norm::RmsNorm;
use super::packed::PackedWeight;
use crate::Result;
use crate::model::config::unsupported;
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
    /// In the order of the engine's own kernel.
    Panels(Panels),
    /// In oneDNN's order.
    Packed(PackedWeight),
}

impl Linear {
    /// Takes a `[outputs, inputs]` weight.
    pub(crate) fn new(weight: Tensor) -> Self {
        Self::with_bias(weight, None)
    }

    /// Takes a `[outputs, inputs]` weight and an `[outputs]` bias.
    pub(crate) fn with_bias(weight: Tensor, bias: Option<Tensor>) -> Self {
        let weight = if let Some(panels) = Panels::new(&weight) {
            Weight::Panels(panels)
        } else if let Some(packed) = PackedWeight::new(&weight) {
            Weight::Packed(packed)
        } else {
            Weight::Plain(weight)
        };
        Self { weight, bias }
    }

    /// The product with a weight left as it is stored, which [`Linear::new`] only makes where no other one is possible.
    pub(crate) fn as_stored(weight: Tensor) -> Self {
        Self { weight: Weight::Plain(weight), bias: None }
    }

    /// The product in oneDNN's order, if there is one beside that of [`Linear::new`].
    pub(crate) fn alternative(weight: &Tensor) -> Option<Self> {
        Panels::instructions(weight.device(), weight.kind(), weight.size()[1])?;
        let packed = PackedWeight::new(weight)?;
        Some(Self { weight: Weight::Packed(packed), bias: None })
    }

    /// Takes `name.weight` of the shape `[outputs, inputs]`, and `name.bias` if there is to be one.
    pub(crate) fn load(weights: &mut Weights, name: &str, shape: [i64; 2], bias: bool) -> Result<Self> {
        let weight = Self::take_weight(weights, &format!("{name}.weight"), shape)?;
        let bias = bias.then(|| weights.take(&format!("{name}.bias"), &shape[..1])).transpose()?;
        Ok(Self::with_bias(weight, bias))
    }

    /// An output projection that is the embedding's matrix. `name.weight` may be among the weights too, as the same.
    pub(crate) fn tied(weights: &mut Weights, name: &str, embedding: &Embedding) -> Result<Self> {
        let weight = embedding.weight(weights.device())?;
        let name = format!("{name}.weight");
        if weights.contains(&name) && weights.take_view(&name, &weight.size())? != weight {
            let expected = format!("false: {name} is in the weights, and is not the embedding");
            let path = weights.folder().join("config.json");
            return Err(unsupported(&path, "tie_word_embeddings", &expected, "true".to_owned()));
        }
        Ok(Self::new(weight))
    }

    /// Takes a weight to make a product of.
    pub(super) fn take_weight(weights: &mut Weights, name: &str, shape: [i64; 2]) -> Result<Tensor> {
        if PackedWeight::is_possible(weights.device(), weights.kind()) {
            weights.take_view(name, &shape)
        } else {
            weights.take(name, &shape)
        }
    }

    /// Whether a row's product has the same bits whatever the rows beside it.
    pub(crate) fn is_batch_invariant(&self) -> bool {
        matches!(self.weight, Weight::Panels(_))
    }

    /// `[n, inputs] -> [n, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_fused(x, Fused::Nothing)
    }

    /// The product of the normed rows.
    pub(crate) fn forward_normed(&self, x: &Tensor, norm: &RmsNorm) -> Tensor {
        match self.on_host() {
            Some(weight) => weight.forward(x, Some(norm.on_host()), Fused::Nothing),
            None => self.forward(&norm.forward(x)),
        }
    }

    /// `silu(y)`.
    pub(super) fn forward_silu(&self, x: &Tensor) -> Tensor {
        self.forward_fused(x, Fused::Silu)
    }

    /// `y * other`, with `other` of `y`'s shape.
    pub(super) fn forward_times(&self, x: &Tensor, other: &Tensor) -> Tensor {
        self.forward_fused(x, Fused::Times(other))
    }

    /// `y + other`, with `other` of `y`'s shape.
    pub(super) fn forward_plus(&self, x: &Tensor, other: &Tensor) -> Tensor {
        self.forward_fused(x, Fused::Plus(other))
    }

    /// The weight, if the engine's own kernels multiply it.
    pub(super) fn on_host(&self) -> Option<Biased<'_>> {
        match &self.weight {
            Weight::Panels(weight) => Some(Biased { weight, bias: self.bias.as_ref() }),
            _ => None,
        }
    }

    fn forward_fused(&self, x: &Tensor, fused: Fused) -> Tensor {
        if let Some(weight) = self.on_host() {
            return weight.forward(x, None, fused);
        }
        let product = match (&self.weight, &self.bias) {
            (Weight::Packed(weight), None) => return weight.forward(x, fused),
            (Weight::Packed(weight), Some(bias)) => weight.forward(x, Fused::Nothing) + bias,
            (Weight::Plain(weight), bias) => x.linear(weight, bias.as_ref()),
            (Weight::Panels(_), _) => unreachable!("multiplied above"),
        };
        match fused {
            Fused::Nothing => product,
            Fused::Silu => product.silu(),
            Fused::Times(other) => product * other,
            Fused::Plus(other) => product + other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn all_kernels_of_this_processor_compute_the_same() {
        let (rows, outputs, inputs) = (13, 70, 96);
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.02)] {
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let (x, weight, other) =
                (random(&[rows, inputs]), random(&[outputs, inputs]), random(&[rows, outputs]));
            let norm = RmsNorm::new(random(&[inputs]), 1e-5);
            for bias in [None, Some(random(&[outputs]))] {
                let kernels = [
                    Panels::new(&weight).map(Weight::Panels),
                    PackedWeight::new(&weight).map(Weight::Packed),
                    Some(Weight::Plain(weight.shallow_clone())),
                ];
                for kernel in kernels.into_iter().flatten() {
                    let linear = Linear { weight: kernel, bias: bias.as_ref().map(Tensor::shallow_clone) };
                    let single = |tensor: &Tensor| tensor.to_kind(Kind::Float);
                    let product = |x: &Tensor| x.linear(&single(&weight), bias.as_ref().map(single));
                    let (y, normed) = (product(&single(&x)), product(&single(&norm.forward(&x))));
                    for (found, expected) in [
                        (linear.forward(&x), y.shallow_clone()),
                        (linear.forward_normed(&x, &norm), normed.shallow_clone()),
                        (linear.forward_silu(&x), y.silu()),
                        (linear.forward_times(&x, &other), &y * single(&other)),
                        (linear.forward_plus(&x, &other), &y + single(&other)),
                    ] {
                        assert_eq!(found.kind(), kind);
                        let error = (single(&found) - &expected) / (expected.abs() + (inputs as f64).sqrt());
                        let error = error.abs().max().double_value(&[]);
                        assert!(
                            error < tolerance,
                            "{kind:?}, {:?}, bias {}: {error}",
                            linear.weight,
                            bias.is_some()
                        );
                    }
                }
            }
        }
    }
}
