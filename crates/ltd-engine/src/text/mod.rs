//! placeholder
#[derive(Debug, thiserror::Error)]
pub enum TextError {}
