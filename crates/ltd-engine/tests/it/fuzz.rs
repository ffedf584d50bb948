//! Mutated files of a model folder are refused or read.

use std::path::Path;

use ltd_engine::text::{ChatConfig, TextModel, load_questions};
use ltd_engine::{DraftConfig, TargetConfig};
use ltd_fuzz::{Form, folder, fuzz};
use serde_json::{Value, json};

use crate::fixtures::workspace;

#[global_allocator]
static METER: ltd_fuzz::Meter = ltd_fuzz::Meter;

#[test]
fn configurations_of_models() {
    let fixtures = workspace().join("tests/fixtures");
    let published = ["llama-3.1-8b", "qwen3-14b", "vicuna-13b"]
        .into_iter()
        .flat_map(|pair| ["target", "draft"].map(|part| format!("families/configs/{pair}/{part}")));
    let others = ["families/mistral-window", "families/qwen2", "heads/specforge", "heads/speculators"];
    let seeds: Vec<Vec<u8>> = published
        .chain(others.map(str::to_owned))
        .map(|folder| std::fs::read(fixtures.join(folder).join("config.json")).expect("the fixture"))
        .collect();
    let folder = folder();
    fuzz(Form::Json, &seeds, |bytes| {
        std::fs::write(folder.path().join("config.json"), bytes).expect("written");
        if let Ok(config) = TargetConfig::load(folder.path()) {
            config.products();
            config.feature_layers();
        }
        if let Ok(config) = DraftConfig::load(folder.path()) {
            config.products();
        }
    });
}

#[test]
fn question_files() {
    let seeds = [
        "{\"question_id\": 81, \"category\": \"code\", \"turns\": [\"a\", \"b\"], \"reference\": []}\n\n\
         {\"question_id\": \"x/1\", \"token_ids\": [5, 6]}\n{\"turns\": [\"c\"]}\n",
        "{\"token_ids\": [88, 108, 105]}\r\n{\"turns\": [\"\u{fc}\u{1f600}\"], \"question_id\": null}",
    ];
    let folder = folder();
    let path = folder.path().join("questions.jsonl");
    fuzz(Form::Lines, &seeds.map(|seed| seed.as_bytes().to_vec()), |bytes| {
        std::fs::write(&path, bytes).expect("written");
        let _ = load_questions(&path, 0, None);
        let _ = load_questions(&path, 1, Some(1));
    });
}

/// Asks the text model of a folder for all that it does.
fn speak(folder: &Path) {
    for enable_thinking in [None, Some(false)] {
        let chat = ChatConfig { enable_thinking, ..ChatConfig::default() };
        let Ok(text) = TextModel::with_chat(folder, &chat) else { return };
        text.largest_token();
        if let Ok(Some(ids)) = text.encode_chat("Hi there \u{fc}\u{1f600}, it's  12 o'clock\n") {
            let _ = text.decode(&ids);
        }
        let _ = text.decode(&[0, 5, 3, 7, 1_000_000]);
    }
}

fn write(folder: &Path, file: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(file), content).expect("written");
}

fn added(id: u32, content: &str) -> Value {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
}

/// One small tokenizer for each kind of model, with what goes around them.
fn tokenizers() -> [Value; 4] {
    let letters = ["H", "i", "t", "h", "e", "r", "\u{120}", "o", "c", "l", "k", "1", "2", "s", "'"];
    let vocabulary: serde_json::Map<String, Value> =
        (4..).zip(letters).chain([(0, "<unk>")]).map(|(id, letter)| (letter.to_owned(), id.into())).collect();
    let words = |words: &[&str]| -> serde_json::Map<String, Value> {
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect()
    };
    let bpe = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>"), added(3, "<pad>")],
        "normalizer": { "type": "Sequence", "normalizers": [{ "type": "NFC" }, { "type": "Prepend", "prepend": "x" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "_" }] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": "\\p{N}{1,3}|\\s+" }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }] },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
            "merges": [] },
    });
    let word_level = json!({
        "version": "1.0", "truncation": { "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>" },
        "added_tokens": [added(9, "<end>")], "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": { "type": "BertProcessing", "sep": ["b", 1], "cls": ["c", 2] }, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words(&["w0", "hi", "there", "it"]), "unk_token": "w0" },
    });
    let unigram = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "Strip", "strip_left": true, "strip_right": false },
        "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true },
        "post_processor": { "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true,
            "add_prefix_space": false },
        "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 }, { "type": "Metaspace",
            "replacement": "\u{2581}", "prepend_scheme": "always", "split": true }] },
        "model": { "type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [["<unk>", 0.0], ["<s>", 0.0],
            ["</s>", 0.0], ["\u{2581}", -2.0], ["h", -3.5], ["i", -3.0], ["th", -2.5], ["<0x41>", -9.0]] },
    });
    let word_piece = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added(0, "[UNK]")],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" }, "post_processor": null,
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": words(&["[UNK]", "hi", "the", "##re", "it", "##s"]) },
    });
    [bpe, word_level, unigram, word_piece]
}

#[test]
fn tokenizers_of_every_kind() {
    let folder = folder();
    write(folder.path(), "config.json", r#"{"eos_token_id": 2}"#);
    write(
        folder.path(),
        "tokenizer_config.json",
        r#"{"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}"#,
    );
    let seeds = tokenizers().map(|tokenizer| tokenizer.to_string().into_bytes());
    for seed in &seeds {
        write(folder.path(), "tokenizer.json", seed);
        let text = TextModel::load(folder.path()).expect("a tokenizer");
        text.encode_chat("Hi there").expect("tokens").expect("a tokenizer");
    }
    fuzz(Form::Json, &seeds, |bytes| {
        write(folder.path(), "tokenizer.json", bytes);
        speak(folder.path());
    });
}

#[test]
fn configurations_of_tokenizers_and_their_templates() {
    let folder = folder();
    write(folder.path(), "config.json", r#"{"eos_token_id": 2}"#);
    write(folder.path(), "tokenizer.json", tokenizers()[0].to_string());
    let cases = std::fs::read(workspace().join("tests/fixtures/chat/cases.json")).expect("the fixture");
    let cases: Vec<Value> = serde_json::from_slice(&cases).expect("JSON");
    let templates = || cases.iter().filter_map(|case| case["template"].as_str());
    let seeds: Vec<Vec<u8>> = templates()
        .map(|template| {
            let config = json!({
                "bos_token": "<s>", "eos_token": { "content": "</s>", "special": true }, "chat_template": template,
            });
            config.to_string().into_bytes()
        })
        .collect();
    fuzz(Form::Json, &seeds, |bytes| {
        write(folder.path(), "tokenizer_config.json", bytes);
        speak(folder.path());
    });
    write(folder.path(), "tokenizer_config.json", r#"{"bos_token": "<s>"}"#);
    let templates: Vec<Vec<u8>> = templates().map(|template| template.as_bytes().to_vec()).collect();
    fuzz(Form::Bytes, &templates, |bytes| {
        write(folder.path(), "chat_template.jinja", bytes);
        speak(folder.path());
    });
}

#[test]
fn tokens_that_end_an_answer() {
    let folder = folder();
    write(folder.path(), "config.json", r#"{"eos_token_id": 2}"#);
    let seeds = [r#"{"eos_token_id": [7, 9], "temperature": 0.6}"#, r#"{"eos_token_id": 2}"#];
    fuzz(Form::Json, &seeds.map(|seed| seed.as_bytes().to_vec()), |bytes| {
        write(folder.path(), "generation_config.json", bytes);
        let _ = TextModel::load(folder.path());
    });
}
