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
    /// Where the last of the certain rows still are, if they are not at their place.
    moving: Vec<i64>,
}

/// Where the rows of a forward are cached.
pub(crate) enum Places {
    /// From a position on.
    From(i64),
    /// At positions that the device is told, `[n]` in int64.
    At(Tensor),
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
        Ok(Self { layers: layers.collect(), len: 0, moving: Vec::new(), parts })
    }

    /// Certain positions.
    pub(crate) fn len(&self) -> i64 {
        self.len
    }

    /// Positions that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.parts[0].size()[POSITIONS as usize] as usize
    }

    /// Where its parts are, each on its device.
    pub(crate) fn addresses(&self) -> Vec<usize> {
        self.parts.iter().map(|part| part.data_ptr() as usize).collect()
    }

    /// Forgets everything; the memory stays.
    pub(crate) fn clear(&mut self) {
        self.set_len(0);
    }

    /// Writes zeros everywhere.
    pub(crate) fn zero(&mut self) -> Result<()> {
        for part in &mut self.parts {
            let _ = part.f_zero_()?;
        }
        Ok(())
    }

    /// Takes the first `len` positions for certain, whatever they hold.
    pub(crate) fn set_len(&mut self, len: i64) {
        self.len = len;
        self.moving.clear();
    }

    /// Makes the next `count` provisional rows certain, as they stand.
    pub(crate) fn advance(&mut self, count: i64) {
        self.len += count;
    }

    /// Makes the provisional rows `rows` (ascending, relative to `len`) certain and drops the
    /// others. [`KvCache::settle`] moves them to their places.
    pub(crate) fn commit(&mut self, rows: &[usize]) {
        assert!(self.is_settled(), "what was committed before is at its place");
        let at_their_place = rows.iter().enumerate().take_while(|(place, row)| place == *row).count();
        self.moving = rows[at_their_place..].iter().map(|&row| self.len + row as i64).collect();
        self.len += rows.len() as i64;
    }

    /// Moves what was committed to its place, before the next forward. Two kernels per device,
    /// whatever the numbers of rows and layers, and no indices to be sent there. If there is no
    /// memory for it, nothing has changed.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let count = self.moving.len() as i64;
        if count == 0 {
            return Ok(());
        }
        let moved = |part: &Tensor| {
            // Few dimensions, and neighbours together: kernels that join take no more of both.
            let rows = part.f_view([-1, part.size()[POSITIONS as usize], part.size()[4]])?;
            let runs = self.moving.chunk_by(|row, next| row + 1 == *next);
            let runs = runs.map(|run| rows.f_narrow(1, run[0], run.len() as i64));
            let joined = Tensor::f_cat(&runs.collect::<Result<Vec<_>, _>>()?, 1)?;
            Ok((rows.f_narrow(1, self.len - count, count)?, joined))
        };
        let moved = self.parts.iter().map(moved).collect::<Result<Vec<_>>>()?;
        for (mut place, rows) in moved {
            place.f_copy_(&rows)?;
        }
        self.moving.clear();
        Ok(())
    }

    /// Whether all that is certain is at its place.
    pub(crate) fn is_settled(&self) -> bool {
        self.moving.is_empty()
    }

    /// The certain part, `[layers, 2, kv_heads, len, head_dim]`.
    #[cfg(test)]
    pub(crate) fn certain(&mut self) -> Tensor {
        self.settle().expect("rows are moved");
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

    /// Writes heads, `[heads, n, head_dim]`. Those of keys are the first, those of values come
    /// after them.
    pub(crate) fn write(&self, first_head: i64, places: &Places, heads: &Tensor) -> Result<()> {
        let [count, n] = [heads.size()[0], heads.size()[1]];
        let mut written = self.both.narrow(0, first_head, count);
        match places {
            &Places::From(position) => written.narrow(Self::ROWS, position, n).f_copy_(heads)?,
            Places::At(positions) => drop(written.f_index_copy_(Self::ROWS, positions, heads)?),
        }
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
            kept in prop::collection::btree_set(0usize..8, 1..8),
        ) {
            let mut cache = KvCache::new(2, 3, 16, 4, Kind::Float, Device::Cpu).expect("a cache");
            let content = Tensor::arange(2 * 2 * 3 * 16 * 4, (Kind::Float, Device::Cpu)).view([2, 2, 3, 16, 4]);
            cache.fill(&content);
            cache.advance(len);
            let rows: Vec<usize> = kept.into_iter().collect();
            let places: Vec<i64> = (0..len).chain(rows.iter().map(|&row| len + row as i64)).collect();
            cache.commit(&rows);
            let expected = content.index_select(POSITIONS, &Tensor::from_slice(&places));
            prop_assert_eq!(cache.certain(), expected);
        }
    }
}
