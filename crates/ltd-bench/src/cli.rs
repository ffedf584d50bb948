//! Command line of `ltd-bench`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ltd_engine::{DtypeSetting, Engine, Static};

use crate::engine;
use crate::error::{Error, Result};

/// Measure the parts of the framework against what the machine allows.
#[derive(Debug, Parser)]
#[command(name = "ltd-bench", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decoding, single forwards and whole cycles, each beside its bare matrix products and its floor
    Engine(EngineArgs),
}

impl Cli {
    pub(crate) fn run(&self) -> Result<()> {
        match &self.command {
            Command::Engine(args) => engine::run(args),
        }
    }
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
    #[arg(long, value_name = "V,..", value_delimiter = ',', default_values_t = [1, 8, 16, 32, 64, 128])]
    pub(crate) tokens: Vec<usize>,
    /// Trees of the cycles, depth and verification size
    #[arg(long, value_name = "DxV,..", value_delimiter = ',', value_parser = tree, default_values = ["7x59", "1x12", "3x24"])]
    pub(crate) trees: Vec<Static>,
    /// Cached positions before each forward
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) context: usize,
    /// Prompts to decode at most
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub(crate) prompts: usize,
    /// Tokens to decode at most, per prompt and contender
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) max_new_tokens: usize,
    /// How often each forward is timed
    #[arg(long, value_name = "N", default_value_t = 21)]
    pub(crate) repeats: usize,
    /// Cycles over which memory must not grow
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) memory_cycles: usize,
    /// Also show where the time of each target forward goes
    #[arg(long)]
    pub(crate) per_op: bool,
    /// Dimensions of a Hugging Face config.json with random weights, instead of a configuration's models
    #[arg(long, value_name = "CONFIG", hide = true, conflicts_with = "config", requires = "dtype")]
    pub(crate) random_weights: Option<PathBuf>,
    /// Device of the random weights
    #[arg(long, hide = true, default_value = "cpu", conflicts_with = "config")]
    pub(crate) device: String,
    /// Number type of the random weights
    #[arg(long, hide = true, conflicts_with = "config")]
    pub(crate) dtype: Option<DtypeSetting>,
}

impl EngineArgs {
    /// Fails if something is asked for that cannot be measured. Called before anything that takes long.
    pub(crate) fn check(&self) -> Result<()> {
        let counts = [
            ("--tokens", self.tokens.iter().copied().min()),
            ("--context", Some(self.context)),
            ("--prompts", Some(self.prompts)),
            ("--max-new-tokens", Some(self.max_new_tokens)),
            ("--repeats", Some(self.repeats)),
            ("--memory-cycles", Some(self.memory_cycles)),
        ];
        if let Some((argument, _)) = counts.into_iter().find(|(_, least)| *least == Some(0)) {
            return Err(Error::Argument { argument, problem: "must be at least 1".to_owned() });
        }
        if self.memory_cycles < self.trees.len() {
            let problem = format!("is {}, too few for {} trees", self.memory_cycles, self.trees.len());
            return Err(Error::Argument { argument: "--memory-cycles", problem });
        }
        let folder = self.json.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let problem = format!("{} is no folder", folder.display());
            return Err(Error::Argument { argument: "--json", problem });
        }
        if self.json.is_dir() {
            let problem = format!("{} is a folder, expected a file", self.json.display());
            return Err(Error::Argument { argument: "--json", problem });
        }
        Ok(())
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
        Some((Ok(depth), Ok(size))) if size > 0 => Ok(Static { depth, size }),
        _ => Err(format!("`{text}` is no tree: expected DEPTHxSIZE with a size of at least 1, such as 3x24")),
    }
}
