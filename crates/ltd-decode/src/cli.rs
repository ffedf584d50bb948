//! Command line of `ltd-decode`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, ValueEnum};
use ltd_engine::text::{BuiltinTemplate, ChatConfig, StopTokenName};
use ltd_engine::{CudaGraphs, Devices, DtypeSetting, EngineConfig, SamplingParams};
use ltd_policy::{CopyRule, LONGEST_MATCH, MAX_SIZE, Manifest};

/// Decode with a target model and an EAGLE-3 draft: plainly, with fixed settings, or under a
/// learned policy.
#[derive(Debug, Parser)]
#[command(name = "ltd-decode", version, about)]
pub(crate) struct Cli {
    /// Hugging Face folder of the target model
    #[arg(long, value_name = "DIR")]
    pub(crate) target: PathBuf,
    /// Folder of the EAGLE-3 head (official layout)
    #[arg(long, value_name = "DIR")]
    pub(crate) draft: PathBuf,
    /// cpu, cuda or cuda:N; several, separated by commas, share the target's layers; auto takes as
    /// few CUDA devices as have room
    #[arg(long, default_value = "cpu", value_delimiter = ',')]
    device: Vec<String>,
    /// auto (a policy package's, else measured on a CPU and the checkpoint's on CUDA), f32, bf16 or
    /// f16
    #[arg(long, default_value = "auto")]
    dtype: DtypeSetting,
    /// off, or auto: forwards of the target are CUDA graphs
    #[arg(long, value_name = "SETTING", default_value = "off")]
    cuda_graphs: CudaGraphs,
    /// Threads of the CPU kernels [default: LibTorch's choice]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Candidates kept per level [default: the policy package's, else 10]
    #[arg(long, value_name = "W")]
    pub(crate) beam_width: Option<usize>,
    /// Cache positions for prompt and answer together [default: the model's limit, at most 2048]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Built-in chat template in place of the target's own: vicuna
    #[arg(long, value_name = "NAME")]
    chat_template: Option<BuiltinTemplate>,
    /// Whether the target thinks before it answers, if its template asks (Qwen3) [default: the
    /// template's]
    #[arg(long, value_name = "BOOL")]
    enable_thinking: Option<bool>,
    /// Token that ends an answer, by id or text, in place of those that the target's files name;
    /// may be repeated
    #[arg(long = "stop-token", value_name = "TOKEN", allow_hyphen_values = true)]
    stop_tokens: Vec<StopTokenName>,

    /// How to decode
    #[arg(long, value_enum)]
    pub(crate) mode: Mode,
    /// What to draft from (mode static) [default: eagle]
    #[arg(long, value_enum)]
    pub(crate) source: Option<Source>,
    /// Latest tokens that must have been said before to copy what followed them (not source eagle)
    /// [default: 2]
    #[arg(long, value_name = "M", value_parser = within(1, LONGEST_MATCH))]
    pub(crate) copy_match: Option<usize>,
    /// Tokens to copy (not source eagle) [default: 8]
    #[arg(long, value_name = "K", value_parser = within(1, MAX_SIZE))]
    pub(crate) copy_length: Option<usize>,
    /// Draft forwards after the root expansion (mode static, unless its source is copy)
    #[arg(long, value_name = "D")]
    pub(crate) depth: Option<usize>,
    /// Candidates to verify, root not counted (mode static, unless its source is copy)
    #[arg(long, value_name = "V", value_parser = within(1, MAX_SIZE))]
    pub(crate) size: Option<usize>,
    /// Expand all of the beam in every level, as EAGLE-3 does, and not only what can still be
    /// verified (mode static)
    #[arg(long)]
    pub(crate) whole_beam: bool,
    /// Policy package (mode policy)
    #[arg(long, value_name = "DIR", required_if_eq("mode", "policy"))]
    pub(crate) policy: Option<PathBuf>,
    /// Let a package of other models decide, as an experiment (mode policy)
    #[arg(long)]
    pub(crate) any_models: bool,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Tokens to generate at most, per prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = within(1, u32::MAX as usize))]
    pub(crate) max_new_tokens: usize,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    /// Questions to answer at most
    #[arg(long, value_name = "K", conflicts_with_all = ["text", "token_ids"], value_parser = within(1, usize::MAX))]
    pub(crate) limit: Option<usize>,

    /// Print one JSON object per cycle and a last one with all new tokens and totals
    #[arg(long)]
    pub(crate) json: bool,
    /// Write every tree to a safetensors file, in the layout of the golden files (one prompt, no
    /// copies)
    #[arg(long, value_name = "FILE", conflicts_with = "questions")]
    pub(crate) dump_trees: Option<PathBuf>,
}

/// A count between two others.
fn within(least: usize, most: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least as u64..=most as u64)
}

/// Exactly one source of prompts.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PromptArgs {
    /// A user message, put through the chat template
    pub(crate) text: Option<String>,
    /// Question file (FastChat question.jsonl), one prompt per line
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: Option<PathBuf>,
    /// Token ids separated by blanks: no template, no tokenizer
    #[arg(long, value_name = "IDS")]
    pub(crate) token_ids: Option<String>,
}

/// How tokens are chosen, in every mode.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// 0 always takes the most probable token; above, tokens are drawn at this temperature
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw among the most probable tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Draw among this many of the most probable tokens [default: all]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Seed of the draws; prompt i of a file has its own numbers, whatever the others are
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    pub(crate) fn params(&self) -> SamplingParams {
        let Self { temperature, top_p, top_k, .. } = *self;
        SamplingParams { temperature, top_p, top_k }
    }
}

/// What constant decoding drafts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// The draft model's trees
    #[default]
    Eagle,
    /// What followed the latest tokens when they were said before; plain decoding where they were
    /// not
    Copy,
    /// The same; the draft model's trees where they were not
    Rule,
    /// Trees; where the latest tokens were said before, the most probable candidates of a tree and
    /// of what followed these tokens, in one
    Merged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Plain autoregressive decoding
    Ar,
    /// Trees of a fixed depth and size, copies by a rule, or both (--source)
    Static,
    /// A policy package decides
    Policy,
}

/// The rule of copies unless told otherwise. Where candidates cost more, shorter chains are faster
/// (`docs/benchmarks/2026-11-29-copies.md`).
const COPY_RULE: CopyRule = CopyRule { match_length: 2, chain: 8 };

impl Cli {
    /// When copies are made, and how long they are.
    pub(crate) fn copy_rule(&self) -> CopyRule {
        CopyRule {
            match_length: self.copy_match.unwrap_or(COPY_RULE.match_length),
            chain: self.copy_length.unwrap_or(COPY_RULE.chain),
        }
    }

    /// The engine's settings; what is not given is as a policy package has it.
    pub(crate) fn engine_config(&self, package: Option<&Manifest>) -> Result<EngineConfig, String> {
        let defaults = EngineConfig::new(&self.target, &self.draft);
        let dtype = match package {
            Some(package) => self.dtype.or_of_package(&package.dtype)?,
            None => self.dtype,
        };
        let beam_width = package.map_or(defaults.beam_width, |package| package.beam_width);
        Ok(EngineConfig {
            devices: Devices::from_names(self.device.clone()),
            dtype,
            cuda_graphs: self.cuda_graphs,
            threads: self.threads,
            beam_width: self.beam_width.unwrap_or(beam_width),
            max_length: self.max_length,
            chat: ChatConfig {
                template: self.chat_template,
                enable_thinking: self.enable_thinking,
                stop_tokens: (!self.stop_tokens.is_empty()).then(|| self.stop_tokens.clone()),
                ..ChatConfig::default()
            },
            ..defaults
        })
    }
}
