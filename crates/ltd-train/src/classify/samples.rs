//! What classifiers learn from: tokens of recorded drafts, and whether the target says them.

use ltd_contenders::{C2t, Disco, EAGLE_DEFAULT, Newest};
use ltd_engine::{Controller, Glimpse};
use ltd_env::oracle::decide_at_every_position;
use ltd_env::trace::Trace;
use ltd_env::{Interrupt, RecordedTree};
use ltd_policy::CycleSummary;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::Result;

/// Draft tokens as a classifier sees them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Samples {
    /// `[samples, features]`.
    pub(super) features: Vec<f32>,
    /// Whether the target says the token, and those before it, `[samples]`.
    pub(super) accepted: Vec<bool>,
}

/// The samples of both classifiers.
#[derive(Debug, Default)]
pub(super) struct Labelled {
    /// The best candidate of each level, each level being the newest in its turn.
    pub(super) disco: Samples,
    /// The candidates that EAGLE's default verifies.
    pub(super) c2t: Samples,
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Accepted ones and others.
    pub(super) fn counts(&self) -> [usize; 2] {
        let accepted = self.accepted.iter().filter(|accepted| **accepted).count();
        [accepted, self.len() - accepted]
    }

    pub(super) fn push(&mut self, features: &[f32], accepted: bool) {
        self.features.extend_from_slice(features);
        self.accepted.push(accepted);
    }

    /// As many accepted ones as others: all of the rarer, and as many of the rest, drawn.
    pub(super) fn balanced(&self, random: &mut ChaCha8Rng) -> Self {
        let of = |wanted: bool| (0..self.len()).filter(move |&place| self.accepted[place] == wanted);
        let mut classes = [true, false].map(|wanted| of(wanted).collect::<Vec<_>>());
        let count = classes[0].len().min(classes[1].len());
        let width = self.features.len() / self.len().max(1);
        let mut balanced = Self::default();
        for class in &mut classes {
            class.shuffle(random);
            for &place in &class[..count] {
                balanced.push(&self.features[place * width..][..width], self.accepted[place]);
            }
        }
        balanced
    }
}

impl Labelled {
    /// The tokens of all recorded drafts. The trace must have entropies and the candidates' tokens.
    ///
    /// # Errors
    /// If there is a wish to stop, or the trace lacks them.
    pub(super) fn of(trace: &Trace, interrupt: &Interrupt) -> Result<Self> {
        let mut noting = Noting {
            trace,
            place: None,
            path: Vec::new(),
            known: 0,
            candidates: Vec::new(),
            labelled: Self::default(),
        };
        decide_at_every_position(trace, &mut noting, interrupt)?;
        Ok(noting.labelled)
    }
}

/// Drafts whole trees and notes their candidates, position after position.
struct Noting<'t> {
    trace: &'t Trace,
    /// Sequence and position of the tree under way.
    place: Option<(usize, usize)>,
    /// Its candidates that the target says.
    path: Vec<usize>,
    /// Levels of which that is known.
    known: usize,
    /// What C2T sees of each candidate so far.
    candidates: Vec<[f32; C2t::FEATURES]>,
    labelled: Labelled,
}

impl Noting<'_> {
    /// The place after this one.
    fn next(&self) -> (usize, usize) {
        let (mut sequence, mut at) = self.place.map_or((0, 0), |(sequence, at)| (sequence, at + 1));
        while at == self.trace.sequences[sequence].len() {
            (sequence, at) = (sequence + 1, 0);
        }
        (sequence, at)
    }
}

impl Controller for Noting<'_> {
    fn begin_cycle(&mut self) {
        let (number, at) = self.next();
        let sequence = &self.trace.sequences[number];
        let tree = RecordedTree { header: &self.trace.header, position: sequence.position(at) };
        let path = tree.path(&sequence.tokens);
        self.path = path.expect("invariant: the trace has the candidates' tokens");
        self.known = sequence.known(at);
        self.place = Some((number, at));
        self.candidates.clear();
    }

    fn looks(&self) -> bool {
        true
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        self.candidates.extend(C2t::features(summary, glimpse));
        if summary.draft_depth < self.known {
            let accepted = self.path.contains(&Newest::of(summary, glimpse).candidate);
            self.labelled.disco.push(&Disco::features(summary, glimpse), accepted);
        }
    }

    fn continue_drafting(&mut self, _summary: &CycleSummary) -> bool {
        true
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        let size = EAGLE_DEFAULT.0.size;
        let mut best: Vec<usize> = (0..summary.scores.len()).collect();
        best.sort_by(|&a, &b| summary.scores[b].total_cmp(&summary.scores[a]));
        for &candidate in best.iter().take(size) {
            let features @ [probability, _, depth] = self.candidates[candidate];
            if probability > 0.0 && depth as usize <= self.known {
                self.labelled.c2t.push(&features, self.path.contains(&candidate));
            }
        }
        size
    }
}

#[cfg(test)]
mod tests {
    use ltd_engine::{DraftTree, GrownTree};
    use ltd_env::stream;
    use ltd_env::trace::{TraceHeader, TracedSequence};

    use super::*;
    use crate::recorded::tests::header;

    #[test]
    fn tokens_of_the_continuation_are_accepted_and_others_are_not() {
        let header = TraceHeader { depth: 1, entropies: true, token_bytes: 2, ..header() };
        let mut tree = DraftTree::new(&[-0.5, -1.0], vec![7, 8]);
        tree.push_level(&[-0.25, -2.0, -0.125, -3.0], &[1, 2, 3, 4]);
        let entropies = vec![0.5, 0.25, 0.75];
        // The target says 8 and 3; in the second sequence it is not known what follows 8.
        let sequences = [(0, vec![5, 6, 8, 3, 9]), (1, vec![6, 6, 8, 3])].map(|(number, tokens)| {
            let mut sequence = TracedSequence::new(&header, number, 1, tokens);
            let (tree, entropies) = (tree.clone(), entropies.clone());
            sequence.push(&GrownTree { root: 1, tree, entropies, hidden: Vec::new() });
            sequence
        });
        let trace = Trace { header, sequences: sequences.to_vec(), truncated: Vec::new() };
        let Labelled { disco, c2t } = Labelled::of(&trace, &Interrupt::default()).expect("samples");
        // The best candidates are 7, and 1 below it: both are wrong.
        assert_eq!(disco.accepted, [false, false, false]);
        let levels: Vec<f32> = disco.features.chunks_exact(12).map(|features| features[11]).collect();
        assert_eq!(levels, [1.0, 2.0, 1.0]);
        // By score: 7, 1, 8, 3 (all below -1), 2, 4; of the second sequence the first level.
        let accepted = [false, false, true, true, false, false, false, true];
        assert_eq!(c2t.accepted, accepted);
        assert_eq!(c2t.features[6..12], [(-1.0f32).exp(), 0.5, 1.0, (-1.125f32).exp(), 0.75, 2.0]);
        let balanced = c2t.balanced(&mut stream(1, "test"));
        assert_eq!((balanced.len(), balanced.counts(), balanced.features.len()), (6, [3, 3], 18));
    }
}
