//! Steps of the environments over recorded cycles, without a network: what a learner could use at
//! most.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ltd_cycle::{DraftTree, GrownTree, Static};
use ltd_env::trace::{TRACE_VERSION, Trace, TraceHeader, TraceWriter, TracedSequence};
use ltd_env::{
    Costs, Decision, DepthEnv, Env, RandomDepth, ReplayCycles, Reward, RewardMeter, SizeEnv, stream,
};
use ltd_policy::{
    DecisionCost, DepthActions, LatencyIdentity, LatencyTable, ModelIdentity, ObservationLayout, PolicyKind,
    SizeActions, Surface,
};
use rand::Rng;

const WIDTH: usize = 10;
const DEPTH: usize = 12;
const SEQUENCES: u32 = 16;
const POSITIONS: usize = 128;
const STEPS: usize = 10_000;
/// Candidates are drawn from so many tokens: a path is as long as a real one, about one token.
const TOKENS: u32 = 20;

fn header() -> TraceHeader {
    let model = ModelIdentity { name: String::new(), sha256: String::new() };
    TraceHeader {
        version: TRACE_VERSION,
        target: model.clone(),
        draft: model,
        dtype: "f32".to_owned(),
        beam_width: WIDTH,
        depth: DEPTH,
        every: 1,
        entropies: false,
        hidden: None,
        states: None,
        token_bytes: 0,
        sampling: ltd_policy::SamplingParams::default(),
        max_new_tokens: POSITIONS,
        capacity: 1024,
        eos: Vec::new(),
        questions: "none".into(),
        questions_sha256: String::new(),
    }
}

/// Trees whose scores fall as those of a draft do.
fn trace() -> Trace {
    let mut random = stream(1, "trace");
    let header = header();
    let sequences = (0..SEQUENCES).map(|prompt| {
        let tokens = (0..100 + POSITIONS + DEPTH).map(|_| random.random_range(0..TOKENS)).collect();
        let mut sequence = TracedSequence::new(&header, prompt, 100, tokens);
        for position in 0..POSITIONS {
            let mut group = || {
                let log_probs: Vec<f32> =
                    (0..WIDTH).map(|rank| -(rank as f32).mul_add(0.5, random.random::<f32>())).collect();
                let tokens: Vec<u32> = (0..WIDTH).map(|_| random.random_range(0..TOKENS)).collect();
                (log_probs, tokens)
            };
            let (log_probs, tokens) = group();
            let mut tree = DraftTree::new(&log_probs, tokens);
            for _ in 0..DEPTH {
                let (log_probs, tokens): (Vec<_>, Vec<_>) = (0..WIDTH).map(|_| group()).unzip();
                tree.push_level(&log_probs.concat(), &tokens.concat());
            }
            let root = 100 + position;
            sequence.push(&GrownTree::new(root, tree));
        }
        sequence
    });
    let sequences = sequences.collect();
    Trace::new(header, sequences)
}

/// A table of the size that a measurement makes.
fn costs() -> Costs {
    let contexts = [32, 256, 512, 1024];
    let table = LatencyTable {
        version: LatencyTable::VERSION,
        identity: LatencyIdentity { beam_width: WIDTH, ..LatencyIdentity::default() },
        root: Surface::from_fn(&[1, 4, 13], &contexts, |rows, _| 1.0 + 0.1 * rows),
        level: Surface::from_fn(&[1, 4, 8, 12], &contexts, |_, context| 1.0 + 0.001 * context),
        level_rows: None,
        verify: Surface::from_fn(&[1, 4, 16, 64, 240], &contexts, |size, _| 9.0 + 0.1 * size),
        decision: DecisionCost { depth_us: 10.0, size_us: 20.0 },
        held_out_error: None,
    };
    Costs { model: table.model(), decision: table.decision }
}

type Layout = fn(PolicyKind) -> ObservationLayout;

fn depth_env(trace: &Arc<Trace>, layout: Layout) -> Box<dyn Env> {
    let cycles = ReplayCycles::new(Arc::clone(trace), costs(), 1).expect("positions");
    let counterpart = Box::new(Static { depth: 0, size: 60 });
    let meter = RewardMeter::new(Reward::Gain);
    Box::new(DepthEnv::new(cycles, counterpart, DepthActions::default(), layout(PolicyKind::Depth), meter))
}

fn size_env(trace: &Arc<Trace>, layout: Layout) -> Box<dyn Env> {
    let cycles = ReplayCycles::new(Arc::clone(trace), costs(), 1).expect("positions");
    let counterpart = Box::new(RandomDepth::new(1..=DEPTH, 60, 1));
    let sizes = SizeActions { sizes: (1..=24).map(|step| step * 10).collect() };
    let meter = RewardMeter::new(Reward::Gain);
    Box::new(SizeEnv::new(cycles, counterpart, sizes, layout(PolicyKind::Size), meter))
}

/// Steps with drawn actions, which go on three times in four where there are two.
fn walk(env: &mut dyn Env, steps: usize) {
    let mut random = stream(1, "actions");
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(&mut observation).expect("reset");
    for _ in 0..steps {
        let action = match env.n_actions() {
            2 => usize::from(random.random::<f32>() < 0.75),
            count => random.random_range(0..count),
        };
        let decision = Decision { action, elapsed: Duration::ZERO };
        if env.step(decision, &mut observation).expect("step").terminated {
            env.reset(&mut observation).expect("reset");
        }
    }
}

fn steps(criterion: &mut Criterion) {
    let trace = Arc::new(trace());
    let layouts: [(&str, Layout); 2] = [
        ("reference", |kind| match kind {
            PolicyKind::Depth => ObservationLayout::reference_depth(WIDTH, DEPTH),
            PolicyKind::Size => ObservationLayout::reference_size(WIDTH, DEPTH),
            PolicyKind::Source => ObservationLayout::sequence(WIDTH, DEPTH),
        }),
        ("compact", |kind| ObservationLayout::compact(kind, WIDTH, DEPTH)),
    ];
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(20).throughput(Throughput::Elements(STEPS as u64));
    for (name, layout) in layouts {
        group.bench_function(BenchmarkId::new("depth", name), |bench| {
            let mut env = depth_env(&trace, layout);
            bench.iter(|| walk(env.as_mut(), STEPS));
        });
        group.bench_function(BenchmarkId::new("size", name), |bench| {
            let mut env = size_env(&trace, layout);
            bench.iter(|| walk(env.as_mut(), STEPS));
        });
    }
    // A trace of which nothing stays in memory: each episode's sequence is read and decoded.
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = TraceWriter::open(folder.path(), trace.header.clone()).expect("a trace");
    writer.merge(&trace, folder.path()).expect("written");
    let read = Arc::new(Trace::read_within(folder.path(), 0).expect("a trace"));
    group.bench_function(BenchmarkId::new("depth", "reference, read again"), |bench| {
        let mut env = depth_env(&read, layouts[0].1);
        bench.iter(|| walk(env.as_mut(), STEPS));
    });
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    group.throughput(Throughput::Elements((STEPS * threads) as u64));
    group.bench_function(BenchmarkId::new("depth", format!("reference, {threads} threads")), |bench| {
        bench.iter_custom(|rounds| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let mut env = depth_env(&trace, layouts[0].1);
                        (0..rounds).for_each(|_| walk(env.as_mut(), STEPS));
                    });
                }
            });
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
