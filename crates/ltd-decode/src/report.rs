//! What the command prints: text, or one JSON object per line.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Result;
use ltd_console::{note, print_to_reader};
use ltd_engine::text::Prompt;
use ltd_engine::{CycleOutcome, CycleStats, Engine, SamplingParams};
use ltd_policy::DraftSource;
use serde_json::{Value, json};

/// Cycles and tokens of one answer, or of all.
#[derive(Default)]
pub(crate) struct Totals {
    stats: CycleStats,
    output_ids: Vec<u32>,
}

impl Totals {
    pub(crate) fn add(&mut self, outcome: &CycleOutcome) {
        self.stats.add(outcome);
    }

    /// Adds a finished answer.
    pub(crate) fn append(&mut self, answer: &Totals, output_ids: &[u32]) {
        self.stats.merge(&answer.stats);
        self.output_ids.extend_from_slice(output_ids);
    }

    fn json(&self, output_ids: &[u32]) -> Value {
        let CycleStats { cycles, tokens, timing, .. } = &self.stats;
        json!({
            "output_ids": output_ids,
            "cycles": cycles,
            "tokens": tokens,
            "tokens_per_second": self.stats.tokens_per_second(),
            "acceptance_length": self.stats.acceptance_length(),
            "copies": self.stats.copies,
            "copied_tokens": self.stats.copied_tokens,
            "mean_depth": self.stats.mean_depth(),
            "mean_size": self.stats.mean_size(),
            "draft_ms": milliseconds(timing.draft),
            "verify_ms": milliseconds(timing.verify),
            "policy_ms": milliseconds(timing.policy),
        })
    }
}

/// Writes to standard output as the run goes on.
pub(crate) struct Report {
    json: bool,
    prompts: usize,
    reader_has_gone: bool,
}

impl Report {
    pub(crate) fn new(json: bool, prompts: usize) -> Self {
        Self { json, prompts, reader_has_gone: false }
    }

    /// Whether nobody reads any more (`ltd-decode ... | head`).
    pub(crate) fn reader_has_gone(&self) -> bool {
        self.reader_has_gone
    }

    fn print(&mut self, line: &dyn Display) -> Result<()> {
        match print_to_reader(format_args!("{line}\n")) {
            Err(error) if error.reader_has_gone() => self.reader_has_gone = true,
            printed => printed?,
        }
        Ok(())
    }

    pub(crate) fn cycle(&mut self, prompt: usize, outcome: &CycleOutcome) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        self.print(&json!({
            "prompt": prompt,
            "root": outcome.accepted_ids[0],
            "source": source(outcome),
            "match_length": outcome.match_length,
            "draft_depth": outcome.draft_depth,
            "verification_size": outcome.verification_size,
            "accepted_ids": outcome.accepted_ids,
            "tau": outcome.acceptance_length(),
            "drafted": outcome.drafted.unwrap_or(0),
            "copied": outcome.copied.unwrap_or(0),
            "draft_ms": milliseconds(outcome.timing.draft),
            "verify_ms": milliseconds(outcome.timing.verify),
            "policy_ms": milliseconds(outcome.timing.policy),
        }))
    }

    pub(crate) fn answer(
        &mut self,
        index: usize,
        prompt: &Prompt,
        text: &str,
        output_ids: &[u32],
        totals: &Totals,
    ) -> Result<()> {
        if self.json {
            // With one prompt the total says the same.
            if self.prompts > 1 {
                let mut line = totals.json(output_ids);
                line["prompt"] = json!(index);
                line["question_id"] = json!(prompt.id);
                line["text"] = json!(text);
                self.print(&line)?;
            }
            return Ok(());
        }
        if self.prompts > 1 {
            self.print(&format_args!("--- question {}", prompt.id))?;
        }
        self.print(&text)
    }

    pub(crate) fn total(
        &mut self,
        totals: &Totals,
        engine: &Engine,
        sampling: &SamplingParams,
        seed: u64,
    ) -> Result<()> {
        if self.json {
            let mut line = totals.json(&totals.output_ids);
            line["dtype"] = json!(engine.dtype());
            line["batch_invariant"] = json!(engine.is_batch_invariant());
            line["sampling"] = json!(sampling);
            line["seed"] = json!(seed);
            return self.print(&line);
        }
        let stats = &totals.stats;
        let percent = |part: Duration| 100.0 * stats.share(part);
        let copies = match stats.copies {
            0 => String::new(),
            copies => format!(" ({copies} of them copied, {} tokens)", stats.copied_tokens),
        };
        note!(
            "ltd-decode: {} tokens in {} cycles{copies}, {:.1} tokens/s, acceptance length {:.2}, \
             draft {:.0} %, verify {:.0} %, policy {:.1} %",
            totals.output_ids.len(),
            stats.cycles,
            stats.tokens_per_second(),
            stats.acceptance_length(),
            percent(stats.timing.draft),
            percent(stats.timing.verify),
            percent(stats.timing.policy),
        );
        Ok(())
    }
}

/// What a cycle drafted from, in a word.
fn source(outcome: &CycleOutcome) -> &'static str {
    match outcome.source {
        DraftSource::Merged { .. } if outcome.copied.is_some() => "merged",
        DraftSource::Tree | DraftSource::Merged { .. } => "eagle",
        DraftSource::Copy { .. } if outcome.copied.is_some() => "copy",
        DraftSource::Copy { .. } => "plain",
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
