//! Decoding with instruction sets that are narrower than this processor's.

use serde_json::Value;

use crate::command::{program, refusal_of, workspace};

/// A pair, and the tokens to begin with.
const PAIRS: [[&str; 3]; 3] = [
    ["tests/fixtures/tiny-pair/target", "tests/fixtures/tiny-pair/draft", "1 88 108 105 36"],
    ["tests/fixtures/tiny-gqa-pair/target", "tests/fixtures/tiny-gqa-pair/draft", "1 88 108 105 36"],
    ["models/smollm2-135m-instruct", "assets/eagle3-smollm2-135m", "1 504 3575 282 4649 314"],
];

/// The answer of `ltd-decode` with an instruction set; none where the processor does not have it.
fn decode(
    instructions: &str,
    dtype: &str,
    [target, draft, tokens]: [&str; 3],
    mode: &[&str],
) -> Option<Value> {
    assert!(workspace().join(target).is_dir(), "{target} is missing: run scripts/setup");
    let pair = ["--target", target, "--draft", draft, "--token-ids", tokens, "--dtype", dtype];
    let mut command = program("ltd-decode", &[&pair, mode, &["--max-new-tokens", "24", "--json"]].concat());
    let output = command.env("LTD_INSTRUCTIONS", instructions).output().expect("it starts");
    let problem = String::from_utf8_lossy(&output.stderr);
    if problem.contains("unavailable instruction set") {
        return None;
    }
    assert!(output.status.success(), "{problem}");
    let lines = String::from_utf8(output.stdout).expect("text");
    Some(serde_json::from_str(lines.lines().last().expect("an answer")).expect("JSON"))
}

/// Rows do not depend on those beside them.
#[test]
fn trees_give_the_tokens_of_plain_decoding_with_every_instruction_set_and_number_type() {
    for set in ["avx2", "avx512", "avx512-bf16"] {
        for (dtype, pair) in
            ["f32", "bf16", "f16"].into_iter().flat_map(|dtype| PAIRS.map(|pair| (dtype, pair)))
        {
            let Some(plain) = decode(set, dtype, pair, &["--mode", "ar"]) else {
                println!("not covered: {set}");
                break;
            };
            let tree = ["--mode", "static", "--depth", "3", "--size", "24"];
            let tree = decode(set, dtype, pair, &tree).expect("as before");
            assert_eq!(tree["batch_invariant"], true, "{set} {dtype} {pair:?}");
            assert_eq!(tree["output_ids"], plain["output_ids"], "{set} {dtype} {pair:?}");
        }
    }
}

#[test]
fn an_unknown_set_is_refused_with_those_that_are_there() {
    let [target, draft, tokens] = PAIRS[0];
    let arguments = ["--target", target, "--draft", draft, "--mode", "ar", "--token-ids", tokens];
    let mut command = program("ltd-decode", &arguments);
    let message = refusal_of(command.env("LTD_INSTRUCTIONS", "avx3"));
    let expected =
        "environment variable LTD_INSTRUCTIONS: unknown instruction set `avx3`; this processor has baseline";
    assert!(message.contains(expected), "{message}");
}
