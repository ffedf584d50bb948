//! Where a run's figures come from.

use std::path::Path;
use std::process::Command;

use ltd_engine::text::Prompt;
use ltd_engine::{DtypeChoice, Engine};
use ltd_policy::{ModelIdentity, Models, sha256_hex, write_atomically};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::config::TrainConfig;
use crate::prompts::Prompts;

/// Program, source revision, machine and models of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Provenance {
    /// Program and version.
    pub(crate) program: String,
    /// Command line.
    pub(crate) command: Vec<String>,
    /// Time of the start, seconds since 1970.
    pub(crate) started_unix: u64,
    /// Commit of the working folder's repository, with `-dirty` if it has changes; null outside a repository.
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

/// The machine, as far as the system tells.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Name of the processor; virtual machines often give no more than the maker's.
    pub cpu: Option<String>,
    /// The maker's number of its family and model, which tell generations apart.
    pub cpu_family: Option<u32>,
    /// See `cpu_family`.
    pub cpu_model: Option<u32>,
    /// Those of its instruction sets that decide which kernels run.
    pub cpu_flags: Vec<String>,
    /// Threads that run at once.
    pub cores: usize,
    /// Memory.
    pub memory_gib: Option<u64>,
}

/// Instruction sets that matrix products are written for, as Linux calls them.
const KERNEL_FLAGS: [&str; 8] =
    ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"];

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
            device: engine.device_names(),
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
        let text = serde_json::to_string_pretty(self).expect("invariant: plain data") + "\n";
        Ok(write_atomically(path, text.as_bytes())?)
    }

    /// Device and CPU in words.
    pub(crate) fn device_text(&self) -> String {
        let cpu = self.machine.cpu.as_deref().unwrap_or("unknown CPU");
        format!("{} ({cpu}, {} cores)", self.device, self.machine.cores)
    }
}

impl Machine {
    /// Asks the system.
    pub fn read() -> Self {
        let value = |file: &str, key: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let memory_kib = value("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()));
        let number = |key: &str| value("/proc/cpuinfo", key).and_then(|text| text.parse().ok());
        let flags = value("/proc/cpuinfo", "flags").unwrap_or_default();
        let flags: Vec<&str> = flags.split_whitespace().collect();
        Self {
            cpu: value("/proc/cpuinfo", "model name"),
            cpu_family: number("cpu family"),
            // Not "model name", which begins alike.
            cpu_model: number("model\t"),
            cpu_flags: KERNEL_FLAGS
                .iter()
                .filter(|flag| flags.contains(flag))
                .map(ToString::to_string)
                .collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib.map(|kib| kib >> 20),
        }
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

/// Commit of the working folder's repository, with `-dirty` if it has changes; `None` outside a repository.
pub fn git_revision() -> Option<String> {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
