//! What copies and trees come to, by what is known before a cycle.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use ltd_engine::{Controller, Static};
use ltd_env::trace::Trace;
use ltd_env::{Copied, Costs, Interrupt, RecordedTree, oracle, stream};
use ltd_policy::{
    Calibration, CycleSummary, DraftSource, Merged, ObservationLayout, SourceActions, SourceOutcomes,
    SourceSummary,
};
use ndarray::Array2;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::records::Records;
use super::samples::Samples;
use crate::Result;

/// Walks through each sequence. What its cycles yielded and what the draft has not read depend on
/// the way.
const WALKS: u64 = 8;
/// Share of the cycles that copy, where something can be copied.
const COPYING: f64 = 0.5;

/// By number of the sequence and position, per depth, places of the accepted tokens in merged
/// trees.
type Ranks = HashMap<(usize, usize), Vec<Vec<usize>>>;

/// Sequences of a trace as they stand before the cycles of some walks, which choose at random.
pub(crate) struct Walks<'t> {
    trace: &'t Trace,
    /// Number of a sequence, and what is known at a position of it.
    pub(crate) places: Vec<(usize, SourceSummary)>,
}

impl<'t> Walks<'t> {
    /// Walks whose trees have the shape of `trees`, and whose chains are `chains`.
    pub(crate) fn through(
        trace: &'t Trace,
        costs: &Costs,
        chains: &SourceActions,
        trees: Static,
        seed: u64,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let mut random = stream(seed, "walks");
        let mut places = Vec::new();
        for (number, sequence) in trace.sequences().enumerate() {
            interrupt.check()?;
            let sequence = &*sequence?;
            for _ in 0..WALKS {
                let mut walker = Walker { chains, trees, random: &mut random, seen: Vec::new() };
                oracle::replay_sequence(&trace.header, sequence, costs, &mut walker, &mut |_| ())?;
                places.extend(walker.seen.into_iter().map(|summary| (number, summary)));
            }
        }
        Ok(Self { trace, places })
    }

    /// What copies, each tree and each merged tree would have come to at the places: twice, before
    /// the root expansion and, where the draft model's opinion of a copy is known, after it.
    pub(super) fn samples(
        &self,
        layout: &ObservationLayout,
        outcomes: &SourceOutcomes,
        records: &Records,
        interrupt: &Interrupt,
    ) -> Result<Samples> {
        let SourceOutcomes { source, trees, places: of_chain } = outcomes;
        let stops: Vec<usize> = trees.stops().collect();
        let copied: Vec<Vec<Copied>> = self.trace.outlines().map(Copied::along).collect();
        let merged = match &source.merged {
            Some(merged) => self.merged(merged, &stops, trees.size.largest(), &copied, interrupt)?,
            None => HashMap::new(),
        };
        let header = &self.trace.header;
        // Only merged trees are decided again.
        let merging = if source.merged.is_some() { &self.places[..] } else { &[] };
        let mut places = self.places.clone();
        for of_sequence in merging.chunk_by(|(one, _), (next, _)| one == next) {
            let number = of_sequence[0].0;
            let sequence = self.trace.sequence(number)?;
            places.extend(of_sequence.iter().filter_map(|&(_, summary)| {
                let at = summary.context_length - sequence.prompt_len;
                let tree = RecordedTree { header, position: sequence.position(at) };
                let agreement = Some(tree.agreement(&sequence.tokens, copied[number][at])?);
                Some((number, SourceSummary { agreement, ..summary }))
            }));
        }
        let mut observations = Array2::zeros((places.len(), layout.len()));
        let mut accepted = Array2::zeros((places.len(), ltd_policy::Outputs::output_count(outcomes)));
        for (row, (number, summary)) in places.iter().enumerate() {
            let mut observation = observations.row_mut(row);
            let observation = observation.as_slice_mut().expect("invariant: a row is contiguous");
            let sequence = self.trace.outline(*number);
            layout.write_sequence_into(&records.of_others(sequence).tell(summary), observation);
            let at = summary.context_length - sequence.prompt_len;
            let copied = copied[*number][at];
            let right_tokens = copied.found.map(|_| copied.accepted);
            let of_places = (0..*of_chain).map(|place| right(right_tokens, sequence.known(at), place));
            let pairs =
                stops.iter().flat_map(|&depth| trees.size.sizes.iter().map(move |&size| (depth, size)));
            let of_trees = pairs.map(|(depth, size)| sequence.accepted(at, depth, size));
            let of_merged = merged.get(&(*number, at)).into_iter().flatten().flat_map(|ranks| {
                let within = |size: &usize| ranks.partition_point(|rank| rank < size);
                trees.size.sizes.iter().map(within)
            });
            let of_trees = of_trees.chain(of_merged).map(|accepted| accepted as f32);
            for (target, outcome) in accepted.row_mut(row).iter_mut().zip(of_places.chain(of_trees)) {
                *target = outcome;
            }
        }
        // There is one time to look.
        Ok(Samples { observations, accepted, places: *of_chain, stops: vec![0] })
    }

    /// For each position that is among the places, the ranks of the accepted tokens in merged trees
    /// of each depth.
    fn merged(
        &self,
        merged: &Merged,
        depths: &[usize],
        size_limit: usize,
        copied: &[Vec<Copied>],
        interrupt: &Interrupt,
    ) -> Result<Ranks> {
        let Merged { chain, calibration } = merged;
        let header = &self.trace.header;
        let ranks = |places: &[(usize, SourceSummary)]| {
            let number = places[0].0;
            let sequence = self.trace.sequence(number)?;
            let at = |(_, summary): &(usize, SourceSummary)| summary.context_length - sequence.prompt_len;
            let positions: BTreeSet<usize> = places.iter().map(at).collect();
            let ranks = |at: usize| {
                interrupt.check()?;
                let tree = RecordedTree { header, position: sequence.position(at) };
                let with = (copied[number][at], *chain);
                let ranks = tree.merged_ranks(depths, size_limit, &sequence.tokens, with, calibration)?;
                Ok(((number, at), ranks))
            };
            positions.into_iter().map(ranks).collect::<Result<Vec<_>>>()
        };
        // Sequence after sequence: each is read once.
        let of_sequences: Vec<_> = self.places.chunk_by(|(one, _), (next, _)| one == next).collect();
        let ranks = of_sequences.into_par_iter().map(ranks).collect::<Result<Vec<_>>>()?;
        Ok(ranks.into_iter().flatten().collect())
    }
}

/// Whether the token at a place of a chain is right, of which `accepted` are and the first `known`
/// places are known: NaN where that is not, if one before it is wrong, and without a chain.
fn right(accepted: Option<usize>, known: usize, place: usize) -> f32 {
    match accepted {
        Some(accepted) if place < known && place <= accepted => f32::from(u8::from(place < accepted)),
        _ => f32::NAN,
    }
}

/// Chooses at random and notes what it was shown.
struct Walker<'w> {
    chains: &'w SourceActions,
    trees: Static,
    random: &'w mut ChaCha8Rng,
    seen: Vec<SourceSummary>,
}

impl Controller for Walker<'_> {
    fn size_limit(&self) -> usize {
        self.trees.size
    }

    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        self.seen.push(*summary);
        let copies = summary.match_length > 0 && self.random.random_bool(COPYING);
        let chain = self.random.random_range(1..self.chains.count());
        if copies { self.chains.source(chain) } else { DraftSource::Tree }
    }

    fn calibration(&self) -> Cow<'_, Calibration> {
        match &self.chains.merged {
            Some(merged) => Cow::Borrowed(&merged.calibration),
            None => Cow::Owned(Calibration::default()),
        }
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < self.trees.depth
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.trees.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_as_far_as_the_chain_is_right_and_known() {
        let places = |accepted, known| {
            let right = move |place| right(accepted, known, place);
            (0..4).map(right).map(|right| (!right.is_nan()).then_some(right))
        };
        let [yes, no] = [Some(1.0), Some(0.0)];
        assert!(places(Some(2), 9).eq([yes, yes, no, None]));
        assert!(places(Some(2), 2).eq([yes, yes, None, None]));
        assert!(places(Some(0), 9).eq([no, None, None, None]));
        assert!(places(None, 9).eq([None; 4]));
    }
}
