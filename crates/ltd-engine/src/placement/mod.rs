//! Which device holds what: as the configuration lists it, or by free memory.

mod demand;
mod fit;

use std::ops::Range;

use tch::Device;

use crate::cuda;
use crate::device::resolve;
use crate::model::split_layers;
use crate::{EngineConfig, Error, Result};

pub(crate) use demand::Pair;
pub use fit::Shortage;
use fit::{Demand, Gib};

/// A device with its consecutive layers of the target. The first one of several has the embedding
/// too, the last one the output projection and the draft.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Share {
    /// As in a configuration: `cpu`, `cuda` or `cuda:N`.
    pub(crate) name: String,
    pub(crate) device: Device,
    pub(crate) layers: Range<i64>,
}

#[cfg(test)]
impl Share {
    /// The CPU as several devices, for tests of splitting.
    pub(crate) fn on_cpu(layers: impl IntoIterator<Item = Range<i64>>) -> Vec<Self> {
        let share = |layers| Self { name: "cpu".to_owned(), device: Device::Cpu, layers };
        layers.into_iter().map(share).collect()
    }
}

/// The devices that a configuration asks for, in order, with their layers.
pub(crate) fn shares(config: &EngineConfig, pair: &Pair) -> Result<Vec<Share>> {
    let Some(names) = config.device_names() else { return by_free_memory(pair) };
    if names.len() as i64 > pair.target.layers {
        let problem = format!("are {}, but the target has only {} layers", names.len(), pair.target.layers);
        return Err(Error::Config { field: "devices", problem });
    }
    let splits = split_layers(pair.target, names.len());
    let shares = names.iter().zip(splits);
    let shares =
        shares.map(|(name, layers)| Ok(Share { name: name.clone(), device: resolve(name)?, layers }));
    let shares = shares.collect::<Result<Vec<_>>>()?;
    check_room(&shares, &pair.demand())?;
    Ok(shares)
}

/// Fails where weights and caches alone take more than a CUDA device has free now: before minutes
/// of loading, and not after them. What LibTorch holds of engines that are gone does not count as
/// free.
fn check_room(shares: &[Share], demand: &Demand) -> Result<()> {
    for (position, Share { name, device, layers }) in shares.iter().enumerate() {
        let Device::Cuda(index) = device else { continue };
        let error = |problem| Error::Device { device: name.clone(), problem };
        let needed = demand.kept(position, shares.len(), (layers.end - layers.start) as u64);
        let memory = cuda::memory_of(*index).map_err(error)?;
        if let Some([free, all]) = memory.filter(|[free, _]| needed > *free) {
            let advice = if needed <= all { "end the programs that hold the rest, or " } else { "" };
            let [needed, free, all] = [needed, free, all].map(Gib);
            return Err(error(format!(
                "weights and caches of its part take {needed}, but {free} of its {all} are free; {advice}lower \
                 max_length, name a 16-bit dtype, or share the target among several devices (devices)"
            )));
        }
    }
    Ok(())
}

/// As few CUDA devices as will do, from what they have free now.
fn by_free_memory(pair: &Pair) -> Result<Vec<Share>> {
    let free = cuda::free_memory().map_err(|problem| Error::Device {
        device: "auto".to_owned(),
        problem: format!("{problem}; name cpu to run on the CPU"),
    })?;
    let loads = fit::place(&pair.demand(), &free).map_err(Error::DoesNotFit)?;
    let mut start = 0;
    let shares = loads.into_iter().map(|load| {
        let layers = start..start + load.layers as i64;
        start = layers.end;
        Share { name: format!("cuda:{}", load.device), device: Device::Cuda(load.device), layers }
    });
    Ok(shares.collect())
}
