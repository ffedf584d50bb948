//! OpenVINO GenAI: entries of a `generation_config.json`, or arguments of `GenerationConfig`.
//!
//! Of version 2026.3.0.0: `src/cpp/include/openvino/genai/generation_config.hpp` (what the entries
//! mean), `src/cpp/src/generation_config.cpp` (`validate`),
//! `src/cpp/src/speculative_decoding/stateful/eagle3_strategy.cpp` (`tree_depth - 1` forwards
//! follow the root expansion) and
//! `src/cpp/src/prompt_lookup/continuous_batching_for_prompt_lookup.cpp` (from the longest match
//! down to one token, of several the earliest).

use ltd_policy::LONGEST_MATCH;
use serde_json::json;

use super::form::{NO_ADAPTIVE, NO_MIXTURE, Place, ServerFile, ServerForm, json_line, no_shortest_match};
use super::setting::Setting;

pub(super) const VERSION: &str = "2026.3.0.0";

pub(super) fn form(setting: &Setting, place: &Place) -> Result<ServerForm, String> {
    let mut notes = Vec::new();
    let value = match setting {
        Setting::Trees(_) if !place.greedy => {
            return Err("its trees are for greedy decoding, and the policy was made for another".to_owned());
        }
        Setting::Trees(trees) => {
            let levels = trees.chain().unwrap_or(trees.levels());
            let size = trees.verified();
            if size < levels {
                return Err(format!("it verifies at least {levels} candidates of such trees, not {size}"));
            }
            notes.push("the draft model is the pipeline's `draft_model`".to_owned());
            json!({"branching_factor": trees.beam_width, "tree_depth": levels, "num_assistant_tokens": size})
        }
        Setting::Copies(rule) if rule.match_length > 1 => return Err(no_shortest_match(rule.match_length)),
        Setting::Copies(rule) => {
            notes.push("the pipeline must be made with `prompt_lookup=True`".to_owned());
            notes.push("of several matches of one length it copies what followed the earliest".to_owned());
            json!({"max_ngram_size": LONGEST_MATCH, "num_assistant_tokens": rule.chain})
        }
        Setting::CopiesAndTrees(..) => return Err(NO_MIXTURE.to_owned()),
        Setting::AdaptiveChains(_) => return Err(NO_ADAPTIVE.to_owned()),
    };
    Ok(ServerForm { files: vec![ServerFile { name: "openvino.json", text: json_line(&value) }], notes })
}

#[cfg(test)]
mod tests {
    use ltd_policy::CopyRule;

    use super::super::setting::Trees;
    use super::*;

    #[test]
    fn trees_have_a_candidate_per_level_at_least() {
        let place = Place { draft: "head".to_owned(), greedy: true };
        let text = |setting: &Setting| form(setting, &place).map(|form| form.files[0].text.clone());
        let trees = Trees { beam_width: 10, depth: 3, size: 24 };
        assert_eq!(
            text(&Setting::Trees(trees)).expect("a tree"),
            "{\"branching_factor\":10,\"tree_depth\":4,\"num_assistant_tokens\":24}\n"
        );
        text(&Setting::Trees(Trees { size: 4, ..trees })).expect("a candidate per level");
        let refused = text(&Setting::Trees(Trees { size: 3, ..trees })).expect_err("fewer");
        assert_eq!(refused, "it verifies at least 4 candidates of such trees, not 3");
        // A chain drafts what it verifies.
        text(&Setting::Trees(Trees { beam_width: 1, size: 3, ..trees })).expect("a chain");
        let rule = CopyRule { match_length: 1, chain: 5 };
        assert_eq!(
            text(&Setting::Copies(rule)).expect("copies"),
            "{\"max_ngram_size\":16,\"num_assistant_tokens\":5}\n"
        );
        text(&Setting::Copies(CopyRule { match_length: 2, ..rule })).expect_err("two tokens");
        let drawn = Place { greedy: false, ..place.clone() };
        assert!(form(&Setting::Trees(trees), &drawn).is_err());
    }
}
