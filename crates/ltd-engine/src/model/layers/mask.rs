//! Who sees whom.

use std::borrow::Cow;

use tch::{Kind, Tensor};

use crate::Result;
use crate::transfer::{Upload, Uploaded};

/// Which cached positions each row of a forward may see.
#[derive(Debug, Clone)]
pub(crate) struct AttentionMask {
    /// Positions that all rows see.
    everywhere: i64,
    /// Of the positions after those.
    new: New,
}

#[derive(Debug, Clone)]
enum New {
    /// So many rows, one after another: each sees those before it and itself.
    InOrder(i64),
    /// Row-major, one row of flags each.
    Flags(Vec<bool>),
}

/// What the attention of a device is told of who sees whom.
pub(super) enum Seen {
    /// All rows see all.
    All,
    /// Nothing is cached, and the rows are one after another.
    InOrder,
    /// What is added to scores: 0 where a row may look and minus infinity where not, `[group * n,
    /// positions]`, repeated for the `group` query heads that share a key head.
    Added(Tensor),
}

impl AttentionMask {
    /// Rows that all see `everywhere` positions, and of those after them what `sees` says.
    pub(crate) fn tree(everywhere: i64, sees: Vec<bool>) -> Self {
        Self { everywhere, new: New::Flags(sees) }
    }

    /// `n` new positions in sequence, after `past` others.
    pub(crate) fn causal(past: i64, n: i64) -> Self {
        Self { everywhere: past, new: New::InOrder(n) }
    }

    /// Positions that all rows see, and of those after them the flags of each row, row-major.
    pub(super) fn flags(&self) -> (usize, Cow<'_, [bool]>) {
        let flags = match &self.new {
            &New::InOrder(n) => Cow::Owned((0..n * n).map(|i| i % n <= i / n).collect()),
            New::Flags(flags) => Cow::Borrowed(&flags[..]),
        };
        (self.everywhere as usize, flags)
    }

    /// Gets ready what a device is told. What it needs there is added to the upload.
    ///
    /// Rows of what is added to scores are as far apart as kernels want them: LibTorch would pad
    /// others in every layer.
    pub(super) fn prepare(
        &self,
        upload: &mut Upload,
        rows: i64,
        group: i64,
        kind: Kind,
    ) -> impl FnOnce(&Uploaded) -> Result<Seen> + use<> {
        const ALIGNED: i64 = 16;
        let in_order = matches!(self.new, New::InOrder(_)) && self.everywhere == 0;
        let flags = if in_order { Cow::default() } else { self.flags().1 };
        let added = flags.contains(&false).then(|| {
            let among_new = upload.add_mask(kind, flags.iter().copied());
            (among_new, upload.add_mask(kind, [true]))
        });
        let everywhere = self.everywhere;
        let new = flags.len() as i64 / rows;
        let positions = everywhere + new;
        let beyond = (positions + ALIGNED - 1) / ALIGNED * ALIGNED - positions;
        move |uploaded: &Uploaded| {
            let Some((among_new, zero)) = added else {
                return Ok(if in_order && rows > 1 { Seen::InOrder } else { Seen::All });
            };
            let of_rows = |columns: &Tensor, width| columns.f_expand([group, rows, width], true);
            let zero = uploaded.get(zero);
            let among_new = of_rows(&uploaded.get(among_new).f_view([rows, new])?, new)?;
            // One kernel writes all of it.
            let columns = [of_rows(&zero, everywhere)?, among_new, of_rows(&zero, beyond)?];
            let added = Tensor::f_cat(&columns, 2)?.f_view([group * rows, positions + beyond])?;
            Ok(Seen::Added(added.narrow(1, 0, positions)))
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_mask_is_made_where_a_row_does_not_see_all() {
        let seen = |mask: AttentionMask, rows: i64| {
            let mut upload = Upload::default();
            let prepared = mask.prepare(&mut upload, rows, 2, Kind::Float);
            prepared(&upload.send(Device::Cpu).expect("numbers")).expect("a mask")
        };
        for past in [0, 7] {
            assert!(matches!(seen(AttentionMask::causal(past, 1), 1), Seen::All));
            assert!(matches!(seen(AttentionMask::tree(past, vec![true]), 1), Seen::All));
            assert!(matches!(seen(AttentionMask::tree(past, vec![true; 4]), 2), Seen::All));
        }
        assert!(matches!(seen(AttentionMask::causal(0, 2), 2), Seen::InOrder));
        let unseen = f32::NEG_INFINITY;
        let tree = AttentionMask::tree(0, vec![true, false, true, true]);
        for (mask, expected) in [
            (AttentionMask::causal(1, 2), vec![0.0, 0.0, unseen, 0.0, 0.0, 0.0]),
            // The rows are as long as a kernel wants them, or nothing is cached.
            (AttentionMask::causal(14, 2), [&[0.0; 15], &[unseen][..], &[0.0; 16]].concat()),
            (tree, vec![0.0, unseen, 0.0, 0.0]),
        ] {
            let Seen::Added(added) = seen(mask.clone(), 2) else { panic!("{mask:?}: nothing is added") };
            let expected = Tensor::from_slice(&expected).view([2, -1]).repeat([2, 1]);
            assert_eq!(added, expected, "{mask:?}");
        }
    }
}
