//! Vectors of tokens.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::model::weights::{FileTensor, Weights};

/// A vector for each token. On a CPU the rows stay in their file where its layout allows it: they
/// would take as much memory as the logits' weight, for a few kilobytes that a forward reads.
#[derive(Debug)]
pub(crate) struct Embedding {
    rows: Rows,
    /// Type of the vectors.
    kind: Kind,
}

#[derive(Debug)]
enum Rows {
    /// `[vocabulary, hidden]`.
    Memory(Tensor),
    /// The same in a file, in its type.
    File(FileTensor),
}

impl Embedding {
    /// Takes `name` of the shape `[vocabulary, hidden]`.
    pub(crate) fn load(weights: &mut Weights, name: &str, shape: [i64; 2]) -> Result<Self> {
        let rows = match weights.take_in_place(name, shape)? {
            Some(rows) => Rows::File(rows),
            None => Rows::Memory(weights.take(name, &shape)?),
        };
        Ok(Self { rows, kind: weights.kind() })
    }

    /// The vectors of `tokens` (`[n]`, int64), `[n, hidden]`, where the embedding is.
    ///
    /// # Panics
    /// If a token is not in the vocabulary.
    pub(crate) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        Ok(match &self.rows {
            Rows::Memory(rows) => {
                Tensor::f_embedding(rows, &tokens.f_to_device(rows.device())?, -1, false, false)?
            }
            Rows::File(rows) => rows.rows(&Vec::<i64>::try_from(tokens)?)?.f_to_kind(self.kind)?,
        })
    }

    /// All vectors in the model's type, possibly as a view of the file: with tied embeddings, the
    /// logits' weight.
    pub(crate) fn weight(&self, device: Device) -> Result<Tensor> {
        let rows = match &self.rows {
            Rows::Memory(rows) => rows.shallow_clone(),
            Rows::File(rows) => rows.map()?,
        };
        Ok(rows.f_to_device(device)?.f_to_kind(self.kind)?)
    }

    /// The same vectors on a device, in the same memory if they are there already.
    pub(crate) fn to_device(&self, device: Device) -> Result<Self> {
        let rows = match &self.rows {
            Rows::File(rows) if device == Device::Cpu => Rows::File(rows.clone()),
            _ => Rows::Memory(self.weight(device)?),
        };
        Ok(Self { rows, kind: self.kind })
    }

    /// Whether both are the same memory, or the same place of the same file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (&self.rows, &other.rows) {
            (Rows::Memory(rows), Rows::Memory(others)) => rows.data_ptr() == others.data_ptr(),
            (Rows::File(rows), Rows::File(others)) => rows.is(others),
            _ => false,
        }
    }
}
