//! Generation ends at every stop token that a family's files name, inside an accepted path too.
//!
//! A family's vocabulary and stop tokens on a tiny pair: the vocabulary is padded, and tokens that
//! the pair says in the middle of an accepted path change places with the stop tokens. Everything
//! else it says is the same.

use std::path::{Path, PathBuf};

use ltd_engine::text::TextModel;
use ltd_engine::{Engine, EngineConfig, Sampler, SamplingParams, Static, StopReason, StopRule};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::fixtures::{default_config, load, tiny_configs, workspace};
use crate::lossless::decode;

fn tree() -> Static {
    Static { depth: 6, size: 40 }
}

/// Tokens of the tiny pairs.
const TINY_TOKENS: usize = 260;
/// Stop tokens of the family that has the most.
const MOST_STOPS: usize = 3;

/// A path of which a tiny pair accepts more than the token at `place`, in the first cycle after
/// `prompt`.
#[derive(Debug, Clone)]
struct AcceptedPath {
    prompt: Vec<u32>,
    /// The root first.
    tokens: Vec<u32>,
    place: usize,
}

impl AcceptedPath {
    fn stop(&self) -> u32 {
        self.tokens[self.place]
    }

    /// What comes before.
    fn before(&self) -> &[u32] {
        &self.tokens[..self.place]
    }
}

/// Paths with different tokens at their places, none of which comes before another's place.
fn accepted_paths(tiny: &EngineConfig) -> Vec<AcceptedPath> {
    let engine = load(tiny);
    let prompt: Vec<u32> = "Once upon a time".bytes().map(|byte| u32::from(byte) + 4).collect();
    let mut session = engine.prefill(&prompt, None).expect("prefill");
    let mut paths: Vec<AcceptedPath> = Vec::new();
    while paths.len() < MOST_STOPS && session.context_length() < 400 {
        let prompt = session.tokens().to_vec();
        let tokens = engine.run_cycle(&mut session, &mut tree()).expect("a cycle").accepted_ids;
        // Neither the root nor the last.
        let found = (1..tokens.len().saturating_sub(1))
            .map(|place| AcceptedPath { prompt: prompt.clone(), tokens: tokens.clone(), place })
            .find(|path| {
                !path.before().contains(&path.stop())
                    && paths.iter().all(|other| {
                        let (stop, others) = (path.stop(), other.stop());
                        stop != others && !path.before().contains(&others) && !other.before().contains(&stop)
                    })
            });
        paths.extend(found);
    }
    assert_eq!(paths.len(), MOST_STOPS, "{paths:?}");
    paths
}

/// Tokens of a tiny pair as tokens of a family.
struct Names(Vec<u32>);

impl Names {
    /// The first tokens of `stops` change places with the tiny pair's `tokens`.
    fn new(tokens: &[u32], stops: &[u32]) -> Self {
        let mut names: Vec<u32> = (0..TINY_TOKENS as u32).collect();
        for (&token, &stop) in tokens.iter().zip(stops) {
            if let Some(place) = names.iter().position(|&name| name == stop) {
                names[place] = names[token as usize];
            }
            names[token as usize] = stop;
        }
        Self(names)
    }

    fn of(&self, tokens: &[u32]) -> Vec<u32> {
        tokens.iter().map(|&token| self.0[token as usize]).collect()
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// A tiny pair with a family's vocabulary and `generation_config.json`.
fn renamed_pair(tiny: &EngineConfig, folder: &Path, family: &Path, names: &Names) -> EngineConfig {
    let vocabulary =
        read_json(&family.join("config.json"))["vocab_size"].as_u64().expect("a number") as usize;
    for (model, source) in [("target", &tiny.target), ("draft", &tiny.draft)] {
        let copy = folder.join(model);
        std::fs::create_dir(&copy).expect("a folder");
        let mut config = read_json(&source.join("config.json"));
        config["vocab_size"] = json!(vocabulary);
        // What counts is all that is named: here, what the other file names.
        config["eos_token_id"] = json!(null);
        std::fs::write(copy.join("config.json"), config.to_string()).expect("written");
        let bytes = std::fs::read(source.join("model.safetensors")).expect("weights");
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
            .iter()
            .filter(|(name, _)| *name != "t2d")
            .map(|(name, view)| match (model, name) {
                ("target", "model.embed_tokens.weight" | "lm_head.weight") => {
                    let shape = vec![vocabulary, view.shape()[1]];
                    (name.to_owned(), view.dtype(), shape, spread(view.data(), vocabulary, names))
                }
                ("draft", "d2t") => {
                    (name.to_owned(), view.dtype(), view.shape().to_vec(), renamed(view.data(), names))
                }
                _ => (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()),
            })
            .collect();
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
        });
        let bytes = safetensors::serialize(views, None).expect("a file");
        std::fs::write(copy.join("model.safetensors"), bytes).expect("written");
    }
    let generation = "generation_config.json";
    std::fs::copy(family.join(generation), folder.join("target").join(generation)).expect("a copy");
    EngineConfig { target: folder.join("target"), draft: folder.join("draft"), ..tiny.clone() }
}

/// The rows of a matrix at their tokens' new places; the others are zeros.
fn spread(rows: &[u8], vocabulary: usize, names: &Names) -> Vec<u8> {
    let width = rows.len() / TINY_TOKENS;
    let mut spread = vec![0; vocabulary * width];
    for (row, &name) in rows.chunks_exact(width).zip(&names.0) {
        spread[name as usize * width..][..width].copy_from_slice(row);
    }
    spread
}

/// Offsets from draft to target tokens.
fn renamed(offsets: &[u8], names: &Names) -> Vec<u8> {
    let offsets = offsets.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
    let offsets =
        offsets.zip(0i64..).map(|(offset, draft)| i64::from(names.0[(draft + offset) as usize]) - draft);
    offsets.flat_map(i64::to_le_bytes).collect()
}

/// Decodes plainly and with trees, greedily and with a sampler that has no choice.
fn decode_in_all_modes(engine: &Engine, prompt: &[u32], stop: &StopRule) -> Vec<(Vec<u32>, StopReason)> {
    let certain = SamplingParams { temperature: 1.0, top_k: Some(1), ..SamplingParams::default() };
    let certain = Sampler::new(certain, 3).expect("a sampler");
    let mut answers = Vec::new();
    for sampler in [Sampler::greedy(), certain] {
        answers.push(decode(engine, prompt, &sampler, stop, None));
        answers.push(decode(engine, prompt, &sampler, stop, Some(&mut tree())));
        answers.push(decode(engine, prompt, &sampler, stop, Some(&mut Static { depth: 1, size: 2 })));
    }
    answers
}

#[test]
fn generation_ends_at_every_stop_token_of_every_family() {
    for (pair, config) in tiny_configs() {
        assert_ends_at_every_stop_token(pair, &config);
    }
}

fn assert_ends_at_every_stop_token(pair: &str, tiny: &EngineConfig) {
    let configs = workspace().join("tests/fixtures/families/configs");
    let published = |name: &str| configs.join(name).join("target");
    let families: [(PathBuf, &[u32]); 6] = [
        (published("llama-3.1-8b"), &[128_001, 128_008, 128_009]),
        (published("vicuna-13b"), &[2]),
        (published("deepseek-r1-distill-llama-8b"), &[128_001]),
        (published("qwen3-14b"), &[151_645, 151_643]),
        (published("qwen3-32b"), &[151_645, 151_643]),
        (default_config().target, &[2]),
    ];
    let paths = accepted_paths(tiny);
    let tokens: Vec<u32> = paths.iter().map(AcceptedPath::stop).collect();
    for (family, stops) in families {
        let family_name = format!("{pair}, {}", family.display());
        let names = Names::new(&tokens, stops);
        let folder = tempfile::tempdir().expect("a folder");
        let config = renamed_pair(tiny, folder.path(), &family, &names);
        let text = TextModel::load(&config.target).expect("a text model");
        assert_eq!(text.eos(), stops, "{family_name}");
        let engine = load(&config);
        let stop = StopRule { max_new_tokens: 30, eos: text.eos().to_vec() };
        for (path, &token) in paths.iter().zip(stops) {
            let prompt = names.of(&path.prompt);
            // The cycle itself goes beyond the stop token ...
            let mut session = engine.prefill(&prompt, None).expect("prefill");
            let outcome = engine.run_cycle(&mut session, &mut tree()).expect("a cycle");
            assert_eq!(outcome.accepted_ids, names.of(&path.tokens), "{family_name}, {token}");
            assert_eq!(outcome.accepted_ids[path.place], token);
            assert!(outcome.acceptance_length() > path.place + 1);
            // ... and the answer does not.
            let expected = names.of(&path.tokens[..=path.place]);
            for (answer, reason) in decode_in_all_modes(&engine, &prompt, &stop) {
                assert_eq!(
                    (&answer, reason),
                    (&expected, StopReason::EndOfSequence),
                    "{family_name}, {token}"
                );
                assert_eq!(text.decode(&answer).expect("text"), text.decode(&expected).expect("text"));
            }
            // Without the stop token it would have gone on.
            let others = stops.iter().copied().filter(|&other| other != token).collect();
            let endless = StopRule { max_new_tokens: expected.len() + 1, eos: others };
            for (answer, _) in decode_in_all_modes(&engine, &prompt, &endless) {
                assert_eq!((answer.len(), &answer[..expected.len()]), (expected.len() + 1, &expected[..]));
            }
        }
    }
}
