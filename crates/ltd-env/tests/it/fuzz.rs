//! Mutated traces are refused or read, and what is read can be replayed.

use std::path::Path;

use ltd_engine::{Copying, Static};
use ltd_env::Interrupt;
use ltd_env::trace::Trace;
use ltd_fuzz::{Form, folder, fuzz};
use ltd_policy::{Calibration, CopyRule};

use crate::live::engine;
use crate::replay::costs;
use crate::trace::{header, record_as};

#[global_allocator]
static METER: ltd_fuzz::Meter = ltd_fuzz::Meter;

const MAGIC: &[u8; 4] = b"LTDT";

/// Records a short trace with all columns: the header's bytes, and those of the sequences without
/// what frames them.
fn recorded(folder: &Path, temperature: f64) -> (Vec<u8>, Vec<Vec<u8>>) {
    let engine = engine();
    let mut header = header(&engine, 4);
    header.sampling.temperature = temperature;
    let hidden = Some(engine.draft_config().block.hidden as usize);
    (header.entropies, header.hidden, header.states) = (true, hidden, hidden);
    record_as(&engine, folder, &header);
    let shard = std::fs::read(folder.join("shard-00000.bin")).expect("a shard");
    let (mut rest, mut payloads) = (&shard[..], Vec::new());
    while let Some((prefix, chunks)) = rest.split_at_checked(12) {
        let length = u32::from_le_bytes(prefix[4..8].try_into().expect("four bytes")) as usize;
        let (payload, others) = chunks.split_at(length);
        payloads.push(payload.to_vec());
        rest = others;
    }
    (std::fs::read(folder.join("trace.json")).expect("a header"), payloads)
}

/// A chunk whose length and checksum are those of its payload.
fn framed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    [&MAGIC[..], &length, &crc32fast::hash(payload).to_le_bytes(), payload].concat()
}

/// Reads a trace and looks at every position as a replay does.
fn read(folder: &Path) {
    let Ok(trace) = Trace::read(folder) else { return };
    let header = &trace.header;
    for sequence in trace.sequences() {
        let Ok(sequence) = sequence else { return };
        for number in 0..sequence.len() {
            let position = sequence.position(number);
            for depth in 0..=header.depth {
                let size = header.verified(40, depth, position.context_length);
                assert!(position.accepted(depth, size) <= depth + 1);
            }
            let mut scores = vec![0.0; header.scores_per_position()];
            position.write_scores(0, &mut scores);
        }
    }
    trace.identity().expect("checksums of its chunks");
    if header.every == 1 && trace.outlines().all(|sequence| !sequence.is_empty()) {
        let rule = CopyRule { match_length: 1, chain: 4 };
        let trees = Static { depth: 1, size: 6 };
        let mut merging = Copying { rule, merged: Some(Calibration::default()), trees };
        _ = ltd_env::calibrate(&trace, &Interrupt::default());
        _ = ltd_env::oracle::replay(&trace, &costs(), &mut merging, &mut |_| ());
    }
}

#[test]
fn headers_of_traces() {
    let folder = folder();
    let (header, payloads) = recorded(folder.path(), 0.0);
    std::fs::write(folder.path().join("shard-00000.bin"), framed(&payloads[0])).expect("written");
    let changed = |to: &str| String::from_utf8_lossy(&header).replacen("\"version\": 3", to, 1).into_bytes();
    let older = changed("\"version\": 1");
    let sampled = changed("\"version\": 4, \"sampling\": { \"temperature\": 1.0 }");
    fuzz(Form::Json, &[header.clone(), older, sampled], |bytes| {
        std::fs::write(folder.path().join("trace.json"), bytes).expect("written");
        read(folder.path());
    });
}

#[test]
fn chunks_of_traces() {
    let folder = folder();
    // With the seed, which greedy ones lack.
    let (_, payloads) = recorded(folder.path(), 1.0);
    let shard = folder.path().join("shard-00000.bin");
    // With a checksum that is right, and one that the mutation may have spoilt.
    fuzz(Form::Bytes, &payloads[..2], |bytes| {
        std::fs::write(&shard, framed(bytes)).expect("written");
        read(folder.path());
    });
    let shards: Vec<Vec<u8>> = payloads[..2].iter().map(|payload| framed(payload)).collect();
    fuzz(Form::Bytes, &shards, |bytes| {
        std::fs::write(&shard, bytes).expect("written");
        read(folder.path());
    });
}
