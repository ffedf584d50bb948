//! Command line of `ltd-trace`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use ltd_train::INTERRUPTED_EXIT_CODE;

use crate::{Result, latency, oracle, record};

/// Record draft trees once, measure costs anywhere, and learn what policies could gain.
///
/// What the trees contain does not depend on the hardware, and what cycles cost does not depend on the text: a trace
/// and a latency table together replay any policy on any machine.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decode prompts greedily and record the draft tree at every position
    Record(RecordArgs),
    /// Measure what the parts of a cycle cost on this machine
    Latency(LatencyArgs),
    /// Tell what constants, foresight and policies reach on a trace at the costs of a table
    Oracle(OracleArgs),
    /// Collect the sequences of several traces of the same models in one
    Merge(MergeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Configuration of a training run: models, dtype, beam width, deepest draft, length of answers
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Change a value of the configuration, e.g. `--set max_new_tokens=64`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Prompts, in FastChat's question.jsonl form
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: PathBuf,
    /// Prompts to pass over
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip: usize,
    /// Prompts to record [default: all]
    #[arg(long, value_name = "N", value_parser = within::<usize>(1, u64::MAX))]
    pub(crate) limit: Option<usize>,
    /// Positions whose trees grow at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = within::<u16>(1, 256))]
    pub(crate) batch: u16,
    /// Record the trees of every K-th position only: for statistics and predictors, not for replays
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = within::<u16>(1, u16::MAX.into()))]
    pub(crate) every: u16,
    /// Record the entropies of the draft's distributions too
    #[arg(long)]
    pub(crate) entropies: bool,
    /// Record the draft's hidden state at each root too
    #[arg(long)]
    pub(crate) hidden: bool,
    /// Folder of the trace; an interrupted recording goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Configuration of a training run: models, dtype, device, action tables
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Change a value of the configuration, e.g. `--set engine.threads=1`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Measured cycles per verification size and context length; where they scatter, up to four times as many
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = within::<u16>(3, u16::MAX.into()))]
    pub(crate) repeats: u16,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct OracleArgs {
    /// Folder of a trace; may be repeated, for instance one per task
    #[arg(long = "trace", value_name = "DIR", required = true)]
    pub(crate) traces: Vec<PathBuf>,
    /// Latency table of the machine
    #[arg(long, value_name = "FILE")]
    pub(crate) latency: PathBuf,
    /// Policy package to replay; may be repeated
    #[arg(long = "policy", value_name = "DIR")]
    pub(crate) policies: Vec<PathBuf>,
    /// Replay packages of other models too, as an experiment
    #[arg(long)]
    pub(crate) any_models: bool,
    /// Draw tokens/s of all constants, as SVG; one picture per trace, below each other
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Print JSON in place of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Traces to take sequences from
    #[arg(required = true, value_name = "DIR")]
    pub(crate) traces: Vec<PathBuf>,
    /// Folder of the trace to make or to add to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// A count between two others.
fn within<T: TryFrom<u64> + Clone + Send + Sync>(least: u64, most: u64) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(least..=most)
}

impl Cli {
    /// Runs the command and says how the program should end.
    pub fn run(&self) -> ExitCode {
        match self.execute() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is_interrupt() => ExitCode::from(INTERRUPTED_EXIT_CODE),
            Err(error) => ltd_console::fail("ltd-trace", &error, error.is_usage()),
        }
    }

    fn execute(&self) -> Result<()> {
        match &self.command {
            Command::Record(args) => record::record(args),
            Command::Latency(args) => latency::latency(args),
            Command::Oracle(args) => oracle::oracle(args),
            Command::Merge(args) => record::merge(args),
        }
    }
}
