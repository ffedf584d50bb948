//! vLLM: `--speculative-config` of its server, which is JSON.
//!
//! Of the wheel `vllm` 0.33.0: `config/speculative.py` (`SpeculativeConfig`) and
//! `v1/spec_decode/ngram_proposer.py` (the longest match between the two lengths, of several the
//! earliest).

use ltd_policy::LONGEST_MATCH;
use serde_json::json;

use super::form::{NO_ADAPTIVE, NO_MIXTURE, NO_TREES, Place, ServerFile, ServerForm, line};
use super::setting::Setting;

pub(super) const VERSION: &str = "0.33.0";

pub(super) fn form(setting: &Setting, place: &Place) -> Result<ServerForm, String> {
    let mut notes = Vec::new();
    let value = match setting {
        Setting::Trees(trees) => {
            let chain = trees.chain().ok_or(NO_TREES)?;
            json!({"method": "eagle3", "model": place.draft, "num_speculative_tokens": chain})
        }
        Setting::Copies(rule) => {
            notes.push("of several matches of one length it copies what followed the earliest".to_owned());
            json!({
                "method": "ngram",
                "num_speculative_tokens": rule.chain,
                "prompt_lookup_min": rule.match_length,
                "prompt_lookup_max": LONGEST_MATCH,
            })
        }
        Setting::CopiesAndTrees(..) => return Err(NO_MIXTURE.to_owned()),
        Setting::AdaptiveChains(_) => return Err(NO_ADAPTIVE.to_owned()),
    };
    let text = line(&[("--speculative-config", &value.to_string())]);
    Ok(ServerForm { files: vec![ServerFile { name: "vllm.args", text }], notes })
}

#[cfg(test)]
mod tests {
    use ltd_policy::CopyRule;

    use super::super::setting::Trees;
    use super::*;

    #[test]
    fn chains_and_copies_have_a_form_and_trees_have_none() {
        let place = Place { draft: "org/head".to_owned(), greedy: true };
        let text = |setting: &Setting| form(setting, &place).map(|form| form.files[0].text.clone());
        let chain = Trees { beam_width: 1, depth: 3, size: 9 };
        assert_eq!(
            text(&Setting::Trees(chain)).expect("a chain"),
            "--speculative-config '{\"method\":\"eagle3\",\"model\":\"org/head\",\"num_speculative_tokens\":4}'\n"
        );
        let rule = CopyRule { match_length: 2, chain: 8 };
        assert_eq!(
            text(&Setting::Copies(rule)).expect("copies"),
            "--speculative-config '{\"method\":\"ngram\",\"num_speculative_tokens\":8,\"prompt_lookup_min\":2,\"prompt_lookup_max\":16}'\n"
        );
        let refused = text(&Setting::Trees(Trees { beam_width: 10, ..chain })).expect_err("a tree");
        assert!(refused.contains("length does not follow from trees"), "{refused}");
        text(&Setting::CopiesAndTrees(rule, chain)).expect_err("both");
        text(&Setting::AdaptiveChains(vec![1, 3])).expect_err("adaptive");
    }
}
