//! Keys of a `config.json` that change the arithmetic are computed or refused by name.

use std::path::Path;

use ltd_engine::{DraftConfig, TargetConfig};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::bad_input::{Pair, assert_names};
use crate::fixtures::{load, rewrite_tensors, workspace};

/// The configuration of the tiny target with other keys; null removes one.
fn changed(part: &str, changes: &Value) -> Map<String, Value> {
    let path = workspace().join("tests/fixtures/tiny-pair").join(part).join("config.json");
    let text = std::fs::read_to_string(path).expect("the fixture");
    let Ok(Value::Object(mut config)) = serde_json::from_str(&text) else { panic!("an object") };
    config.extend(changes.as_object().expect("an object").clone());
    config
}

fn read<T>(part: &str, changes: &Value, load: impl Fn(&Path) -> ltd_engine::Result<T>) -> Result<T, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Value::Object(changed(part, changes)).to_string();
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    load(folder.path()).map_err(|error| {
        assert!(error.is_usage(), "{error}");
        error.to_string()
    })
}

fn target(changes: &Value) -> Result<TargetConfig, String> {
    read("target", changes, TargetConfig::load)
}

fn draft(changes: &Value) -> Result<DraftConfig, String> {
    read("draft", changes, DraftConfig::load)
}

#[test]
fn keys_of_other_families_are_refused_at_values_that_change_the_arithmetic() {
    // A head of the tiny pair is 32 wide.
    for (key, neutral, others) in [
        ("attention_multiplier", vec![json!(0.176_776_695_3)], vec![json!(0.015_625)]),
        ("embedding_multiplier", vec![json!(1), json!(1.0)], vec![json!(12.0)]),
        ("residual_multiplier", vec![json!(1.0)], vec![json!(0.22)]),
        ("logits_scaling", vec![json!(1.0)], vec![json!(8.0), json!("8")]),
        ("logit_scale", vec![json!(1.0)], vec![json!(0.0625)]),
        ("scale_emb", vec![json!(1)], vec![json!(12)]),
        ("scale_depth", vec![], vec![json!(1.4)]),
        ("final_logit_softcapping", vec![], vec![json!(30.0)]),
        ("attn_logit_softcapping", vec![], vec![json!(50.0)]),
        ("query_pre_attn_scalar", vec![json!(32), json!(32.0)], vec![json!(256)]),
        ("attn_temperature_tuning", vec![json!(false), json!(0)], vec![json!(true), json!(4)]),
        ("clip_qkv", vec![], vec![json!(8.0)]),
        ("alibi", vec![json!(false)], vec![json!(true)]),
        ("num_experts", vec![json!(0), json!(1)], vec![json!(128)]),
        ("num_local_experts", vec![json!(0)], vec![json!(8)]),
        ("n_routed_experts", vec![json!(0)], vec![json!(256)]),
        ("use_qk_norm", vec![json!(false)], vec![json!(true)]),
        ("qk_layernorm", vec![json!(false)], vec![json!(true)]),
        ("norm_type", vec![json!("rms_norm"), json!("RMSNorm")], vec![json!("layernorm")]),
        ("hidden_activation", vec![json!("silu")], vec![json!("gelu_pytorch_tanh")]),
        ("partial_rotary_factor", vec![json!(1), json!(1.0)], vec![json!(0.5)]),
        ("rotary_pct", vec![json!(1.0)], vec![json!(0.25)]),
        ("rotary_dim", vec![json!(32)], vec![json!(16)]),
        ("rope_local_base_freq", vec![json!(10_000)], vec![json!(1_000_000)]),
        ("no_rope_layers", vec![json!([]), json!([1, 1, 1])], vec![json!([1, 1, 1, 0])]),
        ("no_rope_layer_interval", vec![json!(0)], vec![json!(4)]),
        ("attention_chunk_size", vec![], vec![json!(8192)]),
        ("compression_config", vec![], vec![json!({ "format": "int-quantized" })]),
        ("quantization", vec![], vec![json!({ "bits": 4 })]),
    ] {
        for value in neutral.iter().chain([&Value::Null]) {
            target(&json!({ key: value })).unwrap_or_else(|error| panic!("{key} {value}: {error}"));
            draft(&json!({ key: value })).unwrap_or_else(|error| panic!("{key} {value}: {error}"));
        }
        for value in others {
            let found = format!("config.json: {key} is {value}, expected null");
            let error = target(&json!({ key: value })).expect_err(key);
            assert_names(&error, &[&found]);
            assert_names(&draft(&json!({ key: value })).expect_err(key), &[&found]);
        }
    }
}

#[test]
fn keys_without_an_effect_pass() {
    for changes in [
        json!({ "pretraining_tp": 4, "attention_dropout": 0.1, "use_cache": false, "hidden_act": "swish" }),
        json!({ "attention_bias": null, "mlp_bias": null, "tie_word_embeddings": null, "rms_norm_eps": null }),
        json!({ "num_experts_per_tok": 0, "moe_intermediate_size": 7, "layer_types": null }),
    ] {
        target(&changes).expect("it runs");
        draft(&changes).expect("it runs");
    }
}

#[test]
fn every_spelling_of_the_rotation_is_read_or_refused() {
    let theta = |changes: Value| target(&changes).expect("it runs").block.rope.theta;
    assert_eq!(theta(json!({ "rope_theta": null, "rope_parameters": { "rope_theta": 5e5 } })), 5e5);
    assert_eq!(theta(json!({ "rope_parameters": { "rope_theta": 10_000, "rope_type": "default" } })), 1e4);
    // Kept by the kind of layer.
    let full = json!({ "full_attention": { "rope_theta": 5e5, "rope_type": "default" } });
    assert_eq!(theta(json!({ "rope_theta": null, "rope_parameters": full })), 5e5);
    // Where there is one text only, these are not looked at.
    let sections =
        json!({ "rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": true });
    assert_eq!(theta(json!({ "rope_scaling": sections })), 1e4);
    let same = json!({ "rope_type": "linear", "factor": 4.0 });
    target(&json!({ "rope_scaling": same, "rope_parameters": same })).expect("it runs");

    for (changes, found) in [
        (
            json!({ "rope_parameters": { "rope_theta": 5e5 } }),
            "rope_theta is 10000, expected 500000, as in rope_parameters",
        ),
        (
            json!({ "rope_scaling": { "type": "linear", "factor": 2.0 }, "rope_parameters": { "factor": 4.0 } }),
            "rope_scaling is {\"type\":\"linear\",\"factor\":2.0}, expected as rope_parameters",
        ),
        (json!({ "rope_scaling": { "factor": 4.0 } }), "rope_scaling is `factor` 4, expected no `factor`"),
        (json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }), "partial_rotary_factor is 0.5"),
        (
            json!({ "rope_parameters": {
                "full_attention": { "rope_theta": 10_000 }, "sliding_attention": { "rope_theta": 5000 } } }),
            "rope_parameters is {\"full_attention\":",
        ),
        (
            json!({ "rope_scaling": { "type": "linear", "factor": 2.0, "attention_factor": 1.2 } }),
            "rope_scaling is `attention_factor` 1.2, expected no `attention_factor` with rope type linear",
        ),
    ] {
        assert_names(&target(&changes).expect_err(found), &[found]);
        assert_names(&draft(&changes).expect_err(found), &[found]);
    }
}

#[test]
fn a_window_is_in_use_where_the_family_or_a_layer_says_so() {
    let of = |architecture: &str, changes: Value| {
        let mut changes = changes;
        changes["architectures"] = json!([architecture]);
        target(&changes).map(|config| config.sliding_window)
    };
    let window = json!({ "sliding_window": 64 });
    let not_used = json!({ "sliding_window": 64, "use_sliding_window": false });
    let used = |full_layers: i64| json!({ "sliding_window": 64, "use_sliding_window": true, "max_window_layers": full_layers });
    let (llama, mistral, qwen) = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM");
    for (architecture, changes, expected) in [
        (llama, json!({}), None),
        (llama, json!({ "sliding_window": null }), None),
        (llama, window.clone(), Some(64)),
        (llama, not_used.clone(), None),
        (mistral, json!({}), Some(4096)),
        (mistral, json!({ "sliding_window": null }), None),
        (mistral, not_used.clone(), Some(64)),
        (qwen, window.clone(), None),
        (qwen, not_used, None),
        // The first layers see everything; there are eight.
        (qwen, used(8), None),
        (qwen, used(7), Some(64)),
        (qwen, json!({ "sliding_window": 64, "use_sliding_window": true }), None),
    ] {
        assert_eq!(
            of(architecture, changes.clone()).expect("it is read"),
            expected,
            "{architecture} {changes}"
        );
    }
    let kinds = |last: &str| json!(["full_attention", "full_attention", last]);
    for (changes, expected) in [
        (json!({ "layer_types": kinds("full_attention"), "sliding_window": 64 }), Ok(None)),
        (json!({ "layer_types": kinds("sliding_attention"), "sliding_window": 64 }), Ok(Some(64))),
        (
            json!({ "layer_types": kinds("sliding_attention"), "sliding_window": null }),
            Err("layer_types is sliding_attention, expected full_attention, as there is no sliding_window"),
        ),
        (
            json!({ "layer_types": kinds("chunked_attention") }),
            Err("layer_types is chunked_attention, expected"),
        ),
        (
            json!({ "layer_types": kinds("linear_attention") }),
            Err("layer_types is linear_attention, expected"),
        ),
    ] {
        for found in [of(llama, changes.clone()), draft(&changes).map(|config| config.sliding_window)] {
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{changes}"),
                (found, expected) => {
                    assert_names(&found.expect_err("refused"), &[expected.expect_err("not so")]);
                }
            }
        }
    }
    // A head's window may not hide anything either.
    let pair = Pair::new();
    pair.edit("draft/config.json", "\"use_cache\": true", "\"sliding_window\": 512");
    assert_names(
        &pair.refusal(),
        &["draft/config.json: sliding_window is 512, expected null or at least max_length = 1037"],
    );
}

#[test]
fn biases_that_a_family_does_not_have_are_refused() {
    for (architecture, key) in [("Mistral", "attention_bias"), ("Mistral", "mlp_bias"), ("Qwen3", "mlp_bias")]
    {
        let architecture = format!("{architecture}ForCausalLM");
        let error = target(&json!({ "architectures": [architecture], key: true })).expect_err(key);
        assert_names(&error, &[key, "is true, expected false for this architecture"]);
    }
}

#[test]
fn numbers_out_of_all_proportion_are_refused() {
    for (key, value) in [
        ("hidden_size", json!(1_i64 << 40)),
        ("vocab_size", json!(i64::MAX)),
        ("intermediate_size", json!(0)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(-1)),
        ("num_hidden_layers", json!(i64::MAX)),
        ("head_dim", json!(1_i64 << 40)),
        ("max_position_embeddings", json!(i64::MAX)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!(1e300)),
        ("rope_theta", json!(0)),
    ] {
        let error = target(&json!({ key: value })).expect_err(key);
        assert_names(&error, &[&format!("config.json: {key} is "), ", expected "]);
    }
    let error = draft(&json!({ "target_hidden_size": i64::MAX })).expect_err("refused");
    assert_names(
        &error,
        &["config.json: target_hidden_size is 9223372036854775807, expected a number from 1"],
    );
}

#[test]
fn a_tied_projection_beside_another_one_of_its_own_is_refused() {
    let refused = "tie_word_embeddings is true, expected false: lm_head.weight is in the weights, and is not";
    let pair = Pair::new();
    pair.edit("target/config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert_names(&pair.refusal(), &["target/config.json: ", refused]);
    // The same matrix twice is nothing but waste.
    rewrite_tensors(&pair.path("target/model.safetensors"), |tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".to_owned(), embedding);
    });
    load(&pair.config());
    rewrite_tensors(&pair.path("target/model.safetensors"), |tensors| {
        tensors.remove("lm_head.weight");
    });
    load(&pair.config());
    pair.edit("target/config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    assert_names(&pair.refusal(), &["target: missing tensors: lm_head.weight"]);

    // A head's projection to a vocabulary of its own is no embedding, whatever a copied
    // configuration says.
    let pair = Pair::new();
    pair.edit("draft/config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    load(&pair.config());
    // With the target's vocabulary it could be.
    pair.edit("draft/config.json", "\"draft_vocab_size\": 128", "\"draft_vocab_size\": 260");
    rewrite_tensors(&pair.path("draft/model.safetensors"), |tensors| {
        tensors.retain(|name, _| name != "d2t" && name != "t2d");
        tensors.insert("lm_head.weight".to_owned(), (Dtype::F32, vec![260, 96], vec![0; 260 * 96 * 4]));
    });
    assert_names(&pair.refusal(), &["draft/config.json: ", refused]);
}

#[test]
fn published_configurations_are_read() {
    let configs = workspace().join("tests/fixtures/families/configs");
    let mut count = 0;
    for entry in configs.read_dir().expect("the fixtures") {
        let folder = entry.expect("an entry").path();
        TargetConfig::load(&folder.join("target")).expect("a target");
        DraftConfig::load(&folder.join("draft")).expect("a head");
        count += 1;
    }
    assert_eq!(count, 5);
}
