//! What a copy source takes: `cargo bench -p ltd-cycle`.
//!
//! A cycle appends some tokens, finds their latest earlier occurrence and copies a chain. The text
//! says again what it said now and then, as answers about code do.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ltd_cycle::CopySource;

const LIMIT: usize = 16;
/// Tokens that a cycle appends.
const APPENDED: usize = 3;
const CHAIN: usize = 8;
/// Tokens of the cycles that are timed.
const MORE: usize = 30_000;

/// Tokens of a vocabulary of 49,152, a third of them in passages that were there before.
fn text(length: usize) -> Vec<u32> {
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut text: Vec<u32> = Vec::new();
    while text.len() < length {
        if !text.is_empty() && random(20) == 0 {
            let (from, count) = (random(text.len()), 1 + random(20));
            (0..count).for_each(|at| text.push(text[(from + at).min(text.len() - 1)]));
        } else {
            // Few tokens are frequent.
            text.push((random(49_152) * random(1000) / 1000) as u32);
        }
    }
    text.truncate(length);
    text
}

fn cycles(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy source");
    for length in [1_000, 32_000] {
        let text = text(length + MORE);
        let (before, more) = text.split_at(length);
        let mut grown = CopySource::new(LIMIT);
        grown.extend(before);
        group.bench_function(BenchmarkId::new("cycle", length), |bench| {
            // Whatever memory has to grow is part of it.
            bench.iter_custom(|cycles| {
                let (mut source, mut elapsed) = (grown.clone(), Duration::ZERO);
                let mut appended = more.chunks_exact(APPENDED);
                for _ in 0..cycles {
                    let tokens = appended.next().unwrap_or_else(|| {
                        (source, appended) = (grown.clone(), more.chunks_exact(APPENDED));
                        appended.next().expect("there are more")
                    });
                    let start = Instant::now();
                    source.extend(tokens);
                    black_box(source.find().map(|found| source.chain(found, CHAIN)));
                    elapsed += start.elapsed();
                }
                elapsed
            });
        });
        group.bench_function(BenchmarkId::new("whole text", length), |bench| {
            bench.iter(|| {
                let mut source = CopySource::new(LIMIT);
                source.extend(before);
                source
            });
        });
    }
    group.finish();
}

criterion_group!(benches, cycles);
criterion_main!(benches);
