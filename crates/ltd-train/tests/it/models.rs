//! The committed configurations of published models: their shapes are built small, with random
//! weights, and decode.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ltd_engine::{DraftConfig, DtypeSetting, Engine, EngineConfig, Static, TargetConfig};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

const MODELS: [&str; 5] =
    ["llama-3.1-8b", "vicuna-13b", "deepseek-r1-distill-llama-8b", "qwen3-14b", "qwen3-32b"];
/// Numbers that are made small; all else of a published configuration stays.
const SMALL: [(&str, i64); 6] = [
    ("hidden_size", 64),
    ("intermediate_size", 96),
    ("num_attention_heads", 4),
    ("vocab_size", 200),
    ("draft_vocab_size", 100),
    ("head_dim", 32),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// A published configuration with small numbers.
fn small(published: &Path, is_target: bool) -> Value {
    let mut config = read(&published.join("config.json"));
    for (key, size) in SMALL {
        if config.get(key).is_some() {
            config[key] = json!(size);
        }
    }
    if config.get("num_key_value_heads").is_some() {
        config["num_key_value_heads"] = json!(2);
    }
    if is_target {
        config["num_hidden_layers"] = json!(7);
    }
    config
}

/// Names and shapes of a decoder layer's tensors, from the names of the published checkpoints.
fn layer(config: &Value, name: &str, input: i64) -> Vec<(String, Vec<i64>)> {
    let number = |key: &str| config[key].as_i64();
    let size = |key: &str| number(key).expect("a number");
    let (hidden, inner, heads) =
        (size("hidden_size"), size("intermediate_size"), size("num_attention_heads"));
    let kv_heads = number("num_key_value_heads").unwrap_or(heads);
    let width = number("head_dim").unwrap_or(hidden / heads);
    let mut shapes = vec![
        ("input_layernorm", vec![hidden]),
        ("post_attention_layernorm", vec![hidden]),
        ("self_attn.q_proj", vec![heads * width, input]),
        ("self_attn.k_proj", vec![kv_heads * width, input]),
        ("self_attn.v_proj", vec![kv_heads * width, input]),
        ("self_attn.o_proj", vec![hidden, heads * width]),
        ("mlp.gate_proj", vec![inner, hidden]),
        ("mlp.up_proj", vec![inner, hidden]),
        ("mlp.down_proj", vec![hidden, inner]),
    ];
    if config["model_type"] == "qwen3" {
        shapes.extend([("self_attn.q_norm", vec![width]), ("self_attn.k_norm", vec![width])]);
    }
    shapes.into_iter().map(|(part, shape)| (format!("{name}.{part}.weight"), shape)).collect()
}

fn write_model(folder: &Path, config: &Value, shapes: Vec<(String, Vec<i64>)>, maps_vocabulary: bool) {
    std::fs::create_dir(folder).expect("a folder");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, shape) in shapes {
        let scale = 1.5 / (shape[shape.len() - 1] as f64).sqrt();
        let noise = Tensor::randn(&shape, (Kind::Float, Device::Cpu));
        tensors.insert(name, if shape.len() == 1 { noise * 0.1 + 1.0 } else { noise * scale });
    }
    if maps_vocabulary {
        // Every second token.
        tensors.insert("d2t".to_owned(), Tensor::arange(100, (Kind::Int64, Device::Cpu)));
    }
    let named: Vec<(String, Tensor)> = tensors.into_iter().collect();
    Tensor::write_safetensors(&named, folder.join("model.safetensors")).expect("written");
}

#[test]
fn every_published_pair_is_built_in_its_shape_and_decodes_losslessly() {
    for model in MODELS {
        let published = workspace().join("tests/fixtures/families/configs").join(model);
        // The configurations as published, in full size.
        let full = TargetConfig::load(&published.join("target")).expect(model);
        let head = DraftConfig::load(&published.join("draft")).expect(model);
        assert_eq!((head.target_hidden, head.vocabulary), (full.block.hidden, full.vocabulary), "{model}");

        let folder = tempfile::tempdir().expect("a folder");
        let config = small(&published.join("target"), true);
        let hidden = 64;
        let mut shapes: Vec<(String, Vec<i64>)> =
            (0..7).flat_map(|index| layer(&config, &format!("model.layers.{index}"), hidden)).collect();
        for (name, shape) in [
            ("model.embed_tokens.weight", vec![200, hidden]),
            ("model.norm.weight", vec![hidden]),
            ("lm_head.weight", vec![200, hidden]),
        ] {
            shapes.push((name.to_owned(), shape));
        }
        write_model(&folder.path().join("target"), &config, shapes, false);

        let mut config = small(&published.join("draft"), false);
        config["model_type"] = json!("llama");
        let mut shapes = layer(&config, "midlayer", 2 * hidden);
        for (name, shape) in [
            ("fc.weight", vec![hidden, 3 * hidden]),
            ("midlayer.hidden_norm.weight", vec![hidden]),
            ("norm.weight", vec![hidden]),
            ("lm_head.weight", vec![100, hidden]),
        ] {
            shapes.push((name.to_owned(), shape));
        }
        write_model(&folder.path().join("draft"), &config, shapes, true);

        // The engine's settings are those of the committed file, but for the folders, the device
        // and the type.
        let committed = read(&workspace().join(format!("configs/{model}.json")));
        let committed: EngineConfig = serde_json::from_value(committed["engine"].clone()).expect(model);
        assert_eq!(committed.device, "cuda", "{model}");
        let engine = Engine::load(&EngineConfig {
            target: folder.path().join("target"),
            draft: folder.path().join("draft"),
            device: "cpu".to_owned(),
            dtype: DtypeSetting::F32,
            ..committed
        })
        .unwrap_or_else(|error| panic!("{model}: {error}"));
        let mut drafted = engine.prefill(&[5, 6, 7], None).expect("prefill");
        while drafted.tokens().len() < 30 {
            engine.run_cycle(&mut drafted, &mut Static { depth: 3, size: 20 }).expect("a cycle");
        }
        let mut plain = engine.prefill(&[5, 6, 7], None).expect("prefill");
        while plain.tokens().len() < drafted.tokens().len() {
            engine.autoregressive_step(&mut plain).expect("a step");
        }
        assert_eq!(drafted.tokens(), plain.tokens(), "{model}");
    }
}
