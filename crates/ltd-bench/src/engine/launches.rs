//! How many kernels a device runs in each phase of decoding, counted by LibTorch's profiler.

use ltd_engine::{Result as EngineResult, Session, Static};
use serde::Serialize;

use super::args::EngineArgs;
use super::subject::Subject;
use crate::error::Result;

/// How often each phase is done before it is counted: CUDA graphs are captured after the first
/// time.
const WARM_UP: usize = 2;

/// Kernels of each phase; none where the profiler has seen nothing.
#[derive(Debug, Serialize)]
pub(super) struct Launches {
    /// A token of plain decoding.
    pub(super) step: Option<u64>,
    pub(super) root_expansion: Option<u64>,
    /// A draft level, as wide as the beam.
    pub(super) level: Option<u64>,
    /// A verification of the first tree that was asked for.
    pub(super) verification: Option<u64>,
}

/// Counts the kernels of each phase once.
pub(super) fn count_launches(subject: &Subject, args: &EngineArgs) -> Result<Launches> {
    let engine = &subject.engine;
    let context = subject.tokens(args.context);
    let tree = args.trees.first().copied().unwrap_or(Static { depth: 1, size: 1 });
    let mut session = engine.prefill(&context, None)?;
    let step = |session: &mut Session| engine.autoregressive_step(session).map(drop);
    for _ in 0..WARM_UP {
        step(&mut session)?;
    }
    let step = engine.count_kernels(|| step(&mut session))?;

    let mut session = engine.prefill(&context, Some(session))?;
    for _ in 0..WARM_UP {
        engine.run_cycle(&mut session, &mut { tree })?;
    }
    let mut cycle = None;
    let begin = || -> EngineResult<()> {
        cycle = Some(engine.begin_cycle(&mut session, usize::MAX)?);
        Ok(())
    };
    let root_expansion = engine.count_kernels(begin)?;
    let mut cycle = cycle.expect("invariant: a cycle was begun");
    let mut level = None;
    for _ in 0..tree.depth {
        // Not the first one, which has less to look at.
        level = engine.count_kernels(|| engine.expand(&mut session, &mut cycle))?;
    }
    let verification = engine.count_kernels(|| engine.verify(&mut session, cycle, tree.size))?;
    Ok(Launches { step, root_expansion, level, verification })
}
