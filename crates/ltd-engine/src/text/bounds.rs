//! Bounds on what a tokenizer's files ask for.
//!
//! A file of some kilobytes can ask for steps each of which doubles the text, and one of some
//! hundred for a token of that length, for each byte of which the library keeps a state: it would
//! take all memory of the machine, and abort.

use serde::Deserialize;
use serde_json::Value;

/// Bytes made of one byte at most. Published tokenizers make fewer than a hundred.
const MOST: f64 = 4096.0;
/// The most that a table of replacements makes of a byte (U+FDFA in Unicode's NFKC is 18
/// characters).
const OF_A_TABLE: f64 = 32.0;

/// Bytes of a token that is added to the vocabulary at most.
const LONGEST_TOKEN: usize = 4096;

/// The steps of a `tokenizer.json`, and the tokens that it adds.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Value,
}

/// What a `tokenizer.json` asks for beyond the bounds, if anything.
///
/// # Errors
/// If it is no JSON object.
pub(super) fn problem(json: &str) -> serde_json::Result<Option<String>> {
    let Steps { normalizer, pre_tokenizer, post_processor, decoder, added_tokens } =
        serde_json::from_str(json)?;
    let contents =
        added_tokens.as_array().into_iter().flatten().filter_map(|token| token["content"].as_str());
    if let Some(problem) = too_long(contents) {
        return Ok(Some(format!("added_tokens: {problem}")));
    }
    let ways = [
        ("normalizer, pre_tokenizer and post_processor", [&normalizer, &pre_tokenizer, &post_processor]),
        ("decoder", [&decoder, &Value::Null, &Value::Null]),
    ];
    Ok(ways.into_iter().find_map(|(name, steps)| {
        let factor: f64 = steps.into_iter().map(growth).product();
        (factor > MOST).then(|| {
            format!("{name}: can make a text {factor:.0} times as long, must be at most {MOST:.0} times")
        })
    }))
}

/// What is wrong with the first of some tokens that is too long.
pub(super) fn too_long<'t>(contents: impl IntoIterator<Item = &'t str>) -> Option<String> {
    let content = contents.into_iter().find(|content| content.len() > LONGEST_TOKEN)?;
    let begin: String = content.chars().take(20).collect();
    let bytes = content.len();
    Some(format!("a token of {bytes} bytes (`{begin}...`), must be at most {LONGEST_TOKEN}"))
}

/// Bytes that a step, or a sequence of some, makes of one byte at most, without what it adds to a
/// text once.
fn growth(step: &Value) -> f64 {
    match step["type"].as_str() {
        Some("Sequence") => {
            let lists = ["normalizers", "pretokenizers", "processors", "decoders"];
            lists.iter().filter_map(|list| step[list].as_array()).flatten().map(growth).product()
        }
        // A byte that cannot be printed becomes a character of two.
        Some("ByteLevel") => 2.0,
        Some("Precompiled") => OF_A_TABLE,
        Some("Replace") => {
            let content = step["content"].as_str().map_or(0, str::len) as f64;
            match step["pattern"]["String"].as_str() {
                Some(text) if !text.is_empty() => (content / text.len() as f64).max(1.0),
                // Nothing may be a match, too: before each character.
                _ => content + 1.0,
            }
        }
        Some("TemplateProcessing") => {
            let pieces = ["single", "pair"].map(|template| {
                let pieces = step[template].as_array().into_iter().flatten();
                pieces.filter(|piece| piece.get("Sequence").is_some()).count()
            });
            pieces.into_iter().max().unwrap_or_default().max(1) as f64
        }
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(steps: &Value) -> Option<String> {
        problem(&steps.to_string()).expect("an object")
    }

    #[test]
    fn steps_that_double_the_text_again_and_again_are_named() {
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false });
        let of = |count: usize| {
            let pre_tokenizers = vec![byte_level.clone(); count];
            found(&json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": pre_tokenizers } }))
        };
        assert_eq!((of(1), of(12)), (None, None));
        let problem = of(13).expect("a problem");
        let expected = "normalizer, pre_tokenizer and post_processor: can make a text 8192 times as long";
        assert!(problem.starts_with(expected), "{problem}");
    }

    #[test]
    fn tokens_as_long_as_texts_are_named() {
        let of = |length: usize| {
            let content = "x".repeat(length);
            let tokens = [json!({ "id": 0, "content": "</s>" }), json!({ "id": 1, "content": content })];
            found(&json!({ "added_tokens": tokens }))
        };
        assert_eq!(of(LONGEST_TOKEN), None);
        let problem = of(LONGEST_TOKEN + 1).expect("a problem");
        assert_eq!(
            problem,
            "added_tokens: a token of 4097 bytes (`xxxxxxxxxxxxxxxxxxxx...`), must be at most 4096"
        );
    }

    #[test]
    fn every_step_that_makes_a_text_longer_counts() {
        let longer = "x".repeat(100);
        let replace = |pattern: Value| json!({ "type": "Replace", "pattern": pattern, "content": longer });
        let template = json!({ "type": "TemplateProcessing", "single": vec![json!({ "Sequence": { "id": "A" } }); 100] });
        for (step, list) in [
            (replace(json!({ "String": " " })), "normalizers"),
            (replace(json!({ "String": "" })), "normalizers"),
            (replace(json!({ "Regex": "a*" })), "decoders"),
            (template, "processors"),
            (json!({ "type": "Precompiled" }), "normalizers"),
        ] {
            let of = |count: usize| {
                let sequence = json!({ "type": "Sequence", list: vec![step.clone(); count] });
                match list {
                    "decoders" => found(&json!({ "decoder": sequence })),
                    "processors" => found(&json!({ "post_processor": sequence })),
                    _ => found(&json!({ "normalizer": sequence })),
                }
            };
            assert_eq!(of(1), None, "{step}");
            assert!(of(3).is_some(), "{step}");
        }
        let shorter = json!({ "type": "Replace", "pattern": { "String": "``" }, "content": "\"" });
        assert_eq!(
            found(&json!({ "normalizer": { "type": "Sequence", "normalizers": vec![shorter; 50] } })),
            None
        );
        assert_eq!(found(&json!({ "normalizer": null })), None);
    }
}
