//! What the command prints: text, or one JSON object per line.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use ltd_engine::text::Prompt;
use ltd_engine::{CycleOutcome, CycleTiming};
use serde_json::{Value, json};

/// Sums over cycles.
#[derive(Default)]
pub(crate) struct Totals {
    cycles: usize,
    tokens: usize,
    timing: CycleTiming,
    output_ids: Vec<u32>,
}

impl Totals {
    pub(crate) fn add(&mut self, outcome: &CycleOutcome) {
        self.cycles += 1;
        self.tokens += outcome.acceptance_length();
        self.timing += outcome.timing;
    }

    /// Adds the sums of a finished answer.
    pub(crate) fn append(&mut self, answer: &Totals, output_ids: &[u32]) {
        self.cycles += answer.cycles;
        self.tokens += answer.tokens;
        self.timing += answer.timing;
        self.output_ids.extend_from_slice(output_ids);
    }

    fn tokens_per_second(&self) -> f64 {
        let seconds = self.timing.total().as_secs_f64();
        if seconds > 0.0 { self.tokens as f64 / seconds } else { 0.0 }
    }

    fn acceptance_length(&self) -> f64 {
        self.tokens as f64 / self.cycles.max(1) as f64
    }

    fn json(&self, output_ids: &[u32]) -> Value {
        json!({
            "output_ids": output_ids,
            "cycles": self.cycles,
            "tokens_per_second": self.tokens_per_second(),
            "acceptance_length": self.acceptance_length(),
            "draft_ms": milliseconds(self.timing.draft),
            "verify_ms": milliseconds(self.timing.verify),
            "policy_ms": milliseconds(self.timing.policy),
        })
    }
}

/// Writes to standard output as the run goes on.
pub(crate) struct Report {
    json: bool,
    prompts: usize,
}

impl Report {
    pub(crate) fn new(json: bool, prompts: usize) -> Self {
        Self { json, prompts }
    }

    pub(crate) fn cycle(&self, prompt: usize, outcome: &CycleOutcome) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        print(&json!({
            "prompt": prompt,
            "root": outcome.accepted_ids[0],
            "draft_depth": outcome.draft_depth,
            "verification_size": outcome.verification_size,
            "accepted_ids": outcome.accepted_ids,
            "tau": outcome.acceptance_length(),
            "draft_ms": milliseconds(outcome.timing.draft),
            "verify_ms": milliseconds(outcome.timing.verify),
            "policy_ms": milliseconds(outcome.timing.policy),
        }))
    }

    pub(crate) fn answer(
        &self,
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
                print(&line)?;
            }
            return Ok(());
        }
        if self.prompts > 1 {
            writeln!(std::io::stdout(), "--- question {}", prompt.id)?;
        }
        writeln!(std::io::stdout(), "{text}")?;
        Ok(())
    }

    pub(crate) fn total(&self, totals: &Totals) -> Result<()> {
        if self.json {
            return print(&totals.json(&totals.output_ids));
        }
        let total = totals.timing.total().as_secs_f64().max(f64::MIN_POSITIVE);
        let share = |part: Duration| 100.0 * part.as_secs_f64() / total;
        eprintln!(
            "ltd-decode: {} tokens in {} cycles, {:.1} tokens/s, acceptance length {:.2}, \
             draft {:.0} %, verify {:.0} %, policy {:.1} %",
            totals.output_ids.len(),
            totals.cycles,
            totals.tokens_per_second(),
            totals.acceptance_length(),
            share(totals.timing.draft),
            share(totals.timing.verify),
            share(totals.timing.policy),
        );
        Ok(())
    }
}

fn print(line: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
