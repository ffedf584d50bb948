//! Where a run's figures come from.

use std::path::Path;

use ltd_distributed::Fact;
use ltd_engine::text::Prompt;
use ltd_engine::{DtypeChoice, Engine};
use ltd_policy::{ModelIdentity, Models, sha256_hex, write_json};
use ltd_run::machine::{Machine, device_model, git_revision};
use serde::{Deserialize, Serialize};

use crate::Result;
use ltd_run::config::TrainConfig;
use ltd_run::prompts::Prompts;

/// Program, source revision, machine and models of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Provenance {
    /// Program and version.
    pub(crate) program: String,
    /// Command line.
    pub(crate) command: Vec<String>,
    /// Time of the start, seconds since 1970.
    pub(crate) started_unix: u64,
    /// Commit of the working folder's repository, with `-dirty` if it has changes; null outside a
    /// repository.
    pub(crate) git_revision: Option<String>,
    /// CPU, cores and memory.
    pub(crate) machine: Machine,
    /// `cpu`, `cuda` or `cuda:N`.
    pub(crate) device: String,
    /// Number type and the measurement that chose it.
    pub(crate) dtype: DtypeChoice,
    /// Threads of LibTorch's CPU kernels.
    pub(crate) threads: i32,
    pub(crate) target: ModelIdentity,
    pub(crate) draft: ModelIdentity,
    /// What the prompts are, whatever their files are called.
    pub(crate) prompts: PromptHashes,
    /// Tokens that end an answer.
    pub(crate) eos: Vec<u32>,
    pub(crate) seed: u64,
    /// The configuration as it was when the run began.
    pub(crate) config: TrainConfig,
}

/// A program, to the byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Its name and version.
    #[serde(rename = "program")]
    pub(crate) name: String,
    /// Of its sources.
    pub(crate) git_revision: Option<String>,
    /// SHA-256 of its file: rules that decide by nothing else are in it.
    #[serde(default)]
    pub(crate) binary: Option<String>,
}

impl Program {
    /// The one that runs.
    pub(crate) fn this() -> Self {
        let file = std::env::current_exe().and_then(std::fs::read);
        Self {
            name: format!("ltd-train {}", env!("CARGO_PKG_VERSION")),
            git_revision: git_revision(),
            binary: file.ok().map(|bytes| sha256_hex(&bytes)),
        }
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let unknown = || "unknown".to_owned();
        let revision = self.git_revision.clone().unwrap_or_else(unknown);
        let binary = self.binary.as_ref().map_or_else(unknown, |sum| sum.chars().take(12).collect());
        write!(f, "{} (revision {revision}, binary {binary})", self.name)
    }
}

/// SHA-256 of each set of prompts, over its token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PromptHashes {
    pub(crate) train: String,
    pub(crate) validation: String,
    pub(crate) evaluation: String,
}

impl PromptHashes {
    fn of(prompts: &Prompts) -> Self {
        let hash = |set: &[Prompt]| {
            let numbers = set.iter().flat_map(|prompt| {
                std::iter::once(prompt.ids.len() as u32).chain(prompt.ids.iter().copied())
            });
            sha256_hex(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
        };
        Self {
            train: hash(&prompts.train),
            validation: hash(&prompts.validation),
            evaluation: hash(&prompts.evaluation),
        }
    }
}

impl Provenance {
    pub(crate) fn collect(
        config: &TrainConfig,
        engine: &Engine,
        prompts: &Prompts,
        eos: &[u32],
    ) -> Result<Self> {
        let Models { target, draft, .. } = config.engine.models()?;
        Ok(Self {
            program: format!("ltd-train {}", env!("CARGO_PKG_VERSION")),
            command: std::env::args().collect(),
            started_unix: unix_time(),
            git_revision: git_revision(),
            machine: Machine::read(),
            device: engine.runs_on(),
            dtype: engine.dtype().clone(),
            threads: tch::get_num_threads(),
            target,
            draft,
            prompts: PromptHashes::of(prompts),
            eos: eos.to_vec(),
            seed: config.seed,
            config: config.clone(),
        })
    }

    /// The models of the run, whose trees are so wide.
    pub(crate) fn models(&self, beam_width: usize) -> Models {
        Models { target: self.target.clone(), draft: self.draft.clone(), beam_width }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        Ok(write_json(path, self)?)
    }

    /// What must be the same on all ranks of a run.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        let PromptHashes { train, validation, evaluation } = &self.prompts;
        let model = |model: &ModelIdentity| format!("{} (SHA-256 {})", model.name, model.sha256);
        vec![
            Fact::new("the target", model(&self.target)),
            Fact::new("the draft", model(&self.draft)),
            Fact::new("the tokens of prompts.train", train),
            Fact::new("the tokens of prompts.validation", validation),
            Fact::new("the tokens of prompts.evaluation", evaluation),
            Fact::new("stop tokens", format!("{:?}", self.eos)),
            Fact::new("the number type", self.dtype.chosen.to_string()),
            Fact::new("the kind of device", device_model(&self.device)),
        ]
    }

    /// Device and CPU in words.
    pub(crate) fn device_text(&self) -> String {
        let cpu = self.machine.cpu.as_deref().unwrap_or("unknown CPU");
        format!("{} ({cpu}, {} cores)", self.device, self.machine.cores)
    }
}

/// The present time in UTC, `20260131-235959`.
pub(crate) fn timestamp() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (date, clock) = (now.date(), now.time());
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    seconds_since_1970() as u64
}

/// Seconds since 1970, with parts of them.
pub(crate) fn seconds_since_1970() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
