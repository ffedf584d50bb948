//! `ltd-trace merge`.

use std::path::PathBuf;

use clap::Args;
use ltd_console::say;
use ltd_env::trace::{Trace, TraceWriter};
use ltd_policy::check_output_folder;

use crate::Result;

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Traces to take sequences from
    #[arg(required = true, value_name = "DIR")]
    pub(crate) traces: Vec<PathBuf>,
    /// Folder of the trace to make or to add to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

pub(crate) fn merge(args: &MergeArgs) -> Result<()> {
    check_output_folder("--out", &args.out)?;
    let mut writer: Option<TraceWriter> = None;
    // What cannot be told is merged nevertheless.
    let mut told = Ok(());
    for folder in &args.traces {
        let trace = Trace::read(folder)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(TraceWriter::open(&args.out, trace.header.clone())?),
        };
        let added = writer.merge(&trace, folder)?;
        let (all, noun) = (trace.sequences.len(), trace.header.noun());
        told = told.and(say!("{}: {added} of {all} {noun}s taken over", folder.display()));
    }
    Ok(told?)
}
