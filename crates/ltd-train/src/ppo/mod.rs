//! Proximal policy optimisation (arXiv 1707.06347), every detail as in Stable-Baselines3;
//! `docs/ppo.md` lists them.

mod actor_critic;
mod adam;
mod collect;
mod gae;
mod learner;
mod network;
mod rollout_buffer;
mod schedule;
mod update;

pub use actor_critic::{ActorCritic, Evaluation};
pub use adam::Adam;
pub use collect::Episodes;
pub use gae::advantages_and_returns;
pub use learner::{Learner, Snapshot};
pub use network::Network;
pub use rollout_buffer::{EveryAction, Minibatch, RolloutBuffer};
pub use schedule::learning_rate;
pub use update::{LossTerms, UpdateStats, ppo_loss, update};
