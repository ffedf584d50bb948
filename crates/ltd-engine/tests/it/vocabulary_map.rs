//! Heads whose vocabulary maps contradict themselves, each other or the vocabularies are refused,
//! in every layout.

use std::path::{Path, PathBuf};

use ltd_engine::{DtypeSetting, Engine, EngineConfig};
use safetensors::Dtype;

use crate::bad_input::{assert_names, refusal};
use crate::fixtures::{Stored, Tensors, load, rewrite_tensors, workspace};

fn fixture(path: &str) -> PathBuf {
    workspace().join("tests/fixtures").join(path)
}

/// A copy of a head, for the target `families/vicuna`, with other index tensors. In bf16: what is
/// read through the model's type does not survive.
struct Head {
    folder: tempfile::TempDir,
}

impl Head {
    fn new(layout: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in fixture(layout).read_dir().expect("the fixture") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, folder.path().join(path.file_name().expect("a file"))).expect("a copy");
        }
        Self { folder }
    }

    fn change(&self, change: impl FnOnce(&mut Tensors)) -> &Self {
        rewrite_tensors(&self.folder.path().join("model.safetensors"), change);
        self
    }

    fn config(&self) -> EngineConfig {
        let target = fixture("families/vicuna");
        EngineConfig { dtype: DtypeSetting::Bf16, ..EngineConfig::new(target, self.folder.path()) }
    }

    fn refused(&self, parts: &[&str]) {
        assert_names(&refusal(&self.config()), &[&["model.safetensors: tensor "], parts].concat());
    }
}

/// Whole numbers as a tensor of some type.
fn stored(dtype: Dtype, values: &[i64]) -> Stored {
    let bytes = values.iter().flat_map(|&value| match dtype {
        Dtype::I64 => value.to_le_bytes().to_vec(),
        Dtype::I32 => (value as i32).to_le_bytes().to_vec(),
        Dtype::I16 => (value as i16).to_le_bytes().to_vec(),
        Dtype::I8 => (value as i8).to_le_bytes().to_vec(),
        Dtype::U8 | Dtype::BOOL => vec![value as u8],
        Dtype::F64 => (value as f64).to_le_bytes().to_vec(),
        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
        other => panic!("{other:?}"),
    });
    (dtype, vec![values.len()], bytes.collect())
}

fn int64(values: &[i64]) -> Stored {
    stored(Dtype::I64, values)
}

fn f32s(values: &[f32]) -> Stored {
    (Dtype::F32, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn bytes(dtype: Dtype, values: &[u8]) -> Stored {
    (dtype, vec![values.len()], values.to_vec())
}

fn offsets(tensors: &Tensors) -> Vec<i64> {
    let words = tensors["d2t"].2.chunks_exact(8);
    words.map(|word| i64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// `speculators` has 64 of 128 tokens and both maps.
const MAPPED: &str = "heads/speculators";

/// Roots and trees of a few cycles.
fn decode(engine: &Engine) -> Vec<u32> {
    let mut session = engine.prefill(&[5, 6, 7], None).expect("prefill");
    let mut found = Vec::new();
    for _ in 0..4 {
        let cycle = engine.begin_cycle(&mut session, usize::MAX).expect("a cycle");
        found.extend_from_slice(cycle.tree().tokens());
        engine.verify(&mut session, cycle, 8).expect("verified");
    }
    found
}

#[test]
fn index_tensors_of_any_type_are_read_exactly() {
    let expected = decode(&load(&Head::new(MAPPED).config()));
    for (map, marks) in [
        (Dtype::F64, Dtype::F64),
        (Dtype::F32, Dtype::F32),
        (Dtype::I32, Dtype::I32),
        (Dtype::I16, Dtype::I16),
        (Dtype::I8, Dtype::I8),
        (Dtype::I64, Dtype::U8),
    ] {
        let head = Head::new(MAPPED);
        head.change(|tensors| {
            let values = offsets(tensors);
            tensors.insert("d2t".to_owned(), stored(map, &values));
            let flags: Vec<i64> = tensors["t2d"].2.iter().map(|&flag| flag.into()).collect();
            tensors.insert("t2d".to_owned(), stored(marks, &flags));
        });
        assert_eq!(decode(&load(&head.config())), expected, "{map:?}");
    }
    let without_marks = Head::new(MAPPED);
    without_marks.change(|tensors| _ = tensors.remove("t2d"));
    assert_eq!(decode(&load(&without_marks.config())), expected);
}

#[test]
fn indices_that_their_type_cannot_hold_are_refused() {
    let head = Head::new(MAPPED);
    head.change(|tensors| {
        tensors.insert("d2t".to_owned(), f32s(&[[0.0; 63].as_slice(), &[0.5]].concat()));
    });
    head.refused(&["d2t: entry 63 is 0.5, expected a whole number"]);
    head.change(|tensors| _ = tensors.insert("d2t".to_owned(), f32s(&[f32::NAN; 64])));
    head.refused(&["d2t: entry 0 is NaN, expected a whole number"]);
    // 1913 is no number of bf16: what is there in its place may be anybody's.
    head.change(|tensors| {
        let rounded = [0_u8, 0].repeat(63).into_iter().chain([0xf0, 0x44]).collect();
        tensors.insert("d2t".to_owned(), (Dtype::BF16, vec![64], rounded));
    });
    head.refused(&[
        "d2t: entry 63 is 1920, but BFloat16 tells whole numbers apart only up to 256: expected int64",
    ]);
    head.change(|tensors| _ = tensors.insert("d2t".to_owned(), (Dtype::U32, vec![64], vec![0; 256])));
    head.refused(&["d2t: has type U32, expected int64 or another type of whole numbers"]);
    head.change(|tensors| _ = tensors.insert("d2t".to_owned(), int64(&[0; 63])));
    head.refused(&["d2t has shape [63], expected [64]"]);
}

#[test]
fn maps_that_contradict_themselves_are_refused_with_the_first_entry_at_fault() {
    let with = |change: &dyn Fn(&mut Vec<i64>)| {
        let head = Head::new(MAPPED);
        head.change(|tensors| {
            let mut values = offsets(tensors);
            change(&mut values);
            tensors.insert("d2t".to_owned(), int64(&values));
        });
        head
    };
    with(&|values| values[9] = 1000)
        .refused(&["d2t: maps draft token 9 to 1009, outside the target's vocabulary of 128"]);
    with(&|values| values[9] = i64::MAX)
        .refused(&["d2t: maps draft token 9 to 9223372036854775807, outside"]);
    with(&|values| values[0] = -1).refused(&["d2t: maps draft token 0 to -1, outside"]);
    with(&|values| values[9] = values[8] - 1)
        .refused(&["d2t: maps draft tokens 8 and 9 to the same token, "]);
    with(&|values| values.fill(0)).refused(&["t2d: "]);
    // Another token than `t2d` has.
    with(&|values| values[63] = if values[63] == 64 { 63 } else { 64 }).refused(&["tensor "]);
    let ids = with(&|values| {
        for (draft_id, value) in (0..).zip(values.iter_mut()) {
            *value += draft_id;
        }
    });
    ids.refused(&["; d2t seems to hold target tokens, expected offsets: target token - draft token"]);

    let zeros = with(&|values| values.fill(0));
    zeros.change(|tensors| _ = tensors.remove("t2d"));
    zeros.refused(&["d2t: is all zeros: no map (of the first 64 tokens, t2d would mark these)"]);
    // The first tokens, and marked as such.
    let marks: Vec<u8> = (0..128).map(|token| u8::from(token < 64)).collect();
    zeros.change(|tensors| _ = tensors.insert("t2d".to_owned(), bytes(Dtype::BOOL, &marks)));
    load(&zeros.config());
}

#[test]
fn marks_of_other_tokens_than_the_map_reaches_are_refused() {
    let marked = |change: &dyn Fn(&mut Vec<u8>, &[i64])| {
        let head = Head::new(MAPPED);
        head.change(|tensors| {
            let targets: Vec<i64> =
                (0..).zip(offsets(tensors)).map(|(draft, offset)| draft + offset).collect();
            let mut marks = tensors["t2d"].2.clone();
            change(&mut marks, &targets);
            tensors.insert("t2d".to_owned(), bytes(Dtype::U8, &marks));
        });
        head
    };
    marked(&|marks, targets| marks[targets[3] as usize] = 0)
        .refused(&["t2d: does not mark token ", "draft token 3"]);
    marked(&|marks, targets| {
        let free = (0..128).find(|token| !targets.contains(token)).expect("a token without a draft token");
        marks[free as usize] = 1;
    })
    .refused(&["t2d: marks token ", ", to which d2t maps no draft token"]);
    marked(&|marks, _| marks.fill(0)).refused(&["t2d: does not mark token ", "(and so for 63 more)"]);
    marked(&|marks, _| marks[100] = 7).refused(&["t2d: entry 100 is 7, expected 0 or 1"]);
    marked(&|marks, _| marks.truncate(100)).refused(&["t2d has shape [100], expected [128]"]);
}

#[test]
fn a_head_with_the_full_vocabulary_needs_no_map_but_no_contradiction_either() {
    // It has both, with nothing left out.
    let head = Head::new("heads/angelslim");
    load(&head.config());
    head.change(|tensors| tensors.get_mut("t2d").expect("marks").2[5] = 0);
    head.refused(&["t2d: does not mark token 5, to which d2t maps draft token 5"]);
    // As EAGLE's own code leaves them, which does not read them then.
    head.change(|tensors| tensors.get_mut("t2d").expect("marks").2.fill(0));
    load(&head.config());
    head.change(|tensors| tensors.retain(|name, _| name != "d2t"));
    load(&head.config());
    head.change(|tensors| tensors.retain(|name, _| name != "t2d"));
    load(&head.config());
    // Neither is it one.
    let head = Head::new("heads/specforge");
    load(&head.config());
    head.change(|tensors| _ = tensors.insert("d2t".to_owned(), int64(&[1; 128])));
    head.refused(&["d2t: maps draft token 127 to 128, outside the target's vocabulary of 128"]);
}

#[test]
fn maps_in_pickles_are_checked_too() {
    let head = Head::new("heads/official");
    load(&head.config());
    // Of 128 marks the first one set is cleared: the record's bytes stand as they are in the
    // archive.
    let path = head.folder.path().join("pytorch_model.bin");
    let archive = std::fs::read(&path).expect("the archive");
    let is_mark = |byte: &u8| *byte <= 1;
    let run = archive.windows(128).position(|bytes| {
        bytes.iter().all(is_mark) && bytes.iter().map(|&byte| usize::from(byte)).sum::<usize>() == 64
    });
    let start = run.expect("the marks");
    let mut changed = archive.clone();
    let first = start + changed[start..].iter().position(|&byte| byte == 1).expect("a mark");
    changed[first] = 0;
    write(&path, &changed);
    let message = refusal(&head.config());
    assert_names(&message, &["pytorch_model.bin: tensor t2d: does not mark token "]);
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn weights_of_a_type_that_no_weight_has_are_refused() {
    for (name, dtype) in
        [("norm.weight", Dtype::I64), ("fc.weight", Dtype::I32), ("lm_head.weight", Dtype::BOOL)]
    {
        let head = Head::new(MAPPED);
        head.change(|tensors| {
            let (old, _, bytes) = tensors.get_mut(name).expect("a weight");
            let count = bytes.len() * 8 / old.bitsize();
            (*old, *bytes) = (dtype, vec![0; count * dtype.bitsize() / 8]);
        });
        let found = format!("{name} has type {dtype:?}, expected F32, BF16 or F16");
        head.refused(&[&found]);
    }
}
