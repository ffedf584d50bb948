//! The layouts there are.

use super::{ObservationLayout, Source, compact, in_sequence, sequence};
use crate::action::PolicyKind;
use crate::action::tree_candidates;
use crate::official;

/// Repeats of context length and depth in the reference's depth observation (100 + 14 + 14 = 128
/// for `W = 10`).
const REFERENCE_DEPTH_REPEATS: usize = 14;
/// The same for the size observation (1210 + 29 + 29 = 1268 for `W = 10` and depth 12).
const REFERENCE_SIZE_REPEATS: usize = 29;
const CONTEXT_SCALE: f32 = 1.0 / 1000.0;
const DEPTH_SCALE: f32 = 1.0 / 10.0;
/// Brings the logarithms of path probabilities, 0 to -10, near the range of the probabilities.
const LOG_SCALE: f32 = 1.0 / 10.0;

/// What is known of a sequence before a cycle.
const SEQUENCE: [(Source, usize, f32); 2] =
    [(Source::Sequence, sequence::NUMBERS, 1.0), (Source::MatchLevels, sequence::LEVELS, 1.0)];
/// What recordings tell of its tokens.
const TRUST: (Source, usize, f32) = (Source::Trust, sequence::TRUST, 1.0);

impl ObservationLayout {
    /// The families of layouts that [`ObservationLayout::named`] knows.
    pub const FAMILIES: [&'static str; 2] = ["reference", "compact"];
    /// Name of [`ObservationLayout::reference_depth`].
    pub const REFERENCE_DEPTH: &'static str = "reference-depth";
    /// Name of [`ObservationLayout::reference_size`].
    pub const REFERENCE_SIZE: &'static str = "reference-size";
    /// Name of [`ObservationLayout::official_depth`].
    pub const OFFICIAL_DEPTH: &'static str = "official-depth";
    /// Name of [`ObservationLayout::official_size`].
    pub const OFFICIAL_SIZE: &'static str = "official-size";

    /// What the official code's depth policy sees: scores of the newest level, `L / 1000` and `D /
    /// 10` repeated (arXiv 2603.01639).
    pub fn reference_depth(beam_width: usize, depth_cap: usize) -> Self {
        let scores = (Source::LastLevelScores, beam_width * beam_width);
        Self::reference(Self::REFERENCE_DEPTH, beam_width, depth_cap, scores, REFERENCE_DEPTH_REPEATS)
    }

    /// What the official code's size policy sees: all scores, `L / 1000` and `D / 10` repeated.
    pub fn reference_size(beam_width: usize, depth_cap: usize) -> Self {
        let scores = (Source::AllScores, tree_candidates(beam_width, depth_cap));
        Self::reference(Self::REFERENCE_SIZE, beam_width, depth_cap, scores, REFERENCE_SIZE_REPEATS)
    }

    /// What the published code shows its depth policy when it decodes: the scores of the newest
    /// level as they are, a length that is always that of the beam, and `D / 10`.
    pub fn official_depth() -> Self {
        let level = official::BEAM_WIDTH * official::BEAM_WIDTH;
        Self::official(
            Self::OFFICIAL_DEPTH,
            [
                (Source::RawLastLevelScores, level, 1.0),
                // What is counted there are the tokens of a level, not those of the context.
                (Source::Constant, REFERENCE_DEPTH_REPEATS, official::BEAM_WIDTH as f32 / 1000.0),
                (Source::DepthTenths, REFERENCE_DEPTH_REPEATS, 1.0),
            ],
        )
    }

    /// What the published code shows its size policy: all scores as they are, `L / 1000` and `D /
    /// 10`.
    pub fn official_size() -> Self {
        let candidates = tree_candidates(official::BEAM_WIDTH, official::DEPTH_CAP);
        Self::official(
            Self::OFFICIAL_SIZE,
            [
                (Source::RawScores, candidates, 1.0),
                (Source::ContextThousands, REFERENCE_SIZE_REPEATS, 1.0),
                (Source::DepthTenths, REFERENCE_SIZE_REPEATS, 1.0),
            ],
        )
    }

    fn official(name: &str, parts: [(Source, usize, f32); 3]) -> Self {
        Self {
            name: name.to_owned(),
            version: 1,
            beam_width: official::BEAM_WIDTH,
            depth_cap: official::DEPTH_CAP,
            segments: in_sequence(parts),
        }
    }

    /// What [`Source::LevelProbabilities`] tells of all levels drafted so far, with its logarithms,
    /// `L / 1000` and `D / 10`: 184 numbers at depth 12, for any beam width. Depth and size
    /// policies see the same under names of their own (`compact-depth`, `compact-size`).
    pub fn compact(kind: PolicyKind, beam_width: usize, depth_cap: usize) -> Self {
        let levels = (depth_cap + 1) * compact::NUMBERS;
        let parts = [
            (Source::LevelProbabilities, levels, 1.0),
            (Source::LevelLogProbabilities, levels, LOG_SCALE),
            (Source::ContextLength, 1, CONTEXT_SCALE),
            (Source::DraftDepth, 1, DEPTH_SCALE),
        ];
        Self {
            name: format!("compact-{kind}"),
            version: 1,
            beam_width,
            depth_cap,
            segments: in_sequence(parts),
        }
    }

    /// What is known of a sequence before a cycle ([`Source::Sequence`], [`Source::MatchLevels`]):
    /// for the choice of what to draft from. Beam width and depth are those of the trees that may
    /// be drafted.
    pub fn sequence(beam_width: usize, depth_cap: usize) -> Self {
        let segments = in_sequence(SEQUENCE);
        Self { name: "sequence".to_owned(), version: 2, beam_width, depth_cap, segments }
    }

    /// The same, and what recordings tell of its tokens ([`Source::Trust`]).
    pub fn sequence_with_tokens(beam_width: usize, depth_cap: usize) -> Self {
        let segments = in_sequence(SEQUENCE.into_iter().chain([TRUST]));
        Self { name: "sequence-with-tokens".to_owned(), version: 1, beam_width, depth_cap, segments }
    }

    /// The same, and what is known once the root expansion is made ([`Source::Agreement`]): for a
    /// choice that is made again then.
    pub fn sequence_with_agreement(beam_width: usize, depth_cap: usize) -> Self {
        let agreement = (Source::Agreement, sequence::AGREEMENTS, 1.0);
        let segments = in_sequence(SEQUENCE.into_iter().chain([TRUST, agreement]));
        Self { name: "sequence-with-agreement".to_owned(), version: 2, beam_width, depth_cap, segments }
    }

    /// The layout of a family (`reference`, `compact`) for one of the two decisions about a tree;
    /// `None` if there is no such family, or for another decision.
    pub fn named(family: &str, kind: PolicyKind, beam_width: usize, depth_cap: usize) -> Option<Self> {
        match (family, kind) {
            ("reference", PolicyKind::Depth) => Some(Self::reference_depth(beam_width, depth_cap)),
            ("reference", PolicyKind::Size) => Some(Self::reference_size(beam_width, depth_cap)),
            ("compact", PolicyKind::Depth | PolicyKind::Size) => {
                Some(Self::compact(kind, beam_width, depth_cap))
            }
            _ => None,
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_layouts_have_the_official_lengths() {
        let depth = ObservationLayout::reference_depth(10, 12);
        let offsets: Vec<_> = depth.segments.iter().map(|segment| segment.offset).collect();
        assert_eq!((depth.len(), offsets), (128, vec![0, 100, 114]));
        let size = ObservationLayout::reference_size(10, 12);
        let offsets: Vec<_> = size.segments.iter().map(|segment| segment.offset).collect();
        assert_eq!((size.len(), offsets), (1268, vec![0, 1210, 1239]));
        for layout in [ObservationLayout::official_depth(), ObservationLayout::official_size()] {
            assert_eq!(layout.problem(), None, "{}", layout.name);
        }
        let lengths = [ObservationLayout::official_depth(), ObservationLayout::official_size()];
        assert_eq!(lengths.map(|layout| layout.len()), [128, 1268]);
    }

    #[test]
    fn layouts_are_found_by_name() {
        for (kind, names) in [
            (PolicyKind::Depth, ["reference-depth", "compact-depth"]),
            (PolicyKind::Size, ["reference-size", "compact-size"]),
        ] {
            for (family, name) in ObservationLayout::FAMILIES.into_iter().zip(names) {
                let layout = ObservationLayout::named(family, kind, 10, 12).expect("a known name");
                assert_eq!((layout.name.as_str(), layout.version, layout.problem()), (name, 1, None));
            }
        }
        assert!(ObservationLayout::named("compacted", PolicyKind::Size, 10, 12).is_none());
    }
}
