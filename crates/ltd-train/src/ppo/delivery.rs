//! A rank's part of a rollout as it travels to the learner: a header of JSON after its length, then
//! all tables, little-endian.

use ltd_engine::CycleStats;
use serde::{Deserialize, Serialize};

use super::collect::{Rollout, Steps};
use super::collector::{CollectorState, Report};

/// What a rank delivers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Delivery {
    /// Of each of its environments.
    pub(crate) reports: Vec<Report>,
    /// Where each of them stands.
    pub(crate) envs: Vec<serde_json::Value>,
    /// Why there is nothing more to learn from, if there is not: then the rest is empty.
    pub(crate) ended: Option<String>,
    /// How long the steps took.
    pub(crate) seconds: f64,
    /// What its environments' reward compares with, in tokens per second, if it does.
    pub(crate) lambda: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    reports: Vec<ReportHead>,
    envs: Vec<serde_json::Value>,
    ended: Option<String>,
    seconds: f64,
    lambda: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct ReportHead {
    steps: Steps,
    cycles: CycleStats,
    state: CollectorState,
}

/// Numbers per step that a learner expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Widths {
    pub(crate) observation: usize,
    pub(crate) n_actions: usize,
    /// Values of actions: all of them where advantages are exact, else none.
    pub(crate) values: usize,
}

impl Delivery {
    /// Steps of all its environments.
    pub(crate) fn steps(&self) -> usize {
        self.reports.iter().map(|report| report.rollout.len()).sum()
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let reports = self.reports.iter().map(|report| ReportHead {
            steps: report.rollout.steps.clone(),
            cycles: report.cycles.clone(),
            state: report.state.clone(),
        });
        let head = Head {
            reports: reports.collect(),
            envs: self.envs.clone(),
            ended: self.ended.clone(),
            seconds: self.seconds,
            lambda: self.lambda,
        };
        let head = serde_json::to_vec(&head).expect("invariant: it is plain data");
        let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&head);
        for Report { rollout, next_observation, .. } in &self.reports {
            for table in [&rollout.observations, &rollout.action_values, next_observation] {
                bytes.extend(table.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
        bytes
    }

    /// Nothing if the bytes are not a delivery of these widths.
    pub(crate) fn from_bytes(bytes: &[u8], widths: Widths) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (head, mut rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let Head { reports, envs, ended, seconds, lambda } = serde_json::from_slice(head).ok()?;
        let mut table = |numbers: usize| {
            let (taken, others) = rest.split_at_checked(numbers.checked_mul(4)?)?;
            rest = others;
            let (numbers, _) = taken.as_chunks::<4>();
            Some(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect::<Vec<f32>>())
        };
        let report = |ReportHead { steps, cycles, state }| {
            let steps: Steps = steps;
            if !steps.fit(widths) {
                return None;
            }
            let observations = table(steps.len() * widths.observation)?;
            let action_values = table(steps.len() * widths.values)?;
            let next_observation = table(widths.observation)?;
            let rollout = Rollout { observations, action_values, steps };
            Some(Report { rollout, next_observation, cycles, state })
        };
        let reports: Vec<Report> = reports.into_iter().map(report).collect::<Option<_>>()?;
        let complete = rest.is_empty() && (ended.is_some() || envs.len() == reports.len());
        complete.then_some(Self { reports, envs, ended, seconds, lambda })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ppo::Learner;
    use ltd_env::{Decision, Env, Step};
    use ltd_run::config::PpoConfig;

    /// Ends each episode after three steps, every other one by a limit.
    struct Counting(usize);

    impl Env for Counting {
        fn observation_len(&self) -> usize {
            2
        }

        fn n_actions(&self) -> usize {
            3
        }

        fn reset(&mut self, observation: &mut [f32]) -> ltd_env::Result<()> {
            observation.copy_from_slice(&[self.0 as f32, 0.1]);
            Ok(())
        }

        fn step(&mut self, decision: Decision, observation: &mut [f32]) -> ltd_env::Result<Step> {
            self.0 += 1;
            observation.copy_from_slice(&[self.0 as f32, decision.action as f32 / 3.0]);
            let ends = self.0.is_multiple_of(3);
            let truncated = ends && self.0.is_multiple_of(2);
            let reward = self.0 as f32 * 0.3;
            Ok(Step { reward, terminated: ends && !truncated, truncated, outcome: None })
        }

        fn state(&self) -> serde_json::Value {
            self.0.into()
        }

        fn restore(&mut self, _state: serde_json::Value, _observation: &mut [f32]) -> ltd_env::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_delivery_arrives_as_it_was_and_nothing_else_is_one() {
        let config = PpoConfig { n_steps: 12, batch_size: 4, ..PpoConfig::default() };
        let mut learner = Learner::new(2, 3, config, 1, "test");
        let mut env = Counting(0);
        assert!(learner.fill_rollout(&mut env, &mut |_| (), &|| false).expect("steps"));
        let envs = vec![env.state()];
        let delivery =
            Delivery { reports: learner.reports(), envs, ended: None, seconds: 0.25, lambda: Some(0.1) };
        let widths = Widths { observation: 2, n_actions: 3, values: 0 };
        let bytes = delivery.to_bytes();
        assert_eq!(Delivery::from_bytes(&bytes, widths).as_ref(), Some(&delivery));
        for widths in [
            Widths { observation: 3, ..widths },
            Widths { values: 3, ..widths },
            Widths { n_actions: 1, ..widths },
        ] {
            assert_eq!(Delivery::from_bytes(&bytes, widths), None, "{widths:?}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Delivery::from_bytes(&bytes[..length], widths), None, "{length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Delivery::from_bytes(&longer, widths), None);
    }
}
