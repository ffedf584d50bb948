//! What a decision about a tree takes, without the program around it: `decision_time PACKAGE
//! [REPEATS]` prints nanoseconds for each draft depth, whether to draft on and how much to verify.
//!
//! `crates/ltd-python/bench/decisions.py` compares the Python package with it.

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use ltd_cycle::{Controller, Learned};
use ltd_policy::{CycleSummary, PolicyPackage};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: decision_time PACKAGE [REPEATS]")?;
    let repeats: usize = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let package = PolicyPackage::load(Path::new(&folder))?;
    let mut learned = Learned::of_package(&package);
    let width = package.manifest.beam_width;
    for draft_depth in 0..package.deepest() {
        let count = width + draft_depth * width * width;
        // Scores as sure as those of drafts are.
        let scores: Vec<f32> =
            (0..count).map(|at| -0.5 - 0.3 * (at % width) as f32 - 0.01 * at as f32).collect();
        let summary = CycleSummary {
            scores: &scores,
            beam_width: width,
            frontier: width,
            draft_depth,
            context_length: 200,
        };
        let mut time = |decide: &mut dyn FnMut(&mut Learned) -> usize| {
            let start = Instant::now();
            for _ in 0..repeats {
                black_box(decide(&mut learned));
            }
            start.elapsed().as_nanos() as f64 / repeats as f64
        };
        let go_on = time(&mut |learned| usize::from(learned.continue_drafting(black_box(&summary))));
        let size = time(&mut |learned| {
            // What was decided before is not asked for again.
            learned.begin_cycle();
            learned.verification_size(black_box(&summary))
        });
        writeln!(std::io::stdout(), "{draft_depth} {go_on:.0} {size:.0}")?;
    }
    Ok(())
}
