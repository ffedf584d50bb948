//! Proximal policy optimisation (arXiv 1707.06347), every detail as in Stable-Baselines3;
//! `docs/ppo.md` lists them.

mod actor_critic;
mod adam;
mod collect;
mod collector;
mod delivery;
mod gae;
mod learner;
mod perceptron;
mod rollout_buffer;
mod schedule;
mod tensors;
mod update;

pub use actor_critic::ActorCritic;
pub use adam::Adam;
pub(crate) use collector::CollectorState;
pub(crate) use delivery::Delivery;
pub use gae::advantages_and_returns;
pub use learner::{Learner, Snapshot};
pub use rollout_buffer::{EveryAction, RolloutBuffer};
pub use schedule::learning_rate;
pub use update::{Loss, UpdateStats, ppo_loss, update};
