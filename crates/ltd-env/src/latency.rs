//! Measuring what the parts of a cycle cost on this machine. The text has no part in it: random
//! tokens suffice.

use std::collections::BTreeMap;
use std::time::Duration;

use ltd_engine::Engine;
use ltd_engine::measure::Rehearsal;
use ltd_policy::{GridPoint, HeldOutError, LatencyModel, Surface};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::random::stream;
use crate::{Interrupt, Result};

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyPlan {
    /// Draft depths up to this.
    pub max_depth: usize,
    /// Verification sizes of the grid, ascending.
    pub sizes: Vec<usize>,
    /// Context lengths of the grid, ascending.
    pub contexts: Vec<usize>,
    /// Measured cycles per size and context length in a round; see [`measure`].
    pub repeats: usize,
    /// Live cycles of random depth, size and context length that the table is checked against.
    pub held_out: usize,
    /// Seed of the tokens and of the order.
    pub seed: u64,
}

/// The surfaces of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Root expansion by rows read.
    pub root: Surface,
    /// A draft level that expands all candidates, by depth.
    pub level: Surface,
    /// A draft level by the candidates that it expands.
    pub level_rows: Surface,
    /// Verification by size.
    pub verify: Surface,
}

impl Measured {
    /// Adds the samples of another measurement.
    pub fn merge(&mut self, other: Self) {
        for (surface, other) in [
            (&mut self.root, other.root),
            (&mut self.level, other.level),
            (&mut self.level_rows, other.level_rows),
            (&mut self.verify, other.verify),
        ] {
            let mut grid = Grid::default();
            for point in std::mem::take(&mut surface.points).into_iter().chain(other.points) {
                grid.0.entry((point.count, point.context)).or_default().extend(point.samples);
            }
            *surface = grid.surface();
        }
    }
}

/// Rows of root expansions after cycles that copied. A longer one reads in several forwards.
const AFTER_COPIES: [usize; 2] = [16, 32];
/// Cycles before the first that counts.
const WARM_UP: usize = 3;
/// Rounds after which what is still in doubt stays so.
const MOST_ROUNDS: usize = 4;
/// A verification's time is known when its median is, to this share of it.
const PRECISION: f64 = 0.02;

/// One measured cycle.
#[derive(Debug, Clone)]
struct Sample {
    context: usize,
    rows: usize,
    root: Duration,
    levels: Vec<Duration>,
    level_rows: Vec<usize>,
    size: usize,
    verify: Duration,
}

/// Runs the cycles of a plan in random order and sums them up. `progress` is told the cycles done
/// and planned.
///
/// A first round measures all of the grid, the next ones the verifications that are still in doubt:
/// what scatters more is measured more often.
///
/// # Errors
/// If the models fail, or with [`Error::Interrupted`](crate::Error::Interrupted) soon after there
/// is a wish to stop.
pub fn measure(
    engine: &Engine,
    plan: &LatencyPlan,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measured> {
    let mut random = stream(plan.seed, "latency");
    let mut rehearsal = rehearsal(engine, plan, &mut random)?;
    let mut points = plan.points();
    for setting in plan.settings(&points, engine.beam_width(), &mut random).into_iter().take(WARM_UP) {
        interrupt.check()?;
        sample(engine, &mut rehearsal, setting, usize::MAX)?;
    }
    let level_rows = measure_level_rows(engine, plan, interrupt, &mut rehearsal, &mut random)?;
    let mut samples = Vec::new();
    for round in 1.. {
        let settings = plan.settings(&points, engine.beam_width(), &mut random);
        let planned = samples.len() + settings.len();
        for setting in settings {
            interrupt.check()?;
            samples.push(sample(engine, &mut rehearsal, setting, usize::MAX)?);
            progress(samples.len(), planned);
        }
        let measured = summarise(&samples, &level_rows);
        let doubtful = measured.verify.points.iter().filter(|point| point.notch() > PRECISION * point.median);
        points = doubtful.map(|point| (point.context, point.count)).collect();
        if points.is_empty() || round == MOST_ROUNDS {
            return Ok(measured);
        }
    }
    unreachable!("the last round returns")
}

/// Relative error of a table against cycles of random depth, size, context length and unread rows,
/// which expand what their size can verify. It ends as [`measure`] does.
pub fn held_out_error(
    engine: &Engine,
    plan: &LatencyPlan,
    model: &LatencyModel,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<HeldOutError> {
    let mut random = stream(plan.seed, "latency held out");
    let mut rehearsal = rehearsal(engine, plan, &mut random)?;
    let (shortest, longest) = (plan.contexts[0], plan.contexts[plan.contexts.len() - 1]);
    let unread = plan.unread();
    let (smallest, largest) = (plan.sizes[0], plan.sizes[plan.sizes.len() - 1]);
    let mut errors = Vec::with_capacity(plan.held_out);
    for number in 0..plan.held_out + WARM_UP {
        interrupt.check()?;
        let size = random.random_range(smallest..=largest);
        let least = plan.least_depth(size, engine.beam_width());
        let setting = Setting {
            context: random.random_range(shortest..=longest),
            rows: unread[random.random_range(0..unread.len())],
            depth: random.random_range(least..=plan.max_depth),
            size,
        };
        let sample = sample(engine, &mut rehearsal, setting, size)?;
        let levels: Duration = sample.levels.iter().sum();
        let measured = (sample.root + levels + sample.verify).as_secs_f64() * 1e3;
        let levels = (1..).zip(&sample.level_rows);
        let levels: f64 = levels.map(|(depth, &rows)| model.level_ms(depth, rows, setting.context)).sum();
        let ends =
            model.root_ms(setting.rows, setting.context) + model.verify_ms(sample.size, setting.context);
        let predicted = ends + levels;
        if number >= WARM_UP {
            errors.push((predicted - measured).abs() / measured);
            progress(errors.len(), plan.held_out);
        }
    }
    errors.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| errors[((errors.len() - 1) as f64 * q).round() as usize];
    Ok(HeldOutError { median: quantile(0.5), p90: quantile(0.9), cycles: errors.len() })
}

/// One cycle to measure.
#[derive(Debug, Clone, Copy)]
struct Setting {
    context: usize,
    rows: usize,
    depth: usize,
    size: usize,
}

impl LatencyPlan {
    /// The grid: context lengths and sizes.
    fn points(&self) -> Vec<(usize, usize)> {
        let contexts = self.contexts.iter();
        contexts.flat_map(|&context| self.sizes.iter().map(move |&size| (context, size))).collect()
    }

    /// Numbers of rows that the draft has not read: what a cycle accepts, and what cycles that
    /// copied leave behind.
    fn unread(&self) -> Vec<usize> {
        let accepted = 1..=self.max_depth + 1;
        let copied = AFTER_COPIES.into_iter().filter(|rows| !accepted.contains(rows));
        let most = self.contexts[0];
        accepted.clone().chain(copied).filter(|&rows| rows <= most).collect()
    }

    /// Depth from which on a tree holds so many candidates.
    fn least_depth(&self, size: usize, width: usize) -> usize {
        size.saturating_sub(width).div_ceil(width * width).min(self.max_depth)
    }

    /// The cycles of a round in random order, over points sorted by context length. Numbers of
    /// unread rows come equally often at each of those, and every other cycle is as deep as can be,
    /// so that the deep levels have enough samples.
    fn settings(&self, points: &[(usize, usize)], width: usize, random: &mut ChaCha8Rng) -> Vec<Setting> {
        let (unread, mut settings) = (self.unread(), Vec::new());
        for points in points.chunk_by(|a, b| a.0 == b.0) {
            for number in 0..points.len() * self.repeats {
                let (context, size) = points[number % points.len()];
                let least = self.least_depth(size, width);
                let deepest = random.random::<bool>();
                let depth =
                    if deepest { self.max_depth } else { random.random_range(least..=self.max_depth) };
                settings.push(Setting { context, rows: unread[number % unread.len()], depth, size });
            }
        }
        settings.shuffle(random);
        settings
    }
}

/// A sequence of random tokens that reaches the longest context length.
fn rehearsal(engine: &Engine, plan: &LatencyPlan, random: &mut ChaCha8Rng) -> Result<Rehearsal> {
    let longest = plan.contexts.iter().copied().max().unwrap_or(1);
    let tokens: Vec<u32> = (0..longest).map(|_| random.random_range(0..engine.vocabulary() as u32)).collect();
    Ok(engine.rehearsal(tokens)?)
}

/// Runs one cycle that expands what `size_limit` candidates can hold. One in which a CUDA graph was
/// yet to be captured is run once more.
fn sample(engine: &Engine, rehearsal: &mut Rehearsal, setting: Setting, size_limit: usize) -> Result<Sample> {
    loop {
        let captured = rehearsal.captured_graphs();
        let sample = sample_once(engine, rehearsal, setting, size_limit)?;
        if rehearsal.captured_graphs() <= captured {
            return Ok(sample);
        }
    }
}

fn sample_once(
    engine: &Engine,
    rehearsal: &mut Rehearsal,
    setting: Setting,
    size_limit: usize,
) -> Result<Sample> {
    let Setting { context, rows, depth, size } = setting;
    let session = rehearsal.at(engine, context, rows)?;
    let mut cycle = engine.begin_cycle(session, size_limit)?;
    let root = cycle.timing().draft;
    let mut levels = Vec::with_capacity(depth);
    for _ in 0..depth {
        let before = cycle.timing().draft;
        engine.expand(session, &mut cycle)?;
        levels.push(cycle.timing().draft.saturating_sub(before));
    }
    let outcome = engine.verify(session, cycle, size)?;
    let size = outcome.verification_size;
    let level_rows = outcome.level_rows;
    Ok(Sample { context, rows, root, levels, level_rows, size, verify: outcome.timing.verify })
}

/// Levels that expand one candidate to all of them, in random order.
fn measure_level_rows(
    engine: &Engine,
    plan: &LatencyPlan,
    interrupt: &Interrupt,
    rehearsal: &mut Rehearsal,
    random: &mut ChaCha8Rng,
) -> Result<Surface> {
    let width = engine.beam_width();
    let mut places: Vec<(usize, usize)> = Vec::new();
    for &context in &plan.contexts {
        for rows in 1..=width {
            places.extend(std::iter::repeat_n((context, rows), plan.repeats));
        }
    }
    places.shuffle(random);
    // Levels of one cycle share its context.
    places.sort_by_key(|(context, _)| *context);
    let mut grid = Grid::default();
    for places in places.chunk_by(|a, b| a.0 == b.0) {
        for places in places.chunks(plan.max_depth) {
            interrupt.check()?;
            let session = rehearsal.at(engine, places[0].0, 1)?;
            let mut cycle = engine.begin_cycle(session, usize::MAX)?;
            for &(context, rows) in places {
                let before = cycle.timing().draft;
                cycle.narrow(rows);
                engine.expand(session, &mut cycle)?;
                grid.add(rows, context, cycle.timing().draft.saturating_sub(before));
            }
            engine.verify(session, cycle, width)?;
        }
    }
    Ok(grid.surface())
}

fn summarise(samples: &[Sample], level_rows: &Surface) -> Measured {
    let (mut root, mut level, mut verify) = (Grid::default(), Grid::default(), Grid::default());
    for sample in samples {
        root.add(sample.rows, sample.context, sample.root);
        verify.add(sample.size, sample.context, sample.verify);
        for (depth, elapsed) in (1..).zip(&sample.levels) {
            level.add(depth, sample.context, *elapsed);
        }
    }
    Measured {
        root: root.surface(),
        level: level.surface(),
        level_rows: level_rows.clone(),
        verify: verify.surface(),
    }
}

/// Samples in milliseconds by count and context length.
#[derive(Default)]
struct Grid(BTreeMap<(usize, usize), Vec<f32>>);

impl Grid {
    fn add(&mut self, count: usize, context: usize, elapsed: Duration) {
        self.0.entry((count, context)).or_default().push(elapsed.as_secs_f32() * 1e3);
    }

    fn surface(self) -> Surface {
        let points = self.0.into_iter();
        Surface {
            points: points
                .map(|((count, context), samples)| GridPoint::new(count, context, samples))
                .collect(),
        }
    }
}
