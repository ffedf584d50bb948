//! Single forwards beside their bare matrix products.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ltd_engine::measure::{ProductKernel, Products};
use ltd_engine::{Engine, Session};
use ltd_run::Progress;

use super::args::EngineArgs;
use super::floor::{LimitPasses, Limits, Work};
use super::report::{DraftLevel, ProductTimes, Verify};
use super::spread::{Spread, interleaved};
use super::subject::Subject;
use crate::error::Result;

const WARM_UP: usize = 3;

/// One thing to time.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Contender {
    Target {
        rows: usize,
    },
    TargetProducts {
        rows: usize,
        kernel: ProductKernel,
    },
    Level {
        depth: usize,
    },
    LevelProducts {
        kernel: ProductKernel,
    },
    /// The machine's limits.
    Reading,
    LargeProduct {
        kernel: ProductKernel,
    },
}

/// All that was timed.
pub(super) struct Forwards {
    times: Vec<(Contender, Spread)>,
    context: usize,
    /// What the machine can do at best.
    pub(super) limits: Limits,
}

/// Times forwards of all sizes, draft levels of all depths, and the products of both.
pub(super) fn measure_forwards(subject: &Subject, args: &EngineArgs, progress: Progress) -> Result<Forwards> {
    let engine = &subject.engine;
    let most_rows = args.tokens.iter().copied().max().unwrap_or(1);
    let target_products = Products::new(engine, &engine.target_config().products(), most_rows)?;
    let level_products = Products::new(engine, &engine.draft_config().products(), engine.beam_width())?;
    let context = subject.tokens(args.context);
    let rows = subject.tokens(most_rows);
    let mut session = engine.prefill(&context, None)?;
    // A level follows those above it: each is measured in a tree of its own.
    let mut tree_memory = Some(engine.prefill(&context, None)?);

    let passes = LimitPasses::new(engine)?;
    let mut contenders = contenders(args, &target_products, &level_products);
    contenders.push(Contender::Reading);
    contenders.extend(passes.kernels().map(|kernel| Contender::LargeProduct { kernel }));
    let mut task = progress.task("forwards", WARM_UP + args.repeats);
    let time = |contender: &Contender| {
        Ok(match *contender {
            Contender::Target { rows: count } => engine.time_target_forward(&mut session, &rows[..count])?,
            Contender::TargetProducts { rows, kernel } => target_products.time(kernel, rows)?,
            Contender::Level { depth } => time_level(engine, &context, depth, &mut tree_memory)?,
            Contender::LevelProducts { kernel } => level_products.time(kernel, engine.beam_width())?,
            Contender::Reading => passes.time_reading()?,
            Contender::LargeProduct { kernel } => passes.time_product(kernel)?,
        })
    };
    let total = WARM_UP + args.repeats;
    let shown = |round: usize| task.update(round, round as f64 / total as f64, "rounds");
    let mut random = ltd_env::stream(0, "forwards");
    let times = interleaved(&contenders, WARM_UP, args.repeats, &mut random, time, shown)?;
    task.finish(&format!("{} forwards and products, {} rounds", contenders.len(), args.repeats));
    let times: Vec<_> = contenders.into_iter().zip(times.into_iter().map(Spread::of_ms)).collect();
    let fastest = |wanted: fn(&Contender) -> bool| {
        let medians = times.iter().filter(|(timed, _)| wanted(timed)).map(|(_, spread)| spread.median);
        medians.fold(f64::INFINITY, f64::min)
    };
    let limits = passes.limits(
        fastest(|timed| *timed == Contender::Reading),
        fastest(|timed| matches!(timed, Contender::LargeProduct { .. })),
    );
    Ok(Forwards { times, context: args.context, limits })
}

fn contenders(args: &EngineArgs, target: &Products, level: &Products) -> Vec<Contender> {
    let mut contenders: Vec<Contender> = args.tokens.iter().map(|&rows| Contender::Target { rows }).collect();
    contenders.extend(depths(args).into_iter().map(|depth| Contender::Level { depth }));
    let of_target = |kernel| args.tokens.iter().map(move |&rows| Contender::TargetProducts { rows, kernel });
    contenders.extend(target.kernels().flat_map(of_target));
    contenders.extend(level.kernels().map(|kernel| Contender::LevelProducts { kernel }));
    contenders
}

/// The last levels of all trees.
fn depths(args: &EngineArgs) -> Vec<usize> {
    let mut depths: Vec<usize> =
        args.trees.iter().map(|tree| tree.depth).filter(|&depth| depth > 0).collect();
    depths.sort_unstable();
    depths.dedup();
    depths
}

/// The last level of a tree of some depth: forward, best continuations, growth of the tree.
fn time_level(
    engine: &Engine,
    context: &[u32],
    depth: usize,
    memory: &mut Option<Session>,
) -> Result<Duration> {
    let mut session = engine.prefill(context, memory.take())?;
    let mut cycle = engine.begin_cycle(&mut session, usize::MAX)?;
    for _ in 1..depth {
        engine.expand(&mut session, &mut cycle)?;
    }
    // The engine synchronises the device at both ends of a level.
    let start = Instant::now();
    engine.expand(&mut session, &mut cycle)?;
    let elapsed = start.elapsed();
    *memory = Some(session);
    Ok(elapsed)
}

impl Forwards {
    pub(super) fn verify(&self, engine: &Engine, args: &EngineArgs) -> Vec<Verify> {
        let row = |&tokens: &usize| {
            let forward = self.spread(Contender::Target { rows: tokens });
            let products = self.products(|contender| match contender {
                Contender::TargetProducts { rows, kernel } => (rows == tokens).then_some(kernel),
                _ => None,
            });
            Verify {
                tokens,
                ms: forward.median,
                ms_quartiles: forward.quartiles,
                ratio: forward.median / products.products_ms,
                products,
                floor_ms: self.limits.floor_ms(Work::target_forward(engine, self.context, tokens)),
            }
        };
        args.tokens.iter().map(row).collect()
    }

    pub(super) fn draft_levels(&self, engine: &Engine, args: &EngineArgs) -> Vec<DraftLevel> {
        let products = self.products(|contender| match contender {
            Contender::LevelProducts { kernel } => Some(kernel),
            _ => None,
        });
        let row = |depth: usize| {
            let level = self.spread(Contender::Level { depth });
            DraftLevel {
                depth,
                beam_width: engine.beam_width(),
                ms: level.median,
                ms_quartiles: level.quartiles,
                ratio: level.median / products.products_ms,
                products: products.clone(),
                floor_ms: self.limits.floor_ms(Work::draft_level(engine, self.context)),
            }
        };
        depths(args).into_iter().map(row).collect()
    }

    /// The fastest kernel's times, and all kernels' medians, of the products that are `wanted`.
    fn products(&self, wanted: impl Fn(Contender) -> Option<ProductKernel>) -> ProductTimes {
        let timed = self.times.iter().filter_map(|(timed, spread)| Some((wanted(*timed)?, *spread)));
        let kernels: BTreeMap<ProductKernel, Spread> = timed.collect();
        let fastest = kernels.iter().min_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
        let (&products_kernel, fastest) = fastest.expect("invariant: products are timed beside forwards");
        ProductTimes {
            products_ms: fastest.median,
            products_ms_quartiles: fastest.quartiles,
            products_kernel,
            kernels_ms: kernels.iter().map(|(kernel, spread)| (*kernel, spread.median)).collect(),
        }
    }

    fn spread(&self, contender: Contender) -> Spread {
        let found = self.times.iter().find(|(timed, _)| *timed == contender);
        found.expect("invariant: all that is reported was timed").1
    }
}
