//! Every tag of every curve. `docs/metrics.md` says what they mean; a test keeps the two equal.

/// Mean reward of the latest 100 episodes.
pub const EP_REW_MEAN: &str = "rollout/ep_rew_mean";
/// Mean steps of the latest 100 episodes.
pub const EP_LEN_MEAN: &str = "rollout/ep_len_mean";
/// Steps per second since the stage began.
pub const FPS: &str = "time/fps";
/// Rollouts.
pub const ITERATIONS: &str = "time/iterations";
/// Seconds since the stage began.
pub const TIME_ELAPSED: &str = "time/time_elapsed";
/// Steps.
pub const TOTAL_TIMESTEPS: &str = "time/total_timesteps";
/// KL estimate, mean of the last epoch.
pub const APPROX_KL: &str = "train/approx_kl";
/// Share of ratios outside the clip range.
pub const CLIP_FRACTION: &str = "train/clip_fraction";
/// Clip range.
pub const CLIP_RANGE: &str = "train/clip_range";
/// Mean negated entropy.
pub const ENTROPY_LOSS: &str = "train/entropy_loss";
/// Explained variance of the values.
pub const EXPLAINED_VARIANCE: &str = "train/explained_variance";
/// Step size.
pub const LEARNING_RATE: &str = "train/learning_rate";
/// Loss of the last minibatch.
pub const LOSS: &str = "train/loss";
/// Epochs.
pub const N_UPDATES: &str = "train/n_updates";
/// Mean policy loss.
pub const POLICY_GRADIENT_LOSS: &str = "train/policy_gradient_loss";
/// Mean value loss.
pub const VALUE_LOSS: &str = "train/value_loss";
/// Gradient steps.
pub const GRADIENT_STEPS: &str = "train/gradient_steps";
/// Mean gradient norm before clipping.
pub const GRAD_NORM: &str = "train/grad_norm";
/// Throughput that the reward `gain` compares with.
pub const LAMBDA: &str = "train/lambda";
/// Mean acceptance length.
pub const ACCEPTANCE_LENGTH: &str = "env/acceptance_length";
/// Accepted draft tokens per verified candidate.
pub const ACCEPTANCE_RATE: &str = "env/acceptance_rate";
/// Mean draft depth.
pub const DRAFT_DEPTH: &str = "env/draft_depth";
/// Mean verification size.
pub const VERIFICATION_SIZE: &str = "env/verification_size";
/// Mean context length.
pub const CONTEXT_LENGTH: &str = "env/context_length";
/// Throughput.
pub const TOKENS_PER_SECOND: &str = "env/tokens_per_second";
/// Mean cycle time.
pub const CYCLE_MS: &str = "env/cycle_ms";
/// Mean drafting time.
pub const DRAFT_MS: &str = "env/draft_ms";
/// Mean verification time.
pub const VERIFY_MS: &str = "env/verify_ms";
/// Mean policy time.
pub const POLICY_MS: &str = "env/policy_ms";
/// Share of the cycles that verified copied tokens.
pub const SOURCE_COPY: &str = "env/source_copy";
/// Mean copied tokens that those accepted.
pub const SOURCE_COPY_ACCEPTED: &str = "env/source_copy_accepted";
/// Mean accepted tokens that the trees had.
pub const SOURCE_TREE_ACCEPTED: &str = "env/source_tree_accepted";
/// Mean loss of the predictor while it learns.
pub const PREDICTOR_LOSS: &str = "predictor/loss";
/// The same on held-out recordings.
pub const PREDICTOR_HELD_OUT_LOSS: &str = "predictor/held_out_loss";
/// Share of a constant's held-out loss that is avoided.
pub const PREDICTOR_EXPLAINED_VARIANCE: &str = "predictor/explained_variance";
/// Throughput on validation prompts.
pub const EVAL_TOKENS_PER_SECOND: &str = "eval/tokens_per_second";
/// Acceptance length on validation prompts.
pub const EVAL_ACCEPTANCE_LENGTH: &str = "eval/acceptance_length";
/// Throughput over the best constant's.
pub const EVAL_SPEEDUP_VS_STATIC: &str = "eval/speedup_vs_static";
/// Throughput over plain decoding's.
pub const EVAL_SPEEDUP: &str = "eval/speedup";
/// Cycles by acceptance length.
pub const ACCEPTANCE_LENGTHS: &str = "env/acceptance_lengths";
/// Cycles by draft depth.
pub const DRAFT_DEPTHS: &str = "env/draft_depths";
/// Cycles by verification size.
pub const VERIFICATION_SIZES: &str = "env/verification_sizes";

/// Steps per second of one of several ranks, over its part of the rollout.
pub fn of_rank(rank: usize) -> String {
    format!("ranks/{rank}/steps_per_second")
}

/// All tags, but for those of ranks.
pub const ALL: [&str; 42] = [
    EP_REW_MEAN,
    EP_LEN_MEAN,
    FPS,
    ITERATIONS,
    TIME_ELAPSED,
    TOTAL_TIMESTEPS,
    APPROX_KL,
    CLIP_FRACTION,
    CLIP_RANGE,
    ENTROPY_LOSS,
    EXPLAINED_VARIANCE,
    LEARNING_RATE,
    LOSS,
    N_UPDATES,
    POLICY_GRADIENT_LOSS,
    VALUE_LOSS,
    GRADIENT_STEPS,
    GRAD_NORM,
    LAMBDA,
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    DRAFT_DEPTH,
    VERIFICATION_SIZE,
    CONTEXT_LENGTH,
    TOKENS_PER_SECOND,
    CYCLE_MS,
    DRAFT_MS,
    VERIFY_MS,
    POLICY_MS,
    SOURCE_COPY,
    SOURCE_COPY_ACCEPTED,
    SOURCE_TREE_ACCEPTED,
    PREDICTOR_LOSS,
    PREDICTOR_HELD_OUT_LOSS,
    PREDICTOR_EXPLAINED_VARIANCE,
    EVAL_TOKENS_PER_SECOND,
    EVAL_ACCEPTANCE_LENGTH,
    EVAL_SPEEDUP_VS_STATIC,
    EVAL_SPEEDUP,
    ACCEPTANCE_LENGTHS,
    DRAFT_DEPTHS,
    VERIFICATION_SIZES,
];
