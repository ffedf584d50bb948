//! Everything that can go wrong in the engine.

/// Result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An engine failure. Variants name the file or the value at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A prompt leaves no room for a new token.
    #[error(
        "prompt has {tokens} tokens, but the cache holds {capacity}: raise `max_length` or shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the cache.
        capacity: usize,
    },
}
