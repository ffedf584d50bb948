//! Arguments of `ltd-bench engine`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use ltd_engine::{CudaGraphs, DtypeSetting, Engine, MAX_DEPTH, Static};
use ltd_policy::{MAX_SIZE, check_output_file};

use crate::error::{Error, Result};

/// Most cached positions and tokens of an answer.
const ROWS: usize = 1 << 24;
/// Most prompts.
const PROMPTS: usize = 1 << 20;
/// Most repetitions of a measurement: more than a day has room for.
const REPEATS: usize = 1 << 24;

/// A count of at least 1.
fn within(most: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most as u64)
}

#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Configuration of a run: its `engine`, and its prompts for evaluation
    #[arg(long, value_name = "FILE", required_unless_present = "random_weights")]
    pub(crate) config: Option<PathBuf>,
    /// Change a value of the configuration, e.g. `--set engine.device=cuda`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "config")]
    pub(crate) overrides: Vec<String>,
    /// Where the figures go
    #[arg(long, value_name = "FILE")]
    pub(crate) json: PathBuf,
    /// Rows of the forwards, the root included
    #[arg(
        long,
        value_name = "V,..",
        value_delimiter = ',',
        value_parser = within(MAX_SIZE),
        default_values_t = [1, 8, 16, 32, 64, 128]
    )]
    pub(crate) tokens: Vec<usize>,
    /// Trees of the cycles, depth and verification size
    #[arg(long, value_name = "DxV,..", value_delimiter = ',', value_parser = tree, default_values = ["7x59", "1x12", "3x24"])]
    pub(crate) trees: Vec<Static>,
    /// Cached positions before each forward
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = within(ROWS))]
    pub(crate) context: usize,
    /// Prompts to decode at most
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = within(PROMPTS))]
    pub(crate) prompts: usize,
    /// Tokens to decode at most, per prompt and contender
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = within(ROWS))]
    pub(crate) max_new_tokens: usize,
    /// How often each forward is timed
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = within(REPEATS))]
    pub(crate) repeats: usize,
    /// Cycles over which memory must not grow
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = within(REPEATS))]
    pub(crate) memory_cycles: usize,
    /// Also show where the time of each target forward goes
    #[arg(long)]
    pub(crate) per_op: bool,
    /// Also count the kernels of each phase on a CUDA device, by LibTorch's profiler
    #[arg(long)]
    pub(crate) launches: bool,
    /// Dimensions of a Hugging Face config.json with random weights, instead of a configuration's
    /// models
    #[arg(long, value_name = "CONFIG", hide = true, conflicts_with = "config", requires = "dtype")]
    pub(crate) random_weights: Option<PathBuf>,
    /// Device of the random weights, or several
    #[arg(long, hide = true, default_value = "cpu", value_delimiter = ',', conflicts_with = "config")]
    pub(crate) device: Vec<String>,
    /// Number type of the random weights
    #[arg(long, hide = true, conflicts_with = "config")]
    pub(crate) dtype: Option<DtypeSetting>,
    /// Whether its forwards are CUDA graphs
    #[arg(long, hide = true, default_value = "off", conflicts_with = "config")]
    pub(crate) cuda_graphs: CudaGraphs,
}

impl EngineArgs {
    /// Fails if something is asked for that cannot be measured. Called before anything that takes
    /// long.
    pub(crate) fn check(&self) -> Result<()> {
        if self.memory_cycles < self.trees.len() {
            let problem = format!("is {}, too few for {} trees", self.memory_cycles, self.trees.len());
            return Err(Error::Argument { argument: "--memory-cycles", problem });
        }
        check_output_file("--json", &self.json, self.config.as_deref()).map_err(Error::Place)
    }

    /// Fails if an engine has no room for what is asked for.
    pub(crate) fn check_fit(&self, engine: &Engine) -> Result<()> {
        if let Some(tree) = self.trees.iter().find(|tree| tree.depth > engine.max_depth()) {
            let problem = format!("depth {} is beyond engine.max_depth = {}", tree.depth, engine.max_depth());
            return Err(Error::Argument { argument: "--trees", problem });
        }
        let rows = self.tokens.iter().copied().max().unwrap_or(0);
        if self.context + rows > engine.capacity() {
            let capacity = engine.capacity();
            let problem = format!(
                "is {}, but with {rows} rows after them the cache of {capacity} is full",
                self.context
            );
            return Err(Error::Argument { argument: "--context", problem });
        }
        Ok(())
    }
}

fn tree(text: &str) -> Result<Static, String> {
    let numbers = text.split_once('x').map(|(depth, size)| (depth.parse(), size.parse()));
    match numbers {
        Some((Ok(depth), Ok(size))) if depth <= MAX_DEPTH && (1..=MAX_SIZE).contains(&size) => {
            Ok(Static { depth, size })
        }
        _ => Err(format!(
            "invalid tree `{text}`: expected DEPTHxSIZE with a depth of at most {MAX_DEPTH} and a size within \
             1..={MAX_SIZE}, such as 3x24"
        )),
    }
}
