//! Which number type is fastest on this machine: measured, not guessed. On some CPUs bf16 is three
//! times as fast as f32, on others the other way round.

use std::time::Duration;

use serde::Serialize;
use tch::{Device, Kind};

use crate::Result;
use crate::device::Dtype;
use crate::engine::positions;
use crate::model::{AttentionMask, LogitRows, Rows, TargetModel};
use crate::timing::timed;

/// A number type and why it was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DtypeChoice {
    /// The type in use.
    pub chosen: Dtype,
    /// The candidates' timings; empty when the type was given.
    pub measured: Vec<DtypeTiming>,
}

/// Milliseconds of a target forward in one number type: the median of several rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DtypeTiming {
    /// The type.
    pub dtype: Dtype,
    /// One row: an autoregressive step.
    pub one_row_ms: f64,
    /// Four rows: a short chain.
    pub four_rows_ms: f64,
    /// Sixteen rows: a small verification.
    pub sixteen_rows_ms: f64,
    /// Rounds in which this type was the fastest.
    pub rounds_won: usize,
}

impl DtypeChoice {
    pub(crate) fn fixed(chosen: Dtype) -> Self {
        Self { chosen, measured: Vec::new() }
    }

    /// The type that won most rounds; of equals, the one that wins by the medians of all rounds.
    ///
    /// `rounds` holds, for each round and candidate, the milliseconds for each of [`ROWS`].
    fn of_rounds(candidates: &[Dtype], rounds: &[Vec<[f64; ROWS.len()]>]) -> Self {
        let cost = |times: &[f64; ROWS.len()]| times.iter().product::<f64>();
        let fastest = |round: &Vec<[f64; ROWS.len()]>| {
            (0..candidates.len()).min_by(|&a, &b| cost(&round[a]).total_cmp(&cost(&round[b])))
        };
        let mut won = vec![0; candidates.len()];
        for winner in rounds.iter().filter_map(fastest) {
            won[winner] += 1;
        }
        let median = |candidate: usize, rows: usize| {
            let mut times: Vec<f64> = rounds.iter().map(|round| round[candidate][rows]).collect();
            times.sort_unstable_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let medians: Vec<[f64; ROWS.len()]> = (0..candidates.len())
            .map(|candidate| std::array::from_fn(|rows| median(candidate, rows)))
            .collect();
        let best = (0..candidates.len())
            .min_by(|&a, &b| {
                won[b].cmp(&won[a]).then_with(|| cost(&medians[a]).total_cmp(&cost(&medians[b])))
            })
            .expect("invariant: there is at least one candidate type");
        let measured = candidates.iter().zip(&medians).zip(won).map(|((&dtype, medians), rounds_won)| {
            let [one_row_ms, four_rows_ms, sixteen_rows_ms] = *medians;
            DtypeTiming { dtype, one_row_ms, four_rows_ms, sixteen_rows_ms, rounds_won }
        });
        Self { chosen: candidates[best], measured: measured.collect() }
    }

    /// Rounds that the chosen type won, and all rounds, if another type won some: what was measured
    /// is not certain, as on a machine that is busy with something else.
    pub fn disagreement(&self) -> Option<(usize, usize)> {
        let rounds = self.measured.iter().map(|timing| timing.rounds_won).sum();
        let chosen = self.measured.iter().find(|timing| timing.dtype == self.chosen)?;
        (chosen.rounds_won < rounds).then_some((chosen.rounds_won, rounds))
    }
}

impl std::fmt::Display for DtypeChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", self.chosen)?;
        if self.measured.is_empty() {
            return Ok(());
        }
        let timings = self.measured.iter().map(|timing| {
            let DtypeTiming { dtype, one_row_ms, four_rows_ms, sixteen_rows_ms, .. } = timing;
            format!("{dtype} {one_row_ms:.1} / {four_rows_ms:.1} / {sixteen_rows_ms:.1} ms")
        });
        write!(f, " (1 / 4 / 16 rows: {}", timings.collect::<Vec<_>>().join(", "))?;
        if let Some((won, rounds)) = self.disagreement() {
            write!(f, "; fastest in {won} of {rounds} rounds only: name a dtype to be sure of it")?;
        }
        f.write_str(")")
    }
}

/// Rows whose cost decides, and the context they are measured at.
const ROWS: [i64; 3] = [1, 4, 16];
const CONTEXT: i64 = 64;
/// Rounds that are compared, after one to warm up.
const ROUNDS: usize = 5;
/// Of so many forwards in a round the fastest counts: what disturbs one of them does not decide.
const REPEATS: usize = 2;

/// The number types among which the fastest is sought for a checkpoint stored as `stored`. On a CPU
/// it may be any that keeps the checkpoint's meaning. On other devices wider numbers are never
/// faster, so that it is the checkpoint's own, and no second copy of the target is loaded there.
pub(crate) fn candidates(stored: Kind, on_cpu: bool) -> Vec<Dtype> {
    let mut candidates = Dtype::meaning_preserving(stored);
    if !on_cpu {
        candidates.truncate(1);
    }
    candidates
}

/// Loads the target in each candidate type, times forwards of 1, 4 and 16 rows in several rounds,
/// and keeps the type that has the least product of these times in most of them. With one candidate
/// nothing is measured.
pub(crate) fn choose_dtype(
    candidates: &[Dtype],
    devices: &[Device],
    load: impl Fn(Dtype) -> Result<TargetModel>,
) -> Result<(TargetModel, DtypeChoice)> {
    if let [only] = candidates {
        return Ok((load(*only)?, DtypeChoice::fixed(*only)));
    }
    let mut models: Vec<TargetModel> = candidates.iter().map(|&dtype| load(dtype)).collect::<Result<_>>()?;
    let choice = DtypeChoice::of_rounds(candidates, &time_rounds(&models, devices)?);
    let chosen = candidates.iter().position(|&dtype| dtype == choice.chosen);
    Ok((models.swap_remove(chosen.expect("invariant: one of the candidates was chosen")), choice))
}

/// Milliseconds of each model's forwards over each number of rows, round by round. The models take
/// turns, so that what disturbs the machine for a moment disturbs all of them alike.
fn time_rounds(models: &[TargetModel], devices: &[Device]) -> Result<Vec<Vec<[f64; ROWS.len()]>>> {
    let round = |_| {
        let mut fastest = vec![[f64::INFINITY; ROWS.len()]; models.len()];
        for _ in 0..REPEATS {
            for (model, fastest) in models.iter().zip(&mut fastest) {
                for (rows, fastest) in ROWS.into_iter().zip(fastest) {
                    *fastest = fastest.min(forward_time(model, rows, devices)?.as_secs_f64() * 1e3);
                }
            }
        }
        Ok(fastest)
    };
    (0..=ROUNDS).map(round).skip(1).collect()
}

fn forward_time(model: &TargetModel, rows: i64, devices: &[Device]) -> Result<Duration> {
    let mut cache = model.new_cache(CONTEXT + rows)?;
    cache.advance(CONTEXT);
    let tokens = &vec![0; rows as usize];
    let positions = &positions(CONTEXT, rows);
    let rows = Rows { tokens, positions, past: CONTEXT, mask: &AttentionMask::causal(CONTEXT, rows) };
    let (output, elapsed) = timed(devices, || model.forward(&rows, &[], &cache, LogitRows::All));
    output.map(|_| elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Dtype; 2] = [Dtype::Bf16, Dtype::F32];

    #[test]
    fn the_type_that_is_fastest_in_most_rounds_is_chosen_and_disagreement_is_told() {
        let (fast, slow, disturbed) = ([9.0, 10.0, 13.0], [14.0, 17.0, 24.0], [900.0, 10.0, 13.0]);
        let agreed = DtypeChoice::of_rounds(&BOTH, &[vec![fast, slow], vec![fast, slow], vec![fast, slow]]);
        assert_eq!((agreed.chosen, agreed.disagreement()), (Dtype::Bf16, None));
        assert_eq!(
            agreed.to_string(),
            "bf16 (1 / 4 / 16 rows: bf16 9.0 / 10.0 / 13.0 ms, f32 14.0 / 17.0 / 24.0 ms)"
        );
        // One round that something else disturbed does not decide, by however much.
        let rounds = [vec![fast, slow], vec![disturbed, slow], vec![fast, slow]];
        let disputed = DtypeChoice::of_rounds(&BOTH, &rounds);
        assert_eq!((disputed.chosen, disputed.disagreement()), (Dtype::Bf16, Some((2, 3))));
        let text = disputed.to_string();
        assert!(text.contains("fastest in 2 of 3 rounds only"), "{text}");
    }

    #[test]
    fn of_equals_the_medians_decide() {
        let rounds = [
            vec![[1.0; 3], [2.0; 3]],
            vec![[8.0; 3], [7.0; 3]],
            vec![[4.0; 3], [5.0; 3]],
            vec![[9.0; 3], [6.0; 3]],
        ];
        let choice = DtypeChoice::of_rounds(&BOTH, &rounds);
        assert_eq!((choice.chosen, choice.disagreement()), (Dtype::F32, Some((2, 4))));
    }

    #[test]
    fn a_type_that_was_given_is_not_measured() {
        let choice = DtypeChoice::fixed(Dtype::F16);
        assert_eq!((choice.to_string().as_str(), choice.disagreement()), ("f16", None));
    }

    #[test]
    fn only_a_cpu_compares_number_types() {
        for (stored, on_cpu, expected) in [
            (Kind::BFloat16, true, &[Dtype::Bf16, Dtype::F32] as &[Dtype]),
            (Kind::Half, true, &[Dtype::F16, Dtype::F32]),
            (Kind::Float, true, &[Dtype::F32]),
            (Kind::BFloat16, false, &[Dtype::Bf16]),
            (Kind::Half, false, &[Dtype::F16]),
            (Kind::Float, false, &[Dtype::F32]),
        ] {
            assert_eq!(candidates(stored, on_cpu), expected, "{stored:?}, on a CPU: {on_cpu}");
        }
    }
}
