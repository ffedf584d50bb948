//! Which positions the rows of a forward see, as masks of lanes.

use super::super::simd::LANES;

/// What the rows of a forward look at.
#[derive(Debug, Clone)]
pub(in super::super::super) struct Visibility {
    /// Positions that all rows see.
    pub(super) everywhere: usize,
    /// Which lanes see each of the positions after those, `[vectors of query rows, positions]`; absent if all see all.
    seeing: Option<Vec<u16>>,
}

impl Visibility {
    /// Rows that all see `everywhere` positions and of those after them what `sees` says, row-major; `group` query
    /// heads share a key head.
    pub(in super::super::super) fn new(
        everywhere: usize,
        sees: Option<&[bool]>,
        rows: usize,
        group: usize,
    ) -> Self {
        let seeing = sees.map(|sees| {
            let (count, positions) = (rows * group, sees.len() / rows);
            // Lanes that are left over see what the last row does.
            let row = |lane: usize| lane.min(count - 1) / group;
            let lanes = |vector: usize, position: usize| {
                let seeing = |lane| sees[row(vector * LANES + lane) * positions + position];
                (0..LANES).fold(0, |lanes, lane| lanes | u16::from(seeing(lane)) << lane)
            };
            let vectors = 0..count.div_ceil(LANES);
            vectors
                .flat_map(|vector| (0..positions).map(move |position| (vector, position)))
                .map(|(vector, position)| lanes(vector, position))
                .collect()
        });
        Self { everywhere, seeing }
    }

    /// Of the positions after those that all see, the ones up to the last that a lane of a vector sees.
    #[inline(always)]
    pub(super) fn of(&self, vector: usize, total: usize) -> Option<&[u16]> {
        let positions = total - self.everywhere;
        let seeing = &self.seeing.as_ref()?[vector * positions..][..positions];
        let end = seeing.iter().rposition(|lanes| *lanes != 0).map_or(0, |last| last + 1);
        Some(&seeing[..end])
    }
}
