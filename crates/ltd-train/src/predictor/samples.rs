//! What the predictor learns from: every outcome at every recorded position.

use ltd_env::trace::Trace;
use ltd_env::{Cycle, Interrupt, RecordedTree};
use ltd_policy::{FactoredActions, ObservationLayout};
use ndarray::Array2;
use rayon::prelude::*;

use crate::Result;

/// Positions with what is seen after each depth at which drafting can end, and what each ending
/// would accept.
#[derive(Debug)]
pub(crate) struct Samples {
    /// `[positions * stops, observation]`, the depths of a position one after another.
    pub(crate) observations: Array2<f32>,
    /// Draft tokens accepted, `[positions, stops * sizes]`; before them, `places` columns.
    pub(crate) accepted: Array2<f32>,
    /// Places of a chain of which it is told whether the token there is right (1 or 0), if those
    /// before it are; NaN where they are not, or where that is not known.
    pub(crate) places: usize,
    /// Depths at which drafting can end.
    pub(crate) stops: Vec<usize>,
}

impl Samples {
    /// All positions of a trace whose trees reach the deepest stop.
    pub(crate) fn of(
        trace: &Trace,
        layout: &ObservationLayout,
        actions: &FactoredActions,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let stops: Vec<usize> = actions.stops().collect();
        let sizes = &actions.size.sizes;
        let positions = trace.positions();
        let (width, outcomes) = (layout.len(), stops.len() * sizes.len());
        let mut observations = Array2::zeros((positions * stops.len(), width));
        let mut accepted = Array2::zeros((positions, outcomes));
        let mut rows = observations.as_slice_mut().expect("invariant: a new array is contiguous");
        let mut targets = accepted.as_slice_mut().expect("invariant: a new array is contiguous");
        // Each sequence has rows and targets of its own.
        let mut places = Vec::with_capacity(trace.len());
        for (number, outline) in trace.outlines().enumerate() {
            let (of_rows, of_targets);
            (of_rows, rows) = rows.split_at_mut(outline.len() * stops.len() * width);
            (of_targets, targets) = targets.split_at_mut(outline.len() * outcomes);
            places.push((number, of_rows, of_targets));
        }
        places.into_par_iter().try_for_each(|(number, rows, targets)| {
            let sequence = trace.sequence(number)?;
            let rows = rows.chunks_mut(width * stops.len()).zip(targets.chunks_mut(outcomes));
            for (at, (rows, targets)) in rows.enumerate() {
                interrupt.check()?;
                let position = sequence.position(at);
                let tree = RecordedTree { header: &trace.header, position };
                let mut cycle = tree.begin(actions.size.largest());
                for (index, &depth) in stops.iter().enumerate() {
                    while cycle.summary().draft_depth < depth {
                        tree.expand(&mut cycle);
                    }
                    layout.write_into(&cycle.summary(), &mut rows[index * width..][..width]);
                    for (place, &size) in sizes.iter().enumerate() {
                        targets[index * sizes.len() + place] = position.accepted(depth, size) as f32;
                    }
                }
            }
            Ok::<_, ltd_env::Error>(())
        })?;
        Ok(Self { observations, accepted, places: 0, stops })
    }

    /// Observations.
    pub(crate) fn len(&self) -> usize {
        self.observations.nrows()
    }
}
