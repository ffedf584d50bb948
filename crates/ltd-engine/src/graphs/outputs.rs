//! What a captured forward finds, and the places that it is left at.

use tch::Tensor;

use crate::kv_cache::KvCache;
use crate::model::{Bucket, StageInputs, TargetModel};
use crate::sampling::Chosen;
use crate::{Result, Sampler};

const ROWS: i64 = 0;

/// What is found for all rows of a bucket.
pub(super) struct Outputs {
    pub(super) chosen: Chosen,
    /// `[rows, 3 * hidden]`.
    pub(super) features: Tensor,
}

/// Where graphs leave what they find, until the next one is begun: places for the most rows, in the
/// order in which [`Outputs::map`] comes to them. They are outside the pool, in whose memory
/// another graph may write.
#[derive(Default)]
pub(super) struct OutputPlaces(Vec<Tensor>);

impl Outputs {
    /// Runs a forward, and chooses the tokens.
    pub(super) fn of(
        target: &TargetModel,
        sampler: &Sampler,
        inputs: StageInputs,
        rows: i64,
        cache: &KvCache,
    ) -> Result<Self> {
        let output = target.forward_prepared(inputs, rows, cache)?;
        Ok(Self { chosen: sampler.choose_there(&output.logits, &output.randoms)?, features: output.features })
    }

    /// The same with other tensors in the place of its own.
    fn map(&self, mut other: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { features: other(&self.features)?, chosen: self.chosen.map(other)? })
    }

    /// Those of the first rows.
    pub(super) fn first(&self, rows: i64) -> Result<Self> {
        self.map(|of_all| Ok(of_all.f_narrow(ROWS, 0, rows)?))
    }

    /// Copies all into tensors of the same shapes.
    pub(super) fn copy_into(&self, places: &Self) -> Result<()> {
        let (from, to) = (self.tensors()?, places.tensors()?);
        to.into_iter().zip(&from).try_for_each(|(mut place, output)| Ok(place.f_copy_(output)?))
    }

    /// All of them, in the order of [`Outputs::map`].
    fn tensors(&self) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        self.map(|tensor| {
            all.push(tensor.shallow_clone());
            Ok(tensor.shallow_clone())
        })?;
        Ok(all)
    }
}

impl OutputPlaces {
    /// Places for outputs such as these.
    pub(super) fn for_outputs(&mut self, outputs: &Outputs) -> Result<Outputs> {
        let mut number = 0;
        outputs.map(|output| {
            let mut shape = output.size();
            let rows = std::mem::replace(&mut shape[ROWS as usize], Bucket::MOST_ROWS);
            // Another kind of sampling has other outputs at the same place in the order.
            let is_alike = |place: &Tensor| place.size() == shape && place.kind() == output.kind();
            let found = self.0.iter().skip(number).position(is_alike).map(|later| number + later);
            let place = found.unwrap_or(self.0.len());
            if place == self.0.len() {
                self.0.push(Tensor::f_zeros(&shape[..], (output.kind(), output.device()))?);
            }
            number = place + 1;
            Ok(self.0[place].f_narrow(ROWS, 0, rows)?)
        })
    }
}
