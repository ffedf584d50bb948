//! What a policy sees of a cycle.

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
