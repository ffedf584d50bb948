//! What a run is told: one JSON file, merged over a preset, checked as a whole.

mod bounds;
pub mod limits;
mod parse;
mod plan;
mod ppo;
mod preset;
mod problem;
mod schema;
mod validate;

use std::path::PathBuf;

use ltd_engine::{EngineConfig, MAX_DEPTH, SamplingParams};
use ltd_env::Reward;
use ltd_policy::{DepthActions, MAX_SIZE, ObservationLayout, PolicyKind, SizeActions, tree_candidates};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use bounds::{one_of, within};
pub use limits::Minutes;
use limits::hidden_layers;
pub use plan::{Counterpart, PolicyTask, Stage, StageTask};
pub use ppo::{Advantage, NetArch, PpoConfig};
pub use preset::Preset;
pub use problem::Problems;
pub use schema::schema;

/// A training run. Keys that the file leaves out have the preset's values; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Configuration of a run")]
pub struct TrainConfig {
    /// What the file is for, in words; nothing reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Where the values come from that the file does not name.
    pub preset: Preset,
    /// Seed of all random streams.
    pub seed: u64,
    /// The models and how they run. `target` and `draft` are required.
    pub engine: EngineConfig,
    /// Prompts to learn from and to measure on; required.
    pub prompts: PromptSets,
    /// Tokens generated per training prompt at most.
    #[schemars(transform = within(limits::COUNTS))]
    pub max_new_tokens: usize,
    /// How the target's tokens are chosen, in training and in every measurement; greedy by default.
    pub sampling: SamplingParams,
    /// Recorded cycles to learn from in place of live ones; null learns live.
    pub replay: Option<ReplayConfig>,
    /// What a cycle is worth.
    pub reward: Reward,
    /// The depth policy.
    pub depth: DepthConfig,
    /// The size policy.
    pub size: SizeConfig,
    /// The source policy.
    pub source: SourceConfig,
    /// What is trained, in which order, for how long.
    pub stages: StagesConfig,
    /// What policies are compared with.
    pub evaluation: EvaluationConfig,
}

impl TrainConfig {
    /// What the policy of a kind sees.
    ///
    /// # Panics
    /// If the configuration names no known layout, which the check of a configuration rules out.
    pub fn layout(&self, kind: PolicyKind) -> ObservationLayout {
        let family = match kind {
            PolicyKind::Depth => &self.depth.layout,
            PolicyKind::Size => &self.size.layout,
            PolicyKind::Source => {
                return ObservationLayout::sequence(self.engine.beam_width, self.engine.max_depth);
            }
        };
        ObservationLayout::named(family, kind, self.engine.beam_width, self.engine.max_depth)
            .expect("invariant: the configuration was checked")
    }
}

/// The three sets of prompts. Training and measuring must not share prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptSets {
    /// Prompts of the training environments.
    pub train: PromptSet,
    /// Prompts on which checkpoints and the best constant are chosen.
    pub validation: PromptSet,
    /// Prompts of the final comparison.
    pub evaluation: PromptSet,
}

/// Some lines of a question file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptSet {
    /// Question file in FastChat's `question.jsonl` form (`turns`, or `token_ids`), relative to the
    /// working folder.
    pub file: PathBuf,
    /// Questions to pass over.
    #[serde(default)]
    pub skip: usize,
    /// Questions to use; null uses all that follow.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub take: Option<usize>,
}

/// Recorded trees and the costs of a machine, as `ltd-trace` makes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Folder of a trace; its prompts are learned from, `prompts.train` is not. Null records
    /// `prompts.train` into the run's folder.
    pub trace: Option<PathBuf>,
    /// Latency table of the machine to learn for. Null measures this machine, into the run's
    /// folder.
    pub latency: Option<PathBuf>,
    /// Continuations that a recording has of each prompt above temperature 0, drawn with the seeds
    /// `seed`, `seed + 1` and so on. At temperature 0 there is one.
    #[schemars(transform = within(limits::SEEDS))]
    pub seeds: usize,
    /// Ends a recording after this time, at the end of an answer; null records all prompts.
    pub max_minutes: Option<Minutes>,
    /// Share of the recorded prompts that nothing is learned from: snapshots are compared on them,
    /// and gains predicted.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub held_out: f64,
    /// Whether the times that a stage learns from scatter as the table's samples do, or are its
    /// medians.
    pub noise: bool,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { trace: None, latency: None, seeds: 1, max_minutes: None, held_out: 0.125, noise: false }
    }
}

/// Where the cycles of a stage come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// A trace, at the costs of a latency table.
    Replay,
    /// The models, running.
    Live,
}

/// The depth policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthConfig {
    /// Between which depths it may stop, and how often it is asked.
    pub actions: DepthActions,
    /// What it sees, a family of observation layouts; `reference` is that of the official code.
    #[schemars(transform = one_of(&ObservationLayout::FAMILIES))]
    pub layout: String,
    /// How it learns.
    pub ppo: PpoConfig,
}

/// The size policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SizeConfig {
    /// Verification sizes to choose among, ascending.
    pub sizes: SizeActions,
    /// What it sees, a family of observation layouts; `reference` is that of the official code.
    #[schemars(transform = one_of(&ObservationLayout::FAMILIES))]
    pub layout: String,
    /// How it learns.
    pub ppo: PpoConfig,
}

/// The source policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Tokens to copy, ascending, among which it chooses beside a tree; 0 is a step of plain
    /// decoding.
    #[schemars(length(min = 1), inner(range(min = 0, max = MAX_SIZE)), extend("uniqueItems" = true))]
    pub chains: Vec<usize>,
    /// Tokens to copy at most in a tree that is merged with a chain, the last choice; null never
    /// merges. Needs a trace with the candidates' tokens (version 3).
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub merged: Option<usize>,
    /// How it learns.
    pub ppo: PpoConfig,
}

/// The stages of a run, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StagesConfig {
    /// The size policy alone, on trees whose depth is drawn anew for each cycle; null leaves the
    /// stage out.
    pub size: Option<SizeStage>,
    /// The factored policy's predictor, on recorded trees; null leaves the stage out.
    pub predictor: Option<PredictorStage>,
    /// The policies of the pair as imitations of the factored policy, from which later stages go
    /// on; null leaves the stage out.
    pub imitation: Option<ImitationStage>,
    /// The depth policy alone, at a fixed verification size; null leaves the stage out.
    pub depth: Option<DepthStage>,
    /// How often `round` is gone through.
    #[schemars(transform = within(limits::ROUNDS))]
    pub rounds: usize,
    /// Stages in which one policy learns against the others, which are frozen.
    pub round: Vec<RoundStage>,
    /// Snapshots per stage, evenly spaced, among which the fastest on the validation prompts is
    /// kept.
    #[schemars(transform = within(limits::CANDIDATES))]
    pub candidates: usize,
}

/// Positions that are held in memory as samples, at most: about 1 GB, and more than was ever
/// recorded for a policy.
const MAX_POSITIONS: usize = 50_000;

/// The stage of the factored policy: its predictor learns every outcome of every recorded tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PredictorStage {
    /// What it sees, a family of observation layouts.
    #[schemars(transform = one_of(&ObservationLayout::FAMILIES))]
    pub layout: String,
    /// Hidden layers.
    #[schemars(transform = hidden_layers)]
    pub net_arch: Vec<usize>,
    /// Passes over all positions, each seen after each depth.
    #[schemars(transform = within(limits::EPOCHS))]
    pub epochs: usize,
    /// Samples per gradient step.
    #[schemars(transform = within(limits::BATCHES))]
    pub batch_size: usize,
    /// Highest step size of Adam; it falls linearly to 0.
    #[schemars(transform = within(limits::LEARNING_RATES))]
    pub learning_rate: f64,
    /// Recorded positions to learn from, and to check on, at most, in whole sequences that lie
    /// evenly over the recordings: each takes some 20 kB of memory.
    #[schemars(transform = within(limits::COUNTS))]
    pub max_positions: usize,
    /// Whether to find, by replay, above which size nothing is gained: what could only be verified
    /// with more candidates is not drafted. If not, all of `size.sizes` are there to choose.
    pub find_size_limit: bool,
    /// Whether it decides what to draft from, too, among trees and `source.chains`.
    pub source: bool,
    /// Ends the stage early after this time; null never does.
    pub max_minutes: Option<Minutes>,
}

impl Default for PredictorStage {
    fn default() -> Self {
        Self {
            layout: "compact".to_owned(),
            net_arch: vec![128, 64],
            epochs: 8,
            batch_size: 512,
            learning_rate: 1e-3,
            max_positions: MAX_POSITIONS,
            find_size_limit: true,
            source: true,
            max_minutes: None,
        }
    }
}

/// The stage in which the pair learns to decide as the factored policy does on the recorded trees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImitationStage {
    /// Passes over all of its decisions.
    #[schemars(transform = within(limits::EPOCHS))]
    pub epochs: usize,
    /// Decisions per gradient step.
    #[schemars(transform = within(limits::BATCHES))]
    pub batch_size: usize,
    /// Highest step size of Adam; it falls linearly to 0.
    #[schemars(transform = within(limits::LEARNING_RATES))]
    pub learning_rate: f64,
    /// Recorded positions whose decisions are learned, at most; chosen as the predictor's are.
    #[schemars(transform = within(limits::COUNTS))]
    pub max_positions: usize,
}

impl Default for ImitationStage {
    fn default() -> Self {
        Self { epochs: 8, batch_size: 256, learning_rate: 1e-3, max_positions: MAX_POSITIONS }
    }
}

/// First stage of a size policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SizeStage {
    /// Decisions to learn from.
    #[schemars(transform = within(limits::COUNTS))]
    pub total_timesteps: usize,
    /// Ends the stage early after this time; null never does.
    pub max_minutes: Option<Minutes>,
    /// Depths that are drawn.
    pub random_depth: DepthRange,
}

/// An inclusive range of draft depths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthRange {
    /// Least depth.
    #[schemars(transform = within(limits::DEPTHS))]
    pub min: usize,
    /// Greatest depth.
    #[schemars(transform = within(limits::DEPTHS))]
    pub max: usize,
}

/// First stage of a depth policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthStage {
    /// Decisions to learn from.
    #[schemars(transform = within(limits::COUNTS))]
    pub total_timesteps: usize,
    /// Ends the stage early after this time; null never does.
    pub max_minutes: Option<Minutes>,
    /// Candidates verified in each cycle.
    #[schemars(transform = within(limits::SIZES))]
    pub verification_size: usize,
}

/// A stage of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoundStage {
    /// The policy that learns.
    pub train: PolicyKind,
    /// Decisions to learn from.
    #[schemars(transform = within(limits::COUNTS))]
    pub total_timesteps: usize,
    /// Ends the stage early after this time; null never does.
    #[serde(default)]
    pub max_minutes: Option<Minutes>,
    /// Where its cycles come from, `live` say for a short finish; null takes recorded ones if the
    /// run has any.
    #[serde(default)]
    pub backend: Option<Backend>,
}

/// How policies are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Tokens generated per prompt at most.
    #[schemars(transform = within(limits::COUNTS))]
    pub max_new_tokens: usize,
    /// EAGLE-3's own setting, the contender `eagle-default`; also stands in for a policy that has
    /// no stage.
    pub default: StaticSetting,
    /// Settings among which the contender `best-constant` is sought, on the validation prompts.
    /// With recordings it is sought among the six that are fastest in replay, of all that the
    /// latency table covers.
    pub grid: Grid,
    /// Ends each measurement on the validation prompts after this time, at a prompt's end; null
    /// uses all prompts.
    pub validation_max_minutes: Option<Minutes>,
    /// Ends the final comparison after this time, at a prompt's end; null uses all prompts.
    pub max_minutes: Option<Minutes>,
}

/// A constant draft depth and verification size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticSetting {
    /// Draft forwards after the root expansion.
    #[schemars(transform = within(limits::DEPTHS))]
    pub depth: usize,
    /// Candidates to verify, the root not counted.
    #[schemars(transform = within(limits::SIZES))]
    pub size: usize,
}

/// All pairs of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Draft depths.
    #[schemars(length(min = 1), inner(range(max = MAX_DEPTH)))]
    pub depths: Vec<usize>,
    /// Verification sizes.
    #[schemars(length(min = 1), inner(range(min = 1, max = MAX_SIZE)))]
    pub sizes: Vec<usize>,
}

impl Grid {
    /// All pairs that differ: sizes beyond what a depth's tree holds are all the same tree, and
    /// stand once.
    pub fn settings(&self, beam_width: usize) -> Vec<StaticSetting> {
        let mut settings = Vec::new();
        for &depth in &self.depths {
            for &size in &self.sizes {
                let setting = StaticSetting { depth, size: size.min(tree_candidates(beam_width, depth)) };
                if !settings.contains(&setting) {
                    settings.push(setting);
                }
            }
        }
        settings
    }
}
