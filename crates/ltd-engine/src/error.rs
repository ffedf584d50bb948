//! Everything that can go wrong in the engine.

use std::path::{Path, PathBuf};

use tch::TchError;

use crate::out_of_memory::OutOfMemory;

/// Result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An engine failure. Variants name the file or the value at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// There is no such model folder.
    #[error("{}: no such folder", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// The environment asks for instructions that the processor does not have.
    #[error("environment variable {variable}: {problem}")]
    Instructions {
        /// The variable.
        variable: &'static str,
        /// What is wrong with its value.
        problem: ltd_kernels::UnknownInstructionSet,
    },
    /// A model's `config.json` is not JSON of the expected form.
    #[error("{}: not a model configuration: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where parsing stopped.
        source: serde_json::Error,
    },
    /// A model's configuration holds a value this engine cannot run.
    #[error("{}: {field} is {found}, expected {expected}", path.display())]
    ModelConfig {
        /// The file.
        path: PathBuf,
        /// Key in it.
        field: &'static str,
        /// What the engine supports.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A safetensors file is truncated or malformed.
    #[error("{}: not a complete safetensors file: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// A model folder has no weights.
    #[error("{}: no weights found: expected model.safetensors or pytorch_model.bin, or the index of their shards", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// An index names a file that is not there.
    #[error("{}: names {file}, which is not in the folder", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file it names.
        file: String,
    },
    /// A pickled checkpoint is truncated, of an old form, or holds something else than tensors.
    #[error("{}: not a checkpoint of tensors only: {problem}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is stored in a type that no supported model has.
    #[error("{}: tensor {name} has type {found}, expected F32, BF16 or F16", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// Tensor name.
        name: String,
        /// Its type.
        found: String,
    },
    /// Tensors that the model needs are not in its files.
    #[error("{}: missing tensors: {}", folder.display(), names.join(", "))]
    MissingTensors {
        /// The model folder.
        folder: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// Tensors in the files that the model has no place for.
    #[error("{}: tensors this architecture does not have: {}", folder.display(), names.join(", "))]
    SurplusTensors {
        /// The model folder.
        folder: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor {name} has shape {found:?}, expected {expected:?} from config.json", file.display())]
    TensorShape {
        /// The weight file.
        file: PathBuf,
        /// Tensor name.
        name: String,
        /// Shape implied by the configuration.
        expected: Vec<i64>,
        /// Shape in the file.
        found: Vec<i64>,
    },
    /// The draft model was made for another target.
    #[error("draft model {} does not fit target {}: {what} is {draft_value} in the draft and {target_value} in the target",
        draft.display(), target.display())]
    DraftMismatch {
        /// Draft folder.
        draft: PathBuf,
        /// Target folder.
        target: PathBuf,
        /// The quantity that differs.
        what: &'static str,
        /// Its value in the draft.
        draft_value: i64,
        /// Its value in the target.
        target_value: i64,
    },
    /// A tensor of indices, such as the draft's vocabulary map, that contradicts itself, another
    /// one or the vocabularies, or cannot be read exactly.
    #[error("{}: tensor {tensor}: {problem}", file.display())]
    IndexTensor {
        /// The weight file.
        file: PathBuf,
        /// Tensor name.
        tensor: String,
        /// What is wrong, with the first entry at fault.
        problem: String,
    },
    /// The target's tokenizer lacks a token that a model works with, or names one that the target
    /// does not know.
    #[error("{}: {problem}", target.display())]
    TokenizerMismatch {
        /// Target folder.
        target: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// An engine setting is impossible.
    #[error("{field}: {problem}")]
    Config {
        /// Key of the engine configuration.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The requested device is not there, or has no room.
    #[error("device {device}: {problem}")]
    Device {
        /// The device as asked for.
        device: String,
        /// Why it cannot be used.
        problem: String,
    },
    /// No devices that are there have room for the models.
    #[error("devices auto: {0}")]
    DoesNotFit(crate::Shortage),
    /// A prompt without tokens.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// A prompt holds a token that the model does not know.
    #[error("prompt token {token} at position {position} is outside the target's vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Where it stands.
        position: usize,
        /// Target vocabulary size.
        vocabulary: usize,
    },
    /// A prompt leaves no room for a new token.
    #[error(
        "the prompt has {tokens} tokens, but the cache holds {capacity}: raise max_length or shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the cache.
        capacity: usize,
    },
    /// A rehearsal has no such place.
    #[error("a rehearsal of {known} tokens cannot be at {context} tokens with {rows} unread rows")]
    Rehearsal {
        /// Tokens wanted.
        context: usize,
        /// Rows wanted.
        rows: usize,
        /// Tokens there are.
        known: usize,
    },
    /// Generation went past the cache.
    #[error("the cache of {capacity} positions is full: raise max_length")]
    CacheFull {
        /// Positions of the cache.
        capacity: usize,
    },
    /// A session was used with another engine than the one that started it.
    #[error("the session belongs to another engine: its caches are of other sizes or another number type")]
    ForeignSession,
    /// A cycle was continued on another session than the one that it was begun on, or on one that
    /// has moved on since.
    #[error(
        "the cycle does not belong here: it was begun on another session, or the session has moved on since"
    )]
    ForeignCycle,
    /// A cycle was begun on a sequence that has no unread features: one is under way or was
    /// abandoned, or the sequence was advanced by autoregressive steps.
    #[error(
        "no cycle can start here: one was begun and not verified, or autoregressive steps dropped the features"
    )]
    NoFeatures,
    /// The draft tree is as deep as the caches allow.
    #[error("draft depth {depth} is the engine's limit")]
    DepthLimit {
        /// The limit.
        depth: usize,
    },
    /// The draft model produced scores that are not numbers, from features that are.
    #[error(
        "the draft model produced a score that is not a number at draft depth {depth} of the tree at position {position}"
    )]
    NotANumber {
        /// Position of the tree's root.
        position: usize,
        /// Depth of the level.
        depth: usize,
    },
    /// The target model produced logits among which none is the largest: NaN, plus infinity, or
    /// nothing but minus infinity.
    #[error("the target model produced logits that are not finite numbers for position {position}")]
    LogitsNotANumber {
        /// Position of the token that was to be chosen.
        position: usize,
    },
    /// A device has no memory left for what is to be done.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The target model produced features that are not finite numbers.
    #[error("the target model produced features that are not finite numbers at position {position}")]
    FeaturesNotANumber {
        /// Position of the token that it read.
        position: usize,
    },
    /// The target's embedding of a token holds something else than finite numbers.
    #[error("the target model's embedding of token {token}, at position {position}, is not finite numbers")]
    EmbeddingNotANumber {
        /// The token.
        token: u32,
        /// Its position.
        position: usize,
    },
    /// LibTorch refused an operation.
    #[error("LibTorch: {0}")]
    Torch(TchError),
    /// Prompt text, tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        match OutOfMemory::in_message(&error) {
            Some(shortage) => Self::OutOfMemory(shortage),
            None => Self::Torch(error),
        }
    }
}

impl Error {
    /// Whether what the user gave (files, settings, prompts) is at fault, rather than the run.
    pub fn is_usage(&self) -> bool {
        !matches!(
            self,
            Self::CacheFull { .. }
                | Self::ForeignSession
                | Self::ForeignCycle
                | Self::NoFeatures
                | Self::DepthLimit { .. }
                | Self::NotANumber { .. }
                | Self::LogitsNotANumber { .. }
                | Self::OutOfMemory(_)
                | Self::FeaturesNotANumber { .. }
                | Self::EmbeddingNotANumber { .. }
                | Self::Torch(_)
        )
    }

    /// Wraps an I/O error with the path it concerns.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
