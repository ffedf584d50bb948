//! A controller of one's own: drafting goes on while the best new candidate is likely enough, and
//! what is likely enough is verified.
//!
//! ```bash
//! cargo run --release --example controller -- models/smollm2-135m-instruct assets/eagle3-smollm2-135m
//! ```
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::path::PathBuf;

use ltd::engine::text::TextModel;
use ltd::engine::{Controller, CycleStats, Engine, EngineConfig, Sampler, StopRule};
use ltd::policy::CycleSummary;

/// Candidates below this probability are not worth their cost.
struct Threshold {
    log_prob: f32,
}

/// Candidates that it verifies at most.
const MOST: usize = 16;

impl Controller for Threshold {
    // Candidates that cannot be among so many are not expanded, which saves their time.
    fn size_limit(&self) -> usize {
        MOST
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        // Scores are log-probs of whole paths: a level's best is at most its parent's.
        summary.last_level().iter().any(|score| *score > self.log_prob)
    }

    fn verification_size(&mut self, summary: &CycleSummary) -> usize {
        summary.scores.iter().filter(|score| **score > self.log_prob).count().clamp(1, MOST)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    ltd::engine::bound_spinning();
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [target, draft] = &folders[..] else { return Err("usage: TARGET DRAFT".into()) };
    let config = EngineConfig { max_length: Some(512), ..EngineConfig::new(target.clone(), draft.clone()) };
    let text = TextModel::of(&config)?;
    let engine = Engine::open(&config, &text)?;
    let prompt = text.encode_chat("Write a haiku about the sea.")?.ok_or("the target has no tokenizer")?;
    let stop = StopRule { max_new_tokens: 64, eos: text.eos().to_vec() };

    let mut outputs = Vec::new();
    for probability in [0.5, 0.1, 0.02f32] {
        let mut controller = Threshold { log_prob: probability.ln() };
        let mut answer = engine.generate(&prompt, Sampler::greedy(), stop.clone(), None)?;
        let mut stats = CycleStats::default();
        while let Some(cycle) = answer.advance(&engine, Some(&mut controller))? {
            stats.add(&cycle);
        }
        println!(
            "above {probability}: {:.1} tokens/s, {:.2} tokens a cycle, {:.1} candidates verified",
            stats.tokens_per_second(),
            stats.acceptance_length(),
            stats.mean_size()
        );
        outputs.push(answer.output());
    }
    // Whoever steers, the text is the target's own.
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
    println!("{}", text.decode(&outputs[0])?);
    Ok(())
}
