//! Steers a made-up engine by a package, cycle by cycle: `steer PACKAGE < CYCLES`.
//!
//! The first line of the input is `{"prompt": [1, 2], "root": 3}`. Each further line is a cycle:
//! `{"levels": [{"log_probs": [..], "tokens": [..]}], "accepted": 2, "next": 7}`, with the `W`
//! continuations of each of `W` nodes, of which as many are taken as the tree expands. Of what is
//! verified, the target accepts `accepted` rows, each the first child of the one before, if there
//! are so many. For each cycle a line tells what was decided.
//!
//! The tests of the Python package and of the C interface compare their decisions with these.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;

use ltd_cycle::{Sequence, VerificationTree};
use ltd_policy::{DraftSource, PolicyPackage};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Start {
    prompt: Vec<u32>,
    root: u32,
}

#[derive(Deserialize)]
struct Cycle {
    levels: Vec<Level>,
    accepted: usize,
    next: u32,
}

#[derive(Deserialize)]
struct Level {
    log_probs: Vec<f32>,
    tokens: Vec<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: steer PACKAGE < CYCLES")?;
    let package = PolicyPackage::load(Path::new(&folder))?;
    let mut lines = std::io::stdin().lock().lines();
    let Start { prompt, root } = serde_json::from_str(&lines.next().ok_or("no input")??)?;
    let mut sequence = Sequence::new(&package, &prompt, root);
    let mut out = std::io::stdout().lock();
    for line in lines {
        let Cycle { levels, accepted, next } = serde_json::from_str(&line?)?;
        let source = sequence.begin();
        let mut depth = None;
        if !matches!(source, DraftSource::Copy { .. }) {
            depth = Some(draft(&mut sequence, &levels)?);
        }
        let size = sequence.verification_size()?;
        let verification = sequence.verification(usize::MAX)?;
        let accepted = first_children(verification, accepted);
        let decided = json!({
            "source": format!("{source:?}"), "depth": depth, "size": size,
            "tokens": verification.tokens, "parents": verification.parent_rows,
        });
        writeln!(out, "{decided}")?;
        sequence.commit(&accepted, next);
    }
    Ok(())
}

/// Drafts as deep as the policy wants: draft forwards after the root expansion.
fn draft(sequence: &mut Sequence, levels: &[Level]) -> Result<usize, Box<dyn Error>> {
    for (depth, Level { log_probs, tokens }) in levels.iter().enumerate() {
        let rows = sequence.growing().map_or(1, |growing| growing.parents().len());
        let numbers = rows * sequence.beam_width();
        sequence.push_level(&log_probs[..numbers], &tokens[..numbers])?;
        if !sequence.continue_drafting()? {
            return Ok(depth);
        }
    }
    Err("the policy wants more levels than there are".into())
}

/// The tokens of at most `count` rows, each the first child of the one before.
fn first_children(tree: &VerificationTree, count: usize) -> Vec<u32> {
    let mut row = 0;
    let mut tokens = Vec::new();
    while tokens.len() < count
        && let Some(child) = tree.parent_rows.iter().position(|&parent| parent == row)
    {
        row = child + 1;
        tokens.push(tree.tokens[row]);
    }
    tokens
}
