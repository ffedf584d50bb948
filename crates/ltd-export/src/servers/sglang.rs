//! SGLang: arguments of its server, and the file of its adaptive chains.
//!
//! Of the wheel `sglang` 0.5.23: `srt/arg_groups/fields/spec.py` (flags),
//! `srt/arg_groups/speculative_hook.py` (what is refused), `srt/speculative/eagle_worker_v2.py` (a
//! step is a level: `num_steps - 1` forwards follow the root expansion),
//! `srt/speculative/eagle_utils.py` (`num_draft_tokens` counts the root),
//! `srt/speculative/adaptive_spec_params.py` and `kernels/jit/csrc/ngram_corpus/trie.cpp`.

use ltd_contenders::SglangEma;
use ltd_policy::LONGEST_MATCH;
use serde_json::json;

use super::form::{NO_MIXTURE, Place, ServerFile, ServerForm, json_line, line, no_shortest_match};
use super::setting::{Setting, Trees};

pub(super) const VERSION: &str = "0.5.23";
/// The file that `--speculative-adaptive-config` names.
const ADAPTIVE_FILE: &str = "sglang-adaptive.json";

pub(super) fn form(setting: &Setting, place: &Place) -> Result<ServerForm, String> {
    let mut notes = Vec::new();
    let mut files = Vec::new();
    let text = match setting {
        Setting::Trees(trees) => {
            // Its chains are as long as its steps, whatever is verified.
            let steps = trees.chain().unwrap_or(trees.levels());
            if trees.beam_width > 1 {
                notes.push(
                    "trees need page_size 1, or the attention backend flashinfer, fa3 or triton".to_owned(),
                );
            }
            eagle(trees, steps, place)
        }
        Setting::AdaptiveChains(lengths) => {
            files.push(ServerFile { name: ADAPTIVE_FILE, text: adaptive(lengths) });
            notes.push(format!("run it where {ADAPTIVE_FILE} is; all batch sizes use its one entry"));
            let first = SglangEma::new(lengths.clone()).steps();
            let trees = Trees { beam_width: 1, depth: first - 1, size: first };
            let adaptive = [("--speculative-adaptive", ""), ("--speculative-adaptive-config", ADAPTIVE_FILE)];
            format!("{} {}", eagle(&trees, first, place).trim_end(), line(&adaptive))
        }
        Setting::Copies(rule) if rule.match_length > 1 => return Err(no_shortest_match(rule.match_length)),
        Setting::Copies(rule) => {
            notes.push(
                "it looks in all requests' texts, and may verify what followed several matches".to_owned(),
            );
            // A match and what follows it are one path of its trie.
            let depth = (LONGEST_MATCH + rule.chain).to_string();
            line(&[
                ("--speculative-algorithm", "NGRAM"),
                ("--speculative-num-draft-tokens", &(rule.chain + 1).to_string()),
                ("--speculative-ngram-min-bfs-breadth", "1"),
                ("--speculative-ngram-max-bfs-breadth", "1"),
                ("--speculative-ngram-max-trie-depth", &depth),
            ])
        }
        Setting::CopiesAndTrees(..) => return Err(NO_MIXTURE.to_owned()),
    };
    files.insert(0, ServerFile { name: "sglang.args", text });
    Ok(ServerForm { files, notes })
}

fn eagle(trees: &Trees, steps: usize, place: &Place) -> String {
    line(&[
        ("--speculative-algorithm", "EAGLE3"),
        ("--speculative-draft-model-path", &place.draft),
        ("--speculative-num-steps", &steps.to_string()),
        ("--speculative-eagle-topk", &trees.beam_width.to_string()),
        // The root is one of them.
        ("--speculative-num-draft-tokens", &(trees.verified() + 1).to_string()),
    ])
}

/// The rule that was priced, in all its values: another version may have other defaults.
fn adaptive(lengths: &[usize]) -> String {
    let rule = SglangEma::new(lengths.to_vec());
    let value = json!({
        "ema_alpha": rule.weight,
        "update_interval": rule.every,
        "warmup_batches": rule.warm_up,
        "1": {
            "candidate_steps": lengths,
            "up_hysteresis": rule.up,
            "down_hysteresis": rule.down,
            "ceiling_coeff": 0,
        },
    });
    json_line(&value)
}

#[cfg(test)]
mod tests {
    use ltd_policy::CopyRule;

    use super::*;

    fn place() -> Place {
        Place { draft: "head".to_owned(), greedy: true }
    }

    fn text(setting: &Setting) -> String {
        form(setting, &place()).expect("a form").files[0].text.clone()
    }

    #[test]
    fn steps_are_levels_and_the_root_is_a_draft_token() {
        let trees = Trees { beam_width: 10, depth: 3, size: 24 };
        assert_eq!(
            text(&Setting::Trees(trees)),
            "--speculative-algorithm EAGLE3 --speculative-draft-model-path head --speculative-num-steps 4 \
             --speculative-eagle-topk 10 --speculative-num-draft-tokens 25\n"
        );
        // It sets a chain's draft tokens to steps + 1 by itself.
        let chain = Trees { beam_width: 1, depth: 6, size: 3 };
        let found = text(&Setting::Trees(chain));
        assert!(found.contains("-num-steps 3 ") && found.ends_with("-num-draft-tokens 4\n"), "{found}");
    }

    #[test]
    fn adaptive_chains_begin_with_a_candidate() {
        let form = form(&Setting::AdaptiveChains(vec![1, 2, 5]), &place()).expect("a form");
        let [arguments, file] = &form.files[..] else { panic!("two files") };
        assert!(arguments.text.contains("--speculative-num-steps 2 "), "{}", arguments.text);
        assert!(arguments.text.ends_with("--speculative-adaptive-config sglang-adaptive.json\n"));
        let value: serde_json::Value = serde_json::from_str(&file.text).expect("JSON");
        assert_eq!(value["1"]["candidate_steps"], json!([1, 2, 5]));
        assert_eq!((&value["ema_alpha"], &value["1"]["down_hysteresis"]), (&json!(0.2), &json!(-0.25)));
    }

    #[test]
    fn it_copies_from_one_token_on_and_never_beside_trees() {
        let rule = |match_length| CopyRule { match_length, chain: 8 };
        let found = text(&Setting::Copies(rule(1)));
        assert!(found.starts_with("--speculative-algorithm NGRAM --speculative-num-draft-tokens 9 "));
        assert!(found.ends_with("-max-trie-depth 24\n"), "{found}");
        let refused = form(&Setting::Copies(rule(2)), &place()).expect_err("two tokens");
        assert!(refused.contains("a single token matches, and the rule asks for 2"), "{refused}");
        let trees = Trees { beam_width: 10, depth: 1, size: 4 };
        form(&Setting::CopiesAndTrees(rule(1), trees), &place()).expect_err("no mixture");
    }
}
