//! Products, an MLP and attention in the sizes of SmolLM2-135M, for each instruction set and number type.
//!
//!   cargo bench -p ltd-kernels -- 'product/avx2/bf16'
//!
//! Weights of a whole model are multiplied in turn, as a forward does: they come from memory, not from a cache. Two threads,
//! which are started for each operation: times of few rows hold that.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use ltd_kernels::{Cpu, Float, Fused, InstructionSet, Linear, Mlp, Panels, RowNorm, Scoped};

const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
/// More than caches hold.
const LAYERS: usize = 30;
const ROWS: [usize; 5] = [1, 4, 8, 16, 32];

fn numbers<T: Float>(count: usize, from: fn(f32) -> T) -> Vec<T> {
    (0..count).map(|i| from((i as f32 * 0.7).sin() / 24.0)).collect()
}

fn of_type<T: Float + 'static>(criterion: &mut Criterion, cpu: Cpu, name: &str, from: fn(f32) -> T) {
    let weight = numbers(INTERMEDIATE * HIDDEN, from);
    let pack = |shape| Panels::pack(cpu, &weight, shape).expect("whole steps");
    let layers: Vec<[Panels<T>; 3]> = (0..LAYERS)
        .map(|_| [pack([INTERMEDIATE, HIDDEN]), pack([INTERMEDIATE, HIDDEN]), pack([HIDDEN, INTERMEDIATE])])
        .collect();
    let linear = |weight| Linear { weight, bias: None };
    let set = format!("{}/{name}", cpu.instructions);
    let norm = numbers(HIDDEN, from);
    for rows in ROWS {
        let x = numbers(rows * HIDDEN, from);
        let mut wide = numbers(rows * INTERMEDIATE, from);
        let mut narrow = numbers(rows * HIDDEN, from);
        let bytes = |weights: usize| (LAYERS * weights * INTERMEDIATE * HIDDEN * size_of::<T>()) as u64;
        let mut group = criterion.benchmark_group(format!("product/{set}"));
        group.throughput(Throughput::Bytes(bytes(1)));
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            bencher.iter(|| {
                for [weight, ..] in &layers {
                    linear(weight).forward(cpu, &x, None, Fused::Nothing, &mut wide);
                }
            });
        });
        group.finish();
        let mut group = criterion.benchmark_group(format!("mlp/{set}"));
        group.throughput(Throughput::Bytes(bytes(3)));
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            bencher.iter(|| {
                for [gate, up, down] in &layers {
                    let mlp = Mlp { gate: linear(gate), up: linear(up), down: linear(down) };
                    mlp.forward(cpu, &x, RowNorm { weight: &norm, eps: 1e-5 }, &mut narrow);
                }
            });
        });
        group.finish();
    }
}

fn kernels(criterion: &mut Criterion) {
    let threads = Scoped(2);
    for instructions in InstructionSet::available().filter(|set| !set.is_baseline()) {
        let cpu = Cpu { instructions, threads: &threads };
        of_type::<f32>(criterion, cpu, "f32", |x| x);
        of_type::<bf16>(criterion, cpu, "bf16", bf16::from_f32);
        of_type::<f16>(criterion, cpu, "f16", f16::from_f32);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
