//! PPO on an environment of one's own: any decision process with a vector to see and a finite set
//! of actions.
//!
//! ```bash
//! cargo run --release --example environment
//! ```
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::time::Duration;

use ltd::env::{Decision, Env, Step, stream};
use ltd::policy::argmax;
use ltd::run::config::{NetArch, PpoConfig};
use ltd::train::ppo::Learner;
use rand::Rng;
use serde_json::{Value, json};

/// A corridor: the goal is left or right of where one stands, and each step costs something.
struct Corridor {
    episode: u64,
    place: i32,
    goal: i32,
}

impl Corridor {
    const LEFT: usize = 0;

    fn show(&self, observation: &mut [f32]) {
        observation[0] = self.place as f32 / 5.0;
        observation[1] = self.goal as f32 / 5.0;
    }
}

impl Env for Corridor {
    fn observation_len(&self) -> usize {
        2
    }

    fn n_actions(&self) -> usize {
        2
    }

    fn reset(&mut self, observation: &mut [f32]) -> ltd::env::Result<()> {
        self.episode += 1;
        let mut random = stream(self.episode, "corridor");
        (self.place, self.goal) = (0, if random.random() { 3 } else { -3 });
        self.show(observation);
        Ok(())
    }

    fn step(&mut self, decision: Decision, observation: &mut [f32]) -> ltd::env::Result<Step> {
        self.place += if decision.action == Self::LEFT { -1 } else { 1 };
        self.show(observation);
        let arrived = self.place == self.goal;
        let reward = if arrived { 1.0 } else { -0.1 };
        Ok(Step { reward, terminated: arrived, truncated: self.place.abs() > 5, outcome: None })
    }

    fn state(&self) -> Value {
        json!([self.episode, self.place, self.goal])
    }

    fn restore(&mut self, state: Value, observation: &mut [f32]) -> ltd::env::Result<()> {
        (self.episode, self.place, self.goal) = serde_json::from_value(state)?;
        self.show(observation);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    const TIMESTEPS: usize = 8_000;
    const EPISODES: u32 = 100;
    let mut env = Corridor { episode: 0, place: 0, goal: 0 };
    let config = PpoConfig {
        net_arch: NetArch { pi: vec![32], vf: vec![32] },
        learning_rate: 1e-3,
        ..PpoConfig::default()
    };
    let mut learner = Learner::new(env.observation_len(), env.n_actions(), config, 1, "corridor");
    while learner.timesteps() < TIMESTEPS {
        let rollout = learner.collect(&mut env, &mut |_| (), &|| false)?.ok_or("interrupted")?;
        let progress = learner.timesteps() as f64 / TIMESTEPS as f64;
        learner.update(&rollout, progress, &|| false).ok_or("interrupted")?;
    }

    let policy = learner.mlp();
    let (mut scratch, mut observation, mut steps) = (policy.scratch(), [0.0; 2], 0u32);
    for _ in 0..EPISODES {
        env.reset(&mut observation)?;
        loop {
            let action = argmax(policy.forward(&observation, &mut scratch));
            let step = env.step(Decision { action, elapsed: Duration::ZERO }, &mut observation)?;
            steps += 1;
            if step.terminated || step.truncated {
                break;
            }
        }
    }
    println!("{:.2} steps to the goal; 3 is the least", f64::from(steps) / f64::from(EPISODES));
    Ok(())
}
