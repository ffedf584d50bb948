//! What a policy sees of a cycle: one layout type, one writer, used in training, evaluation and
//! serving.
//!
//! ```
//! use ltd_policy::observation::{CycleSummary, ObservationLayout};
//!
//! // What the published code's size policy sees of trees with a beam of two, two levels deep.
//! let layout = ObservationLayout::reference_size(2, 2);
//! // After the root expansion: log-probs of the two best continuations.
//! let summary = CycleSummary {
//!     scores: &[-0.1, -2.5],
//!     beam_width: 2,
//!     frontier: 2,
//!     draft_depth: 0,
//!     context_length: 120,
//! };
//! let mut observation = vec![f32::NAN; layout.len()];
//! layout.write_into(&summary, &mut observation);
//! assert_eq!(observation[..4], [-0.1, -2.5, 0.0, 0.0]);
//! ```

mod compact;
mod layouts;
mod sequence;

use serde::{Deserialize, Serialize};

use crate::source::SourceSummary;

/// What is known of a draft-and-verify cycle when a decision is due. Plain data: the same value is
/// seen in training, evaluation and serving.
#[derive(Debug, Clone, Copy)]
pub struct CycleSummary<'a> {
    /// Cumulative log-probs of all candidates drafted so far, level after level: `W + draft_depth *
    /// W * W` values, minus infinity where a candidate was not expanded.
    pub scores: &'a [f32],
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
    /// Candidates that the next level would expand, at most `W`; with none, nothing that it drafts
    /// could be verified.
    pub frontier: usize,
    /// Draft forwards made after the root expansion, `D`.
    pub draft_depth: usize,
    /// Tokens whose keys and values the target has cached (the root token's position), `L`.
    pub context_length: usize,
}

impl<'a> CycleSummary<'a> {
    /// Scores of the newest level: `W` after the root expansion, `W * W` after each further draft
    /// forward.
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
    /// [`Source::LastLevelScores`] without a floor, as the published code shows them.
    RawLastLevelScores,
    /// [`Source::AllScores`] without a floor, as the published code shows them.
    RawScores,
    /// Path probabilities, seven numbers per level, zero for levels not drafted: the level's 3
    /// best, the mass of its best 10, and the mass of the best 4, 12 and 32 candidates of this
    /// level and those above.
    LevelProbabilities,
    /// The logarithms of these, floored at that of [`PROBABILITY_FLOOR`]; zero for levels not
    /// drafted.
    LevelLogProbabilities,
    /// `L`, repeated over the segment.
    ContextLength,
    /// `D`, repeated over the segment.
    DraftDepth,
    /// `L / 1000`, repeated: a quotient, as in the published code. The product with 1/1000 that
    /// [`Source::ContextLength`] shows differs from it in the last bit.
    ContextThousands,
    /// `D / 10`, repeated: a quotient.
    DepthTenths,
    /// 1, repeated: the segment shows its factor, whatever the tree.
    Constant,
    /// What is known of a sequence before a cycle ([`SourceSummary`]), ten numbers: length of the
    /// match and whether there is one, occurrences, the share of them that agree, distance, whether
    /// it is in the prompt, unread tokens, what copies and trees yielded lately, `L`.
    Sequence,
    /// Levels that the match reaches, nine numbers: its length by the logarithm; then 1 where it
    /// occurred twice, where all occurrences agree, and from lengths of 2, 3, 4, 6, 10 and 16 on.
    MatchLevels,
    /// How often copies of the first token to copy, and copies after the root, were right in
    /// recordings ([`crate::TokenRecord`]), two shares; 0 where nothing matches.
    Trust,
    /// What the draft model thinks of the first token to copy ([`crate::Agreement`]), three numbers
    /// of which one is 1; all are 0 before the root expansion.
    Agreement,
}

impl Source {
    fn sight(self) -> Sight {
        match self {
            Self::Sequence | Self::MatchLevels | Self::Trust | Self::Agreement => Sight::Sequence,
            _ => Sight::Tree,
        }
    }

    /// Whether a segment of this source holds one number, repeated.
    fn repeats(self) -> bool {
        matches!(
            self,
            Self::ContextLength
                | Self::DraftDepth
                | Self::ContextThousands
                | Self::DepthTenths
                | Self::Constant
        )
    }

    /// Numbers that trees of this width and depth need, `None` if it is more than any tree has.
    fn needs(self, beam_width: usize, depth_cap: usize) -> Option<usize> {
        let level = beam_width.checked_mul(beam_width)?;
        match self {
            Self::LastLevelScores | Self::RawLastLevelScores => Some(level),
            Self::AllScores | Self::RawScores => level.checked_mul(depth_cap)?.checked_add(beam_width),
            Self::LevelProbabilities | Self::LevelLogProbabilities => {
                depth_cap.checked_add(1)?.checked_mul(compact::NUMBERS)
            }
            Self::ContextLength
            | Self::DraftDepth
            | Self::ContextThousands
            | Self::DepthTenths
            | Self::Constant => Some(1),
            Self::Sequence => Some(sequence::NUMBERS),
            Self::MatchLevels => Some(sequence::LEVELS),
            Self::Trust => Some(sequence::TRUST),
            Self::Agreement => Some(sequence::AGREEMENTS),
        }
    }
}

/// What a policy decides from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// A cycle under way: its tree.
    Tree,
    /// A sequence before a cycle, or after its root expansion.
    Sequence,
}

impl std::fmt::Display for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tree => "tree",
            Self::Sequence => "sequence",
        })
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

/// Stands for the log-prob of an impossible candidate, and of one that was not expanded: minus
/// infinity would spoil the network's sums. It is below those of candidates that matter, and of
/// their size: where levels are narrow most of an observation is this, and with -1e4 training
/// diverges.
const LOWEST_SCORE: f32 = -64.0;
/// Path probability below which candidates are all alike: they are accepted less than once in
/// 20,000 cycles.
pub const PROBABILITY_FLOOR: f32 = 5e-5;
impl ObservationLayout {
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
        let ends = self.segments.iter().try_fold(0usize, |end, segment| {
            end.checked_add(segment.length).filter(|_| segment.offset == end)
        });
        ends.is_some_and(|length| length > 0)
    }

    /// What a layout that was read from a file should have, and what it has instead; `None` if it
    /// can be written.
    pub(crate) fn problem(&self) -> Option<(String, String)> {
        if !self.is_contiguous() {
            return Some(("segments one after another".to_owned(), "gaps or overlaps".to_owned()));
        }
        self.segments.iter().find_map(|&Segment { source, length, .. }| {
            // Levels without room would be written out of bounds.
            let needed = source.needs(self.beam_width, self.depth_cap).unwrap_or(usize::MAX);
            let expected = format!("at least {needed} for this beam width and depth");
            (length < needed).then(|| (expected, format!("{length} numbers of {source:?}")))
        })
    }

    /// The same information with each repeated number once: what a frozen policy reads, after the
    /// repeated inputs' weights were added up.
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
    /// If `observation` is not [`ObservationLayout::len`] long, or the tree has another beam width
    /// or more levels than the layout was made for.
    pub fn write_into(&self, summary: &CycleSummary, observation: &mut [f32]) {
        assert_eq!(observation.len(), self.len(), "observation buffer");
        assert_eq!(summary.beam_width, self.beam_width, "beam width of the tree and of the layout");
        assert!(summary.draft_depth <= self.depth_cap, "the tree is deeper than the layout");
        assert_eq!(self.sight(), Some(Sight::Tree), "a layout of trees");
        let mut levels_wanted = false;
        for segment in &self.segments {
            let target = &mut observation[segment.offset..][..segment.length];
            match segment.source {
                Source::LevelProbabilities | Source::LevelLogProbabilities => {
                    target.fill(0.0);
                    levels_wanted = true;
                }
                Source::LastLevelScores => write_padded(summary.last_level(), segment.scale, target),
                Source::AllScores => write_padded(summary.scores, segment.scale, target),
                Source::RawLastLevelScores => write_raw(summary.last_level(), segment.scale, target),
                Source::RawScores => write_raw(summary.scores, segment.scale, target),
                Source::ContextLength => target.fill(summary.context_length as f32 * segment.scale),
                Source::DraftDepth => target.fill(summary.draft_depth as f32 * segment.scale),
                Source::ContextThousands => {
                    target.fill(summary.context_length as f32 / 1000.0 * segment.scale);
                }
                Source::DepthTenths => target.fill(summary.draft_depth as f32 / 10.0 * segment.scale),
                Source::Constant => target.fill(segment.scale),
                Source::Sequence | Source::MatchLevels | Source::Trust | Source::Agreement => {
                    unreachable!("a layout of trees has none")
                }
            }
        }
        if levels_wanted {
            self.write_levels(summary, observation);
        }
    }

    /// Writes an observation of a sequence, every number of it.
    ///
    /// # Panics
    /// If `observation` is not [`ObservationLayout::len`] long, or the layout is one of trees.
    pub fn write_sequence_into(&self, summary: &SourceSummary, observation: &mut [f32]) {
        assert_eq!(observation.len(), self.len(), "observation buffer");
        assert_eq!(self.sight(), Some(Sight::Sequence), "a layout of sequences");
        for segment in &self.segments {
            let target = &mut observation[segment.offset..][..segment.length];
            match segment.source {
                Source::MatchLevels => write_padded(&sequence::levels(summary), segment.scale, target),
                Source::Trust => write_padded(&sequence::trust(summary), segment.scale, target),
                Source::Agreement => write_padded(&sequence::agreement(summary), segment.scale, target),
                _ => write_padded(&sequence::numbers(summary), segment.scale, target),
            }
        }
    }

    /// Whether it shows the scores of all candidates that a level can have, so that every one of a
    /// level's `W` candidates has to be expanded.
    pub(crate) fn needs_whole_levels(&self) -> bool {
        self.shows(Source::RawLastLevelScores) || self.shows(Source::RawScores)
    }

    /// Whether some of its numbers come from there.
    pub fn shows(&self, source: Source) -> bool {
        self.segments.iter().any(|segment| segment.source == source)
    }

    /// What the layout shows; `None` if it mixes both.
    pub fn sight(&self) -> Option<Sight> {
        let mut sights = self.segments.iter().map(|segment| segment.source.sight());
        let first = sights.next()?;
        sights.all(|sight| sight == first).then_some(first)
    }

    /// One pass over the levels serves all segments that want their probabilities.
    fn write_levels(&self, summary: &CycleSummary, observation: &mut [f32]) {
        for (level, numbers) in compact::level_numbers(summary).enumerate() {
            for segment in &self.segments {
                let transform: fn(f32) -> f32 = match segment.source {
                    Source::LevelProbabilities => std::convert::identity,
                    Source::LevelLogProbabilities => compact::floored_log,
                    _ => continue,
                };
                let target = &mut observation[segment.offset + level * compact::NUMBERS..];
                for (target, number) in target.iter_mut().zip(numbers) {
                    *target = transform(number) * segment.scale;
                }
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

/// Scores with no floor but for those of candidates that are impossible or were not expanded.
fn write_raw(scores: &[f32], scale: f32, target: &mut [f32]) {
    let (written, padding) = target.split_at_mut(scores.len());
    for (target, score) in written.iter_mut().zip(scores) {
        *target = if score.is_finite() { score * scale } else { LOWEST_SCORE };
    }
    padding.fill(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::PolicyKind;
    use crate::source::Agreement;

    fn summary(scores: &[f32], draft_depth: usize) -> CycleSummary<'_> {
        CycleSummary { scores, beam_width: 2, frontier: 2, draft_depth, context_length: 500 }
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
        assert_eq!(observation[..4], [-1.0, -64.0, 0.0, 0.0]);
        layout.write_into(&summary(&[-63.0, -1000.0], 0), &mut observation);
        assert_eq!(observation[..4], [-63.0, -64.0, 0.0, 0.0], "no more than an impossible one");
    }

    #[test]
    fn the_published_codes_observations_have_its_quirks() {
        // The scores of ten candidates, and of a hundred.
        let scores: Vec<f32> = (0..110).map(|index| -0.75 * index as f32 - 0.1).collect();
        let summary = CycleSummary {
            scores: &scores,
            beam_width: 10,
            frontier: 10,
            draft_depth: 1,
            context_length: 1009,
        };
        let mut depth = vec![f32::NAN; 128];
        ObservationLayout::official_depth().write_into(&summary, &mut depth);
        assert_eq!(depth[..100], scores[10..], "no floor");
        // Whatever the context length: 10 / 1000, which 10 * (1 / 1000) is not.
        assert_eq!(depth[100..114], [0.01; 14]);
        assert_ne!(10.0 * 0.001f32, 0.01);
        assert_eq!(depth[114..], [0.1; 14]);
        let mut size = vec![f32::NAN; 1268];
        ObservationLayout::official_size().write_into(&summary, &mut size);
        assert_eq!(size[..110], scores);
        assert_eq!(size[110..1210], [0.0; 1100]);
        assert_eq!(size[1210..1239], [1.009; 29]);
        assert_eq!(size[1239..], [0.1; 29]);

        let impossible = [&[-1.0, f32::NEG_INFINITY][..], &[-2.0; 8]].concat();
        let summary = CycleSummary { scores: &impossible, draft_depth: 0, ..summary };
        ObservationLayout::official_size().write_into(&summary, &mut size);
        assert_eq!(size[..3], [-1.0, -64.0, -2.0], "a network cannot read infinity");
    }

    #[test]
    fn the_compact_layout_holds_the_levels_drafted_and_nothing_else() {
        let layout = ObservationLayout::compact(PolicyKind::Depth, 2, 2);
        assert_eq!((layout.name.as_str(), layout.len()), ("compact-depth", 2 * 3 * 7 + 2));
        assert_eq!(ObservationLayout::compact(PolicyKind::Size, 10, 12).len(), 184);
        let mut observation = vec![f32::NAN; layout.len()];
        let scores = [0.5f32, 0.25, 0.25, 0.125, 0.0, 0.125].map(f32::ln);
        layout.write_into(&summary(&scores, 1), &mut observation);
        let levels = [[0.5, 0.25, 0.0, 0.75, 0.75, 0.75, 0.75], [0.25, 0.125, 0.125, 0.5, 1.125, 1.25, 1.25]];
        let near = |found: &[f32], expected: &[f32]| {
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
        };
        assert!(near(&observation[..14], &levels.concat()), "{:?}", &observation[..14]);
        let logs: Vec<f32> = levels.concat().iter().map(|p| p.max(PROBABILITY_FLOOR).ln() * 0.1).collect();
        assert!(near(&observation[21..35], &logs), "{:?}", &observation[21..35]);
        assert!(observation[14..21].iter().chain(&observation[35..42]).all(|value| *value == 0.0));
        assert_eq!(observation[42..], [0.5, 0.1]);
    }

    #[test]
    fn what_is_known_of_a_sequence_is_written_before_and_after_the_root_expansion() {
        let summary = SourceSummary {
            context_length: 500,
            match_length: 4,
            occurrences: 2,
            agreeing: 1,
            distance: 0,
            in_prompt: true,
            unread: 0,
            copied_lately: 2.0,
            drafted_lately: 4.0,
            agreement: None,
            root: 7,
            copied: Some(5),
            trust: Some([0.75, 0.125]),
        };
        let numbers = [0.25, 1.0, 3f32.ln() / 4.0, 0.5, 0.0, 1.0, 0.0, 0.25, 0.5, 0.5];
        let levels = [5f32.log2() / 4.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        let before = [&numbers[..], &levels].concat();
        let with_tokens = [&before[..], &[0.75, 0.125]].concat();
        let write = |layout: ObservationLayout, agreement| {
            let mut observation = vec![f32::NAN; layout.len()];
            layout.write_sequence_into(&SourceSummary { agreement, ..summary }, &mut observation);
            observation
        };
        assert_eq!(write(ObservationLayout::sequence(3, 4), Some(Agreement::First)), before);
        assert_eq!(write(ObservationLayout::sequence_with_tokens(3, 4), None), with_tokens);
        // What packages before version 7 see.
        let sequence = Segment { source: Source::Sequence, offset: 0, length: 10, scale: 1.0 };
        let version_1 =
            ObservationLayout { version: 1, segments: vec![sequence], ..ObservationLayout::sequence(3, 4) };
        assert_eq!(write(version_1, None), numbers);
        for (agreement, numbers) in [
            (None, [0.0, 0.0, 0.0]),
            (Some(Agreement::Absent), [1.0, 0.0, 0.0]),
            (Some(Agreement::Listed), [0.0, 1.0, 0.0]),
            (Some(Agreement::First), [0.0, 0.0, 1.0]),
        ] {
            let layout = ObservationLayout::sequence_with_agreement(3, 4);
            assert_eq!(write(layout, agreement), [&with_tokens[..], &numbers].concat());
        }
    }

    #[test]
    fn a_match_reaches_levels() {
        let levels = |match_length, occurrences, agreeing| {
            let summary = SourceSummary { match_length, occurrences, agreeing, ..SourceSummary::default() };
            sequence::levels(&summary)
        };
        assert_eq!(levels(0, 0, 0), [0.0; 9]);
        assert_eq!(levels(1, 1, 1), [0.25, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(levels(3, 2, 1), [0.5, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let [log, reached @ ..] = levels(16, 3, 3);
        assert_eq!((log, reached), (17f32.log2() / 4.0, [1.0; 8]));
    }

    #[test]
    fn layouts_whose_lengths_cannot_be_added_are_refused() {
        let mut layout = ObservationLayout::compact(PolicyKind::Size, 10, 12);
        layout.segments[0].length = usize::MAX;
        layout.segments[1].offset = usize::MAX;
        assert_eq!(layout.problem().expect("a problem").1, "gaps or overlaps");
    }

    #[test]
    fn layouts_too_small_for_their_trees_are_named() {
        let compact = ObservationLayout::compact(PolicyKind::Size, 10, 12);
        let found = |layout: ObservationLayout| layout.problem().expect("a problem");
        let (expected, has) = found(ObservationLayout { depth_cap: 13, ..compact.clone() });
        assert_eq!(has, "91 numbers of LevelProbabilities");
        assert_eq!(expected, "at least 98 for this beam width and depth");
        found(ObservationLayout { depth_cap: usize::MAX, ..compact });
        let reference = ObservationLayout::reference_depth(10, 12);
        let (_, has) = found(ObservationLayout { beam_width: 11, ..reference });
        assert_eq!(has, "100 numbers of LastLevelScores");
    }

    #[test]
    fn folded_inputs_stand_for_all_inputs_once() {
        for (layout, folded) in [
            (ObservationLayout::reference_size(3, 2), 23),
            (ObservationLayout::official_depth(), 102),
            (ObservationLayout::official_size(), 1212),
        ] {
            let groups = layout.folded_groups();
            assert_eq!([groups.len(), layout.folded().len()], [folded; 2]);
            let covered: Vec<usize> = groups.into_iter().flatten().collect();
            assert_eq!(covered, (0..layout.len()).collect::<Vec<_>>());
        }
    }
}
