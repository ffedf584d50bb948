//! Time of one decision of the paper's policies, weights cold as inside a decode loop, and warm.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ltd_policy::{
    Actions, CycleSummary, DepthActions, DepthPolicy, FrozenPolicy, Linear, Mlp, ObservationLayout,
    SizeActions, SizePolicy,
};

/// More than any last-level cache: reading it pushes the weights out, as a target forward does.
const EVICTION_BYTES: usize = 256 << 20;

fn mlp(widths: &[usize]) -> Mlp {
    let layers: Vec<Linear> = widths
        .windows(2)
        .map(|pair| {
            let value = |index: usize| (index as f32 * 0.618).sin() * 0.05;
            let weight = (0..pair[0] * pair[1]).map(value).collect();
            Linear { weight, bias: (0..pair[1]).map(value).collect(), inputs: pair[0] }
        })
        .collect();
    Mlp::new(&layers)
}

fn timed(iterations: u64, eviction: Option<&[u64]>, mut decide: impl FnMut()) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..iterations {
        if let Some(memory) = eviction {
            black_box(memory.iter().step_by(8).sum::<u64>());
        }
        let start = Instant::now();
        decide();
        total += start.elapsed();
    }
    total
}

fn decisions(criterion: &mut Criterion) {
    let memory = vec![1u64; EVICTION_BYTES / size_of::<u64>()];
    let layout = ObservationLayout::reference_depth(10, 12);
    let net = mlp(&[layout.len(), 1024, 2]);
    let depth = FrozenPolicy::new(layout, Actions::Depth(DepthActions::default()), net, Vec::new());
    let mut depth = DepthPolicy::new(&depth).expect("a depth policy");
    let layout = ObservationLayout::reference_size(10, 12);
    let sizes = SizeActions { sizes: (1..=24).map(|step| step * 10).collect() };
    let net = mlp(&[layout.len(), 1024, 256, 24]);
    let size = FrozenPolicy::new(layout, Actions::Size(sizes), net, Vec::new());
    let mut size = SizePolicy::new(&size).expect("a size policy");

    let scores: Vec<f32> = (0..1210).map(|index| -0.01 * (index + 1) as f32).collect();
    for (state, eviction) in [("cold", Some(&memory[..])), ("warm", None)] {
        let mut group = criterion.benchmark_group(state);
        group.sample_size(30).measurement_time(Duration::from_secs(4));
        for draft_depth in [1, 3, 8] {
            let scores = &scores[..10 + 100 * draft_depth];
            let summary = CycleSummary { scores, beam_width: 10, draft_depth, context_length: 300 };
            group.bench_with_input(BenchmarkId::new("depth", draft_depth), &summary, |bench, summary| {
                bench.iter_custom(|n| timed(n, eviction, || _ = black_box(depth.continue_drafting(summary))));
            });
            group.bench_with_input(BenchmarkId::new("size", draft_depth), &summary, |bench, summary| {
                bench.iter_custom(|n| timed(n, eviction, || _ = black_box(size.verification_size(summary))));
            });
        }
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
