//! Decodes a prompt with a policy package, or with a fixed tree without one.
//!
//! ```bash
//! cargo run --release --example decode -- models/smollm2-135m-instruct assets/eagle3-smollm2-135m [POLICIES]
//! ```
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::path::PathBuf;

use ltd::engine::text::TextModel;
use ltd::engine::{Controller, CycleStats, Engine, EngineConfig, Learned, Sampler, Static, StopRule};
use ltd::policy::PolicyPackage;

fn main() -> Result<(), Box<dyn Error>> {
    ltd::engine::bound_spinning();
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [target, draft, package @ ..] = &folders[..] else {
        return Err("usage: TARGET DRAFT [POLICIES]".into());
    };

    let config = EngineConfig { max_length: Some(512), ..EngineConfig::new(target.clone(), draft.clone()) };
    let text = TextModel::of(&config)?;
    let engine = Engine::open(&config, &text)?;
    let mut controller: Box<dyn Controller> = match package.first() {
        Some(folder) => {
            let package = PolicyPackage::load(folder)?;
            // Policies steer the models that they were trained for.
            let models = config.models()?;
            package.check_steers(folder, "decode", Some(&models), config.beam_width, config.max_depth)?;
            Box::new(Learned::of_package(&package))
        }
        None => Box::new(Static { depth: 3, size: 12 }),
    };

    let prompt = text.encode_chat("What is 2+2?")?.ok_or("the target has no tokenizer")?;
    let stop = StopRule { max_new_tokens: 64, eos: text.eos().to_vec() };
    let mut answer = engine.generate(&prompt, Sampler::greedy(), stop, None)?;
    let mut stats = CycleStats::default();
    while let Some(cycle) = answer.advance(&engine, Some(controller.as_mut()))? {
        stats.add(&cycle);
    }
    println!("{}", text.decode(&answer.output())?);
    println!(
        "{:.1} tokens/s, {:.2} tokens a cycle, mean depth {:.1}, mean size {:.1}",
        stats.tokens_per_second(),
        stats.acceptance_length(),
        stats.mean_depth(),
        stats.mean_size()
    );
    Ok(())
}
