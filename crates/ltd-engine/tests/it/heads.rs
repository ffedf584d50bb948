//! Heads in the layouts in which they are published, and checkpoints in pickles
//! (`scripts/fixtures/heads.py`).

use std::path::{Path, PathBuf};

use ltd_engine::{DtypeSetting, Engine, EngineConfig, Static};

use crate::fixtures::{load, workspace};

fn fixture(path: &str) -> PathBuf {
    workspace().join("tests/fixtures").join(path)
}

fn config(target: &Path, draft: &Path) -> EngineConfig {
    EngineConfig { dtype: DtypeSetting::F32, ..EngineConfig::new(target, draft) }
}

fn refusal(target: &Path, draft: &Path) -> String {
    let error = Engine::load(&config(target, draft)).err().expect("it is refused");
    assert!(error.is_usage(), "{error}");
    error.to_string()
}

/// Some tokens after a prompt, plainly and with draft trees.
fn decode(engine: &Engine) -> [Vec<u32>; 2] {
    let mut plain = engine.prefill(&[5, 6, 7], None).expect("prefill");
    let mut drafted = engine.prefill(&[5, 6, 7], None).expect("prefill");
    while drafted.tokens().len() < 40 {
        engine.run_cycle(&mut drafted, &mut Static { depth: 3, size: 20 }).expect("a cycle");
    }
    while plain.tokens().len() < drafted.tokens().len() {
        engine.autoregressive_step(&mut plain).expect("a step");
    }
    [plain, drafted].map(|session| session.tokens().to_vec())
}

/// A folder with copies of another's files but one.
fn copy_without(folder: &Path, left_out: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in folder.read_dir().expect("the fixture") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a file");
        if name != left_out {
            std::fs::copy(&path, copy.path().join(name)).expect("a copy");
        }
    }
    copy
}

#[test]
fn heads_in_every_layout_draft_losslessly() {
    let target = fixture("families/vicuna");
    for layout in ["official", "specforge", "angelslim", "speculators"] {
        let [plain, drafted] = decode(&load(&config(&target, &fixture("heads").join(layout))));
        assert_eq!(drafted, plain, "{layout}");
    }
}

#[test]
fn a_head_of_another_width_needs_its_own_embedding() {
    let target = fixture("families/vicuna");
    let folder = fixture("heads/angelslim");
    let copy = copy_without(&folder, "model.safetensors");
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
    let weights = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let kept = weights.iter().filter(|(name, _)| *name != "embed_tokens.weight");
    let written = safetensors::serialize(kept, None).expect("a file");
    std::fs::write(copy.path().join("model.safetensors"), written).expect("written");
    let message = refusal(&target, copy.path());
    assert!(message.ends_with("missing tensors: embed_tokens.weight"), "{message}");
}

#[test]
fn a_target_in_pickled_shards_decodes_as_from_safetensors() {
    let draft = fixture("heads/official");
    let pickled = fixture("heads/pickles/sharded-target");
    let found = decode(&load(&config(&pickled, &draft)));
    assert_eq!(found, decode(&load(&config(&fixture("families/qwen2"), &draft))));

    let shard = "pytorch_model-00002-of-00002.bin";
    let copy = copy_without(&pickled, shard);
    let message = refusal(copy.path(), &draft);
    assert!(
        message
            .ends_with(&format!("pytorch_model.bin.index.json: names {shard}, which is not in the folder")),
        "{message}"
    );
    let bytes = std::fs::read(pickled.join(shard)).expect("the shard");
    for end in [0, 2, 1000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(copy.path().join(shard), &bytes[..end]).expect("written");
        let message = refusal(copy.path(), &draft);
        assert!(
            message.contains(&format!("{shard}: not a checkpoint of tensors only: ")),
            "{end}: {message}"
        );
    }
}

#[test]
fn pickles_that_hold_anything_but_tensors_are_refused_and_nothing_in_them_runs() {
    let target = fixture("families/vicuna");
    for (pickle, problem) in [
        ("command.bin", "posix.system"),
        ("object.bin", "pathlib.PosixPath"),
        ("legacy.bin", "no zip archive, as torch.save writes since PyTorch 1.6"),
    ] {
        let copy = copy_without(&fixture("heads/official"), "pytorch_model.bin");
        std::fs::copy(fixture("heads/pickles").join(pickle), copy.path().join("pytorch_model.bin"))
            .expect("a copy");
        let message = refusal(&target, copy.path());
        assert!(message.contains("pytorch_model.bin: not a checkpoint of tensors only: "), "{message}");
        assert!(message.contains(problem), "{message}");
    }
    // What the command in `command.bin` would have made in the working folder.
    assert!(!Path::new("executed-by-a-pickle").exists());
}
