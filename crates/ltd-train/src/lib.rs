//! PPO, stages, checkpoints and metrics: trains the two policies from measured tokens per second.
