//! What is known of a sequence before a cycle, as numbers that a network can read.

use crate::source::{Agreement, LONGEST_MATCH, SourceSummary};

/// Numbers per sequence.
pub(super) const NUMBERS: usize = 10;
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

/// 1 for what the draft model thinks, 0 for all else, and as long as it is not known.
pub(super) fn agreement(summary: &SourceSummary) -> [f32; AGREEMENTS] {
    Agreement::ALL.map(|agreement| f32::from(u8::from(summary.agreement == Some(agreement))))
}
