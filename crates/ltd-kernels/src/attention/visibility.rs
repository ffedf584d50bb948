//! Which positions the rows of a forward see, as masks of lanes.

use crate::vector::LANES;

/// What the rows of a forward look at.
#[derive(Debug, Clone)]
pub struct Visibility {
    /// Positions that all rows see.
    pub(super) everywhere: usize,
    /// Which lanes see each of the positions after those, `[vectors of query rows, positions]`;
    /// absent if all see all.
    seeing: Option<Vec<u16>>,
}

impl Visibility {
    /// Rows that all see `everywhere` positions and of those after them what `sees` says,
    /// row-major; `group` query heads share a key head.
    pub fn new(everywhere: usize, sees: Option<&[bool]>, rows: usize, group: usize) -> Self {
        let seeing = sees.map(|sees| {
            let (count, positions) = (rows * group, sees.len() / rows);
            let mut seeing = Vec::with_capacity(count.div_ceil(LANES) * positions);
            for first in (0..count).step_by(LANES) {
                let lanes: [&[bool]; LANES] = std::array::from_fn(|lane| {
                    // Lanes that are left over see what the last row does.
                    let row = (first + lane).min(count - 1) / group;
                    &sees[row * positions..][..positions]
                });
                let of_position = |position: usize| {
                    let bits = lanes.iter().enumerate();
                    bits.fold(0, |bits, (lane, sees)| bits | u16::from(sees[position]) << lane)
                };
                seeing.extend((0..positions).map(of_position));
            }
            seeing
        });
        Self { everywhere, seeing }
    }

    /// Fails unless it is for so many vectors of query rows and `total` positions.
    pub(super) fn check(&self, vectors: usize, total: usize) {
        let masked = total.checked_sub(self.everywhere).expect("positions that all see are there");
        let masks = self.seeing.as_ref().map_or(vectors * masked, Vec::len);
        assert_eq!(masks, vectors * masked, "masks of {vectors} vectors of rows over {masked} positions");
    }

    /// Of the positions after those that all see, the ones up to the last that a lane of a vector
    /// sees.
    #[inline(always)]
    pub(super) fn of(&self, vector: usize, total: usize) -> Option<&[u16]> {
        let positions = total - self.everywhere;
        let seeing = &self.seeing.as_ref()?[vector * positions..][..positions];
        let end = seeing.iter().rposition(|lanes| *lanes != 0).map_or(0, |last| last + 1);
        Some(&seeing[..end])
    }
}
