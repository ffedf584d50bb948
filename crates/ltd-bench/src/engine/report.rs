//! What the output file holds. Milliseconds are medians, with first and third quartile beside them.

use std::collections::BTreeMap;

use ltd_engine::measure::ProductKernel;
use ltd_engine::{DtypeChoice, libtorch_version, why_not_packed};
use ltd_run::machine::{Machine, device_model, git_revision};
use serde::Serialize;

use super::args::EngineArgs;
use super::floor::Limits;
use super::launches::Launches;
use super::memory::Memory;
use super::operations::OperationTimes;
use super::subject::Subject;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) header: Header,
    pub(super) limits: Limits,
    pub(super) autoregressive: Autoregressive,
    pub(super) verify: Vec<Verify>,
    pub(super) draft_level: Vec<DraftLevel>,
    pub(super) cycles: Vec<Cycle>,
    /// Part of the cycles' time that no model forward takes.
    pub(super) outside_forwards_share: f64,
    /// Where the time of forwards goes, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operations: Option<Vec<OperationTimes>>,
    /// If they were counted.
    pub(super) launches: Option<Launches>,
    pub(super) memory: Memory,
}

/// Where the figures come from.
#[derive(Debug, Serialize)]
pub(super) struct Header {
    pub(super) program: String,
    pub(super) git_revision: Option<String>,
    /// LibTorch's version.
    pub(super) libtorch: Option<String>,
    /// Why oneDNN's packed weights are not used, if this LibTorch is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) no_packed_weights: Option<&'static str>,
    pub(super) command: Vec<String>,
    pub(super) machine: Machine,
    pub(super) device: String,
    /// Name of the device if it is not the CPU.
    pub(super) device_name: Option<String>,
    pub(super) threads: i32,
    /// What the engine's own kernels use, if the device is the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instructions: Option<&'static str>,
    pub(super) dtype: String,
    /// The measurement that chose the number type.
    pub(super) dtype_choice: DtypeChoice,
    pub(super) target: String,
    pub(super) draft: String,
    /// Whether weights and prompts are made up.
    pub(super) random_weights: bool,
    pub(super) context: usize,
    pub(super) repeats: usize,
    pub(super) prompts: usize,
    pub(super) max_new_tokens: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Autoregressive {
    pub(super) tokens_per_second: f64,
    pub(super) tokens_per_second_quartiles: [f64; 2],
    /// All tokens over all time.
    pub(super) mean_tokens_per_second: f64,
    pub(super) ms: f64,
    pub(super) ms_quartiles: [f64; 2],
    pub(super) tokens: usize,
    /// Mean cached positions.
    pub(super) context: usize,
    pub(super) floor_ms: f64,
    /// The floor over the median.
    pub(super) share_of_bandwidth: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct ProductTimes {
    pub(super) products_ms: f64,
    pub(super) products_ms_quartiles: [f64; 2],
    /// Which kernel that was.
    pub(super) products_kernel: ProductKernel,
    /// The medians of all kernels.
    pub(super) kernels_ms: BTreeMap<ProductKernel, f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Verify {
    /// Rows of the forward, the root included.
    pub(super) tokens: usize,
    pub(super) ms: f64,
    pub(super) ms_quartiles: [f64; 2],
    #[serde(flatten)]
    pub(super) products: ProductTimes,
    /// The forward over its products.
    pub(super) ratio: f64,
    pub(super) floor_ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct DraftLevel {
    /// Depth of the level in its tree.
    pub(super) depth: usize,
    pub(super) beam_width: usize,
    pub(super) ms: f64,
    pub(super) ms_quartiles: [f64; 2],
    #[serde(flatten)]
    pub(super) products: ProductTimes,
    /// The level over its products.
    pub(super) ratio: f64,
    pub(super) floor_ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Cycle {
    pub(super) depth: usize,
    pub(super) size: usize,
    pub(super) ms: f64,
    pub(super) ms_quartiles: [f64; 2],
    /// How many were timed.
    pub(super) cycles: usize,
    pub(super) tokens_per_second: f64,
    pub(super) acceptance_length: f64,
    pub(super) outside_forwards_ms: f64,
    pub(super) outside_forwards_share: f64,
    /// Floors of the verification, of the levels and of a root expansion like a level.
    pub(super) floor_ms: f64,
}

impl Header {
    pub(super) fn collect(args: &EngineArgs, subject: &Subject) -> Self {
        let (settings, device) = (&subject.settings, subject.engine.device_names());
        let label = |folder: &std::path::Path| folder.display().to_string();
        let random = subject.random_weights;
        let target = label(&settings.target);
        Self {
            program: format!("ltd-bench {}", env!("CARGO_PKG_VERSION")),
            git_revision: git_revision(),
            libtorch: libtorch_version().map(|[major, minor, patch]| format!("{major}.{minor}.{patch}")),
            no_packed_weights: why_not_packed(),
            command: std::env::args().collect(),
            machine: Machine::read(),
            device_name: (device != "cpu").then(|| device_model(&device)).filter(|name| name != "unknown"),
            instructions: (device == "cpu").then(|| subject.engine.instructions()),
            device: subject.engine.runs_on(),
            threads: tch::get_num_threads(),
            dtype: subject.engine.dtype().chosen.to_string(),
            dtype_choice: subject.engine.dtype().clone(),
            draft: if random { "random weights".to_owned() } else { label(&settings.draft) },
            target: if random { format!("random weights, dimensions of {target}") } else { target },
            random_weights: random,
            context: args.context,
            repeats: args.repeats,
            prompts: subject.prompts.len(),
            max_new_tokens: args.max_new_tokens,
        }
    }

    /// Device and processor in words.
    pub(super) fn device_text(&self) -> String {
        let Machine { cpu, cpu_family, cpu_model, cores, .. } = &self.machine;
        let number =
            |number: &Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let cpu = format!(
            "{} (family {}, model {}), {cores} cores, {} threads",
            cpu.as_deref().unwrap_or("unknown CPU"),
            number(cpu_family),
            number(cpu_model),
            self.threads
        );
        match &self.device_name {
            Some(name) => format!("{name} ({}) with {cpu}", self.device),
            None if self.device == "cpu" => {
                format!("{cpu}, instructions: {}", self.instructions.unwrap_or_default())
            }
            None => format!("{} with {cpu}", self.device),
        }
    }
}
