//! Forwards of one form.

/// Rows and positions that the forwards of a form have room for. What differs between them, and
/// where they read and write, the device finds in numbers that it is sent: what it is asked to do
/// is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Rows, those counted that only fill it.
    pub(crate) rows: i64,
    /// Positions that are attended to, those counted that no row sees.
    pub(crate) positions: i64,
}

impl Bucket {
    /// Most rows: beyond, a forward takes longer than it takes to launch.
    pub(crate) const MOST_ROWS: i64 = 128;
    /// Positions that buckets differ by at least.
    const STEP: i64 = 256;

    /// The bucket of `rows` rows after `past` others; none if they are too many, or the cache has
    /// no room for it.
    ///
    /// A row that only fills costs little, as a forward reads all weights whatever the rows: their
    /// numbers are powers of two. A position costs as much as one that is seen, so that fewer than
    /// a third of them are not, or than [`Bucket::STEP`].
    pub(crate) fn of(rows: i64, past: i64, capacity: i64) -> Option<Self> {
        let rows = (rows as u64).next_power_of_two() as i64;
        let needed = past + rows;
        let step = ((needed as u64).next_power_of_two() as i64 / 4).max(Self::STEP);
        let positions = (needed + step - 1) / step * step;
        (rows <= Self::MOST_ROWS && needed <= capacity)
            .then_some(Self { rows, positions: positions.min(capacity) })
    }

    /// All buckets of a cache.
    pub(crate) fn all(capacity: i64) -> Vec<Self> {
        let mut all = Vec::new();
        for rows in (0..=Self::MOST_ROWS.ilog2()).map(|exponent| 1 << exponent) {
            let mut past = 0;
            while let Some(bucket) = Self::of(rows, past, capacity) {
                all.push(bucket);
                past = bucket.positions - rows + 1;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cache_of_2048_positions_has_few_buckets() {
        let all = Bucket::all(2048);
        let of_a_row: Vec<i64> =
            all.iter().filter(|bucket| bucket.rows == 1).map(|bucket| bucket.positions).collect();
        assert_eq!(of_a_row, [256, 512, 768, 1024, 1536, 2048]);
        assert_eq!(all.len(), 8 * of_a_row.len());
    }

    proptest! {
        #[test]
        fn a_bucket_has_room(rows in 1i64..=128, past in 1i64..9000, capacity in 100i64..9000) {
            match Bucket::of(rows, past, capacity) {
                Some(bucket) => {
                    prop_assert!((rows..2 * rows).contains(&bucket.rows));
                    prop_assert!((past + bucket.rows..=capacity).contains(&bucket.positions));
                    let unseen = bucket.positions - past - bucket.rows;
                    prop_assert!(unseen < 256 || 3 * unseen < bucket.positions, "{bucket:?} for {past}");
                    prop_assert!(Bucket::all(capacity).contains(&bucket));
                }
                None => prop_assert!(past + (rows as u64).next_power_of_two() as i64 > capacity),
            }
        }
    }
}
