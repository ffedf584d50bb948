//! Measuring what cycles cost.

use crate::config::TrainConfig;
use crate::machine::{device_model, driver};
use crate::{Error, Interrupt, Progress, Result};
use ltd_console::count;
use ltd_engine::{Engine, Learned};
use ltd_env::latency::{LatencyPlan, Measured, held_out_error, measure};
use ltd_policy::{
    Actions, Choice, DecisionCost, FrozenPolicy, LatencyIdentity, LatencyTable, Linear, Mlp, Models,
    PolicyKind, SizeActions, SourceChoice, Surface, tree_candidates,
};

/// Context lengths of the grid.
const CONTEXTS: usize = 4;
/// Shortest context length of the grid: no prompt in a chat template is shorter.
const SHORTEST: usize = 32;
/// Sizes of the grid besides those of the action tables.
const SIZES: [usize; 6] = [1, 4, 8, 16, 32, 64];
const HELD_OUT: usize = 60;
/// Measurements whose samples are put together, if fewer were disturbed.
const MOST_MEASUREMENTS: u64 = 4;
/// Cycles per kind of decision.
const DECISION_CYCLES: usize = 40;

/// Measures what the parts of a cycle cost on this machine, with `repeats` cycles per verification
/// size and context length and more where they scatter, and the error of the table on live cycles.
///
/// # Errors
/// If the engine's cache has no room for the trees, the models fail, the machine was too busy to
/// measure anything, or there was a wish to stop.
pub fn measure_latency(
    config: &TrainConfig,
    engine: &Engine,
    models: &Models,
    repeats: usize,
    progress: Progress,
    interrupt: &Interrupt,
) -> Result<LatencyTable> {
    let plan = plan(config, engine, repeats)?;
    let mut task = progress.task("latency", 0);
    let mut tick = |done: usize, planned: usize| {
        task.set_total(planned);
        if done == 1 {
            task.begin_part();
        }
        task.update(done, done as f64 / planned as f64, "cycles");
    };
    let devices = engine.device_names();
    let mut table = LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity {
            target: models.target.sha256.clone(),
            draft: models.draft.sha256.clone(),
            dtype: engine.dtype().chosen.to_string(),
            driver: driver(&devices),
            threads: tch::get_num_threads().max(1) as usize,
            machine: device_model(&devices),
            device: engine.runs_on(),
            beam_width: engine.beam_width(),
        },
        root: Surface::default(),
        level: Surface::default(),
        level_rows: None,
        verify: Surface::default(),
        decision: decision_cost(config, engine, &plan, interrupt)?,
        held_out_error: None,
    };
    let mut measured = measure(engine, &plan, interrupt, &mut tick)?;
    for attempt in 1.. {
        let Measured { root, level, level_rows, verify } = measured.clone();
        table = LatencyTable { root, level, level_rows: Some(level_rows), verify, ..table };
        let problems = table.problems();
        if problems.is_empty() {
            break;
        }
        if attempt == MOST_MEASUREMENTS {
            return Err(Error::Disturbed(problems.join("; ")));
        }
        progress.say("something else ran on this machine: more samples are taken");
        let plan = LatencyPlan { seed: plan.seed + attempt, ..plan.clone() };
        measured.merge(measure(engine, &plan, interrupt, &mut tick)?);
    }
    table.held_out_error = Some(held_out_error(engine, &plan, &table.model(), interrupt, &mut tick)?);
    if table.identity.device != engine.runs_on() {
        return Err(Error::HalfGraphs(engine.late_warning().unwrap_or_default().to_owned()));
    }
    task.finish("measured");
    Ok(table)
}

/// The grid that the action tables need.
fn plan(config: &TrainConfig, engine: &Engine, repeats: usize) -> Result<LatencyPlan> {
    let evaluation = &config.evaluation;
    let depths =
        evaluation.grid.depths.iter().chain([&config.depth.actions.max_depth, &evaluation.default.depth]);
    let max_depth = depths.copied().max().unwrap_or(1).clamp(1, engine.max_depth());
    let width = engine.beam_width();
    let largest = tree_candidates(width, max_depth);
    let sizes =
        config.size.sizes.sizes.iter().chain(&evaluation.grid.sizes).chain([&evaluation.default.size]);
    let sizes = sizes.chain(&config.source.chains);
    let mut sizes: Vec<usize> =
        sizes.copied().chain(SIZES).map(|size| size.min(largest)).filter(|&size| size > 0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let room = sizes[sizes.len() - 1] + max_depth + 2;
    let longest = engine.capacity().saturating_sub(room);
    if longest <= SHORTEST {
        let capacity = engine.capacity();
        return Err(Error::NoRoom { capacity, room });
    }
    // Evenly spaced: the costs of attention grow with the length.
    let contexts = (0..CONTEXTS).map(|step| SHORTEST + (longest - SHORTEST) * step / (CONTEXTS - 1));
    Ok(LatencyPlan {
        max_depth,
        sizes,
        contexts: contexts.collect(),
        repeats,
        held_out: HELD_OUT,
        seed: config.seed,
    })
}

/// Time of the decisions of networks of the configured shape, inside cycles, where their weights
/// are cold.
fn decision_cost(
    config: &TrainConfig,
    engine: &Engine,
    plan: &LatencyPlan,
    interrupt: &Interrupt,
) -> Result<DecisionCost> {
    let [depth_layout, size_layout] = [PolicyKind::Depth, PolicyKind::Size].map(|kind| config.layout(kind));
    let depth = network(depth_layout.len(), &config.depth.ppo.net_arch.pi, 2);
    let depth = FrozenPolicy::new(depth_layout, Actions::Depth(config.depth.actions), depth, Vec::new());
    let sizes: &SizeActions = &config.size.sizes;
    let size = network(size_layout.len(), &config.size.ppo.net_arch.pi, sizes.sizes.len());
    let size = FrozenPolicy::new(size_layout, Actions::Size(sizes.clone()), size, Vec::new());
    let tree = plan.max_depth.min(4);
    let cost = |of_depth: bool| -> Result<f64> {
        let (depth, size) = if of_depth {
            (Choice::Learned(depth.clone()), Choice::Constant(16))
        } else {
            (Choice::Constant(tree), Choice::Learned(size.clone()))
        };
        let mut controller =
            Learned::new(&depth, &size, &SourceChoice::Trees).expect("invariant: policies of the right kind");
        let tokens = (0..plan.contexts[1]).map(|index| (index % engine.vocabulary()) as u32).collect();
        let mut rehearsal = engine.rehearsal(tokens)?;
        let mut microseconds = Vec::with_capacity(DECISION_CYCLES);
        for _ in 0..DECISION_CYCLES {
            interrupt.check()?;
            let session = rehearsal.at(engine, plan.contexts[0], 1)?;
            let outcome = engine.run_cycle(session, &mut controller)?;
            let asked = (outcome.draft_depth + 1).min(config.depth.actions.max_depth);
            let decisions = if of_depth { asked } else { 1 };
            microseconds.push(outcome.timing.policy.as_secs_f64() * 1e6 / decisions as f64);
        }
        microseconds.sort_unstable_by(f64::total_cmp);
        Ok(microseconds[microseconds.len() / 2])
    };
    Ok(DecisionCost { depth_us: cost(true)?, size_us: cost(false)? })
}

/// A network of a shape; what its weights are does not matter for its time, but zeros would be
/// skipped.
fn network(inputs: usize, hidden: &[usize], outputs: usize) -> Mlp {
    let widths: Vec<usize> = [inputs].into_iter().chain(hidden.iter().copied()).chain([outputs]).collect();
    let layers: Vec<Linear> = widths
        .windows(2)
        .map(|pair| Linear {
            weight: vec![0.01; pair[0] * pair[1]],
            bias: vec![0.0; pair[1]],
            inputs: pair[0],
        })
        .collect();
    Mlp::new(&layers)
}

/// The table in words: milliseconds of verification at a middling context length, and what else is
/// worth knowing.
pub fn describe_latency(table: &LatencyTable) -> String {
    let (identity, model) = (&table.identity, table.model());
    let context = table.verify.contexts().get(1).copied().unwrap_or_default();
    let deepest = table.level.counts().last().copied().unwrap_or_default();
    let mut lines = vec![
        format!(
            "{} ({}), {}, {}; milliseconds at context length {context}\n",
            identity.device,
            identity.machine,
            identity.dtype,
            count(identity.threads, "thread")
        ),
        "| verification size | verify ms |\n| --- | --- |".to_owned(),
    ];
    let sizes = table.verify.counts();
    lines.extend(sizes.iter().map(|&size| format!("| {size} | {:.2} |", model.verify_ms(size, context))));
    lines.push(format!(
        "\nroot expansion {:.2} (1 row) to {:.2} ({} rows), a draft level {:.2} to {:.2} (of one candidate {:.2} to {:.2})",
        model.root_ms(1, context),
        model.root_ms(deepest + 1, context),
        deepest + 1,
        model.level_ms(1, identity.beam_width, context),
        model.level_ms(deepest, identity.beam_width, context),
        model.level_ms(1, 1, context),
        model.level_ms(deepest, 1, context)
    ));
    let DecisionCost { depth_us, size_us } = table.decision;
    lines.push(format!("decisions: depth {depth_us:.0} us, size {size_us:.0} us"));
    lines.extend(table.held_out_error.map(|error| {
        format!(
            "error on {} live cycles of random depth, size and length: median {:.1} %, 90th percentile {:.1} %",
            error.cycles,
            error.median * 100.0,
            error.p90 * 100.0
        )
    }));
    lines.join("\n")
}
