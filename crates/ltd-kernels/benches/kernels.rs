//! Products, an MLP and attention in the sizes of SmolLM2-135M, for each instruction set and number
//! type.
//!
//!   cargo bench -p ltd-kernels -- 'product/avx2/bf16'
//!
//! Weights of a whole model are multiplied in turn, as a forward does: they come from memory, not
//! from a cache. Two threads, which are started for each operation: times of few rows hold that.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use half::{bf16, f16};
use ltd_kernels::{
    Attention, Caches, Cpu, Float, Fused, Heads, InstructionSet, Linear, Mlp, Panels, RowNorm, Scoped,
    Serial, Threads, Visibility,
};

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

/// Rows behind a cache, all layers in turn, on one thread.
fn attention<T: Float + 'static>(criterion: &mut Criterion, cpu: Cpu, name: &str, from: fn(f32) -> T) {
    const HEADS: Heads = Heads { queries: 9, keys: 3, width: 64, scale: 0.125 };
    const PAST: usize = 256;
    const CAPACITY: usize = 512;
    let cache = || numbers(LAYERS * HEADS.keys * CAPACITY * HEADS.width, from);
    let (mut keys, mut values) = (cache(), cache());
    let mut group = criterion.benchmark_group(format!("attention/{}/{name}", cpu.instructions));
    for rows in ROWS {
        let qkv = numbers(rows * 15 * HEADS.width, from);
        let mut result = numbers(rows * 9 * HEADS.width, from);
        let (cos, sin) = (vec![0.6; rows * HEADS.width / 2], vec![0.8; rows * HEADS.width / 2]);
        let sees: Vec<bool> = (0..rows * rows).map(|i| i % rows <= i / rows).collect();
        let visibility = Visibility::new(PAST, Some(&sees), rows, HEADS.queries / HEADS.keys);
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            bencher.iter(|| {
                let layer = HEADS.keys * CAPACITY * HEADS.width;
                for (keys, values) in keys.chunks_exact_mut(layer).zip(values.chunks_exact_mut(layer)) {
                    let attention = Attention {
                        heads: HEADS,
                        norms: None,
                        cos: &cos,
                        sin: &sin,
                        caches: Caches { keys, values, capacity: CAPACITY, past: PAST },
                        visibility: &visibility,
                    };
                    attention.attend(cpu, &qkv, &mut result);
                }
            });
        });
    }
    group.finish();
}

fn kernels(criterion: &mut Criterion) {
    for instructions in InstructionSet::available().filter(|set| !set.is_baseline()) {
        let on = |threads: &'static dyn Threads| Cpu { instructions, threads };
        let (one, two) = (on(&Serial), on(&Scoped(2)));
        of_type::<f32>(criterion, two, "f32", |x| x);
        of_type::<bf16>(criterion, two, "bf16", bf16::from_f32);
        of_type::<f16>(criterion, two, "f16", f16::from_f32);
        attention::<f32>(criterion, one, "f32", |x| x);
        attention::<bf16>(criterion, one, "bf16", bf16::from_f32);
        attention::<f16>(criterion, one, "f16", f16::from_f32);
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    kernels(&mut criterion);
    criterion.final_summary();
}
