//! What a policy sees of a cycle: one layout type, one writer, used in training, evaluation and serving.

use serde::{Deserialize, Serialize};

/// What is known of a draft-and-verify cycle when a decision is due. Plain data: the same value is seen in
/// training, evaluation and serving.
#[derive(Debug, Clone, Copy)]
pub struct CycleSummary<'a> {
    /// Cumulative log-probs of all candidates drafted so far, level after level: `W + draft_depth * W * W` values.
    pub scores: &'a [f32],
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
    /// Draft forwards made after the root expansion, `D`.
    pub draft_depth: usize,
    /// Tokens whose keys and values the target has cached (the root token's position), `L`.
    pub context_length: usize,
}

impl<'a> CycleSummary<'a> {
    /// Scores of the newest level: `W` after the root expansion, `W * W` after each further draft forward.
    pub fn last_level(&self) -> &'a [f32] {
        let width = if self.draft_depth == 0 { self.beam_width } else { self.beam_width * self.beam_width };
        &self.scores[self.scores.len() - width..]
    }
}

/// Where the numbers of a segment come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Scores of the newest level, zero-padded.
    LastLevelScores,
    /// Scores of all levels, zero-padded.
    AllScores,
    /// `L`, repeated over the segment.
    ContextLength,
    /// `D`, repeated over the segment.
    DraftDepth,
}

impl Source {
    /// Whether a segment of this source holds one number, repeated.
    fn repeats(self) -> bool {
        matches!(self, Self::ContextLength | Self::DraftDepth)
    }
}

/// A run of an observation with one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Where the numbers come from.
    pub source: Source,
    /// First index in the observation.
    pub offset: usize,
    /// Numbers in the segment.
    pub length: usize,
    /// Factor on each number.
    pub scale: f32,
}

/// A named, versioned arrangement of what a policy sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservationLayout {
    /// Name of the arrangement.
    pub name: String,
    /// Raised when the meaning of a name changes.
    pub version: u32,
    /// Beam width that the segments were sized for.
    pub beam_width: usize,
    /// Deepest draft that the segments have room for.
    pub depth_cap: usize,
    /// The segments, one after another.
    pub segments: Vec<Segment>,
}

/// Repeats of context length and depth in the reference's depth observation (100 + 14 + 14 = 128 for `W = 10`).
const REFERENCE_DEPTH_REPEATS: usize = 14;
/// The same for the size observation (1210 + 29 + 29 = 1268 for `W = 10` and depth 12).
const REFERENCE_SIZE_REPEATS: usize = 29;
const CONTEXT_SCALE: f32 = 1.0 / 1000.0;
const DEPTH_SCALE: f32 = 1.0 / 10.0;
/// Stands for the log-prob of an impossible candidate, minus infinity, which would spoil the network's sums.
const LOWEST_SCORE: f32 = -1e4;

impl ObservationLayout {
    /// Name of [`ObservationLayout::reference_depth`].
    pub const REFERENCE_DEPTH: &'static str = "reference-depth";
    /// Name of [`ObservationLayout::reference_size`].
    pub const REFERENCE_SIZE: &'static str = "reference-size";

    /// What the official code's depth policy sees: scores of the newest level, `L / 1000` and `D / 10` repeated
    /// (arXiv 2603.01639).
    pub fn reference_depth(beam_width: usize, depth_cap: usize) -> Self {
        let scores = (Source::LastLevelScores, beam_width * beam_width);
        Self::reference(Self::REFERENCE_DEPTH, beam_width, depth_cap, scores, REFERENCE_DEPTH_REPEATS)
    }

    /// What the official code's size policy sees: all scores, `L / 1000` and `D / 10` repeated.
    pub fn reference_size(beam_width: usize, depth_cap: usize) -> Self {
        let scores = (Source::AllScores, beam_width + depth_cap * beam_width * beam_width);
        Self::reference(Self::REFERENCE_SIZE, beam_width, depth_cap, scores, REFERENCE_SIZE_REPEATS)
    }

    fn reference(
        name: &str,
        beam_width: usize,
        depth_cap: usize,
        scores: (Source, usize),
        repeats: usize,
    ) -> Self {
        let parts = [
            (scores.0, scores.1, 1.0),
            (Source::ContextLength, repeats, CONTEXT_SCALE),
            (Source::DraftDepth, repeats, DEPTH_SCALE),
        ];
        Self { name: name.to_owned(), version: 1, beam_width, depth_cap, segments: in_sequence(parts) }
    }

    /// Numbers in an observation.
    pub fn len(&self) -> usize {
        self.segments.last().map_or(0, |segment| segment.offset + segment.length)
    }

    /// Whether the layout has no segments.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether segments follow one another without gap or overlap.
    pub fn is_contiguous(&self) -> bool {
        let parts = self.segments.iter().map(|segment| (segment.source, segment.length, segment.scale));
        !self.is_empty() && in_sequence(parts) == self.segments
    }

    /// The same information with each repeated number once: what a frozen policy reads, after the repeated inputs'
    /// weights were added up.
    pub(crate) fn folded(&self) -> Self {
        let parts = self.segments.iter().map(|segment| {
            let length = if segment.source.repeats() { 1 } else { segment.length };
            (segment.source, length, segment.scale)
        });
        Self { name: format!("{}-folded", self.name), segments: in_sequence(parts), ..self.clone() }
    }

    /// For each input of the folded layout, the inputs of this one that it stands for.
    pub(crate) fn folded_groups(&self) -> Vec<std::ops::Range<usize>> {
        let groups = self.segments.iter().flat_map(|segment| {
            let end = segment.offset + segment.length;
            let step = if segment.source.repeats() { segment.length } else { 1 };
            (segment.offset..end).step_by(step).map(move |start| start..start + step)
        });
        groups.collect()
    }

    /// Writes an observation, every number of it.
    ///
    /// # Panics
    /// If `observation` is not [`ObservationLayout::len`] long, or the tree has another beam width or more levels
    /// than the layout was made for.
    pub fn write_into(&self, summary: &CycleSummary, observation: &mut [f32]) {
        assert_eq!(observation.len(), self.len(), "observation buffer");
        assert_eq!(summary.beam_width, self.beam_width, "beam width of the tree and of the layout");
        assert!(summary.draft_depth <= self.depth_cap, "the tree is deeper than the layout");
        for segment in &self.segments {
            let target = &mut observation[segment.offset..][..segment.length];
            match segment.source {
                Source::LastLevelScores => write_padded(summary.last_level(), segment.scale, target),
                Source::AllScores => write_padded(summary.scores, segment.scale, target),
                Source::ContextLength => target.fill(summary.context_length as f32 * segment.scale),
                Source::DraftDepth => target.fill(summary.draft_depth as f32 * segment.scale),
            }
        }
    }
}

fn in_sequence(parts: impl IntoIterator<Item = (Source, usize, f32)>) -> Vec<Segment> {
    let mut offset = 0;
    let segments = parts.into_iter().map(|(source, length, scale)| {
        let segment = Segment { source, offset, length, scale };
        offset += length;
        segment
    });
    segments.collect()
}

fn write_padded(values: &[f32], scale: f32, target: &mut [f32]) {
    let (written, padding) = target.split_at_mut(values.len());
    for (target, value) in written.iter_mut().zip(values) {
        *target = (value * scale).max(LOWEST_SCORE);
    }
    padding.fill(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(scores: &[f32], draft_depth: usize) -> CycleSummary<'_> {
        CycleSummary { scores, beam_width: 2, draft_depth, context_length: 500 }
    }

    #[test]
    fn reference_layouts_have_the_official_lengths() {
        let depth = ObservationLayout::reference_depth(10, 12);
        let offsets: Vec<_> = depth.segments.iter().map(|segment| segment.offset).collect();
        assert_eq!((depth.len(), offsets), (128, vec![0, 100, 114]));
        let size = ObservationLayout::reference_size(10, 12);
        let offsets: Vec<_> = size.segments.iter().map(|segment| segment.offset).collect();
        assert_eq!((size.len(), offsets), (1268, vec![0, 1210, 1239]));
    }

    #[test]
    fn the_writer_overwrites_everything() {
        let layout = ObservationLayout::reference_size(2, 2);
        let mut observation = vec![f32::NAN; layout.len()];
        layout.write_into(&summary(&[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], 1), &mut observation);
        let mut expected = vec![-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, 0.0, 0.0, 0.0, 0.0];
        expected.extend([0.5; 29]);
        expected.extend([0.1; 29]);
        assert_eq!(observation, expected);
    }

    #[test]
    fn the_depth_policy_sees_the_newest_level_only() {
        let layout = ObservationLayout::reference_depth(2, 12);
        let mut observation = vec![f32::NAN; layout.len()];
        layout.write_into(&summary(&[-1.0, -2.0], 0), &mut observation);
        assert_eq!(observation[..4], [-1.0, -2.0, 0.0, 0.0]);
        layout.write_into(&summary(&[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], 1), &mut observation);
        assert_eq!(observation[..4], [-3.0, -4.0, -5.0, -6.0]);
    }

    #[test]
    fn an_impossible_candidate_stays_finite() {
        let layout = ObservationLayout::reference_depth(2, 12);
        let mut observation = vec![0.0; layout.len()];
        layout.write_into(&summary(&[-1.0, f32::NEG_INFINITY], 0), &mut observation);
        assert!(observation.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn folded_inputs_stand_for_all_inputs_once() {
        let layout = ObservationLayout::reference_size(3, 2);
        let groups = layout.folded_groups();
        assert_eq!(groups.len(), layout.folded().len());
        let covered: Vec<usize> = groups.into_iter().flatten().collect();
        assert_eq!(covered, (0..layout.len()).collect::<Vec<_>>());
    }
}
