//! A pair that goes on learning at the costs of another machine.

use std::sync::Arc;

use ltd_engine::{Controller, CycleStats, Learned};
use ltd_env::{
    DepthEnv, Env, Interrupt, ReplayCycles, Reward, RewardMeter, SizeEnv, SourceEnv, oracle, stream,
};
use ltd_policy::{Actions, Choice, FactoredPolicy, FrozenPolicy, ObservationLayout, PolicyKind};
use rand::Rng;

use super::factored::learn as learn_factored;
use crate::imitation::{examples, imitate};
use crate::ppo::Learner;
use crate::recorded::Recorded;
use crate::trainer::Pair;
use crate::{Error, Result};
use ltd_run::Progress;
use ltd_run::config::{Advantage, ImitationStage, NetArch, PpoConfig, PredictorStage, Preset};

/// Observations kept with a policy, to check copies of it.
const PROBES: usize = 32;

/// The pair, or one that imitates a factored policy of the recordings if it is faster on them:
/// where another largest size is worth it, a pair that cannot choose it has nothing to go on from.
/// What it drafts from is decided as before.
pub(super) fn start(pair: Pair, recorded: &Recorded, seed: u64, progress: Progress) -> Result<Pair> {
    let (Choice::Learned(depth), Choice::Learned(size)) = (&pair.depth, &pair.size) else { return Ok(pair) };
    let Actions::Depth(actions) = depth.actions() else { return Ok(pair) };
    let (stage, cap) = (PredictorStage::default(), depth.layout().depth_cap);
    let layout = ObservationLayout::named(&stage.layout, PolicyKind::Depth, depth.layout().beam_width, cap);
    let layout = layout.expect("invariant: a stage's default names a layout");
    let fitted = learn_factored(recorded, &layout, *actions, None, &stage, seed, progress)?;
    let sizes = fitted.predictor.actions().size.clone();
    let mut teacher = Learned::from(FactoredPolicy::new(&fitted.predictor, &recorded.table, fitted.rule));
    let (depths, sizes) = ((depth.layout().clone(), *actions), (size.layout().clone(), sizes));
    let interrupt = &Interrupt::default();
    let examples = examples(&recorded.train, &mut teacher, depths, sizes, interrupt)?;
    let mut imitation = pair.clone();
    for (policy, examples) in [depth, size].into_iter().zip(&examples) {
        let hidden = policy.mlp().hidden_widths();
        let stage = ImitationStage::default();
        imitation = imitation.with(imitate(examples, &hidden, stage, seed, interrupt, &mut |_| ())?.0);
    }
    Ok(if throughput(&imitation, recorded)? > throughput(&pair, recorded)? { imitation } else { pair })
}

/// All decisions after each policy among them learned `steps` more, one after another, against the
/// others. A policy that got no faster on the recordings it learned from stays as it was.
pub(super) fn go_on_learning(
    mut pair: Pair,
    recorded: &Recorded,
    steps: usize,
    seed: u64,
    progress: Progress,
) -> Result<Pair> {
    for kind in [PolicyKind::Depth, PolicyKind::Size, PolicyKind::Source] {
        let Some(policy) = pair.learned(kind) else { continue };
        let changed = pair.with(learn(policy, pair.controller(), recorded, steps, seed, progress)?);
        if throughput(&changed, recorded)? > throughput(&pair, recorded)? {
            pair = changed;
        }
    }
    Ok(pair)
}

fn throughput(pair: &Pair, recorded: &Recorded) -> Result<f64> {
    let cycles = oracle::replay_parallel(&recorded.train, &recorded.costs, |_| pair.controller())?;
    Ok(CycleStats::merged(&cycles).tokens_per_second())
}

/// One policy after `steps` more.
fn learn(
    policy: &FrozenPolicy,
    counterpart: Box<dyn Controller>,
    recorded: &Recorded,
    steps: usize,
    seed: u64,
    progress: Progress,
) -> Result<FrozenPolicy> {
    let name = format!("retarget {}", policy.kind());
    let cycles =
        ReplayCycles::new(Arc::clone(&recorded.train), recorded.costs.clone(), stream(seed, &name).random())?;
    let (layout, meter) = (policy.layout().clone(), RewardMeter::new(Reward::Gain));
    let mut env: Box<dyn Env> = match policy.actions() {
        Actions::Depth(actions) => Box::new(DepthEnv::new(cycles, counterpart, *actions, layout, meter)),
        Actions::Size(actions) => Box::new(SizeEnv::new(cycles, counterpart, actions.clone(), layout, meter)),
        Actions::Source(actions) => {
            Box::new(SourceEnv::new(cycles, counterpart, actions.clone(), layout, meter))
        }
    };
    let layers = policy.mlp().to_layers();
    let preset = Preset::Quick.ppo(policy.kind());
    let pi = policy.mlp().hidden_widths();
    let config = PpoConfig {
        advantage: Advantage::Exact,
        net_arch: NetArch { pi, vf: preset.net_arch.vf.clone() },
        ..preset
    };
    let mut learner = Learner::new(env.observation_len(), env.n_actions(), config, seed, &name);
    learner.start_from_policy(&layers).map_err(|problem| Error::Recorded(format!("the policy {problem}")))?;
    let mut task = progress.task(&name, steps);
    let mut probes = Vec::new();
    while learner.timesteps() < steps {
        let buffer = learner.collect(env.as_mut(), &mut |_| (), &|| false)?;
        let buffer = buffer.expect("invariant: nothing interrupts the rollout");
        let share = (learner.timesteps() as f64 / steps as f64).min(1.0);
        learner.update(&buffer, share, &|| false);
        let stride = buffer.len().div_ceil(PROBES);
        probes = (0..buffer.len()).step_by(stride).map(|row| buffer.observations.row(row).to_vec()).collect();
        task.update(learner.timesteps(), share, "steps");
    }
    task.finish(&format!("{} steps", learner.timesteps()));
    Ok(FrozenPolicy::new(policy.layout().clone(), policy.actions().clone(), learner.mlp(), probes))
}
