//! A pair that goes on learning at the costs of another machine.

use std::sync::Arc;

use ltd_engine::{CycleStats, Learned};
use ltd_env::{DepthEnv, Env, Interrupt, ReplayCycles, Reward, RewardMeter, SizeEnv, oracle, stream};
use ltd_policy::{Actions, Choice, FactoredPolicy, FrozenPolicy, ObservationLayout, PolicyKind};
use rand::Rng;

use super::factored::learn as learn_factored;
use crate::imitation::{examples, imitate};
use crate::ppo::Learner;
use crate::recorded::Recorded;
use crate::{Error, Result};
use ltd_run::Progress;
use ltd_run::config::{Advantage, ImitationStage, NetArch, PpoConfig, PredictorStage, Preset};

/// Observations kept with a policy, to check copies of it.
const PROBES: usize = 32;

/// The pair, or one that imitates a factored policy of the recordings if it is faster on them:
/// where another largest size is worth it, a pair that cannot choose it has nothing to go on from.
pub(super) fn start(
    pair: [Choice; 2],
    recorded: &Recorded,
    seed: u64,
    progress: Progress,
) -> Result<[Choice; 2]> {
    let [Choice::Learned(depth), Choice::Learned(size)] = &pair else { return Ok(pair) };
    let Actions::Depth(actions) = depth.actions() else { return Ok(pair) };
    let (stage, cap) = (PredictorStage::default(), depth.layout().depth_cap);
    let layout = ObservationLayout::named(&stage.layout, PolicyKind::Depth, depth.layout().beam_width, cap);
    let layout = layout.expect("invariant: a stage's default names a layout");
    let fitted = learn_factored(recorded, &layout, *actions, &stage, seed, progress)?;
    let sizes = fitted.predictor.actions().size.clone();
    let mut teacher = Learned::from(FactoredPolicy::new(&fitted.predictor, &recorded.table, fitted.rule));
    let (depths, sizes) = ((depth.layout().clone(), *actions), (size.layout().clone(), sizes));
    let interrupt = &Interrupt::default();
    let examples = examples(&recorded.train, &mut teacher, depths, sizes, interrupt)?;
    let imitation = [depth, size].into_iter().zip(&examples).map(|(policy, examples)| {
        let hidden = policy.mlp().hidden_widths();
        let stage = ImitationStage::default();
        Ok(Choice::Learned(imitate(examples, &hidden, stage, seed, interrupt, &mut |_| ())?.0))
    });
    let imitation: Vec<Choice> = imitation.collect::<Result<_>>()?;
    let imitation: [Choice; 2] = imitation.try_into().expect("invariant: one for each decision");
    Ok(if throughput(&imitation, recorded) > throughput(&pair, recorded) { imitation } else { pair })
}

/// Both decisions after each policy among them learned `steps` more, first the depth's, against the
/// other one. A policy that got no faster on the recordings it learned from stays as it was.
pub(super) fn go_on_learning(
    [mut depth, mut size]: [Choice; 2],
    recorded: &Recorded,
    steps: usize,
    seed: u64,
    progress: Progress,
) -> Result<[Choice; 2]> {
    for kind in [PolicyKind::Depth, PolicyKind::Size] {
        let choice = if kind == PolicyKind::Depth { &depth } else { &size };
        let Choice::Learned(policy) = choice else { continue };
        let controller = controller(&depth, &size);
        let learned = Choice::Learned(learn(policy, controller, recorded, steps, seed, progress)?);
        let changed = match kind {
            PolicyKind::Depth => [learned, size.clone()],
            PolicyKind::Size => [depth.clone(), learned],
        };
        if throughput(&changed, recorded) > throughput(&[depth.clone(), size.clone()], recorded) {
            [depth, size] = changed;
        }
    }
    Ok([depth, size])
}

fn controller(depth: &Choice, size: &Choice) -> Learned {
    Learned::new(depth, size).expect("invariant: a package's policies are where their kind belongs")
}

fn throughput([depth, size]: &[Choice; 2], recorded: &Recorded) -> f64 {
    let controller = controller(depth, size);
    let cycles = oracle::replay_parallel(&recorded.train, &recorded.costs, || Box::new(controller.clone()));
    CycleStats::merged(&cycles).tokens_per_second()
}

/// One policy after `steps` more.
fn learn(
    policy: &FrozenPolicy,
    counterpart: Learned,
    recorded: &Recorded,
    steps: usize,
    seed: u64,
    progress: Progress,
) -> Result<FrozenPolicy> {
    let name = format!("retarget {}", policy.kind());
    let cycles =
        ReplayCycles::new(Arc::clone(&recorded.train), recorded.costs.clone(), stream(seed, &name).random())?;
    let (layout, meter) = (policy.layout().clone(), RewardMeter::new(Reward::Gain));
    let counterpart = Box::new(counterpart);
    let mut env: Box<dyn Env> = match policy.actions() {
        Actions::Depth(actions) => Box::new(DepthEnv::new(cycles, counterpart, *actions, layout, meter)),
        Actions::Size(actions) => Box::new(SizeEnv::new(cycles, counterpart, actions.clone(), layout, meter)),
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
