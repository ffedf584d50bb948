//! Recordings above temperature 0: of each seed, the replayed cycles are the live ones.

use std::path::Path;

use ltd_engine::{
    Controller, Copying, CycleOutcome, DtypeSetting, Engine, EngineConfig, SamplingParams, Static,
};
use ltd_env::Interrupt;
use ltd_env::trace::{Trace, TraceHeader, TraceWriter, record_sequence};
use ltd_policy::CopyRule;

use crate::copies::{answer, decoded_and_replayed};
use crate::live::engine;
use crate::trace::{header, record_as, record_seeds, whole};

const SEEDS: [u64; 3] = [1, 2, u64::MAX];

fn settings() -> [SamplingParams; 3] {
    let at = |temperature, top_p, top_k| SamplingParams { temperature, top_p, top_k };
    [at(1.0, 1.0, None), at(1.0, 0.9, None), at(0.7, 0.95, Some(20))]
}

fn sampled(engine: &Engine, max_new_tokens: usize, sampling: SamplingParams) -> TraceHeader {
    TraceHeader { sampling, ..header(engine, max_new_tokens) }
}

/// Decodes what was recorded once more, plainly.
fn assert_plain(engine: &Engine, trace: &Trace) {
    for sequence in &whole(trace) {
        let mut plain = answer(engine, trace, sequence);
        while plain.advance(engine, None).expect("a step").is_some() {}
        let output = plain.output();
        assert_eq!(sequence.tokens[sequence.prompt_len..][..output.len()], output);
    }
}

/// Replayed cycles yield what live ones do; how many of them copied. What is worth expanding
/// depends on scores, which are recorded in half precision, and is not compared.
fn assert_exact(engine: &Engine, trace: &Trace, controller: &mut dyn Controller) -> usize {
    let parts = |outcome: &CycleOutcome| {
        let tokens = (outcome.accepted_ids.clone(), outcome.next_token);
        (tokens, outcome.source, outcome.match_length, outcome.copied, outcome.context_length)
    };
    let cycles = decoded_and_replayed(engine, trace, controller);
    assert!(!cycles.is_empty());
    for (live, replayed) in &cycles {
        assert_eq!(parts(live), parts(replayed), "{}", trace.header.sampling);
    }
    cycles.iter().filter(|(live, _)| live.copied.is_some()).count()
}

/// A rule of copies, with trees between them.
fn rule(match_length: usize, chain: usize) -> Copying<Static> {
    let trees = Static { depth: 3, size: 9 };
    Copying { rule: CopyRule { match_length, chain }, merged: None, trees }
}

#[test]
fn of_each_seed_the_replayed_cycles_are_the_live_ones() {
    let engine = engine();
    for sampling in settings() {
        let folder = tempfile::tempdir().expect("a folder");
        let trace = record_seeds(&engine, folder.path(), &sampled(&engine, 48, sampling), &SEEDS);
        assert_eq!((trace.len(), trace.prompts()), (9, 3));
        assert_eq!((trace.header.sampling, trace.header.noun()), (sampling, "continuation"));
        assert_plain(&engine, &trace);
        for (depth, size) in [(0, 1), (0, 4), (1, 4), (2, 12), (4, 30), (6, 240)] {
            assert_exact(&engine, &trace, &mut Static { depth, size });
        }
        let calibration = ltd_env::calibrate(&trace, &Interrupt::default()).expect("a calibration");
        let merging = Copying { merged: Some(calibration), ..rule(1, 5) };
        for mut rule in [rule(1, 5), rule(2, 8), merging] {
            assert!(assert_exact(&engine, &trace, &mut rule) > 0, "no cycle copied");
        }
        for seeds in whole(&trace).chunk_by(|a, b| a.prompt == b.prompt) {
            let answers: Vec<&[u32]> = seeds.iter().map(|one| &one.tokens[one.prompt_len..]).collect();
            assert_eq!(seeds.iter().map(|one| one.seed).collect::<Vec<_>>(), SEEDS);
            assert!(answers[0] != answers[1] && answers[1] != answers[2], "{sampling}: seeds differ");
        }
    }
}

#[test]
fn replayed_cycles_of_the_default_pair_are_the_live_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("models/smollm2-135m-instruct");
    assert!(target.is_dir(), "{} is missing: run scripts/setup", target.display());
    let config = EngineConfig::new(&target, root.join("assets/eagle3-smollm2-135m"));
    let config = EngineConfig { dtype: DtypeSetting::F32, max_length: Some(200), ..config };
    let engine = Engine::load(&config).expect("the engine loads");
    // "The capital of France is"
    let prompt = [504, 3575, 282, 4649, 314];
    let [whole, _, cut] = settings();
    // Where forwards of other widths round differently, the texts can part in the long tail of a
    // distribution over 49152 tokens: without it.
    let sampling = if engine.is_batch_invariant() { whole } else { cut };
    let header = TraceHeader { depth: engine.max_depth(), ..sampled(&engine, 16, sampling) };
    let record = |seed| {
        record_sequence(&engine, &header, (3, seed), &prompt, 8, &Interrupt::default()).expect("a recording")
    };
    let sequences = vec![record(1), record(2)];
    assert_ne!(sequences[0].tokens, sequences[1].tokens);
    let trace = Trace::new(header, sequences);
    assert_plain(&engine, &trace);
    assert_exact(&engine, &trace, &mut Static { depth: 4, size: 30 });
    assert_exact(&engine, &trace, &mut rule(1, 5));
}

#[test]
fn a_recording_goes_on_per_prompt_and_seed() {
    let engine = engine();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let header = sampled(&engine, 12, settings()[1]);
    let complete = record_seeds(&engine, folders[0].path(), &header, &SEEDS);
    let folder = folders[1].path();
    record_seeds(&engine, folder, &header, &SEEDS[..1]);
    let shard = folder.join("shard-00000.bin");
    let bytes = std::fs::read(&shard).expect("a shard");
    std::fs::write(&shard, &bytes[..bytes.len() - 7]).expect("cut off");
    // Seeds may come later.
    assert_eq!(record_seeds(&engine, folder, &header, &SEEDS), complete);
    assert_eq!(Trace::read(folder).expect("it is read"), complete);

    let greedy = crate::trace::header(&engine, 12);
    for (other, problem) in [
        (&greedy, "sampling is temperature 1, top-p 0.9, not greedy: choose another folder"),
        (&sampled(&engine, 12, settings()[0]), "sampling is temperature 1, top-p 0.9, not temperature 1:"),
    ] {
        let refused = TraceWriter::open(folder, other.clone()).err().expect("others").to_string();
        assert!(refused.contains(problem), "{refused}");
    }
    let twice = std::fs::read(&shard).expect("a shard");
    std::fs::write(&shard, [&twice[..], &twice[..]].concat()).expect("written");
    let error = Trace::read(folder).expect_err("twice").to_string();
    assert!(error.contains("prompt 0 was recorded twice with seed 1"), "{error}");
}

#[test]
fn traces_of_several_seeds_merge() {
    let engine = engine();
    let folders = [(); 4].map(|()| tempfile::tempdir().expect("a folder"));
    let header = sampled(&engine, 12, settings()[0]);
    let complete = record_seeds(&engine, folders[0].path(), &header, &SEEDS);
    let first = record_seeds(&engine, folders[1].path(), &header, &SEEDS[..1]);
    let mut writer = TraceWriter::open(folders[2].path(), header).expect("a trace");
    assert_eq!(writer.merge(&first, folders[1].path()).expect("merged"), 3);
    assert_eq!(writer.merge(&complete, folders[0].path()).expect("merged"), 6);
    assert_eq!(Trace::read(folders[2].path()).expect("it is read"), complete);
    let greedy = record_as(&engine, folders[3].path(), &crate::trace::header(&engine, 12));
    let refused = writer.merge(&greedy, folders[3].path()).expect_err("another sampling").to_string();
    let expected = format!("{}: is a trace whose sampling is greedy, that of ", folders[3].path().display());
    assert!(refused.contains(&expected) && refused.ends_with(" is temperature 1"), "{refused}");
}

#[test]
fn what_has_no_effect_makes_no_difference() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let greedy = record_as(&engine, folder.path(), &header(&engine, 8));
    let cold = SamplingParams { temperature: 0.0, top_p: 0.5, top_k: Some(3) };
    assert_eq!(record_as(&engine, folder.path(), &sampled(&engine, 8, cold)), greedy);
}
