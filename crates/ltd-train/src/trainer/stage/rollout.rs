//! One rollout of a stage: the first rank says that there is one, all take their steps, and it
//! hears of them.

use std::rc::Rc;
use std::time::Instant;

use ltd_engine::CycleStats;
use ltd_env::Step;

use super::{Mark, Training, share};
use crate::Result;
use crate::ppo::Delivery;
use crate::trainer::environment::Envs;
use ltd_run::progress::Task;

/// What comes of asking for a rollout.
pub(super) enum Asked {
    /// The first rank says that the stage is over.
    Over,
    /// It was sent to the first rank.
    Elsewhere,
    /// All ranks' parts; of a rank alone also where it stands, with what it has not learned from.
    Here { deliveries: Vec<Delivery>, unlearned: Option<Mark> },
}

impl Training<'_> {
    /// One rollout of all ranks, if the first one says that it is `due`.
    pub(super) fn rollout(&mut self, due: bool, task: &mut Task, at_start: f64) -> Result<Asked> {
        let group = Rc::clone(&self.trainer.group);
        let alone = group.size() == 1;
        if alone && !due {
            return Ok(Asked::Over);
        }
        if !alone && !self.hear(due)? {
            return Ok(Asked::Over);
        }
        let begun = Instant::now();
        let ended = match self.fill(task, at_start) {
            Ok(true) => None,
            Ok(false) => {
                if alone {
                    self.save(false)?;
                }
                return Err(ltd_env::Error::Interrupted.into());
            }
            Err(error @ (ltd_env::Error::NoTree { .. } | ltd_env::Error::NothingToCopy { .. }))
                if !alone || !self.candidates.is_empty() =>
            {
                Some(error.to_string())
            }
            Err(error) => return Err(error.into()),
        };
        let unlearned = alone.then(|| self.mark());
        let seconds = begun.elapsed().as_secs_f64();
        let delivery = match ended {
            None => {
                let (reports, envs) = (self.learner.reports(), self.envs.states());
                Delivery { reports, envs, seconds, lambda: self.envs.lambda(), ended: None }
            }
            ended => Delivery { ended, seconds, ..Delivery::default() },
        };
        if alone {
            return Ok(Asked::Here { deliveries: vec![delivery], unlearned });
        }
        let what = format!("a rollout of stage {}", self.stage.name);
        let own = if group.leads() { Vec::new() } else { delivery.to_bytes() };
        let Some(gathered) = group.gather(&what, own)? else { return Ok(Asked::Elsewhere) };
        let widths = self.learner.widths();
        let others = gathered.iter().enumerate().skip(1).map(|(rank, bytes)| {
            Delivery::from_bytes(bytes, widths).ok_or_else(|| ltd_distributed::Error::Message {
                rank,
                what: what.clone(),
                problem: "it is not a rollout of this stage".to_owned(),
            })
        });
        let deliveries = std::iter::once(Ok(delivery)).chain(others).collect::<Result<Vec<_>, _>>()?;
        Ok(Asked::Here { deliveries, unlearned })
    }

    /// What the first rank says before a rollout: whether there is one, and the policy that acts.
    fn hear(&mut self, due: bool) -> Result<bool> {
        let group = Rc::clone(&self.trainer.group);
        let mut layers = self.learner.mlp().to_layers();
        let what = format!("the policy of stage {}", self.stage.name);
        let numbers = layers.iter_mut().flat_map(|layer| layer.weight.iter_mut().chain(&mut layer.bias));
        if group.leads() {
            let mut bytes = vec![u8::from(due)];
            bytes.extend(numbers.flat_map(|number| number.to_le_bytes()));
            group.broadcast(&what, bytes)?;
            return Ok(due);
        }
        let bytes = group.broadcast(&what, Vec::new())?;
        let (due, policy) = bytes.split_first().unwrap_or((&0, &[]));
        let (policy, rest) = policy.as_chunks::<4>();
        let mut filled = 0;
        for (number, bytes) in numbers.zip(policy) {
            *number = f32::from_le_bytes(*bytes);
            filled += 1;
        }
        let problem = "it is not a policy of this stage".to_owned();
        let wrong = ltd_distributed::Error::Message { rank: 0, what, problem };
        let expected: usize = layers.iter().map(|layer| layer.weight.len() + layer.bias.len()).sum();
        if filled != expected || policy.len() != expected || !rest.is_empty() {
            return Err(wrong.into());
        }
        self.learner.start_from_policy(&layers).map_err(|_| wrong)?;
        Ok(*due == 1)
    }

    /// Takes the steps of this rank's part of a rollout, shown as they go where one environment
    /// takes them; says whether it is full, not if it was interrupted.
    fn fill(&mut self, task: &mut Task, at_start: f64) -> ltd_env::Result<bool> {
        let interrupt = self.trainer.interrupt.clone();
        let (stage, policy, earlier, started) = (self.stage, self.task, self.earlier, self.started);
        let ranks = self.trainer.group.size();
        let before = self.learner.timesteps();
        let reward = self.learner.episodes();
        let reward = reward.map_or_else(String::new, |(reward, _)| format!("reward {reward:.3}  "));
        let mut show = |taken: usize, cycles: &CycleStats| {
            // Other ranks are about as far.
            let timesteps = before + taken * ranks;
            let share = share(stage, policy, timesteps, earlier + started.elapsed()).min(1.0);
            let rate = cycles.tokens_per_second();
            let rate = if rate > 0.0 { format!("{rate:.1} tokens/s") } else { String::new() };
            task.update(timesteps, (share - at_start) / (1.0 - at_start), &format!("{reward}{rate}"));
        };
        let mut cycles = self.learner.cycles();
        match &mut self.envs {
            Envs::One(env) => {
                let mut taken = 0;
                let mut observer = |step: &Step| {
                    taken += 1;
                    if let Some(outcome) = &step.outcome {
                        cycles.add(outcome);
                    }
                    show(taken, &cycles);
                };
                self.learner.fill_rollout(env.as_mut(), &mut observer, &|| interrupt.requested())
            }
            Envs::Several(envs) => {
                let filled = self.learner.fill_rollouts(envs, &|| interrupt.requested())?;
                show(self.learner.timesteps() - before, &self.learner.cycles());
                Ok(filled)
            }
        }
    }
}
