//! Generalised advantage estimation (arXiv 1506.02438).

/// Advantages and returns (`advantage + value`) of one rollout, all `[n_steps]`.
/// `episode_starts[t]` says that step `t` is the first of its episode; `last_value` is the value of
/// the observation after the rollout, `last_done` whether an episode ended with the rollout's last
/// step. f32 throughout, as in Stable-Baselines3.
pub fn advantages_and_returns(
    rewards: &[f32],
    values: &[f32],
    episode_starts: &[bool],
    last_value: f32,
    last_done: bool,
    gamma: f32,
    gae_lambda: f32,
) -> (Vec<f32>, Vec<f32>) {
    let n_steps = rewards.len();
    let mut advantages = vec![0.0; n_steps];
    let mut running = 0.0;
    for step in (0..n_steps).rev() {
        let (next_value, next_start) = if step + 1 == n_steps {
            (last_value, last_done)
        } else {
            (values[step + 1], episode_starts[step + 1])
        };
        let goes_on = if next_start { 0.0 } else { 1.0 };
        let delta = rewards[step] + gamma * next_value * goes_on - values[step];
        running = delta + gamma * gae_lambda * goes_on * running;
        advantages[step] = running;
    }
    let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
    (advantages, returns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_reward_without_end_is_worth_its_geometric_sum() {
        let gamma = 0.9f32;
        let value = 1.0 / (1.0 - gamma);
        let values = vec![value; 50];
        let starts: Vec<bool> = (0..50).map(|step| step == 0).collect();
        let (advantages, returns) =
            advantages_and_returns(&[1.0; 50], &values, &starts, value, false, gamma, 0.95);
        assert!(advantages.iter().all(|advantage| advantage.abs() < 1e-4));
        assert!(returns.iter().all(|found| (found - value).abs() < 1e-4));
    }

    #[test]
    fn nothing_flows_across_the_end_of_an_episode() {
        // Two episodes of two steps; lambda 1 makes returns the discounted sums of rewards.
        let (_, returns) = advantages_and_returns(
            &[1.0, 2.0, 3.0, 4.0],
            &[10.0, 20.0, 30.0, 40.0],
            &[true, false, true, false],
            99.0,
            true,
            0.5,
            1.0,
        );
        assert_eq!(returns, [2.0, 2.0, 5.0, 4.0]);
    }

    #[test]
    fn lambda_zero_is_the_one_step_error() {
        let (advantages, _) =
            advantages_and_returns(&[1.0, 1.0], &[3.0, 5.0], &[true, false], 7.0, false, 0.5, 0.0);
        assert_eq!(advantages, [1.0 + 0.5 * 5.0 - 3.0, 1.0 + 0.5 * 7.0 - 5.0]);
    }
}
