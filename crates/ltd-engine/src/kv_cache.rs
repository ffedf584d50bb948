//! Preallocated keys and values, committed in place.

use tch::{Device, Kind, Tensor};

use crate::Result;

const POSITIONS: i64 = 3;

/// Keys and values of all layers, of which the first `len` positions are certain. Rows written
/// beyond `len` are provisional until [`KvCache::commit`]; a failed forward therefore leaves
/// nothing behind.
pub(crate) struct KvCache {
    /// One per device, each `[layers, 2, kv_heads, capacity, head_dim]`.
    parts: Vec<Tensor>,
    layers: Vec<LayerCache>,
    len: i64,
}

/// Views of one layer of a [`KvCache`].
pub(crate) struct LayerCache {
    /// `[2 * kv_heads, capacity, head_dim]`.
    both: Tensor,
    /// `[kv_heads, capacity, head_dim]`.
    keys: Tensor,
    /// `[kv_heads, capacity, head_dim]`.
    values: Tensor,
}

impl KvCache {
    /// A cache on one device.
    pub(crate) fn new(
        layers: i64,
        kv_heads: i64,
        capacity: i64,
        head_dim: i64,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        Self::split([(device, layers)], kv_heads, capacity, head_dim, kind)
    }

    /// A cache whose layers are on several devices: so many on each.
    pub(crate) fn split(
        devices: impl IntoIterator<Item = (Device, i64)>,
        kv_heads: i64,
        capacity: i64,
        head_dim: i64,
        kind: Kind,
    ) -> Result<Self> {
        let part =
            |(device, layers)| Tensor::f_zeros([layers, 2, kv_heads, capacity, head_dim], (kind, device));
        let parts: Vec<Tensor> = devices.into_iter().map(part).collect::<Result<_, _>>()?;
        let layers = parts.iter().flat_map(|part| {
            (0..part.size()[0]).map(|layer| {
                let layer = part.get(layer);
                let both = layer.view([2 * kv_heads, capacity, head_dim]);
                LayerCache { both, keys: layer.get(0), values: layer.get(1) }
            })
        });
        Ok(Self { layers: layers.collect(), len: 0, parts })
    }

    /// Certain positions.
    pub(crate) fn len(&self) -> i64 {
        self.len
    }

    /// Positions that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.parts[0].size()[POSITIONS as usize] as usize
    }

    /// Forgets everything; the memory stays.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes the first `len` positions for certain, whatever they hold.
    pub(crate) fn set_len(&mut self, len: i64) {
        self.len = len;
    }

    /// Makes the next `count` provisional rows certain, as they stand.
    pub(crate) fn advance(&mut self, count: i64) {
        self.len += count;
    }

    /// Makes the provisional rows `rows` (ascending, relative to `len`) certain and drops the
    /// others. Two kernels per device, whatever the number of layers.
    pub(crate) fn commit(&mut self, rows: &[i64]) -> Result<()> {
        let count = rows.len() as i64;
        if rows.iter().zip(0..).any(|(&row, place)| row != place) {
            let from: Vec<i64> = rows.iter().map(|row| self.len + row).collect();
            let from = Tensor::from_slice(&from);
            for part in &self.parts {
                let kept = part.f_index_select(POSITIONS, &from.f_to_device(part.device())?)?;
                part.narrow(POSITIONS, self.len, count).f_copy_(&kept)?;
            }
        }
        self.len += count;
        Ok(())
    }

    /// The certain part, `[layers, 2, kv_heads, len, head_dim]`.
    #[cfg(test)]
    pub(crate) fn certain(&self) -> Tensor {
        let parts: Vec<Tensor> = self
            .parts
            .iter()
            .map(|part| part.narrow(POSITIONS, 0, self.len).to_device(Device::Cpu))
            .collect();
        Tensor::cat(&parts, 0)
    }

    /// Writes the first positions of all layers, which are on one device.
    #[cfg(test)]
    pub(crate) fn fill(&self, content: &Tensor) {
        self.parts[0].narrow(POSITIONS, 0, content.size()[POSITIONS as usize]).copy_(content);
    }

    pub(crate) fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }
}

impl LayerCache {
    const ROWS: i64 = 1;

    /// Writes keys and, after them, values, `[2 * kv_heads, n, head_dim]`, from position `at` on.
    pub(crate) fn write(&self, at: i64, both: &Tensor) -> Result<()> {
        self.both.narrow(Self::ROWS, at, both.size()[1]).f_copy_(both)?;
        Ok(())
    }

    /// Keys and values of all positions, each `[kv_heads, capacity, head_dim]`.
    pub(crate) fn whole(&self) -> (&Tensor, &Tensor) {
        (&self.keys, &self.values)
    }

    /// Keys and values of positions `0..end`, each `[kv_heads, end, head_dim]`.
    pub(crate) fn read(&self, end: i64) -> (Tensor, Tensor) {
        (self.keys.narrow(Self::ROWS, 0, end), self.values.narrow(Self::ROWS, 0, end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Device, Kind};

    use super::*;
    use crate::Error;

    #[test]
    fn a_cache_for_which_there_is_no_memory_is_an_error() {
        let cache = KvCache::new(1, 1, 1 << 45, 64, Kind::Float, Device::Cpu);
        assert!(matches!(cache, Err(Error::OutOfMemory(_))));
    }

    proptest! {
        #[test]
        fn a_commit_keeps_the_rows_it_is_given_in_order(
            len in 0i64..6,
            kept in prop::collection::btree_set(0i64..8, 1..8),
        ) {
            let mut cache = KvCache::new(2, 3, 16, 4, Kind::Float, Device::Cpu).expect("a cache");
            let content = Tensor::arange(2 * 2 * 3 * 16 * 4, (Kind::Float, Device::Cpu)).view([2, 2, 3, 16, 4]);
            cache.fill(&content);
            cache.advance(len);
            let rows: Vec<i64> = kept.into_iter().collect();
            let places: Vec<i64> = (0..len).chain(rows.iter().map(|row| len + row)).collect();
            cache.commit(&rows).expect("a commit");
            let expected = content.index_select(POSITIONS, &Tensor::from_slice(&places));
            prop_assert_eq!(cache.certain(), expected);
        }
    }
}
