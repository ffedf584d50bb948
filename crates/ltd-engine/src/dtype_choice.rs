//! Which number type is fastest on this machine: measured, not guessed. On some CPUs bf16 is three times as fast
//! as f32, on others the other way round.

use std::time::Duration;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::device::Dtype;
use crate::model::{AttentionMask, LogitRows, TargetModel};
use crate::timing::timed;

/// A number type and why it was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DtypeChoice {
    /// The type in use.
    pub chosen: Dtype,
    /// The candidates' timings; empty when the type was given.
    pub measured: Vec<DtypeTiming>,
}

/// Median milliseconds of a target forward in one number type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DtypeTiming {
    /// The type.
    pub dtype: Dtype,
    /// One row: an autoregressive step.
    pub one_row_ms: f64,
    /// Sixteen rows: a small verification.
    pub sixteen_rows_ms: f64,
}

impl DtypeChoice {
    pub(crate) fn fixed(chosen: Dtype) -> Self {
        Self { chosen, measured: Vec::new() }
    }
}

impl std::fmt::Display for DtypeChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", self.chosen)?;
        let timings = self.measured.iter().map(|timing| {
            let DtypeTiming { dtype, one_row_ms, sixteen_rows_ms } = timing;
            format!("{dtype} {one_row_ms:.0} / {sixteen_rows_ms:.0} ms")
        });
        let timings: Vec<String> = timings.collect();
        if timings.is_empty() { Ok(()) } else { write!(f, " (1 / 16 rows: {})", timings.join(", ")) }
    }
}

/// Rows whose cost decides, and the context they are measured at.
const ROWS: [i64; 2] = [1, 16];
const CONTEXT: i64 = 64;
const WARM_UP: usize = 2;
const REPEATS: usize = 11;

/// Loads the target in each candidate type, times forwards of 1 and 16 rows, and keeps the type with the least
/// product of both times. With one candidate nothing is measured.
pub(crate) fn choose_dtype(
    candidates: &[Dtype],
    device: Device,
    load: impl Fn(Dtype) -> Result<TargetModel>,
) -> Result<(TargetModel, DtypeChoice)> {
    if let [only] = candidates {
        return Ok((load(*only)?, DtypeChoice::fixed(*only)));
    }
    let mut models: Vec<TargetModel> = candidates.iter().map(|&dtype| load(dtype)).collect::<Result<_>>()?;
    let medians = median_ms(&models, device);
    let measured: Vec<DtypeTiming> = candidates
        .iter()
        .zip(medians)
        .map(|(&dtype, [one_row_ms, sixteen_rows_ms])| DtypeTiming { dtype, one_row_ms, sixteen_rows_ms })
        .collect();
    let cost = |index: &usize| measured[*index].one_row_ms * measured[*index].sixteen_rows_ms;
    let best = (0..models.len()).min_by(|a, b| cost(a).total_cmp(&cost(b)));
    let best = best.expect("invariant: there is at least one candidate type");
    Ok((models.swap_remove(best), DtypeChoice { chosen: candidates[best], measured }))
}

/// Median milliseconds of each model's forwards over each number of rows. They take turns, so that what disturbs the
/// machine for a moment disturbs all of them alike.
fn median_ms(models: &[TargetModel], device: Device) -> Vec<[f64; 2]> {
    let mut times = vec![[const { Vec::<Duration>::new() }; 2]; models.len()];
    for round in 0..WARM_UP + REPEATS {
        for (model, times) in models.iter().zip(&mut times) {
            for (rows, times) in ROWS.into_iter().zip(times) {
                let elapsed = forward_time(model, rows, device);
                if round >= WARM_UP {
                    times.push(elapsed);
                }
            }
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    times.into_iter().map(|times| times.map(median)).collect()
}

fn forward_time(model: &TargetModel, rows: i64, device: Device) -> Duration {
    let mut cache = model.new_cache(CONTEXT + rows);
    cache.advance(CONTEXT);
    let tokens = Tensor::zeros([rows], (Kind::Int64, device));
    let positions: Vec<i64> = (CONTEXT..CONTEXT + rows).collect();
    let mask = AttentionMask::causal(CONTEXT, rows);
    timed(device, || model.forward(&tokens, &positions, &mask, &cache, LogitRows::All)).1
}
