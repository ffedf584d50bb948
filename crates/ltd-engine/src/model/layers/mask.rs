//! Who sees whom.

use tch::Tensor;

use crate::Result;

/// Which cached positions each row of a forward may see.
#[derive(Debug, Clone)]
pub(crate) struct AttentionMask {
    /// Positions that all rows see.
    pub(super) everywhere: i64,
    /// Row-major, for the positions after those: one row of flags each. Absent if all rows see all.
    pub(super) sees: Option<Vec<bool>>,
}

impl AttentionMask {
    /// Rows that all see `everywhere` positions, and of those after them what `sees` says.
    pub(crate) fn tree(everywhere: i64, sees: Vec<bool>) -> Self {
        Self { everywhere, sees: Some(sees) }
    }

    /// `n` new positions in sequence, after `past` others.
    pub(crate) fn causal(past: i64, n: i64) -> Self {
        if n == 1 {
            return Self { everywhere: past + 1, sees: None };
        }
        Self::tree(past, (0..n * n).map(|i| i % n <= i / n).collect())
    }

    /// 0 where a row may look and minus infinity where not, `[group * n, positions]`: repeated for
    /// the `group` query heads that share a key head. Absent if all rows see all.
    ///
    /// Its rows are as far apart as kernels want them: LibTorch would pad others in every layer.
    pub(super) fn additive(&self, rows: i64, group: i64, like: &Tensor) -> Result<Option<Tensor>> {
        const ALIGNED: i64 = 16;
        let Some(flags) = self.sees.as_ref().filter(|flags| flags.contains(&false)) else { return Ok(None) };
        let additive: Vec<f32> =
            flags.iter().map(|&sees| if sees { 0.0 } else { f32::NEG_INFINITY }).collect();
        let among_new = Tensor::from_slice(&additive).view([rows, -1]).f_to_kind(like.kind())?;
        let new = among_new.size()[1];
        let positions = self.everywhere + new;
        let stride = (positions + ALIGNED - 1) / ALIGNED * ALIGNED;
        let mask = Tensor::f_zeros([group, rows, stride], (like.kind(), like.device()))?;
        mask.narrow(2, self.everywhere, new).f_copy_(&among_new.f_to_device(like.device())?)?;
        Ok(Some(mask.view([group * rows, stride]).narrow(1, 0, positions)))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    #[test]
    fn no_mask_is_made_where_every_row_sees_all() {
        let like = Tensor::zeros([1], CPU);
        let mask = |mask: AttentionMask, rows: i64| mask.additive(rows, 2, &like).expect("a mask");
        assert!(mask(AttentionMask::causal(7, 1), 1).is_none());
        assert!(mask(AttentionMask::tree(7, vec![true]), 1).is_none());
        assert!(mask(AttentionMask::tree(7, vec![true; 4]), 2).is_none());
        let masked = mask(AttentionMask::causal(1, 2), 2).expect("a mask");
        let unseen = f32::NEG_INFINITY;
        let expected = Tensor::from_slice(&[0.0, 0.0, unseen, 0.0, 0.0, 0.0]).view([2, 3]).repeat([2, 1]);
        assert_eq!(masked, expected);
    }
}
