//! A configuration that trains on the tiny pair in seconds.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Twelve short questions in token ids (bytes + 4).
pub(crate) fn questions(folder: &Path) -> PathBuf {
    let path = folder.join("questions.jsonl");
    let texts = [
        "The cat sat",
        "Once upon a time",
        "In the beginning",
        "def add(a, b):",
        "To be or not",
        "It was a dark",
        "Call me",
        "The quick brown",
        "A long time ago",
        "for i in range",
        "All happy families",
        "Two roads",
    ];
    let lines = texts.iter().enumerate().map(|(id, text)| {
        let ids: Vec<u32> = text.bytes().map(|byte| u32::from(byte) + 4).collect();
        json!({ "question_id": id, "token_ids": ids }).to_string() + "\n"
    });
    std::fs::write(&path, lines.collect::<String>()).expect("written");
    path
}

/// Both policies and one round, with rewards that do not depend on the clock.
pub(crate) fn config(folder: &Path) -> Value {
    let pair = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-pair");
    let file = questions(folder);
    json!({
        "preset": "quick",
        "engine": {
            "target": pair.join("target"), "draft": pair.join("draft"), "dtype": "f32",
            "max_depth": 6, "max_length": 128
        },
        "prompts": {
            "train": { "file": file, "take": 8 },
            "validation": { "file": file, "skip": 8, "take": 2 },
            "evaluation": { "file": file, "skip": 10 }
        },
        "max_new_tokens": 24,
        "reward": "acceptance",
        "depth": { "actions": { "max_depth": 5 } },
        "stages": {
            "size": { "total_timesteps": 256, "random_depth": { "min": 0, "max": 4 } },
            "depth": { "total_timesteps": 256 },
            "rounds": 1,
            "round": [{ "train": "size", "total_timesteps": 128 }, { "train": "depth", "total_timesteps": 128 }],
            "candidates": 1
        },
        "evaluation": {
            "max_new_tokens": 16, "default": { "depth": 4, "size": 20 },
            "grid": { "depths": [0, 2], "sizes": [4, 16] }
        }
    })
}
