//! Matrix products with weights.

use tch::{Device, Kind, Tensor};

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

    /// Takes a `[outputs, inputs]` weight, possibly a view of its file, and an `[outputs]` bias.
    pub(crate) fn with_bias(weight: Tensor, bias: Option<Tensor>) -> Self {
        let weight = if let Some(panels) = Panels::new(&weight) {
            Weight::Panels(panels)
        } else if let Some(packed) = PackedWeight::new(&weight) {
            Weight::Packed(packed)
        } else if weight.device() == Device::Cpu {
            // What is kept may be a view of its file, which is for the time of loading only.
            Weight::Plain(weight.copy())
        } else {
            Weight::Plain(weight)
        };
        Self { weight, bias }
    }

    /// The product with a weight left as it is stored, which [`Linear::new`] only makes where no
    /// other one is possible.
    pub(crate) fn as_stored(weight: Tensor) -> Self {
        Self { weight: Weight::Plain(weight), bias: None }
    }

    /// The product in oneDNN's order, if there is one beside that of [`Linear::new`].
    pub(crate) fn alternative(weight: &Tensor) -> Option<Self> {
        let packed =
            PackedWeight::new(weight).filter(|_| Panels::are_faster(weight.device(), weight.kind()))?;
        Some(Self { weight: Weight::Packed(packed), bias: None })
    }

    /// Takes `name.weight` of the shape `[outputs, inputs]`, and `name.bias` if there is to be one.
    pub(crate) fn load(weights: &mut Weights, name: &str, shape: [i64; 2], bias: bool) -> Result<Self> {
        let weight = Self::take_weight(weights, &format!("{name}.weight"), shape)?;
        let bias = bias.then(|| weights.take(&format!("{name}.bias"), &shape[..1])).transpose()?;
        Ok(Self::with_bias(weight, bias))
    }

    /// An output projection that is the embedding's matrix. `name.weight` may be among the weights
    /// too, as the same.
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

    /// Takes a weight to make a product of: on a CPU another form of it is kept.
    pub(super) fn take_weight(weights: &mut Weights, name: &str, shape: [i64; 2]) -> Result<Tensor> {
        if weights.device() == Device::Cpu {
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
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_fused(x, Fused::Nothing)
    }

    /// The product of rows, normed if there is a `norm`: in f32 where a device gives it so in the
    /// same time.
    pub(crate) fn forward_scores(&self, x: &Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
        let wide = |weight: &Tensor| weight.device().is_cuda() && weight.kind() != Kind::Float;
        match (&self.weight, &self.bias) {
            (Weight::Plain(weight), None) if wide(weight) => {
                let normed = norm.map(|norm| norm.forward(x)).transpose()?;
                Ok(normed.as_ref().unwrap_or(x).f_mm_dtype(&weight.tr(), Kind::Float)?)
            }
            _ => norm.map_or_else(|| self.forward(x), |norm| self.forward_normed(x, norm)),
        }
    }

    /// The product of the normed rows.
    pub(crate) fn forward_normed(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        match self.on_host() {
            Some(weight) => Ok(weight.forward(x, Some(norm.on_host()), Fused::Nothing)),
            None => self.forward(&norm.forward(x)?),
        }
    }

    /// `silu(y)`.
    pub(super) fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_fused(x, Fused::Silu)
    }

    /// `y * other`, with `other` of `y`'s shape.
    pub(super) fn forward_times(&self, x: &Tensor, other: &Tensor) -> Result<Tensor> {
        self.forward_fused(x, Fused::Times(other))
    }

    /// `y + other`, with `other` of `y`'s shape. It may lie in the memory of `other`, which is not
    /// to be read any more.
    pub(super) fn forward_plus(&self, x: &Tensor, other: &Tensor) -> Result<Tensor> {
        match (&self.weight, &self.bias) {
            // One kernel in place of two, or of a copy.
            (Weight::Plain(weight), None) => Ok(other.shallow_clone().f_addmm_(x, &weight.tr())?),
            _ => self.forward_fused(x, Fused::Plus(other)),
        }
    }

    /// The weight, if the engine's own kernels multiply it.
    pub(super) fn on_host(&self) -> Option<Biased<'_>> {
        match &self.weight {
            Weight::Panels(weight) => Some(Biased { weight, bias: self.bias.as_ref() }),
            _ => None,
        }
    }

    fn forward_fused(&self, x: &Tensor, fused: Fused) -> Result<Tensor> {
        if let Some(weight) = self.on_host() {
            return Ok(weight.forward(x, None, fused));
        }
        let product = match (&self.weight, &self.bias) {
            (Weight::Packed(weight), None) => return Ok(weight.forward(x, fused)),
            (Weight::Packed(weight), Some(bias)) => weight.forward(x, Fused::Nothing).f_add(bias)?,
            (Weight::Plain(weight), bias) => x.f_linear(weight, bias.as_ref())?,
            (Weight::Panels(_), _) => unreachable!("multiplied above"),
        };
        Ok(match fused {
            Fused::Nothing => product,
            Fused::Silu => product.f_silu()?,
            Fused::Times(other) => product.f_mul(other)?,
            Fused::Plus(other) => product.f_add(other)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn no_weight_is_a_view_of_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let mapped = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("the maps");
            maps.contains(&path.display().to_string())
        };
        // In panels, packed and plain: on no processor are all of them one form.
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let stored = Tensor::randn([32, 64], (Kind::Float, Device::Cpu)).to_kind(kind);
            let named = ["w.weight", "embedding"].map(|name| (name, stored.shallow_clone()));
            Tensor::write_safetensors(&named, &path).expect("a file");
            let mut weights = Weights::open(folder.path(), kind).expect("weights");
            let view = weights.take_view("embedding", &[32, 64]).expect("a view");
            assert!(mapped(), "a view is one of the file");
            let linears =
                [Linear::load(&mut weights, "w", [32, 64], false).expect("a weight"), Linear::new(view)];
            assert!(!mapped(), "{kind:?}: {:?}", linears.map(|linear| linear.weight));
        }
    }

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
                    let normed = norm.forward(&x).expect("a result");
                    let (y, normed) = (product(&single(&x)), product(&single(&normed)));
                    for (found, expected) in [
                        (linear.forward(&x), y.shallow_clone()),
                        (linear.forward_normed(&x, &norm), normed.shallow_clone()),
                        (linear.forward_silu(&x), y.silu()),
                        (linear.forward_times(&x, &other), &y * single(&other)),
                        (linear.forward_plus(&x, &other.copy()), &y + single(&other)),
                    ] {
                        let found = found.expect("a product");
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
