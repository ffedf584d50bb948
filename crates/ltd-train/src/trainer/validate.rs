//! After a stage: measure its snapshots, keep the fastest, describe the pair.

use std::path::Path;

use ltd_policy::{Expected, FrozenPolicy, Manifest, PolicyEntry, write_atomically, write_json};

use super::Trainer;
use super::stage::INCUMBENT;
use crate::evaluate::{Contender, Measurement};
use crate::metrics::{tags, validation_record};
use crate::run::StageFolder;
use crate::{Error, Result};
use ltd_run::config::{Backend, Minutes, PolicyTask, Stage};
use ltd_run::statistics::interval;

impl Trainer {
    /// Measures the snapshots of a stage and keeps the fastest.
    pub(super) fn validate(&mut self, stage: &Stage, task: PolicyTask, folder: &StageFolder) -> Result<()> {
        // Recordings are replayed by the first rank alone, which then removes the snapshots.
        let is_replayed = self.recorded.is_some() && task.backend == Backend::Replay;
        if is_replayed && !self.group.leads() {
            return Ok(());
        }
        let state = self.checkpoint.under_way.as_ref().expect("invariant: a trained stage is under way");
        let (names, timesteps) = (state.candidates.clone(), state.timesteps);
        let learned_with = self.pair.against(task.counterpart);
        let mut pairs = Vec::new();
        for name in &names {
            pairs.push(learned_with.with(FrozenPolicy::load(&folder.candidate_policy(name))?));
        }
        let mut contenders: Vec<Contender> =
            names.iter().zip(&pairs).map(|(name, pair)| Contender::new(name, pair.controller())).collect();
        let measured = if let (Some(recorded), Backend::Replay) = (&self.recorded, task.backend) {
            recorded.measure(&mut contenders)?
        } else {
            let limit = self.config.evaluation.validation_max_minutes.map(Minutes::duration);
            let name = format!("{} validation", stage.name);
            let prompts = &self.prompts.validation;
            self.arena().measure(&name, &mut contenders, prompts, limit)?
        };
        if !self.group.leads() {
            return Ok(());
        }
        let best = fastest(&measured);
        let total = measured[best].total();
        self.progress.say(&format!(
            "{}  kept {}: {:.1} tokens/s, acceptance length {:.2}, depth {:.1}, size {:.1}",
            stage.name,
            kept(&names[best], &names),
            total.tokens_per_second(),
            total.acceptance_length(),
            total.mean_depth(),
            total.mean_size(),
        ));
        copy(&folder.candidate_networks(&names[best]), &folder.networks())?;
        let entry = pairs[best].save(folder, &measured[best])?;
        let table = self.recorded.as_ref().filter(|_| task.backend == Backend::Replay);
        let table_sha256 = table.map(|recorded| recorded.table_sha256.clone());
        let manifest = self.manifest(entry, &stage.name, &measured[best], table_sha256);
        write_json(&folder.manifest(), &manifest)?;

        self.pair = pairs.swap_remove(best);
        self.finish_stage(timesteps, &measured[best])?;
        folder.remove_candidates()
    }

    /// Notes that a stage is over, after `timesteps` steps, with what its policies reached.
    pub(super) fn finish_stage(&mut self, timesteps: usize, measured: &Measurement) -> Result<()> {
        let total = measured.total();
        self.curves.write(validation_record(
            self.checkpoint.finished_timesteps + timesteps,
            &[
                (tags::EVAL_TOKENS_PER_SECOND, total.tokens_per_second()),
                (tags::EVAL_ACCEPTANCE_LENGTH, total.acceptance_length()),
            ],
        ))?;
        self.checkpoint.finished_stages += 1;
        self.checkpoint.finished_timesteps += timesteps;
        self.checkpoint.under_way = None;
        self.write_checkpoint()
    }

    /// Describes the policy of a stage.
    pub(super) fn manifest(
        &self,
        policy: PolicyEntry,
        stage: &str,
        measured: &Measurement,
        latency_table_sha256: Option<String>,
    ) -> Manifest {
        let run = self.run.path();
        Manifest {
            format_version: Manifest::VERSION,
            created_by: self.provenance.program.clone(),
            run: run.file_name().unwrap_or(run.as_os_str()).to_string_lossy().into_owned(),
            stage: stage.to_owned(),
            seed: self.config.seed,
            compat: None,
            beam_width: self.engine.beam_width(),
            depth_cap: self.engine.max_depth(),
            target: self.provenance.target.clone(),
            draft: self.provenance.draft.clone(),
            dtype: self.engine.dtype().chosen.to_string(),
            device: self.provenance.device_text(),
            threads: usize::try_from(self.provenance.threads).ok(),
            sampling: Some(self.config.sampling),
            latency_table_sha256,
            objective: self.config.reward.to_string(),
            expected: Some(expected(measured)),
            acceptance_per_depth: measured.total().acceptance_per_depth(),
            policy,
            fallback: None,
            files: std::collections::BTreeMap::new(),
        }
    }
}

/// The throughput of a measurement.
pub(super) fn expected(measured: &Measurement) -> Expected {
    let tokens_per_second = measured.total().tokens_per_second();
    let (low, high) = interval(&measured.prompts);
    Expected { tokens_per_second, low, high, prompts: measured.prompts.len() }
}

/// Which snapshot was kept of which, in words.
fn kept(best: &str, names: &[String]) -> String {
    let snapshots: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != INCUMBENT).collect();
    let snapshots = snapshots.join(", ");
    if best == INCUMBENT {
        format!("the policy that the stage began with, and no snapshot of {snapshots}")
    } else {
        format!("snapshot {best} of {snapshots}")
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(|source| Error::Io { path: from.to_owned(), source })?;
    Ok(write_atomically(to, &bytes)?)
}

/// Which contender has the highest throughput, the first among equals.
pub(super) fn fastest(measurements: &[Measurement]) -> usize {
    let rate = |index: usize| measurements[index].total().tokens_per_second();
    (1..measurements.len()).fold(0, |best, index| if rate(index) > rate(best) { index } else { best })
}
