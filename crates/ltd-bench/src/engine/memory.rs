//! What the process holds, whether it grows from cycle to cycle, and how much of a cycle is no
//! model forward.

use ltd_engine::{CycleTiming, Sampler, Session, StopRule, WholeBeam};
use ltd_run::Progress;
use serde::Serialize;

use super::args::EngineArgs;
use super::subject::Subject;
use crate::error::{Error, Result};

/// Part of the cycles after which memory is looked at for the first time: everything that is kept
/// has been made.
const WARM_UP_PART: usize = 10;

/// Memory of the process.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Memory {
    /// Weights of both models, each counted once.
    pub(super) weight_bytes: u64,
    /// Caches of a session.
    pub(super) cache_bytes: u64,
    /// What the libraries take before a model is there: LibTorch's registry of operations above
    /// all.
    pub(super) at_start: Resident,
    pub(super) after_load: Resident,
    pub(super) after_warm_up: Resident,
    pub(super) after_cycles: Resident,
    /// Cycles between the last two.
    pub(super) cycles: usize,
    /// What they added to the resident set.
    pub(super) growth_bytes: i64,
    /// What the process itself filled after the cycles, over weights and caches.
    pub(super) ratio: f64,
    /// The same without what it had filled at the start.
    pub(super) ratio_above_start: f64,
}

/// Bytes in main memory; null where the system does not tell.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Resident {
    /// All.
    pub(super) resident_bytes: Option<u64>,
    /// Those that the process filled itself; the rest are pages of its files, LibTorch's libraries
    /// above all.
    pub(super) anonymous_bytes: Option<u64>,
}

impl Resident {
    pub(super) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self { resident_bytes: bytes(&status, "VmRSS:"), anonymous_bytes: bytes(&status, "RssAnon:") }
    }
}

/// A line `key   N kB` of the kernel's description of a process.
fn bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Time of some cycles, and the part that no forward took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outside {
    timing: CycleTiming,
    cycles: usize,
}

impl Outside {
    fn add(&mut self, timing: CycleTiming) {
        self.timing += timing;
        self.cycles += 1;
    }

    fn seconds(self) -> f64 {
        self.timing.total().saturating_sub(self.timing.forwards).as_secs_f64()
    }

    pub(super) fn ms_per_cycle(self) -> f64 {
        self.seconds() * 1e3 / self.cycles as f64
    }

    pub(super) fn share(self) -> f64 {
        self.seconds() / self.timing.total().as_secs_f64()
    }
}

/// The share over all trees: the mean of each tree's.
pub(super) fn overall(trees: &[Outside]) -> f64 {
    trees.iter().map(|outside| outside.share()).sum::<f64>() / trees.len() as f64
}

/// Runs cycles with all trees by turns, forwards timed apart.
pub(super) fn measure_memory(
    subject: &mut Subject,
    at_start: Resident,
    args: &EngineArgs,
    progress: Progress,
) -> Result<(Memory, Vec<Outside>)> {
    let after_load = Resident::now();
    let warm_up = args.memory_cycles.div_ceil(WARM_UP_PART).max(args.trees.len());
    let total = warm_up + args.memory_cycles;
    let mut trees = vec![Outside::default(); args.trees.len()];
    let mut after_warm_up = after_load;
    let mut done = 0;
    let mut task = progress.task("cycles", total);
    subject.engine.profile_forwards(true);
    let stop = StopRule { max_new_tokens: args.max_new_tokens, eos: subject.eos.clone() };
    let mut recycled: Option<Session> = None;
    for (index, prompt) in (0..).zip(subject.prompts.iter().cycle()) {
        if done == total {
            break;
        }
        if done == 0 && index == subject.prompts.len() {
            return Err(Error::NothingToDecode);
        }
        let mut answer = subject.engine.generate(prompt, Sampler::greedy(), stop.clone(), recycled.take())?;
        while done < total {
            let turn = done % args.trees.len();
            let mut tree = WholeBeam(args.trees[turn]);
            let Some(outcome) = answer.advance(&subject.engine, Some(&mut tree))? else { break };
            done += 1;
            if done == warm_up {
                after_warm_up = Resident::now();
            } else if done > warm_up {
                trees[turn].add(outcome.timing);
            }
            task.update(done, done as f64 / total as f64, "cycles");
        }
        recycled = Some(answer.into_session());
    }
    subject.engine.profile_forwards(false);
    task.finish(&format!("{total} cycles"));
    let after_cycles = Resident::now();
    let size = |resident: Resident| resident.resident_bytes.unwrap_or(0) as i64;
    let filled = |resident: Resident| resident.anonymous_bytes.unwrap_or(0) as f64;
    let (weight_bytes, cache_bytes) = (subject.engine.weight_bytes(), subject.engine.cache_bytes());
    let needed = (weight_bytes + cache_bytes) as f64;
    let memory = Memory {
        weight_bytes,
        cache_bytes,
        at_start,
        after_load,
        after_warm_up,
        after_cycles,
        cycles: args.memory_cycles,
        growth_bytes: size(after_cycles) - size(after_warm_up),
        ratio: filled(after_cycles) / needed,
        ratio_above_start: (filled(after_cycles) - filled(at_start)) / needed,
    };
    Ok((memory, trees))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_the_kernels_lines() {
        let status = "Name:\tx\nVmRSS:\t  123456 kB\nRssAnon:\t 8 kB\n";
        assert_eq!(bytes(status, "VmRSS:"), Some(123_456 << 10));
        assert_eq!(bytes(status, "RssAnon:"), Some(8192));
        assert_eq!(bytes(status, "RssFile:"), None);
    }
}
