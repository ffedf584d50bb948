//! What is known of a sequence before a cycle, as numbers that a network can read.

use crate::source::{Agreement, LONGEST_MATCH, SourceSummary};

/// Numbers per sequence.
pub(super) const NUMBERS: usize = 10;
/// Numbers for the levels that a match reaches.
pub(super) const LEVELS: usize = 3 + LENGTHS.len();
/// Numbers for what recordings tell of tokens.
pub(super) const TRUST: usize = 2;
/// Lengths of a match from which on copies behave differently: what they are worth rises fast with
/// the first tokens of a match, which lie near one another on the scale of the longest.
const LENGTHS: [usize; 6] = [2, 3, 4, 6, 10, LONGEST_MATCH];
/// Numbers for what the draft model thinks of a copy.
pub(super) const AGREEMENTS: usize = Agreement::ALL.len();
/// Tokens that a cycle accepts often.
const USUAL_YIELD: f32 = 8.0;

/// Each near the range from 0 to 1. Counts without a bound are seen by their logarithms.
pub(super) fn numbers(summary: &SourceSummary) -> [f32; NUMBERS] {
    let log = |count: usize| (1.0 + count as f32).ln();
    let SourceSummary { match_length, occurrences, agreeing, .. } = *summary;
    [
        match_length as f32 / LONGEST_MATCH as f32,
        f32::from(u8::from(match_length > 0)),
        log(occurrences) / 4.0,
        agreeing as f32 / occurrences.max(1) as f32,
        log(summary.distance) / 8.0,
        f32::from(u8::from(summary.in_prompt)),
        log(summary.unread) / 4.0,
        summary.copied_lately / USUAL_YIELD,
        summary.drafted_lately / USUAL_YIELD,
        summary.context_length as f32 / 1000.0,
    ]
}

/// The length of the match by its logarithm, and 1 for each level that is reached: some lengths, a
/// second occurrence, and that all of them agree.
pub(super) fn levels(summary: &SourceSummary) -> [f32; LEVELS] {
    let SourceSummary { match_length, occurrences, agreeing, .. } = *summary;
    let reached = |holds: bool| f32::from(u8::from(holds));
    let mut levels = [0.0; LEVELS];
    levels[0] = (1.0 + match_length as f32).log2() / 4.0;
    levels[1] = reached(occurrences >= 2);
    levels[2] = reached(occurrences > 0 && agreeing == occurrences);
    for (level, length) in levels[3..].iter_mut().zip(LENGTHS) {
        *level = reached(match_length >= length);
    }
    levels
}

/// 0 where nothing is known.
pub(super) fn trust(summary: &SourceSummary) -> [f32; TRUST] {
    summary.trust.unwrap_or_default()
}

/// 1 for what the draft model thinks, 0 for all else, and as long as it is not known.
pub(super) fn agreement(summary: &SourceSummary) -> [f32; AGREEMENTS] {
    Agreement::ALL.map(|agreement| f32::from(u8::from(summary.agreement == Some(agreement))))
}
