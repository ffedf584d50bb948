//! Writes a trace of made-up trees, as large as one likes, and a latency table for it: to measure
//! what reading and replay take.
//!
//! ```bash
//! cargo run --release -p ltd-env --no-default-features --example synthetic_trace -- \
//!     traces/large 1000000 12
//! ltd-trace oracle --trace traces/large --latency traces/large/latency.json
//! ```
//!
//! In place of the depth it takes the folder of a recorded trace: then the header, and with it the
//! models, are those of that one, and `ltd-train` learns from the result.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::path::{Path, PathBuf};

use ltd_cycle::{DraftTree, GrownTree};
use ltd_env::stream;
use ltd_env::trace::{TRACE_VERSION, Trace, TraceHeader, TraceWriter, TracedSequence};
use ltd_policy::{DecisionCost, LatencyIdentity, LatencyTable, ModelIdentity, SamplingParams, Surface};
use rand::Rng;
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Tokens that are said: few, so that some are said again.
const VOCABULARY: u32 = 64;
const PROMPT: usize = 16;
/// Positions of a sequence at most.
const POSITIONS: usize = 512;
/// How often a group of candidates has the token that the target says.
const HIT: f64 = 0.6;
/// Sequences that are made at the same time.
const BATCH: u32 = 8;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what: &str| arguments.next().ok_or(format!("expected {what}"));
    let folder = PathBuf::from(argument("a folder to write to")?);
    let positions: usize = argument("a number of positions")?.parse()?;
    let like = argument("the depth of the trees, or the folder of a trace to be like")?;
    let header = match like.parse() {
        Ok(depth) => made_up(depth),
        Err(_) => Trace::read(Path::new(&like))?.header,
    };
    let mut writer = TraceWriter::open(&folder, header.clone())?;
    table(&header).write(&folder.join("latency.json"))?;
    // As much as there is room for.
    let longest = header.capacity.min(PROMPT + POSITIONS + header.depth + 2) - PROMPT - header.depth - 2;
    let lengths: Vec<usize> =
        (0..positions.div_ceil(longest)).map(|number| longest.min(positions - number * longest)).collect();
    for (batch, lengths) in (0..).zip(lengths.chunks(BATCH as usize)) {
        let numbered: Vec<(u32, usize)> = (batch * BATCH..).zip(lengths.iter().copied()).collect();
        let made: Vec<TracedSequence> =
            numbered.into_par_iter().map(|(number, length)| sequence(&header, number, length)).collect();
        made.iter().try_for_each(|sequence| writer.append(sequence))?;
    }
    println!("{}: {positions} positions, {} bytes", folder.display(), writer.bytes());
    Ok(())
}

/// The header of trees of no model, without tokens.
fn made_up(depth: usize) -> TraceHeader {
    let model = ModelIdentity { name: "made up".to_owned(), sha256: String::new() };
    TraceHeader {
        version: TRACE_VERSION,
        target: model.clone(),
        draft: model,
        dtype: "f32".to_owned(),
        beam_width: 10,
        depth,
        every: 1,
        entropies: false,
        hidden: None,
        states: None,
        token_bytes: 0,
        sampling: SamplingParams::default(),
        max_new_tokens: POSITIONS,
        capacity: 1024,
        eos: Vec::new(),
        questions: "none".into(),
        questions_sha256: String::new(),
    }
}

/// A continuation of drawn tokens, with trees that have them now and then, the likelier the better
/// their scores.
fn sequence(header: &TraceHeader, number: u32, positions: usize) -> TracedSequence {
    let mut random = stream(u64::from(number), "made-up sequence");
    let (width, count) = (header.beam_width, PROMPT + positions + header.depth + 2);
    let mut tokens: Vec<u32> = (0..count).map(|_| random.random_range(0..VOCABULARY)).collect();
    // No prompt comes twice.
    (tokens[0], tokens[1], tokens[2]) =
        (number % VOCABULARY, number / VOCABULARY % VOCABULARY, number / VOCABULARY / VOCABULARY);
    let mut made = TracedSequence::new(header, number, PROMPT, tokens.clone());
    for root in PROMPT..PROMPT + positions {
        let mut group = |said: u32| {
            let mut score = 0.0;
            let falling = (0..width).map(|_| {
                score -= 0.1 + 0.8 * random.random::<f32>();
                score
            });
            let log_probs: Vec<f32> = falling.collect();
            let mut tokens: Vec<u32> = (0..width).map(|_| random.random_range(0..VOCABULARY)).collect();
            if random.random_bool(HIT) {
                let rank = random.random_range(0..width).min(random.random_range(0..width));
                tokens[rank] = said;
            }
            (log_probs, tokens)
        };
        let (log_probs, first) = group(tokens[root + 1]);
        let mut tree = DraftTree::new(&log_probs, first);
        for level in 0..header.depth {
            let said = tokens[root + 2 + level];
            let (log_probs, drafted): (Vec<_>, Vec<_>) = (0..width).map(|_| group(said)).unzip();
            tree.push_level(&log_probs.concat(), &drafted.concat());
        }
        made.push(&GrownTree::new(root, tree));
    }
    made
}

/// Costs of a machine that might be.
fn table(header: &TraceHeader) -> LatencyTable {
    let contexts = [32, 256, 512, 1024];
    let identity = LatencyIdentity {
        target: header.target.sha256.clone(),
        draft: header.draft.sha256.clone(),
        beam_width: header.beam_width,
        ..LatencyIdentity::default()
    };
    LatencyTable {
        version: LatencyTable::VERSION,
        identity,
        root: Surface::from_fn(&[1, 4, 13], &contexts, |rows, _| 1.0 + 0.1 * rows),
        level: Surface::from_fn(&[1, 4, 8, 12], &contexts, |_, context| 1.0 + 0.001 * context),
        level_rows: None,
        verify: Surface::from_fn(&[1, 4, 16, 64, 240], &contexts, |size, _| 9.0 + 0.1 * size),
        decision: DecisionCost { depth_us: 10.0, size_us: 20.0 },
        held_out_error: None,
    }
}
