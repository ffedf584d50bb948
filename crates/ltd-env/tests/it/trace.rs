//! Traces on disk.

use std::path::Path;
use std::sync::Arc;

use ltd_cycle::{DraftTree, GrownTree};
use ltd_engine::{Copying, Engine, Static, fingerprint};
use ltd_env::trace::{TRACE_VERSION, Trace, TraceHeader, TraceWriter, TracedSequence, record_sequence};
use ltd_env::{Error, Interrupt, ReplayCycles};
use ltd_policy::{Calibration, CopyRule, SamplingParams, sha256_hex};

use crate::live::{engine, prompts};
use crate::replay::{DEPTH, costs};

pub(crate) fn header(engine: &Engine, max_new_tokens: usize) -> TraceHeader {
    let pair = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-pair");
    TraceHeader {
        version: TRACE_VERSION,
        target: fingerprint(&pair.join("target")).expect("a fingerprint"),
        draft: fingerprint(&pair.join("draft")).expect("a fingerprint"),
        dtype: "f32".into(),
        beam_width: engine.beam_width(),
        depth: DEPTH,
        every: 1,
        entropies: false,
        hidden: None,
        states: None,
        token_bytes: TraceHeader::bytes_of_token(engine.vocabulary()),
        sampling: SamplingParams::default(),
        max_new_tokens,
        capacity: engine.capacity(),
        eos: vec![2],
        questions: "prompts.jsonl".into(),
        questions_sha256: String::new(),
    }
}

/// All sequences of a trace.
pub(crate) fn whole(trace: &Trace) -> Vec<Arc<TracedSequence>> {
    trace.sequences().collect::<Result<_, _>>().expect("it is read")
}

fn identity(trace: &Trace) -> String {
    trace.identity().expect("it is read")
}

pub(crate) fn record(engine: &Engine, folder: &Path, max_new_tokens: usize) -> Trace {
    record_as(engine, folder, &header(engine, max_new_tokens))
}

pub(crate) fn record_as(engine: &Engine, folder: &Path, header: &TraceHeader) -> Trace {
    record_seeds(engine, folder, header, &[0])
}

/// Records each prompt once per seed.
pub(crate) fn record_seeds(engine: &Engine, folder: &Path, header: &TraceHeader, seeds: &[u64]) -> Trace {
    let mut writer = TraceWriter::open(folder, header.clone()).expect("a trace");
    let header = &writer.header().clone();
    for (number, prompt) in (0..).zip(prompts()) {
        for key in seeds.iter().map(|&seed| (number, seed)) {
            if !writer.recorded().contains(&key) {
                let sequence = record_sequence(engine, header, key, &prompt, 4, &Interrupt::default())
                    .expect("a recording");
                writer.append(&sequence).expect("it is written");
            }
        }
    }
    Trace::read(folder).expect("it is read")
}

#[test]
fn a_trace_has_one_writer_at_a_time() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let complete = record(&engine, folder.path(), 8);
    let shard = folder.path().join("shard-00000.bin");
    let writer = TraceWriter::open(folder.path(), complete.header.clone()).expect("a trace");

    // The other one is in the middle of a chunk: nobody else cuts it off.
    let bytes = std::fs::read(&shard).expect("a shard");
    std::fs::write(&shard, &bytes[..bytes.len() - 7]).expect("half a chunk");
    let refused = TraceWriter::open(folder.path(), complete.header.clone()).err().expect("it is in use");
    assert!(matches!(refused, Error::TraceInUse { .. }), "{refused}");
    assert_eq!(std::fs::read(&shard).expect("a shard"), bytes[..bytes.len() - 7]);
    std::fs::write(&shard, &bytes).expect("the other half");

    assert_eq!(Trace::read(folder.path()).expect("reading needs no lock"), complete);
    drop(writer);
    assert_eq!(record(&engine, folder.path(), 8), complete);
}

#[test]
fn an_interrupted_recording_goes_on_and_damage_is_named() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let complete = record(&engine, folder.path(), 8);
    let shard = folder.path().join("shard-00000.bin");
    let bytes = std::fs::read(&shard).expect("a shard");

    std::fs::write(&shard, &bytes[..bytes.len() - 7]).expect("cut off");
    let cut = Trace::read(folder.path()).expect("what is complete can be read");
    assert_eq!((cut.len(), cut.truncated), (complete.len() - 1, vec![shard.clone()]));
    assert_eq!(record(&engine, folder.path(), 8), complete);
    assert_eq!(std::fs::read(&shard).expect("a shard"), bytes);

    let error = |problem: &str| {
        let error = Trace::read(folder.path()).expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}");
    };
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    std::fs::write(&shard, &flipped).expect("a flipped bit");
    error("does not match its checksum");
    std::fs::write(&shard, [&bytes[..], b"garbage garbage"].concat()).expect("garbage");
    error("does not begin as one should");
    std::fs::write(&shard, [&bytes[..], &bytes[..]].concat()).expect("twice");
    error("was recorded twice");
    // A chunk that says it is longer than the file would take those behind it along.
    let mut longer = bytes.clone();
    longer[7] |= 0x40;
    std::fs::write(&shard, &longer).expect("a flipped bit");
    error("the chunk at byte 0 is not as long as it says: others follow");
    assert!(TraceWriter::open(folder.path(), complete.header.clone()).is_err());
    assert_eq!(std::fs::read(&shard).expect("a shard"), longer, "nothing is removed");
    // Nor is anything of a file before the last.
    std::fs::write(&shard, &bytes[..bytes.len() - 7]).expect("cut off");
    let next = folder.path().join("shard-00001.bin");
    std::fs::write(&next, []).expect("another file");
    let refused = TraceWriter::open(folder.path(), complete.header.clone()).err().expect("others follow");
    assert!(refused.to_string().contains("is cut off at byte"), "{refused}");
    std::fs::remove_file(&next).expect("removed");
    std::fs::write(&shard, &bytes).expect("as it was");

    let other = TraceHeader { beam_width: 4, ..header(&engine, 8) };
    let refused = TraceWriter::open(folder.path(), other).err().expect("another beam width").to_string();
    assert!(refused.contains("is a trace whose beam_width is 10, not 4"), "{refused}");
    let path = folder.path().join("trace.json");
    let text = std::fs::read_to_string(&path).expect("a header");
    std::fs::write(&path, text.replace("\"every\": 1", "\"every\": 0")).expect("written");
    error("every: is 0, must be within 1..=4294967295");
    std::fs::write(&path, text.replace("\"version\": 3", "\"version\": 9")).expect("written");
    error("has version 9, this program reads versions 1 to 5");
    let sampling = "\"sampling\": { \"temperature\": 1.0 }, \"depth\"";
    let sampled = text.replace("\"depth\"", sampling);
    std::fs::write(&path, &sampled).expect("written");
    error("has the field sampling, which is not of version 3");
    let hot = sampled.replace("\"version\": 3", "\"version\": 4").replace("1.0", "1e9");
    std::fs::write(&path, hot).expect("written");
    error("sampling.temperature: is 1000000000.0, must be 0 (greedy) or within");
    std::fs::write(&path, "{").expect("written");
    error("is not a header");
}

#[test]
fn traces_of_older_versions_are_read_and_gone_on_with() {
    let engine = engine();
    for (version, new) in [(1, &["every", "entropies", "hidden", "token_bytes"][..]), (2, &["token_bytes"])] {
        let folder = tempfile::tempdir().expect("a folder");
        let without = TraceHeader { token_bytes: 0, ..header(&engine, 8) };
        let complete = record_as(&engine, folder.path(), &without);
        let path = folder.path().join("trace.json");
        let text = std::fs::read_to_string(&path).expect("a header");
        let mut old: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&text).expect("an object");
        for new in new {
            assert!(old.remove(*new).is_some());
        }
        old["version"] = version.into();
        std::fs::write(&path, serde_json::Value::Object(old).to_string()).expect("written");
        let shard = folder.path().join("shard-00000.bin");
        let bytes = std::fs::read(&shard).expect("a shard");
        std::fs::write(&shard, &bytes[..bytes.len() - 7]).expect("cut off");
        // What it lacks, the rest of it lacks, too.
        assert_eq!(record(&engine, folder.path(), 8), complete);
        let read = Trace::read_replayable(folder.path()).expect("it is read");
        assert_eq!(identity(&read), identity(&complete));

        let error = ltd_env::calibrate(&read, &Interrupt::default()).expect_err("no tokens").to_string();
        assert!(error.contains("lacks the tokens of the candidates"), "{error}");
        let rule = CopyRule { match_length: 1, chain: 4 };
        let trees = Static { depth: 1, size: 4 };
        let mut merging = Copying { rule, merged: Some(Calibration::default()), trees };
        let replay = ltd_env::oracle::replay(&read, &costs(), &mut merging, &mut |_| ());
        assert!(matches!(replay, Err(ltd_env::Error::NoCandidates)));
    }
}

#[test]
fn gaps_and_columns_are_read_back_as_they_were_recorded() {
    let engine = engine();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let full = record(&engine, folders[0].path(), 12);
    let hidden = engine.draft_config().block.hidden as usize;
    let columns = TraceHeader { entropies: true, hidden: Some(hidden), ..header(&engine, 12) };
    let header = TraceHeader { every: 3, states: Some(hidden), ..columns };
    let sparse = record_as(&engine, folders[1].path(), &header);
    assert_eq!(sparse.header, header);
    for (sparse, full) in whole(&sparse).iter().zip(&whole(&full)) {
        assert_eq!((&sparse.tokens, sparse.len()), (&full.tokens, full.len().div_ceil(3)));
        for number in 0..sparse.len() {
            let (found, expected) = (sparse.position(number), full.position(number * 3));
            assert_eq!(found.context_length, expected.context_length);
            assert_eq!((found.entropies.len(), found.hidden.len()), (1 + DEPTH * 10, hidden));
            assert_eq!(found.states.len(), DEPTH * hidden);
            assert!(found.entropies.iter().all(|entropy| entropy.to_f32() > 0.0));
            assert!(found.hidden.iter().any(|number| number.to_f32() != 0.0));
            let states = found.states.chunks_exact(hidden);
            states.for_each(|state| assert!(state.iter().any(|number| number.to_f32() != 0.0)));
            assert!([expected.entropies, expected.hidden, expected.states].concat().is_empty());
            // Batches differ, and so does rounding.
            let scores = [found, expected].map(|position| {
                let mut scores = [0.0; 10];
                position.write_scores(0, &mut scores);
                scores
            });
            assert!(scores[0].iter().zip(scores[1]).all(|(a, b)| (a - b).abs() < 0.02), "{scores:?}");
        }
    }
    let refused = Trace::read_replayable(folders[1].path()).expect_err("gaps").to_string();
    assert!(refused.contains("has a tree at every 3 tokens only"), "{refused}");
    let refused = ReplayCycles::new(Arc::new(sparse), costs(), 1).err().expect("gaps").to_string();
    assert!(refused.contains("at every 3 tokens only"), "{refused}");
}

#[test]
fn the_identity_of_a_trace_is_that_of_its_content() {
    let engine = engine();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let trace = record(&engine, folders[0].path(), 8);
    // Greedy, it is what version 3 has on disk: its header, and the checksums of its chunks.
    let [mut known, shard] = ["trace.json", "shard-00000.bin"]
        .map(|file| std::fs::read(folders[0].path().join(file)).expect("a file"));
    let header = String::from_utf8_lossy(&known);
    assert!(header.contains("\"version\": 3,") && !header.contains("sampling"), "{header}");
    let mut rest = &shard[..];
    while let Some((prefix, chunks)) = rest.split_at_checked(12) {
        known.extend_from_slice(&prefix[8..]);
        let length = u32::from_le_bytes(prefix[4..8].try_into().expect("four bytes"));
        rest = &chunks[length as usize..];
    }
    assert_eq!(identity(&trace), sha256_hex(&known));
    assert_eq!(identity(&Trace::read(folders[0].path()).expect("it is read")), identity(&trace));
    // Sequences in another order on disk.
    let mut writer = TraceWriter::open(folders[1].path(), trace.header.clone()).expect("a trace");
    whole(&trace).iter().rev().for_each(|sequence| writer.append(sequence).expect("written"));
    assert_eq!(identity(&Trace::read(folders[1].path()).expect("it is read")), identity(&trace));
    assert_ne!(identity(&trace.part(1..trace.len())), identity(&trace));
    let mut sequences: Vec<TracedSequence> = whole(&trace).iter().map(|whole| (**whole).clone()).collect();
    assert_eq!(identity(&Trace::new(trace.header.clone(), sequences.clone())), identity(&trace));
    sequences[0].tokens[0] ^= 1;
    assert_ne!(identity(&Trace::new(trace.header.clone(), sequences)), identity(&trace));
    let mut other = trace.clone();
    other.header.dtype = "bf16".into();
    assert_ne!(identity(&other), identity(&trace));
}

#[test]
fn traces_of_disjoint_prompts_merge() {
    let engine = engine();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let complete = record(&engine, folders[0].path(), 8);
    let part = complete.part([0]);
    let mut writer = TraceWriter::open(folders[1].path(), complete.header.clone()).expect("a trace");
    assert_eq!(writer.merge(&part, folders[0].path()).expect("merged"), 1);
    assert_eq!(writer.merge(&complete, folders[0].path()).expect("merged"), complete.len() - 1);
    assert_eq!(Trace::read(folders[1].path()).expect("it is read"), complete);
    let mut other = complete;
    other.header.depth = 3;
    assert!(writer.merge(&other, folders[0].path()).is_err());
}

#[test]
fn a_file_that_is_full_stays_closed() {
    let engine = engine();
    let header = TraceHeader { beam_width: 255, depth: 0, ..header(&engine, 8) };
    let folder = tempfile::tempdir().expect("a folder");
    let long = |prompt: u32, positions: usize| {
        let mut sequence = TracedSequence::new(&header, prompt, 1, vec![7; positions + 2]);
        for root in 1..=positions {
            sequence.push(&GrownTree::new(root, DraftTree::new(&[-9.0; 255], vec![8; 255])));
        }
        sequence
    };
    let open = || TraceWriter::open(folder.path(), header.clone()).expect("a trace");
    open().append(&long(0, 31_000)).expect("written");
    let [first, second] = ["shard-00000.bin", "shard-00001.bin"].map(|name| folder.path().join(name));
    let length = first.metadata().expect("a file").len();
    assert!(length > 30 << 20, "{length} bytes");
    // As if killed before the next one was begun.
    std::fs::remove_file(&second).expect("it was begun");
    open().append(&long(1, 3)).expect("written");
    assert_eq!(first.metadata().expect("a file").len(), length);
    assert!(second.metadata().expect("a file").len() > 0);
}
