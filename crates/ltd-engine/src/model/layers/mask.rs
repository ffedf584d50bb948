//! Who sees whom.

use std::borrow::Cow;

use tch::{Kind, Tensor};

use super::bucket::Bucket;
use crate::Result;
use crate::transfer::{Parcel, Upload, Uploaded};

/// Which cached positions each row of a forward may see.
#[derive(Debug, Clone)]
pub(crate) struct AttentionMask {
    /// Positions that all rows see.
    everywhere: i64,
    /// Of the positions after those.
    new: New,
    /// If a device is to be told so in one form.
    bucket: Option<Bucket>,
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
    /// The only row sees the first positions: how many, `[1]`, and 0 and the number of rows of
    /// queries and of keys, `[2]`, all in i32.
    First { count: Tensor, ends: [Tensor; 2] },
}

impl AttentionMask {
    /// Rows that all see `everywhere` positions, and of those after them what `sees` says.
    pub(crate) fn tree(everywhere: i64, sees: Vec<bool>) -> Self {
        Self { everywhere, new: New::Flags(sees), bucket: None }
    }

    /// `n` new positions in sequence, after `past` others.
    pub(crate) fn causal(past: i64, n: i64) -> Self {
        Self { everywhere: past, new: New::InOrder(n), bucket: None }
    }

    /// The same for rows that were filled up to those of a bucket. The rows that fill it see what
    /// all see.
    pub(crate) fn in_bucket(&self, bucket: Bucket) -> Self {
        let (_, flags) = self.flags();
        let (rows, filled) = (flags.len().isqrt(), bucket.rows as usize);
        let mut sees = vec![false; filled * filled];
        for row in 0..rows {
            sees[row * filled..][..rows].copy_from_slice(&flags[row * rows..][..rows]);
        }
        Self { everywhere: self.everywhere, new: New::Flags(sees), bucket: Some(bucket) }
    }

    /// The bucket whose form a device is to be told it in.
    pub(super) fn bucket(&self) -> Option<Bucket> {
        self.bucket
    }

    /// Positions that all rows see, and of those after them the flags of each row, row-major.
    pub(super) fn flags(&self) -> (usize, Cow<'_, [bool]>) {
        let flags = match &self.new {
            &New::InOrder(n) => Cow::Owned((0..n * n).map(|i| i % n <= i / n).collect()),
            New::Flags(flags) => Cow::Borrowed(&flags[..]),
        };
        (self.everywhere as usize, flags)
    }

    /// Gets ready what a device is told of so many rows, for heads of a width of which `group`
    /// share a key head. What it needs there is added to the upload.
    pub(super) fn prepare(
        &self,
        upload: &mut Upload,
        [rows, group, head_dim]: [i64; 3],
        kind: Kind,
    ) -> impl FnOnce(&Uploaded) -> Result<Seen> + use<> {
        let told = match self.bucket {
            Some(bucket) => self.tell_in_bucket(upload, bucket, head_dim, kind),
            None => self.tell(upload, rows, kind),
        };
        move |uploaded: &Uploaded| {
            Ok(match told {
                Told::All => Seen::All,
                Told::InOrder => Seen::InOrder,
                Told::Columns(columns) => Seen::Added(columns.add(uploaded, [group, rows])?),
                Told::Table(table) => Seen::Added(table.add(uploaded, [group, rows])?),
                Told::First { count, ends } => {
                    Seen::First { count: uploaded.get(count), ends: ends.map(|ends| uploaded.get(ends)) }
                }
            })
        }
    }

    fn tell(&self, upload: &mut Upload, rows: i64, kind: Kind) -> Told {
        if matches!(self.new, New::InOrder(_)) && self.everywhere == 0 {
            return if rows > 1 { Told::InOrder } else { Told::All };
        }
        let (_, flags) = self.flags();
        if !flags.contains(&false) {
            return Told::All;
        }
        Told::Columns(Columns {
            everywhere: self.everywhere,
            new: flags.len() as i64 / rows,
            among_new: upload.add_mask(kind, flags.iter().copied()),
            zero: upload.add_mask(kind, [true]),
        })
    }

    /// Whatever the rows see, in the same form.
    fn tell_in_bucket(&self, upload: &mut Upload, bucket: Bucket, head_dim: i64, kind: Kind) -> Told {
        let Bucket { rows, positions } = bucket;
        if rows == 1 && kind != Kind::Float && head_dim % 8 == 0 && head_dim <= 256 {
            let count = upload.add_small_indices([self.everywhere as i32 + 1]);
            return Told::First {
                count,
                ends: [1, positions].map(|end| upload.add_small_indices([0, end as i32])),
            };
        }
        let (_, flags) = self.flags();
        let of_row = flags.chunks_exact(rows as usize);
        let row = |new: &[bool]| [&[true], new, &[false]].concat();
        let kinds = upload.add_mask(kind, of_row.flat_map(row));
        let stored = aligned(positions);
        let kind_of = |position: i64| (position - self.everywhere + 1).clamp(0, rows + 1) as i32;
        let of_positions = upload.add_small_indices((0..stored).map(kind_of));
        Told::Table(Table { kinds, of_positions, positions })
    }
}

/// What makes a [`Seen`] of an upload.
enum Told {
    All,
    InOrder,
    Columns(Columns),
    Table(Table),
    First { count: Parcel, ends: [Parcel; 2] },
}

/// Columns that are the same for all rows, and those of new positions.
struct Columns {
    everywhere: i64,
    new: i64,
    /// `[rows, new]`.
    among_new: Parcel,
    zero: Parcel,
}

/// The kinds of positions that rows tell apart, and of which kind each position is.
struct Table {
    /// `[rows, 1 + rows + 1]`: positions that all see, the new ones, and those after them.
    kinds: Parcel,
    /// `[stored positions]`.
    of_positions: Parcel,
    positions: i64,
}

/// Rows of what is added to scores are as far apart as kernels want them: LibTorch would pad others
/// in every layer.
fn aligned(positions: i64) -> i64 {
    const ALIGNED: i64 = 16;
    (positions + ALIGNED - 1) / ALIGNED * ALIGNED
}

impl Columns {
    /// What is added to scores, `[group * rows, positions]`.
    fn add(&self, uploaded: &Uploaded, [group, rows]: [i64; 2]) -> Result<Tensor> {
        let Self { everywhere, new, among_new, zero } = *self;
        let positions = everywhere + new;
        let stored = aligned(positions);
        let of_rows = |columns: &Tensor, width| columns.f_expand([group, rows, width], true);
        let zero = uploaded.get(zero);
        let among_new = of_rows(&uploaded.get(among_new).f_view([rows, new])?, new)?;
        // One kernel writes all of it.
        let columns = [of_rows(&zero, everywhere)?, among_new, of_rows(&zero, stored - positions)?];
        let added = Tensor::f_cat(&columns, 2)?.f_view([group * rows, stored])?;
        Ok(added.narrow(1, 0, positions))
    }
}

impl Table {
    /// What is added to scores, `[group * rows, positions]`.
    fn add(&self, uploaded: &Uploaded, [group, rows]: [i64; 2]) -> Result<Tensor> {
        let kinds = uploaded.get(self.kinds).f_view([rows, rows + 2])?;
        let kinds = kinds.f_expand([group, rows, rows + 2], true)?;
        let added = kinds.f_index_select(2, &uploaded.get(self.of_positions))?;
        Ok(added.f_view([group * rows, -1])?.narrow(1, 0, self.positions))
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
            let prepared = mask.prepare(&mut upload, [rows, 2, 8], Kind::Float);
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
