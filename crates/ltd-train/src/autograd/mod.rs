//! What learns from examples, by LibTorch's automatic differentiation: the predictors, imitation
//! and the classifiers. ([`crate::ppo`] has gradients of its own.)

mod adam;
mod network;

pub(crate) use adam::Adam;
pub(crate) use network::Network;
#[cfg(test)]
pub(crate) use network::normal;
