//! Where the time of a target forward goes: its parts, and the bare products in them.

use std::time::Duration;

use ltd_engine::Engine;
use ltd_engine::measure::{Operation, ProductKernel, Products};
use ltd_run::Progress;
use serde::Serialize;

use super::args::EngineArgs;
use super::spread::Spread;
use super::subject::Subject;
use crate::error::Result;

const WARM_UP: usize = 2;
/// Products of a layer, of which the first two are attention's (`TargetConfig::products`).
const LAYER_PRODUCTS: usize = 5;
const ATTENTION_PRODUCTS: usize = 2;

/// Median milliseconds of the parts of a forward, and of the engine's bare products in them.
#[derive(Debug, Serialize)]
pub(super) struct OperationTimes {
    /// Rows of the forward.
    pub(super) tokens: usize,
    pub(super) attention_ms: f64,
    pub(super) attention_products_ms: f64,
    pub(super) mlp_ms: f64,
    pub(super) mlp_products_ms: f64,
    pub(super) logits_ms: f64,
    pub(super) logits_products_ms: f64,
    /// Embedding, mask, features.
    pub(super) rest_ms: f64,
}

/// Times of forwards over one number of rows.
#[derive(Default)]
struct Samples {
    operations: [Vec<Duration>; Operation::ALL.len()],
    rest: Vec<Duration>,
    products: [Vec<Duration>; 3],
}

/// Times the parts of forwards of all sizes, sizes by turns.
pub(super) fn measure_operations(
    subject: &Subject,
    args: &EngineArgs,
    progress: Progress,
) -> Result<Vec<OperationTimes>> {
    let engine = &subject.engine;
    let most_rows = args.tokens.iter().copied().max().unwrap_or(1);
    let products = products(engine, most_rows)?;
    let mut session = engine.prefill(&subject.tokens(args.context), None)?;
    let rows = subject.tokens(most_rows);
    let mut samples: Vec<Samples> = args.tokens.iter().map(|_| Samples::default()).collect();
    let total = WARM_UP + args.repeats;
    let mut task = progress.task("operations", total);
    for round in 0..total {
        for (&count, samples) in args.tokens.iter().zip(&mut samples) {
            let (elapsed, times) = engine.time_target_operations(&mut session, &rows[..count])?;
            let [attention, mlp, logits] =
                products.each_ref().map(|products| products.time(ProductKernel::Engine, count));
            let products = [attention?, mlp?, logits?];
            if round >= WARM_UP {
                samples.add(elapsed, times, products);
            }
        }
        task.update(round + 1, (round + 1) as f64 / total as f64, "rounds");
    }
    task.finish(&format!("of {} forwards", args.tokens.len()));
    Ok(args.tokens.iter().zip(samples).map(|(&tokens, samples)| samples.medians(tokens)).collect())
}

/// The products of attention, MLP and logits.
fn products(engine: &Engine, rows: usize) -> Result<[Products; 3]> {
    let shapes = engine.target_config().products();
    let (logits, layers) = shapes.split_last().expect("invariant: the logits are a product");
    let layers = layers.chunks(LAYER_PRODUCTS).map(|layer| layer.split_at(ATTENTION_PRODUCTS));
    let (attention, mlp): (Vec<_>, Vec<_>) = layers.unzip();
    Ok([
        Products::new(engine, &attention.concat(), rows)?,
        Products::new(engine, &mlp.concat(), rows)?,
        Products::new(engine, &[*logits], rows)?,
    ])
}

impl Samples {
    fn add(
        &mut self,
        elapsed: Duration,
        operations: [Duration; Operation::ALL.len()],
        products: [Duration; 3],
    ) {
        self.rest.push(elapsed.saturating_sub(operations.iter().sum()));
        self.operations.iter_mut().zip(operations).for_each(|(times, time)| times.push(time));
        self.products.iter_mut().zip(products).for_each(|(times, time)| times.push(time));
    }

    fn medians(self, tokens: usize) -> OperationTimes {
        let median = |times: Vec<Duration>| Spread::of_ms(times).median;
        let [attention_ms, mlp_ms, logits_ms] = self.operations.map(median);
        let [attention_products_ms, mlp_products_ms, logits_products_ms] = self.products.map(median);
        OperationTimes {
            tokens,
            attention_ms,
            attention_products_ms,
            mlp_ms,
            mlp_products_ms,
            logits_ms,
            logits_products_ms,
            rest_ms: median(self.rest),
        }
    }
}
