//! One update at the quickstart's sizes and at the paper's, on one thread and on two.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ltd_env::stream;
use ltd_run::config::{NetArch, PpoConfig};
use ltd_train::ppo::{ActorCritic, Adam, EveryAction, RolloutBuffer, update};
use ndarray::{Array1, Array2};
use rand::Rng;

/// Decisions of the size, with the observation `compact` and with `reference`.
const ACTIONS: usize = 10;
const COMPACT: usize = 48;
const REFERENCE: usize = 1300;

fn rollout(config: &PpoConfig, networks: &ActorCritic, inputs: usize) -> RolloutBuffer {
    let mut random = stream(1, "rollout");
    let steps = config.n_steps;
    let mut table =
        |columns: usize| Array2::from_shape_simple_fn((steps, columns), || random.random_range(-1.0..1.0f32));
    let (observations, advantages) = (table(inputs), table(ACTIONS));
    let returns = table(1).remove_axis(ndarray::Axis(1));
    let seen = observations.as_slice().expect("row-major");
    let (log_probs, values) = (networks.log_probs(seen), networks.values(seen));
    let log_probs = Array2::from_shape_vec((steps, ACTIONS), log_probs).expect("shape");
    RolloutBuffer {
        actions: Array1::zeros(steps),
        values: Array1::from_vec(values),
        log_probs: log_probs.column(0).to_owned(),
        advantages: advantages.column(0).to_owned(),
        returns,
        every_action: Some(EveryAction { log_probs, advantages }),
        observations,
    }
}

fn updates(criterion: &mut Criterion) {
    let quick = PpoConfig::default();
    let paper = PpoConfig {
        n_steps: 512,
        batch_size: 256,
        n_epochs: 1,
        net_arch: NetArch { pi: vec![1024, 256], vf: vec![1024, 256] },
        ..PpoConfig::default()
    };
    let mut group = criterion.benchmark_group("update");
    group.sample_size(20);
    for (name, config, inputs) in [("quick", quick, COMPACT), ("paper", paper, REFERENCE)] {
        group.throughput(Throughput::Elements(config.n_steps as u64));
        let mut networks = ActorCritic::new(inputs, ACTIONS, &config.net_arch, &mut stream(2, "networks"));
        let buffer = rollout(&config, &networks, inputs);
        let mut adam = Adam::new(&networks, config.adam_eps);
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            group.bench_function(BenchmarkId::new(name, format!("{threads} threads")), |bench| {
                let mut random = stream(3, "orders");
                bench.iter(|| {
                    pool.install(|| {
                        let orders = || buffer.shuffled(&mut random);
                        update(&config, &mut networks, &mut adam, &buffer, 1e-5, orders, &|| false)
                    })
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, updates);
criterion_main!(benches);
