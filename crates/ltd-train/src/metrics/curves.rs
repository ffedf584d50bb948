//! What is recorded after a rollout, and after a measurement.

use std::collections::BTreeMap;
use std::time::Duration;

use ltd_engine::CycleStats;

use super::record::Record;
use super::tags;
use crate::ppo::{Learner, UpdateStats};
use crate::predictor::Epoch;

/// How fast a rank took its steps of a rollout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RankPace {
    pub(crate) steps: usize,
    pub(crate) seconds: f64,
}

/// The curves of one iteration: the rollout's cycles and the update that followed.
pub(crate) fn rollout_record(
    stage: &str,
    learner: &Learner,
    cycles: &CycleStats,
    update: &UpdateStats,
    lambda: Option<f64>,
    ranks: &[RankPace],
    elapsed: Duration,
) -> Record {
    let timesteps = learner.timesteps();
    let seconds = elapsed.as_secs_f64();
    let mut values = BTreeMap::new();
    let mut set = |tag: &str, value: f64| _ = values.insert(tag.to_owned(), value);
    if let Some((reward, len)) = learner.episodes() {
        set(tags::EP_REW_MEAN, reward);
        set(tags::EP_LEN_MEAN, len);
    }
    set(tags::FPS, (timesteps as f64 / seconds.max(1e-9)).floor());
    let steps_per_rollout = learner.config().n_steps * ranks.len().max(1);
    set(tags::ITERATIONS, (timesteps / steps_per_rollout) as f64);
    set(tags::TIME_ELAPSED, seconds);
    set(tags::TOTAL_TIMESTEPS, timesteps as f64);
    set(tags::APPROX_KL, update.approx_kl);
    set(tags::CLIP_FRACTION, update.clip_fraction);
    set(tags::CLIP_RANGE, learner.config().clip_range);
    set(tags::ENTROPY_LOSS, update.entropy_loss);
    // Undefined where all returns are equal.
    if update.explained_variance.is_finite() {
        set(tags::EXPLAINED_VARIANCE, update.explained_variance);
    }
    set(tags::LEARNING_RATE, update.learning_rate);
    set(tags::LOSS, update.loss);
    set(tags::N_UPDATES, learner.epochs() as f64);
    set(tags::POLICY_GRADIENT_LOSS, update.policy_gradient_loss);
    set(tags::VALUE_LOSS, update.value_loss);
    set(tags::GRADIENT_STEPS, learner.gradient_steps() as f64);
    set(tags::GRAD_NORM, update.grad_norm);
    if let Some(lambda) = lambda {
        set(tags::LAMBDA, lambda);
    }
    if ranks.len() > 1 {
        for (rank, pace) in ranks.iter().enumerate() {
            set(&tags::of_rank(rank), pace.steps as f64 / pace.seconds.max(1e-9));
        }
    }
    let mut histograms = BTreeMap::new();
    if cycles.cycles > 0 {
        let timing = &cycles.timing;
        set(tags::ACCEPTANCE_LENGTH, cycles.acceptance_length());
        set(tags::ACCEPTANCE_RATE, cycles.acceptance_rate());
        set(tags::DRAFT_DEPTH, cycles.mean_depth());
        set(tags::VERIFICATION_SIZE, cycles.mean_size());
        set(tags::CONTEXT_LENGTH, cycles.mean_context_length());
        set(tags::TOKENS_PER_SECOND, cycles.tokens_per_second());
        set(tags::CYCLE_MS, cycles.mean_ms(timing.total()));
        set(tags::DRAFT_MS, cycles.mean_ms(timing.draft));
        set(tags::VERIFY_MS, cycles.mean_ms(timing.verify));
        set(tags::POLICY_MS, cycles.mean_ms(timing.policy));
        set(tags::SOURCE_COPY, cycles.copying_share());
        set(tags::SOURCE_COPY_ACCEPTED, cycles.accepted_of_copies());
        set(tags::SOURCE_TREE_ACCEPTED, cycles.accepted_of_trees());
        for (tag, counts) in [
            (tags::ACCEPTANCE_LENGTHS, &cycles.acceptance_lengths),
            (tags::DRAFT_DEPTHS, &cycles.depths),
            (tags::VERIFICATION_SIZES, &cycles.sizes),
        ] {
            histograms.insert(tag.to_owned(), counts.clone());
        }
    }
    Record { stage: stage.to_owned(), timesteps, values, histograms, ..Record::default() }
}

/// The curves of an epoch of the predictor, `samples` of which were seen so far.
pub(crate) fn predictor_record(stage: &str, epoch: &Epoch, samples: usize, elapsed: Duration) -> Record {
    let values = [
        (tags::TIME_ELAPSED, elapsed.as_secs_f64()),
        (tags::PREDICTOR_LOSS, epoch.loss),
        (tags::PREDICTOR_HELD_OUT_LOSS, epoch.held_out_loss),
        (tags::PREDICTOR_EXPLAINED_VARIANCE, epoch.explained_variance),
    ];
    let values = values.into_iter().filter(|(_, value)| value.is_finite());
    Record {
        stage: stage.to_owned(),
        timesteps: samples,
        values: values.map(|(tag, value)| (tag.to_owned(), value)).collect(),
        ..Record::default()
    }
}

/// The curves of the whole run: how fast the policies are after `timesteps` steps of all stages.
pub(crate) fn validation_record(timesteps: usize, values: &[(&str, f64)]) -> Record {
    let values = values.iter().map(|(tag, value)| ((*tag).to_owned(), *value)).collect();
    Record { timesteps, values, ..Record::default() }
}
