//! The bare matrix products of a forward: what it would take if nothing else had to be done.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tch::{Device, Tensor};

use crate::model::{BlockConfig, DraftConfig, Linear, TargetConfig};
use crate::process::huge_pages;
use crate::timing::timed;
use crate::{Engine, Result};

impl TargetConfig {
    /// Shapes `[outputs, inputs]` of the products of one forward: per layer q, k and v together,
    /// output, gate, up and down; then the logits.
    pub fn products(&self) -> Vec<[i64; 2]> {
        let mut shapes = self.block.products(self.block.hidden).repeat(self.layers as usize);
        shapes.push([self.vocabulary, self.block.hidden]);
        shapes
    }
}

impl DraftConfig {
    /// Shapes `[outputs, inputs]` of the products of one level: those of the layer, then the
    /// logits.
    pub fn products(&self) -> Vec<[i64; 2]> {
        let mut shapes = self.block.products(2 * self.block.hidden);
        shapes.push([self.draft_vocabulary, self.block.hidden]);
        shapes
    }
}

impl BlockConfig {
    fn products(&self, attention_input: i64) -> Vec<[i64; 2]> {
        let Self { hidden, intermediate, heads, kv_heads, head_dim, .. } = *self;
        vec![
            [(heads + 2 * kv_heads) * head_dim, attention_input],
            [hidden, heads * head_dim],
            [intermediate, hidden],
            [intermediate, hidden],
            [hidden, intermediate],
        ]
    }
}

/// Which kernel computes products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProductKernel {
    /// The one that the models use.
    Engine,
    /// oneDNN's with the weight in its own order, where the models use another one.
    OneDnn,
    /// LibTorch's `linear` with the weight as it is stored.
    LibTorch,
}

/// Random weights of some shapes, to be multiplied one after another. Each has memory of its own,
/// as in a model: what a cache keeps from one forward to the next is not what it would keep of a
/// single weight.
pub struct Products {
    weights: BTreeMap<ProductKernel, Vec<Linear>>,
    /// Of the weights' inputs.
    widths: Vec<i64>,
    /// Rows to multiply, by their width.
    inputs: BTreeMap<i64, Tensor>,
    device: Device,
}

impl Products {
    /// Weights of the shapes `[outputs, inputs]` in the engine's number type and on its device, for
    /// up to `rows` rows.
    pub fn new(engine: &Engine, shapes: &[[i64; 2]], rows: usize) -> Result<Self> {
        let options = (engine.dtype().chosen.kind(), engine.device());
        let memory = huge_pages::Mapped::now();
        let random = |shape: [i64; 2]| Tensor::f_randn(shape, options);
        let mut weights = BTreeMap::<_, Vec<Linear>>::new();
        for &shape in shapes {
            let stored = random(shape)?;
            let mut add = |kernel, linear| weights.entry(kernel).or_default().push(linear);
            add(ProductKernel::Engine, Linear::new(stored.shallow_clone()));
            if let Some(linear) = Linear::alternative(&stored) {
                add(ProductKernel::OneDnn, linear);
            }
            add(ProductKernel::LibTorch, Linear::as_stored(stored));
        }
        // A kernel that cannot take all weights is none to compare with.
        weights.retain(|_, weights| weights.len() == shapes.len());
        let inputs = shapes.iter().map(|&[_, width]| Ok((width, random([rows as i64, width])?)));
        let products = Self {
            weights,
            widths: shapes.iter().map(|&[_, width]| width).collect(),
            inputs: inputs.collect::<Result<_>>()?,
            device: engine.device(),
        };
        if engine.device() == Device::Cpu {
            // As the models' weights are.
            memory.advise_new();
        }
        Ok(products)
    }

    /// The kernels that all weights can be multiplied with.
    pub fn kernels(&self) -> impl Iterator<Item = ProductKernel> {
        self.weights.keys().copied()
    }

    /// Multiplies all weights with `rows` rows and returns the wall-clock time, device synchronised
    /// at both ends. The kernel must be one of [`Products::kernels`].
    pub fn time(&self, kernel: ProductKernel, rows: usize) -> Result<Duration> {
        let inputs: BTreeMap<i64, Tensor> =
            self.inputs.iter().map(|(&width, input)| (width, input.narrow(0, 0, rows as i64))).collect();
        let work = || {
            for (linear, width) in self.weights[&kernel].iter().zip(&self.widths) {
                let _product = linear.forward(&inputs[width])?;
            }
            Ok(())
        };
        let (done, elapsed) = timed(&[self.device], work);
        done.map(|()| elapsed)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pairs::{PAIRS, folders};

    #[test]
    fn the_shapes_are_those_of_the_weights_in_the_file() {
        let elements = |shapes: &[[i64; 2]]| shapes.iter().map(|[rows, columns]| rows * columns).sum::<i64>();
        let stored = |file: &Path| -> BTreeMap<String, i64> {
            let bytes = std::fs::read(file).expect("weights");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
            let matrices = tensors.iter().filter(|(_, view)| view.shape().len() == 2);
            matrices
                .map(|(name, view)| (name.to_owned(), view.shape().iter().product::<usize>() as i64))
                .collect()
        };
        for pair in PAIRS {
            let [target_folder, draft_folder] = folders(pair);
            let target = TargetConfig::load(&target_folder).expect("a configuration");
            let mut in_file = stored(&target_folder.join("model.safetensors"));
            if !target.tied_embeddings {
                in_file.remove("model.embed_tokens.weight").expect("an embedding");
            }
            assert_eq!(elements(&target.products()), in_file.values().sum::<i64>(), "{pair}");
            let draft = DraftConfig::load(&draft_folder).expect("a configuration");
            let mut in_file = stored(&draft_folder.join("model.safetensors"));
            in_file.remove("fc.weight").expect("a level does not read features");
            in_file.remove("embed_tokens.weight");
            assert_eq!(elements(&draft.products()), in_file.values().sum::<i64>(), "{pair}");
        }
    }
}
