//! Fuzzing without a fuzzer: mutated copies of valid files, the same ones in every run, for tests
//! on stable Rust.
//!
//! A parser may refuse a mutated file or make something of it. It must not panic, nor take time or
//! memory out of proportion. `LTD_FUZZ_CASES` asks for another number of inputs per parser.

mod form;
mod json;
mod meter;
mod mutation;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

pub use form::Form;
pub use meter::Meter;
use mutation::{Mutation, mutation};

/// Mutated inputs per parser, unless the environment says another number.
const CASES: u32 = 10_000;
/// Mutations of an input at most.
const MOST_MUTATIONS: usize = 6;
/// Time that a parser may take for an input of some kilobytes, on a machine that does other things
/// too.
const LONGEST: Duration = Duration::from_secs(20);
/// Memory that it may have at once.
const MOST_BYTES: usize = 256 << 20;

/// A folder for files that a parser reads by name; in memory, where the system has such a place.
///
/// # Panics
/// If there is no room for one.
pub fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

/// Lets `parse` read mutations of `seeds`, each of which it can read as it is.
///
/// # Panics
/// With the smallest input found that makes `parse` panic, or takes too much time or memory.
/// (Memory is counted in programs whose allocator is [`Meter`].)
pub fn fuzz(form: Form, seeds: &[Vec<u8>], parse: impl Fn(&[u8])) {
    for seed in seeds {
        parse(seed);
    }
    let cases = std::env::var("LTD_FUZZ_CASES").map_or(CASES, |text| {
        text.parse().unwrap_or_else(|_| panic!("LTD_FUZZ_CASES: expected a number, found `{text}`"))
    });
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mutations = prop::collection::vec(mutation(form), 1..=MOST_MUTATIONS);
    let result = runner.run(&(any::<prop::sample::Index>(), mutations), |(seed, mutations)| {
        let input = apply(form, seeds, seed.index(seeds.len()), &mutations);
        let (started, memory) = (Instant::now(), meter::Span::begin());
        parse(&input);
        let (elapsed, bytes) = (started.elapsed(), memory.peak());
        if elapsed > LONGEST || bytes > MOST_BYTES {
            let found = format!("{elapsed:?} and {bytes} bytes for {} bytes of input", input.len());
            return Err(TestCaseError::fail(found));
        }
        Ok(())
    });
    if let Err(error) = result {
        let proptest::test_runner::TestError::Fail(reason, (seed, mutations)) = error else {
            panic!("{error}")
        };
        let input = apply(form, seeds, seed.index(seeds.len()), &mutations);
        panic!("{reason}, for the input\n{}", excerpt(&input));
    }
}

fn apply(form: Form, seeds: &[Vec<u8>], seed: usize, mutations: &[Mutation]) -> Vec<u8> {
    let mut input = seeds[seed].clone();
    for mutation in mutations {
        mutation.apply(form, seeds, &mut input);
    }
    input
}

/// As much of an input as a person would look at.
fn excerpt(input: &[u8]) -> String {
    const LONGEST: usize = 4000;
    let end = input.len().min(LONGEST);
    let more =
        if end < input.len() { format!(" ... and {} bytes more", input.len() - end) } else { String::new() };
    format!("{}{more}", input[..end].escape_ascii())
}
