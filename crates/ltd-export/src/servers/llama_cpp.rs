//! llama.cpp: arguments of `llama-server`.
//!
//! Of its repository at commit 00dc8057: `tools/server/README.md` (the flags; `--draft-max` and its
//! like are gone). `docs/speculative.md` says that `ngram-simple` copies what followed the last
//! occurrence of the latest N tokens, and that what copies goes before what drafts.

use super::form::{NO_ADAPTIVE, NO_TREES, Place, ServerFile, ServerForm, fixed_match, line};
use super::setting::{Setting, Trees};

pub(super) const VERSION: &str = "commit 00dc8057";

pub(super) fn form(setting: &Setting, place: &Place) -> Result<ServerForm, String> {
    let (rule, trees) = match setting {
        Setting::Trees(trees) => (None, Some(trees)),
        Setting::CopiesAndTrees(rule, trees) => (Some(rule), Some(trees)),
        Setting::Copies(rule) => (Some(rule), None),
        Setting::AdaptiveChains(_) => return Err(NO_ADAPTIVE.to_owned()),
    };
    let chain = trees.map(|trees: &Trees| trees.chain().ok_or(NO_TREES)).transpose()?;
    let types: Vec<&str> =
        rule.map(|_| "ngram-simple").into_iter().chain(chain.map(|_| "draft-eagle3")).collect();
    let mut arguments = vec![("--spec-type", types.join(","))];
    let mut notes = Vec::new();
    if let Some(rule) = rule {
        arguments.push(("--spec-ngram-simple-size-n", rule.match_length.to_string()));
        arguments.push(("--spec-ngram-simple-size-m", rule.chain.to_string()));
        notes.push(fixed_match(rule.match_length));
    }
    if let Some(chain) = chain {
        arguments.push(("--spec-draft-model", place.draft.clone()));
        arguments.push(("--spec-draft-n-max", chain.to_string()));
        notes.push("the draft model must be a GGUF file of a head".to_owned());
    }
    let arguments: Vec<(&str, &str)> =
        arguments.iter().map(|(flag, value)| (*flag, value.as_str())).collect();
    Ok(ServerForm { files: vec![ServerFile { name: "llama.cpp.args", text: line(&arguments) }], notes })
}

#[cfg(test)]
mod tests {
    use ltd_policy::CopyRule;

    use super::*;

    #[test]
    fn it_copies_drafts_chains_and_does_both() {
        let place = Place { draft: "head.gguf".to_owned(), greedy: true };
        let text = |setting: &Setting| form(setting, &place).map(|form| form.files[0].text.clone());
        let chain = Trees { beam_width: 1, depth: 2, size: 60 };
        let rule = CopyRule { match_length: 2, chain: 8 };
        assert_eq!(
            text(&Setting::Trees(chain)).expect("a chain"),
            "--spec-type draft-eagle3 --spec-draft-model head.gguf --spec-draft-n-max 3\n"
        );
        let copies = "--spec-ngram-simple-size-n 2 --spec-ngram-simple-size-m 8";
        assert_eq!(
            text(&Setting::Copies(rule)).expect("copies"),
            format!("--spec-type ngram-simple {copies}\n")
        );
        assert_eq!(
            text(&Setting::CopiesAndTrees(rule, chain)).expect("both"),
            format!(
                "--spec-type ngram-simple,draft-eagle3 {copies} --spec-draft-model head.gguf --spec-draft-n-max 3\n"
            )
        );
        let tree = Trees { beam_width: 10, ..chain };
        text(&Setting::Trees(tree)).expect_err("a tree");
        text(&Setting::CopiesAndTrees(rule, tree)).expect_err("a tree between copies");
    }
}
