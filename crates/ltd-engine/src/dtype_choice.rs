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
const FEW_ROWS: i64 = 1;
const MORE_ROWS: i64 = 16;
const CONTEXT: i64 = 64;
const WARM_UP: usize = 2;
const REPEATS: usize = 7;

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
    let mut measured = Vec::new();
    let mut best: Option<(f64, TargetModel, Dtype)> = None;
    for &dtype in candidates {
        let model = load(dtype)?;
        let one_row_ms = median_ms(&model, FEW_ROWS, device);
        let sixteen_rows_ms = median_ms(&model, MORE_ROWS, device);
        measured.push(DtypeTiming { dtype, one_row_ms, sixteen_rows_ms });
        let cost = one_row_ms * sixteen_rows_ms;
        if best.as_ref().is_none_or(|(least, _, _)| cost < *least) {
            best = Some((cost, model, dtype));
        }
    }
    let (_, model, chosen) = best.expect("invariant: there is at least one candidate type");
    Ok((model, DtypeChoice { chosen, measured }))
}

fn median_ms(model: &TargetModel, rows: i64, device: Device) -> f64 {
    let mut cache = model.new_cache(CONTEXT + rows);
    cache.advance(CONTEXT);
    let tokens = Tensor::zeros([rows], (Kind::Int64, device));
    let positions: Vec<i64> = (CONTEXT..CONTEXT + rows).collect();
    let forward = |model: &TargetModel| {
        model.forward(&tokens, &positions, &AttentionMask::causal(CONTEXT, rows), &cache, LogitRows::All)
    };
    let mut times: Vec<Duration> =
        (0..WARM_UP + REPEATS).map(|_| timed(device, || forward(model)).1).skip(WARM_UP).collect();
    times.sort_unstable();
    times[REPEATS / 2].as_secs_f64() * 1e3
}
