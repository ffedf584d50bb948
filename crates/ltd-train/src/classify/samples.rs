//! What classifiers learn from: tokens of recorded drafts, and whether the target says them.

use std::sync::Arc;

use ltd_contenders::{C2t, Disco, EAGLE_DEFAULT, Hvd, Newest};
use ltd_engine::{Controller, Glimpse, Looks};
use ltd_env::oracle::decide_along;
use ltd_env::trace::{Outline, Trace, TraceHeader, TracedSequence};
use ltd_env::{Copied, Interrupt, RecordedTree};
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

/// The samples of all classifiers.
#[derive(Debug, Default)]
pub(super) struct Labelled {
    /// The best candidate of each level, each level being the newest in its turn.
    pub(super) disco: Samples,
    /// The candidates that EAGLE's default verifies.
    pub(super) c2t: Samples,
    /// The best candidate of each level that was expanded, if what it follows is accepted.
    pub(super) spec_dec: Samples,
    /// Copies at all positions where something matches: whether enough of their tokens are
    /// accepted.
    pub(super) hvd: Samples,
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
    /// The tokens of all recorded drafts. The trace must have entropies, states and the candidates'
    /// tokens.
    ///
    /// # Errors
    /// If there is a wish to stop, or the trace lacks them.
    pub(super) fn of(trace: &Trace, interrupt: &Interrupt) -> Result<Self> {
        let mut noting = Noting {
            header: &trace.header,
            sequence: None,
            at: 0,
            path: Vec::new(),
            parents: Vec::new(),
            judged: None,
            known: 0,
            candidates: Vec::new(),
            labelled: Self::default(),
        };
        for sequence in trace.sequences() {
            interrupt.check()?;
            let sequence = sequence?;
            (noting.sequence, noting.at) = (Some(Arc::clone(&sequence)), 0);
            decide_along(&trace.header, &sequence, &mut noting)?;
        }
        let mut labelled = noting.labelled;
        trace.outlines().for_each(|sequence| note_copies(sequence, &mut labelled.hvd));
        Ok(labelled)
    }
}

/// Notes the copies at all positions of a sequence. What a policy's own cycles yielded lately is
/// not among their features.
fn note_copies(sequence: &Outline, samples: &mut Samples) {
    for (at, copied) in Copied::along(sequence).into_iter().enumerate() {
        let known = copied.accepted < sequence.known(at) || copied.accepted >= Hvd::ENOUGH;
        if let (Some(features), true) = (Hvd::features(&copied.summary(sequence, at)), known) {
            samples.push(&features, copied.accepted >= Hvd::ENOUGH);
        }
    }
}

/// Drafts whole trees and notes their candidates, position after position.
struct Noting<'t> {
    header: &'t TraceHeader,
    /// The sequence under way.
    sequence: Option<Arc<TracedSequence>>,
    /// The position of its next tree.
    at: usize,
    /// Its candidates that the target says.
    path: Vec<usize>,
    /// What its groups of candidates follow: 0 for the root, else 1 + the candidate.
    parents: Vec<usize>,
    /// Whether the best candidate of the newest level is accepted, if what it follows is.
    judged: Option<bool>,
    /// Levels of which that is known.
    known: usize,
    /// What C2T sees of each candidate so far.
    candidates: Vec<[f32; C2t::FEATURES]>,
    labelled: Labelled,
}

impl Noting<'_> {
    /// Whether the target says all before a candidate.
    fn follows_the_path(&self, candidate: usize) -> bool {
        let group = candidate / self.header.beam_width;
        let parent = self.parents[group].checked_sub(1);
        parent.is_none_or(|parent| self.path.contains(&parent))
    }
}

impl Controller for Noting<'_> {
    fn begin_cycle(&mut self) {
        let (sequence, at) = (self.sequence.as_ref().expect("invariant: one is under way"), self.at);
        let tree = RecordedTree { header: self.header, position: sequence.position(at) };
        let path = tree.path(&sequence.tokens);
        self.path = path.expect("invariant: the trace has the candidates' tokens");
        (_, self.parents) = tree.position.candidates().expect("invariant: they are there");
        self.known = sequence.known(at);
        self.judged = None;
        self.at = at + 1;
        self.candidates.clear();
    }

    fn looks(&self) -> Looks {
        Looks { entropies: true, states: true }
    }

    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        self.candidates.extend(C2t::features(summary, glimpse));
        // The state after a token comes with the level below it.
        if let Some(accepted) = self.judged.take() {
            self.labelled.spec_dec.push(glimpse.last_state(summary), accepted);
        }
        if summary.draft_depth < self.known {
            let Newest { candidate, .. } = Newest::of(summary, glimpse);
            let accepted = self.path.contains(&candidate);
            self.labelled.disco.push(&Disco::features(summary, glimpse), accepted);
            self.judged = self.follows_the_path(candidate).then_some(accepted);
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
        let header = TraceHeader { depth: 2, entropies: true, states: Some(2), token_bytes: 2, ..header() };
        let mut tree = DraftTree::new(&[-0.5, -1.0], vec![7, 8]);
        tree.push_level(&[-0.25, -2.0, -0.125, -3.0], &[1, 2, 3, 4]);
        // The best of the level are 1, below 7, and 3, below 8.
        tree.push_level(&[-0.5, -4.0, -0.25, -5.0], &[5, 6, 9, 6]);
        let entropies = vec![0.5, 0.25, 0.75, 1.0, 1.25];
        // The first text has the tree's best path, the second leaves it after 7; of the third it is
        // not known what follows 8.
        let texts = [vec![5, 7, 1, 5, 6, 6], vec![5, 7, 2, 9, 9, 9], vec![5, 8, 3, 6]];
        let sequences = texts.map(|text| {
            let mut sequence = TracedSequence::new(&header, 0, 0, text);
            let (tree, entropies) = (tree.clone(), entropies.clone());
            let states = vec![1.0, 2.0, 3.0, 4.0];
            sequence.push(&GrownTree { entropies, states, ..GrownTree::new(0, tree) });
            sequence
        });
        let trace = Trace::new(header, sequences.to_vec());
        let Labelled { disco, c2t, spec_dec, .. } =
            Labelled::of(&trace, &Interrupt::default()).expect("samples");
        // The best candidates are 7, 1 below it, and 5 below that: accepted as far as the text has
        // them, and in the third wrong as far as it is known.
        assert_eq!(disco.accepted, [true, true, true, true, false, false, false, false]);
        let levels: Vec<f32> = disco.features.chunks_exact(12).map(|features| features[11]).collect();
        assert_eq!(levels, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0]);
        // Of 7 and 1, which a level follows; 1 in the third text follows what is not accepted.
        assert_eq!(spec_dec.accepted, [true, true, true, false, false]);
        let states: Vec<&[f32]> = spec_dec.features.chunks_exact(2).collect();
        assert_eq!(states, [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]);
        // By score: 7, 1, 8, 3, 5, 9, 2, 4, 6, 6, as far as is known.
        let first = [true, true, false, false, true, false, false, false, false, false];
        assert_eq!(c2t.accepted[..10], first);
        assert_eq!(c2t.counts()[0], 3 + 2 + 2);
        assert_eq!(c2t.features[..6], [(-0.5f32).exp(), 0.5, 1.0, (-0.75f32).exp(), 0.25, 2.0]);
        let balanced = c2t.balanced(&mut stream(1, "test"));
        assert_eq!((balanced.len(), balanced.counts(), balanced.features.len()), (14, [7, 7], 42));
    }

    #[test]
    fn copies_are_labelled_as_far_as_the_text_is_known() {
        // From its second token on, the text repeats every two tokens, but for the last.
        let text = [9, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 7, 8];
        let header = TraceHeader { depth: 0, entropies: false, ..header() };
        let mut sequence = TracedSequence::new(&header, 0, 2, text.to_vec());
        for root in 2..11 {
            sequence.push(&GrownTree::new(root, DraftTree::new(&[-0.5, -1.0], vec![7, 8])));
        }
        let mut samples = Samples::default();
        note_copies(&sequence, &mut samples);
        // At the roots 3 to 10 something matches; so many tokens are right: 7, 6, 5 and so on.
        assert_eq!(samples.accepted, [true, true, false, false, false, false, false, false]);
        let lengths: Vec<f32> =
            samples.features.chunks_exact(Hvd::FEATURES).map(|row| 16.0 * row[0]).collect();
        assert_eq!(lengths, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        // A text that ends while it repeats tells nothing of copies that reach its end.
        let mut sequence = TracedSequence::new(&header, 0, 2, text[..9].to_vec());
        for root in 2..8 {
            sequence.push(&GrownTree::new(root, DraftTree::new(&[-0.5, -1.0], vec![7, 8])));
        }
        let mut samples = Samples::default();
        note_copies(&sequence, &mut samples);
        assert_eq!(samples.len(), 0);
    }
}
