//! How probable candidates of either source are, from what was recorded.

use ltd_cycle::Candidates;
use ltd_policy::calibration::{PLACES, SCORES};
use ltd_policy::{Agreement, Calibration, LONGEST_MATCH, TokenRecord};

use crate::trace::{Outline, Trace, TraceHeader, TracedSequence};
use crate::{Copied, Error, Interrupt, RecordedTree, Result};

/// Observations that what is assumed without any weighs as much as.
const PRIOR: f64 = 10.0;

/// Accepted ones of some candidates.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    all: f64,
    accepted: f64,
}

impl Count {
    fn add(&mut self, accepted: bool) {
        self.all += 1.0;
        self.accepted += f64::from(u8::from(accepted));
    }

    /// The share that is accepted, `assumed` where nothing is known.
    fn share(self, assumed: f32) -> f64 {
        (self.accepted + PRIOR * f64::from(assumed)) / (self.all + PRIOR)
    }
}

/// Fits a calibration to a trace: the share of the candidates around each score that the target's
/// continuation goes through; and per length of the match, and what the draft model thinks of their
/// first token, the share of the chains that go on being right.
///
/// # Errors
/// If the tokens of the candidates were not recorded, the trace can no longer be read, or there is
/// a wish to stop.
pub fn calibrate(trace: &Trace, interrupt: &Interrupt) -> Result<Calibration> {
    if !trace.header.has_candidates() {
        return Err(Error::NoCandidates);
    }
    let assumed = Calibration::default();
    let mut drafted = [Count::default(); SCORES.len()];
    let mut copied = Agreement::ALL.map(|_| [[Count::default(); PLACES]; LONGEST_MATCH]);
    let mut scores = vec![0.0; trace.header.scores_per_position()];
    for sequence in trace.sequences() {
        interrupt.check()?;
        let sequence = &*sequence?;
        count_candidates(sequence, trace.header.beam_width, &mut scores, &mut drafted);
        count_copies(&trace.header, sequence, &mut copied);
    }
    let drafted =
        drafted.iter().zip(&assumed.drafted).map(|(count, &assumed)| (count.share(assumed), count.all));
    // What is assumed of an agreement is what is known of all three; of these, the same.
    let assumed_copies = &assumed.copied[0];
    let of_all = |at: usize| {
        let mut sums = [Count::default(); PLACES];
        for counts in &copied {
            for (sum, count) in sums.iter_mut().zip(counts[at]) {
                sum.all += count.all;
                sum.accepted += count.accepted;
            }
        }
        going_on(&sums, &assumed_copies[at])
    };
    let of_all: Vec<Vec<f32>> = (0..LONGEST_MATCH).map(of_all).collect();
    let chains = |counts: &[[Count; PLACES]; LONGEST_MATCH]| {
        counts.iter().zip(&of_all).map(|(counts, assumed)| going_on(counts, assumed)).collect()
    };
    Ok(Calibration { drafted: falling(drafted.collect()), copied: copied.iter().map(chains).collect() })
}

/// What a sequence tells of which tokens are safe to copy: at every position where something can be
/// copied, whether the first token is right.
pub fn token_record(sequence: &Outline) -> TokenRecord {
    let mut record = TokenRecord::default();
    for (at, copied) in Copied::along(sequence).into_iter().enumerate() {
        let root = sequence.root(at);
        if let Some(&first) = copied.chain(&sequence.tokens, root, 1).first()
            && sequence.known(at) > 0
        {
            record.observe(sequence.tokens[root], first, copied.accepted > 0);
        }
    }
    record
}

/// The share of the chains that are right as far as each place, from those that go on being right,
/// and from what is assumed of their shares as far as each place.
fn going_on(counts: &[Count; PLACES], assumed: &[f32]) -> Vec<f32> {
    let (mut all, mut before) = (1.0, 1.0);
    let places = counts.iter().zip(assumed).map(|(count, &assumed)| {
        all *= count.share(assumed / before);
        before = assumed;
        all as f32
    });
    places.collect()
}

/// Counts the candidates of a sequence at the score that is nearest to theirs.
fn count_candidates(sequence: &TracedSequence, beam_width: usize, scores: &mut [f32], counts: &mut [Count]) {
    for at in 0..sequence.len() {
        let position = sequence.position(at);
        let Some((tokens, parents)) = position.candidates() else { return };
        position.write_scores(0, scores);
        let candidates = Candidates { beam_width, scores, tokens, group_parents: &parents };
        let path = candidates.along(&sequence.tokens[sequence.root(at) + 1..]);
        for (candidate, &score) in scores.iter().enumerate() {
            if score > f32::NEG_INFINITY {
                counts[nearest(score)].add(path.contains(&candidate));
            }
        }
    }
}

/// Counts, of the chains at the positions of a sequence whose first tokens are right, those that
/// are right one token further: per agreement and length of the match.
fn count_copies(
    header: &TraceHeader,
    sequence: &TracedSequence,
    counts: &mut [[[Count; PLACES]; LONGEST_MATCH]; Agreement::ALL.len()],
) {
    for (at, copied) in Copied::along(sequence).into_iter().enumerate() {
        let tree = RecordedTree { header, position: sequence.position(at) };
        let Some(agreement) = tree.agreement(&sequence.tokens, copied) else { continue };
        let counts = &mut counts[agreement as usize];
        let length = copied.length() - 1;
        let places = counts[length].iter_mut().take(sequence.known(at).min(copied.accepted + 1));
        places.enumerate().for_each(|(before, count)| count.add(copied.accepted > before));
    }
}

/// The number of the score that is nearest.
fn nearest(score: f32) -> usize {
    let below = SCORES.partition_point(|&known| known > score).min(SCORES.len() - 1);
    let above = below.saturating_sub(1);
    if SCORES[above] - score < score - SCORES[below] { above } else { below }
}

/// The falling numbers that are nearest in weighted squares: neighbours that rise are pooled
/// (Ayer et al. 1955).
fn falling(shares: Vec<(f64, f64)>) -> Vec<f32> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (share, weight) in shares {
        let mut pool = (share, weight + PRIOR, 1);
        while let Some(&(before, weight, count)) = pools.last()
            && before < pool.0
        {
            pools.pop();
            let total = weight + pool.1;
            pool = ((before * weight + pool.0 * pool.1) / total, total, count + pool.2);
        }
        pools.push(pool);
    }
    pools.into_iter().flat_map(|(share, _, count)| std::iter::repeat_n(share as f32, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rises_is_pooled() {
        let even = |shares: &[f64]| falling(shares.iter().map(|&share| (share, 0.0)).collect());
        assert_eq!(even(&[0.9, 0.5, 0.1]), [0.9, 0.5, 0.1]);
        assert_eq!(even(&[0.5, 0.75, 0.25]), [0.625, 0.625, 0.25]);
        assert_eq!(even(&[0.25, 0.5, 0.75]), [0.5, 0.5, 0.5]);
    }

    #[test]
    fn a_score_counts_at_the_nearest() {
        for (at, &score) in SCORES.iter().enumerate() {
            assert_eq!(nearest(score), at);
        }
        assert_eq!(
            (nearest(1.0), nearest(-0.06), nearest(-0.04), nearest(-50.0)),
            (0, 1, 0, SCORES.len() - 1)
        );
    }
}
