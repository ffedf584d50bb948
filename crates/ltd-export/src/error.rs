//! Everything that can go wrong in an export.

use std::path::PathBuf;

/// Result of an export.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An export failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder is no run, or has no policies yet.
    #[error("--run {}: {problem}", path.display())]
    Run {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The package cannot go where it was asked for.
    #[error("--out {}: {problem}", path.display())]
    Out {
        /// The folder.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A written form of a policy computes something else than the policy did in training.
    #[error(
        "{form} of the {policy} policy gives {found} where training gave {expected} (probe {probe}, action {action}): nothing was written"
    )]
    Mismatch {
        /// The form: safetensors, `TorchScript` and others.
        form: &'static str,
        /// Which policy.
        policy: String,
        /// Index of the probe observation.
        probe: usize,
        /// Index of the action.
        action: usize,
        /// Logit stored in training.
        expected: f32,
        /// Logit computed now.
        found: f32,
    },
    /// An archive of stable-baselines3 is damaged, or holds something other than expected.
    #[error("{}: not a policy that stable-baselines3 saved: {problem}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// What was asked for cannot be imported.
    #[error("{0}")]
    Import(String),
    /// A form was asked for that a network cannot have.
    #[error("--format {form}: {problem}")]
    Form {
        /// The form.
        form: String,
        /// Why not.
        problem: String,
    },
    /// A policy without probe observations.
    #[error(
        "the {policy} policy has no probe observations, so that no copy of it can be checked: nothing was written"
    )]
    NoProbes {
        /// Which policy.
        policy: String,
    },
    /// A package does not say what was asked for.
    #[error("{}: {problem}", path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// What it lacks.
        problem: String,
    },
    /// Recorded trees or chains that settings cannot be compared on.
    #[error("{option} {}: {problem}", path.display())]
    Recording {
        /// What named it.
        option: &'static str,
        /// The recording.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// Servers that accept no setting that is known, or none that is worth it.
    #[error("--for: no known setting suits {}", problems.join("\n  and none suits "))]
    Servers {
        /// Each server with its reasons.
        problems: Vec<String>,
    },
    /// `--out` or a file in it could not be written.
    #[error("--out {}: {source}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A result could not be printed.
    #[error(transparent)]
    Output(#[from] ltd_console::OutputError),
    /// A result was written, and could not be printed.
    #[error("{source}: what was to be printed is lost, but --out {} was written and is whole", path.display())]
    Untold {
        /// The folder.
        path: PathBuf,
        /// What the operating system says.
        source: ltd_console::OutputError,
    },
    /// A policy file or manifest.
    #[error(transparent)]
    Policy(#[from] ltd_policy::Error),
    /// Recorded trees.
    #[error(transparent)]
    Recorded(#[from] ltd_env::Error),
    /// A configuration.
    #[error(transparent)]
    Config(#[from] ltd_run::Error),
    /// A file of models or weights.
    #[error(transparent)]
    Engine(#[from] ltd_engine::Error),
    /// LibTorch refused an operation.
    #[error("LibTorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    /// Whether the user's input, rather than the export, is at fault: exit code 2 instead of 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Run { .. }
            | Self::Out { .. }
            | Self::Form { .. }
            | Self::Package { .. }
            | Self::Recording { .. }
            | Self::Servers { .. }
            | Self::Archive { .. }
            | Self::Import(_) => true,
            Self::Config(error) => error.is_usage(),
            Self::Engine(error) => error.is_usage(),
            Self::Policy(error) => error.is_usage(),
            Self::Recorded(error) => error.is_usage(),
            Self::Mismatch { .. }
            | Self::NoProbes { .. }
            | Self::Io { .. }
            | Self::Output(_)
            | Self::Untold { .. }
            | Self::Torch(_) => false,
        }
    }
}
