//! Whatever is wrong with a model folder, a setting or a prompt is named before a token is
//! produced.

use std::path::{Path, PathBuf};

use ltd_engine::text::{BuiltinTemplate, ChatConfig, Question, TextModel};
use ltd_engine::{Devices, DtypeSetting, Engine, EngineConfig, Error, Static};
use safetensors::Dtype;

use crate::fixtures::{load, rewrite_tensors, tiny_config};

/// A tensor's name, and its new type and shape, or nothing to drop it.
type Change<'a> = (&'a str, Option<(Dtype, Vec<usize>)>);

/// A copy of the tiny pair that may be broken.
pub(crate) struct Pair {
    folder: tempfile::TempDir,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = tiny_config();
        for (name, source) in [("target", &config.target), ("draft", &config.draft)] {
            let copy = folder.path().join(name);
            std::fs::create_dir(&copy).expect("a folder");
            for entry in source.read_dir().expect("the fixture") {
                let entry = entry.expect("an entry");
                std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
            }
        }
        Self { folder }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn config(&self) -> EngineConfig {
        let config = EngineConfig::new(self.path("target"), self.path("draft"));
        EngineConfig { dtype: DtypeSetting::F32, ..config }
    }

    /// The message of the error that loading gives.
    pub(crate) fn refusal(&self) -> String {
        refusal(&self.config())
    }

    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replacen(from, to, 1)).expect("written");
    }

    /// Rewrites a weight file with some tensors changed: `None` drops one, a new name adds one.
    fn change_tensors(&self, file: &str, changes: &[Change]) {
        rewrite_tensors(&self.path(file), |tensors| {
            for (name, change) in changes {
                tensors.remove(*name);
                if let Some((dtype, shape)) = change {
                    let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                    tensors.insert((*name).to_owned(), (*dtype, shape.clone(), vec![1; bytes]));
                }
            }
        });
    }
}

fn listed(devices: &[&str]) -> Devices {
    Devices::Listed(devices.iter().map(ToString::to_string).collect())
}

pub(crate) fn refusal(config: &EngineConfig) -> String {
    let error = Engine::load(config).err().expect("it is refused");
    assert!(error.is_usage(), "{error}");
    error.to_string()
}

pub(crate) fn assert_names(message: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn missing_files_and_folders_are_named() {
    let config = EngineConfig::new("nowhere", tiny_config().draft);
    assert_names(&refusal(&config), &["nowhere: no such folder"]);
    let config = EngineConfig::new(tiny_config().target, "nowhere");
    assert_names(&refusal(&config), &["nowhere: no such folder"]);
    let pair = Pair::new();
    std::fs::remove_file(pair.path("draft/model.safetensors")).expect("removed");
    assert_names(
        &pair.refusal(),
        &["draft: no weights found: expected model.safetensors or pytorch_model.bin"],
    );
    let pair = Pair::new();
    std::fs::remove_file(pair.path("target/model.safetensors")).expect("removed");
    assert_names(
        &pair.refusal(),
        &["target/model.safetensors.index.json: names model.safetensors, which is not in the folder"],
    );
}

#[test]
fn truncated_and_garbled_files_are_named() {
    for file in ["target/model.safetensors", "draft/model.safetensors"] {
        let pair = Pair::new();
        let bytes = std::fs::read(pair.path(file)).expect("weights");
        for end in [0, 5, 1000, bytes.len() - 1] {
            std::fs::write(pair.path(file), &bytes[..end]).expect("written");
            assert_names(&pair.refusal(), &[file, "not a complete safetensors file"]);
        }
    }
    for file in ["target/config.json", "draft/config.json", "target/model.safetensors.index.json"] {
        let pair = Pair::new();
        if file.ends_with("index.json") {
            std::fs::remove_file(pair.path("target/model.safetensors")).expect("removed");
        }
        std::fs::write(pair.path(file), "{\"hidden_size\": ").expect("written");
        assert_names(&pair.refusal(), &[file, "EOF while parsing"]);
    }
}

#[test]
fn a_whole_file_beside_an_index_of_others_is_read_with_a_warning() {
    let warnings = |pair: &Pair| load(&pair.config()).warnings().to_vec();
    let pair = Pair::new();
    assert_eq!(warnings(&pair), [""; 0]);
    let index = pair.path("target/model.safetensors.index.json");
    for (weight_map, problem) in [
        (
            r#"{"weight_map": {"a": "gone-1.safetensors", "b": "gone-2.safetensors"}}"#,
            "2 of the 2 files it names are not there",
        ),
        (
            r#"{"weight_map": {"a": "model.safetensors", "b": "gone.safetensors"}}"#,
            "1 of the 2 files it names are not there",
        ),
        (r#"{"weight_map": {"a": "config.json"}}"#, "it names 1 other files"),
        ("{", "EOF while parsing"),
    ] {
        std::fs::write(&index, weight_map).expect("written");
        let warnings = warnings(&pair);
        let told = "/target/model.safetensors.index.json is passed over, and model.safetensors read: ";
        assert_eq!(warnings.len(), 1);
        assert_names(&warnings[0], &[told, problem]);
    }
}

#[test]
fn tensors_that_are_missing_surplus_or_of_another_shape_are_named() {
    let pair = Pair::new();
    let lost = ["norm.weight", "midlayer.mlp.up_proj.weight"];
    pair.change_tensors("draft/model.safetensors", &lost.map(|name| (name, None)));
    assert_names(&pair.refusal(), &["draft: missing tensors", lost[0], lost[1]]);

    let pair = Pair::new();
    pair.change_tensors("draft/model.safetensors", &[("midlayer.extra.weight", Some((Dtype::F32, vec![2])))]);
    assert_names(&pair.refusal(), &["draft: tensors this architecture does not have: midlayer.extra.weight"]);

    let pair = Pair::new();
    pair.change_tensors("draft/model.safetensors", &[("fc.weight", Some((Dtype::F32, vec![96, 5])))]);
    assert_names(&pair.refusal(), &["tensor fc.weight has shape [96, 5], expected [96, 288]"]);

    let pair = Pair::new();
    pair.change_tensors("draft/model.safetensors", &[("norm.weight", Some((Dtype::F8_E4M3, vec![96])))]);
    assert_names(
        &pair.refusal(),
        &["draft/model.safetensors: tensor norm.weight has type F8_E4M3, expected F32"],
    );

    let pair = Pair::new();
    pair.edit("target/config.json", "\"num_hidden_layers\": 8", "\"num_hidden_layers\": 9");
    assert_names(&pair.refusal(), &["target: missing tensors: model.layers.8."]);
}

#[test]
fn models_that_the_engine_cannot_run_are_named_with_what_it_can() {
    let (target, draft) = ("target/config.json", "draft/config.json");
    for (file, from, to, message) in [
        (
            target,
            "LlamaForCausalLM",
            "GPT2LMHeadModel",
            "architectures is GPT2LMHeadModel, expected one of Llama",
        ),
        (
            target,
            "LlamaForCausalLM",
            "MixtralForCausalLM",
            "MixtralForCausalLM, expected one of LlamaForCausalLM",
        ),
        (target, "LlamaForCausalLM", "Qwen3MoeForCausalLM", "Qwen2ForCausalLM, Qwen3ForCausalLM"),
        (target, "\"num_attention_heads\": ", "\"num_attention_heads\": -", "num_attention_heads is -"),
        (
            target,
            "\"num_hidden_layers\": 8",
            "\"num_hidden_layers\": 6",
            "num_hidden_layers is 6, expected at least 7",
        ),
        (target, "\"silu\"", "\"gelu\"", "hidden_act is gelu, expected silu"),
        (target, "\"hidden_size\"", "\"hidden_sice\"", "missing field `hidden_size`"),
        (
            target,
            "\"use_cache\": true",
            "\"quantization_config\": {\"quant_method\": \"fp8\"}",
            "quantization_config is fp8, expected none",
        ),
        (
            target,
            "\"use_cache\": true",
            "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}",
            "partial_rotary_factor is 0.5",
        ),
        (draft, "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2", "num_hidden_layers is 2, expected 1"),
        (
            draft,
            "\"draft_vocab_size\": 128",
            "\"draft_vocab_size\": 999",
            "draft_vocab_size is 999, expected 1..=vocab_size",
        ),
        (
            draft,
            "\"use_cache\": true",
            "\"fc_norm\": true, \"norm_before_fc\": true",
            "norm_before_fc is true, expected false beside fc_norm",
        ),
        (
            draft,
            "\"use_cache\": true",
            "\"eagle_aux_hidden_state_layer_ids\": [2, 5, 6]",
            "eagle_aux_hidden_state_layer_ids is [2, 5, 6], expected [2, 4, 5]",
        ),
        (
            draft,
            "\"rope_scaling\": null",
            "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}",
            "max_position_embeddings is 1024, expected at least 1037",
        ),
    ] {
        let pair = Pair::new();
        pair.edit(file, from, to);
        assert_names(&pair.refusal(), &[file, message]);
    }
}

#[test]
fn norms_that_a_head_says_it_has_must_be_there() {
    for (key, missing) in [
        ("fc_norm", "missing tensors: fc_norm.0.weight, fc_norm.1.weight, fc_norm.2.weight"),
        ("norm_before_fc", "missing tensors: input_norm.weight"),
    ] {
        let pair = Pair::new();
        pair.edit("draft/config.json", "\"use_cache\"", &format!("\"{key}\""));
        assert_names(&pair.refusal(), &["draft: ", missing]);
    }
}

#[test]
fn rope_types_that_are_not_supported_are_named_with_those_that_are() {
    for (scaling, message) in [
        (
            r#"{"rope_type": "yarn", "factor": 4.0}"#,
            "rope_type is yarn, expected default, linear, dynamic or llama3",
        ),
        (r#"{"type": "longrope", "short_factor": [1.0]}"#, "rope_type is longrope, expected default"),
        (r#"{"type": "linear"}"#, "rope_scaling is `factor` missing, expected a number above 0"),
        (r#"{"type": "linear", "factor": -2.0}"#, "rope_scaling is `factor` -2, expected a number above 0"),
        (
            r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}"#,
            "`original_max_position_embeddings` missing",
        ),
    ] {
        for spelling in ["rope_scaling", "rope_parameters"] {
            let pair = Pair::new();
            let to = format!("\"{spelling}\": {scaling}");
            pair.edit("target/config.json", "\"rope_scaling\": null", &to);
            assert_names(&pair.refusal(), &["target/config.json: ", message]);
        }
    }
}

#[test]
fn a_sliding_window_is_refused_only_if_it_would_hide_something() {
    let pair = Pair::new();
    pair.edit("target/config.json", "LlamaForCausalLM", "MistralForCausalLM");
    pair.edit("target/config.json", "\"use_cache\": true", "\"sliding_window\": 100");
    let message = "sliding_window is 100, expected null or at least max_length = 1024";
    assert_names(&pair.refusal(), &["target/config.json: ", message]);
    load(&EngineConfig { max_length: Some(100), ..pair.config() });
    // Qwen's says in another key whether there is one.
    let pair = Pair::new();
    pair.edit("target/config.json", "LlamaForCausalLM", "Qwen2ForCausalLM");
    pair.edit(
        "target/config.json",
        "\"use_cache\": true",
        "\"use_sliding_window\": true, \"max_window_layers\": 0, \"sliding_window\": 1023",
    );
    assert_names(&pair.refusal(), &["sliding_window is 1023, expected null or at least max_length = 1024"]);
    pair.edit("target/config.json", "\"use_sliding_window\": true", "\"use_sliding_window\": false");
    assert_names(&pair.refusal(), &["target: missing tensors: model.layers.0.self_attn.q_proj.bias"]);
}

#[test]
fn dynamic_rope_scaling_runs_within_the_length_where_it_changes_nothing() {
    let pair = Pair::new();
    let dynamic = "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}";
    for file in ["target/config.json", "draft/config.json"] {
        pair.edit(file, "\"rope_scaling\": null", dynamic);
    }
    let decode = |config: EngineConfig| {
        let engine = load(&EngineConfig { max_length: Some(1000), ..config });
        let mut session = engine.prefill(&[5, 6, 7], None).expect("prefill");
        for _ in 0..20 {
            engine.run_cycle(&mut session, &mut Static { depth: 3, size: 10 }).expect("a cycle");
        }
        session.tokens().to_vec()
    };
    assert_eq!(decode(pair.config()), decode(tiny_config()));
    let config = EngineConfig { max_length: Some(1025), ..pair.config() };
    assert_names(
        &refusal(&config),
        &["max_length: is 1025, but the target was made for at most 1024 positions"],
    );
}

#[test]
fn a_draft_for_another_target_is_refused() {
    for (from, to, message) in [
        (
            "\"vocab_size\": 260",
            "\"vocab_size\": 300",
            "vocabulary is 300 in the draft and 260 in the target",
        ),
        (
            "\"hidden_size\": 96",
            "\"hidden_size\": 96, \"target_hidden_size\": 128",
            "hidden size read from the target is 128 in the draft and 96 in the target",
        ),
    ] {
        let pair = Pair::new();
        pair.edit("draft/config.json", from, to);
        assert_names(&pair.refusal(), &["draft model", "does not fit target", message]);
    }
    // A vocabulary map that points outside the target's vocabulary.
    let pair = Pair::new();
    pair.change_tensors("draft/model.safetensors", &[("d2t", Some((Dtype::I64, vec![127])))]);
    assert_names(&pair.refusal(), &["tensor d2t has shape [127], expected [128]"]);
    pair.change_tensors("draft/model.safetensors", &[("d2t", Some((Dtype::I64, vec![128])))]);
    assert_names(&pair.refusal(), &["d2t: maps draft token 0 to ", "outside the target's vocabulary of 260"]);
}

#[test]
fn impossible_settings_are_named() {
    let config = tiny_config();
    for (config, message) in [
        (EngineConfig { beam_width: 0, ..config.clone() }, "beam_width: must be at least 1"),
        (
            EngineConfig { beam_width: 129, ..config.clone() },
            "beam_width: is 129, but the draft knows only 128 tokens",
        ),
        (
            EngineConfig { beam_width: 1 << 63, ..config.clone() },
            &format!("beam_width: is {}, must be at most 1024", 1u64 << 63),
        ),
        (EngineConfig { beam_width: 1025, ..config.clone() }, "beam_width: is 1025, must be at most 1024"),
        (
            EngineConfig { threads: Some(100_000), ..config.clone() },
            "threads: is 100000, must be at most 1024",
        ),
        (
            EngineConfig { threads: Some(usize::MAX), ..config.clone() },
            "threads: is 18446744073709551615, must be at most 1024",
        ),
        (EngineConfig { max_depth: 13, ..config.clone() }, "max_depth: is 13, must be at most 12"),
        (EngineConfig { threads: Some(0), ..config.clone() }, "threads: must be at least 1"),
        (
            EngineConfig { max_length: Some(1), ..config.clone() },
            "max_length: is 1, must be within 2..=16777216",
        ),
        (
            EngineConfig { max_length: Some(1 << 20), ..config.clone() },
            "max_length: is 1048576, but the target was made for at most",
        ),
        (
            EngineConfig { device: "tpu".to_owned(), ..config.clone() },
            "device: is `tpu`, expected cpu, cuda or cuda:N",
        ),
        (
            EngineConfig { devices: listed(&["cpu", "tpu"]), ..config.clone() },
            "devices: is `tpu`, expected cpu, cuda or cuda:N",
        ),
        (
            EngineConfig { device: "cuda".to_owned(), devices: listed(&["cpu"]), ..config.clone() },
            "devices: takes the place of device, which is cuda: leave one out",
        ),
        (
            EngineConfig { device: "cuda".to_owned(), devices: Devices::Auto, ..config.clone() },
            "devices: takes the place of device, which is cuda: leave one out",
        ),
        (
            EngineConfig { devices: listed(&["auto", "cpu"]), ..config.clone() },
            "devices: is `auto`, expected cpu, cuda or cuda:N, or auto alone",
        ),
        (
            EngineConfig { devices: listed(&["cuda:1", "cuda", "cuda:1"]), ..config.clone() },
            "devices: names cuda:1 twice: its memory is there once",
        ),
        (
            EngineConfig { devices: listed(&["cpu"; 9]), ..config.clone() },
            "devices: are 9, but the target has only 8 layers",
        ),
    ] {
        assert_names(&refusal(&config), &[message]);
    }
}

#[test]
fn cuda_without_a_device_is_refused() {
    if tch::Cuda::is_available() {
        println!("not covered: this machine has a CUDA device");
        return;
    }
    let config = EngineConfig { device: "cuda".to_owned(), ..tiny_config() };
    assert_names(&refusal(&config), &["device cuda: "]);
    let config = EngineConfig { devices: listed(&["cpu", "cuda:1"]), ..tiny_config() };
    assert_names(&refusal(&config), &["device cuda:1: "]);
    // Not the CPU in its place.
    let config = EngineConfig { devices: Devices::Auto, ..tiny_config() };
    assert_names(&refusal(&config), &["device auto: ", "; name cpu to run on the CPU"]);
}

#[test]
fn prompts_that_cannot_be_decoded_are_refused() {
    let engine = load(&EngineConfig { max_length: Some(10), ..tiny_config() });
    for (prompt, message) in [
        (vec![], "the prompt is empty"),
        (
            vec![5; 10],
            "the prompt has 10 tokens, but the cache holds 10: raise max_length or shorten the prompt",
        ),
        (vec![5, 260], "prompt token 260 at position 1 is outside the target's vocabulary of 260"),
    ] {
        let error = engine.prefill(&prompt, None).err().expect("refused").to_string();
        assert_names(&error, &[message]);
        assert_eq!(engine.check_prompt(&prompt).expect_err("refused").to_string(), error);
    }
}

#[test]
fn cycles_out_of_turn_are_errors() {
    let engine = load(&EngineConfig { max_length: Some(8), max_depth: 1, ..tiny_config() });
    let mut session = engine.prefill(&[5, 6, 7], None).expect("prefill");
    let mut cycle = engine.begin_cycle(&mut session, usize::MAX).expect("a cycle");
    assert!(matches!(engine.begin_cycle(&mut session, usize::MAX), Err(Error::NoFeatures)));
    engine.expand(&mut session, &mut cycle).expect("a level");
    assert!(matches!(engine.expand(&mut session, &mut cycle), Err(Error::DepthLimit { depth: 1 })));
    engine.verify(&mut session, cycle, 4).expect("verified");
    while !session.is_full() {
        engine.run_cycle(&mut session, &mut Static { depth: 1, size: 4 }).expect("a cycle");
    }
    assert!(matches!(engine.begin_cycle(&mut session, usize::MAX), Err(Error::CacheFull { capacity: 8 })));
    assert!(matches!(engine.autoregressive_step(&mut session), Err(Error::CacheFull { capacity: 8 })));
}

#[test]
fn weights_that_are_cut_short_while_a_model_runs_are_named() {
    let pair = Pair::new();
    let engine = load(&pair.config());
    let [mut plain, mut drafting] = [(); 2].map(|()| engine.prefill(&[5, 6, 7], None).expect("prefill"));
    let weights = pair.path("target/model.safetensors");
    // The rows of the embedding stay in the file on a CPU.
    std::fs::File::options().write(true).open(&weights).expect("the file").set_len(64).expect("cut short");
    for error in [
        engine.autoregressive_step(&mut plain).err(),
        engine.prefill(&[8, 9], None).err(),
        engine.run_cycle(&mut drafting, &mut Static { depth: 1, size: 4 }).err(),
    ] {
        let error = error.expect("refused");
        assert_names(&error.to_string(), &["target/model.safetensors: "]);
    }
}

#[test]
fn a_tokenizer_that_is_broken_is_named() {
    let pair = Pair::new();
    let target: &Path = &pair.path("target");
    assert!(!TextModel::load(target).expect("token ids only").has_tokenizer());
    std::fs::write(target.join("tokenizer.json"), "{").expect("written");
    let error = TextModel::load(target).err().expect("refused").to_string();
    assert_names(&error, &["target/tokenizer.json: "]);
}

/// A tokenizer of so many words, and the files that go with it.
fn write_tokenizer(target: &Path, words: usize) {
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        (0..words).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    });
    std::fs::write(target.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    std::fs::write(target.join("tokenizer_config.json"), "{}").expect("written");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let pair = Pair::new();
    let engine = load(&pair.config());
    let target: &Path = &pair.path("target");
    let chat = ChatConfig { template: Some(BuiltinTemplate::Vicuna), ..ChatConfig::default() };
    let check = |words| {
        write_tokenizer(target, words);
        engine.check_text(&TextModel::with_chat(target, &chat).expect("a tokenizer"))
    };
    check(260).expect("the tokenizer of this vocabulary");
    let error = check(100).expect_err("refused");
    assert!(error.is_usage());
    assert_names(
        &error.to_string(),
        &["target: the draft model proposes token ", ", but the tokenizer's largest is 99"],
    );
    // What the target does not know matters only if it is used.
    check(270).expect("some tokens too many");
    let text = TextModel::with_chat(target, &chat).expect("a tokenizer");
    let prompt = text.encode_chat("w265").expect("it is encoded").expect("a tokenizer");
    assert_eq!(engine.check_prompt(&prompt).is_ok(), !prompt.contains(&265));
    write_tokenizer(target, 260);
    std::fs::write(target.join("generation_config.json"), "{\"eos_token_id\": [2, 300]}").expect("written");
    let text = TextModel::with_chat(target, &chat).expect("a tokenizer");
    let error = engine.check_text(&text).expect_err("refused").to_string();
    let expected = "stop token 300 (300, from generation_config.json) is outside its vocabulary of 260";
    assert_names(&error, &[expected, "chat.stop_tokens"]);
    // A token that only the configuration knows is beyond the vocabulary too.
    std::fs::remove_file(target.join("generation_config.json")).expect("removed");
    std::fs::write(target.join("tokenizer_config.json"), "{\"eos_token\": \"<|x|>\"}").expect("written");
    let text = TextModel::with_chat(target, &chat).expect("a tokenizer");
    let error = engine.check_text(&text).expect_err("refused").to_string();
    assert_names(
        &error,
        &["stop token 260 (<|x|>, from tokenizer_config.json", ") is outside its vocabulary of 260"],
    );
}

/// Numbers of the largest words are far apart: what bounds ids is not how many there are.
#[test]
fn a_tokenizer_with_gaps_is_that_of_its_model() {
    let pair = Pair::new();
    let engine = load(&pair.config());
    let target: &Path = &pair.path("target");
    write_tokenizer(target, 260);
    let text = std::fs::read_to_string(target.join("tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let words = tokenizer["model"]["vocab"].as_object_mut().expect("words");
    words.retain(|_, id| id.as_u64().is_some_and(|id| !(3..=200).contains(&id)));
    std::fs::write(target.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let text = TextModel::load(target).expect("a tokenizer");
    assert_eq!(text.largest_token(), Some(259));
    engine.check_text(&text).expect("the tokenizer of this vocabulary");
}

#[test]
fn tokens_need_neither_a_tokenizer_nor_a_template() {
    let pair = Pair::new();
    let target: &Path = &pair.path("target");
    let ids = |text: &TextModel| {
        let question = |turns: &[&str], token_ids: Option<Vec<u32>>| Question {
            id: "7".to_owned(),
            category: None,
            turns: turns.iter().map(ToString::to_string).collect(),
            token_ids,
        };
        let file = Path::new("q.jsonl");
        let prompts = text.prompts(&[question(&[], Some(vec![5, 6]))], file).expect("prompts");
        assert_eq!(prompts[0].ids, [5, 6]);
        text.prompts(&[question(&["hi"], None)], file).expect_err("needs a template").to_string()
    };
    let text = TextModel::load(target).expect("token ids only");
    assert_names(&ids(&text), &["q.jsonl: question 7 is text, but", "has no tokenizer.json"]);
    write_tokenizer(target, 260);
    for (config, problem) in [
        ("{}", "target: no chat template"),
        ("{\"chat_template\": \"{% for %}\"}", "target/tokenizer_config.json: chat template: syntax error"),
    ] {
        std::fs::write(target.join("tokenizer_config.json"), config).expect("written");
        let text = TextModel::load(target).expect("no template is needed");
        assert_eq!(text.decode(&[7]).expect("text"), "w7");
        assert_names(&ids(&text), &[problem]);
    }
}

#[test]
fn a_legacy_tokenizer_is_named_with_the_command_that_converts_it() {
    let pair = Pair::new();
    let target: &Path = &pair.path("target");
    std::fs::write(target.join("tokenizer.model"), "").expect("written");
    let text = TextModel::load(target).expect("token ids only");
    let question =
        Question { id: "7".to_owned(), category: None, turns: vec!["hi".to_owned()], token_ids: None };
    let error = text.prompts(&[question], Path::new("q.jsonl")).expect_err("refused").to_string();
    assert_names(
        &error,
        &["q.jsonl: question 7 is text", "no tokenizer.json: convert its tokenizer.model", "save_pretrained"],
    );
}
