//! TensorRT-LLM: the YAML that `trtllm-serve` takes, written as JSON, which is YAML.
//!
//! Of version 1.4.0rc4: `llm-api/reference/{Eagle3DecodingConfig,SADecodingConfig}.html` of its
//! documentation (fields), and `tensorrt_llm/llmapi/llm_args.py` (validators:
//! `validate_eagle_config`, `validate_sa_config`; read at commit 00043967, where they are named so
//! too).

use serde_json::{Value, json};

use super::form::{NO_ADAPTIVE, NO_MIXTURE, Place, ServerFile, ServerForm, fixed_match, json_line};
use super::setting::Setting;

pub(super) const VERSION: &str = "1.4.0rc4";

pub(super) fn form(setting: &Setting, place: &Place) -> Result<ServerForm, String> {
    let mut notes = Vec::new();
    let config = match setting {
        Setting::Trees(trees) => {
            let mut config = json!({"decoding_type": "Eagle3", "speculative_model": place.draft, "max_draft_len": trees.levels()});
            if let Some(chain) = trees.chain() {
                config["max_draft_len"] = json!(chain);
            } else {
                let (levels, size) = (trees.levels(), trees.verified());
                let most = trees.beam_width * levels;
                if !(levels..=most).contains(&size) {
                    return Err(format!(
                        "it verifies {levels} to {most} candidates of such trees, not {size}"
                    ));
                }
                config["use_dynamic_tree"] = json!(true);
                config["dynamic_tree_max_topK"] = json!(trees.beam_width);
                config["max_total_draft_tokens"] = json!(size);
            }
            config
        }
        Setting::Copies(rule) => {
            // -1 is the longest match, which any token is enough for.
            let size = if rule.match_length == 1 { json!(-1) } else { json!(rule.match_length) };
            notes.extend((rule.match_length > 1).then(|| fixed_match(rule.match_length)));
            json!({"decoding_type": "SA", "max_draft_len": rule.chain, "max_matching_ngram_size": size})
        }
        // Its `sa_config` copies beside a head, but as many tokens as the head drafts.
        Setting::CopiesAndTrees(..) => return Err(NO_MIXTURE.to_owned()),
        Setting::AdaptiveChains(_) => return Err(NO_ADAPTIVE.to_owned()),
    };
    let text = json_line(&Value::from_iter([("speculative_config", config)]));
    Ok(ServerForm { files: vec![ServerFile { name: "tensorrt-llm.yaml", text }], notes })
}

#[cfg(test)]
mod tests {
    use ltd_policy::CopyRule;

    use super::super::setting::Trees;
    use super::*;

    fn config(setting: &Setting) -> Result<Value, String> {
        let place = Place { draft: "head".to_owned(), greedy: true };
        let form = form(setting, &place)?;
        let value: Value = serde_json::from_str(&form.files[0].text).expect("JSON");
        Ok(value["speculative_config"].clone())
    }

    #[test]
    fn trees_are_dynamic_and_within_their_limits() {
        let trees = Trees { beam_width: 10, depth: 3, size: 24 };
        let found = config(&Setting::Trees(trees)).expect("a tree");
        assert_eq!(
            (&found["max_draft_len"], &found["dynamic_tree_max_topK"], &found["max_total_draft_tokens"]),
            (&json!(4), &json!(10), &json!(24))
        );
        for (size, possible) in [(3, false), (4, true), (40, true), (41, false)] {
            let found = config(&Setting::Trees(Trees { size, ..trees }));
            assert_eq!(found.is_ok(), possible, "{size}: {found:?}");
        }
        let chain = config(&Setting::Trees(Trees { beam_width: 1, ..trees })).expect("a chain");
        assert_eq!((&chain["max_draft_len"], chain.get("use_dynamic_tree")), (&json!(4), None));
    }

    #[test]
    fn copies_match_a_fixed_number_of_tokens_or_as_many_as_they_can() {
        let rule = CopyRule { match_length: 3, chain: 8 };
        let found = config(&Setting::Copies(rule)).expect("copies");
        assert_eq!(found, json!({"decoding_type": "SA", "max_draft_len": 8, "max_matching_ngram_size": 3}));
        let longest = config(&Setting::Copies(CopyRule { match_length: 1, ..rule })).expect("copies");
        assert_eq!(longest["max_matching_ngram_size"], json!(-1));
        config(&Setting::AdaptiveChains(vec![1])).expect_err("adaptive");
    }
}
