use std::path::Path;

use ltd_policy::{
    Choice, CycleSummary, DepthPolicy, Error, FrozenPolicy, FrozenPredictor, LatencyTable, ObservationLayout,
    SizePolicy, argmax, tree_candidates,
};
use proptest::prelude::*;

use crate::synthetic::{compact_pair, depth_policy, latency_table, predictor, size_policy};

fn reread(bytes: &[u8]) -> Result<FrozenPolicy, Error> {
    FrozenPolicy::from_bytes(bytes, Path::new("policy.safetensors"))
}

#[test]
fn a_policy_is_read_back_as_it_was_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let (compact_depth, compact_size) = compact_pair();
    for policy in [depth_policy(), size_policy(), compact_depth, compact_size] {
        let path = folder.path().join("policy.safetensors");
        policy.save(&path).expect("it is written");
        assert_eq!(FrozenPolicy::load(&path).expect("it is read"), policy);
    }
    let path = folder.path().join("policy.safetensors");
    predictor().save(&path).expect("it is written");
    assert_eq!(FrozenPredictor::load(&path).expect("it is read"), predictor());
    let error = FrozenPolicy::load(&path).expect_err("no policy").to_string();
    assert!(error.contains("policy header is not of the expected form"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1, "no temporary file is left");
}

#[test]
fn deciders_choose_what_the_full_network_chooses() {
    let scores: Vec<f32> = (0..3 + 4 * 9).map(|index| -0.37 * index as f32).collect();
    for (depth, size) in [(depth_policy(), size_policy()), compact_pair()] {
        let mut depth_decider = DepthPolicy::new(&depth).expect("a depth policy");
        let mut size_decider = SizePolicy::new(&size).expect("a size policy");
        assert!(DepthPolicy::new(&size).is_none() && SizePolicy::new(&depth).is_none());
        for draft_depth in 0..4 {
            for context_length in [0, 17, 900] {
                let scores = &scores[..3 + draft_depth * 9];
                let summary =
                    CycleSummary { scores, beam_width: 3, frontier: 3, draft_depth, context_length };
                let full = |policy: &FrozenPolicy| {
                    let mut observation = vec![0.0; policy.layout().len()];
                    policy.layout().write_into(&summary, &mut observation);
                    argmax(policy.mlp().forward(&observation, &mut policy.mlp().scratch()))
                };
                assert_eq!(depth_decider.continue_drafting(&summary), full(&depth) == 1);
                assert_eq!(size_decider.verification_size(&summary), [2, 5, 9][full(&size)]);
            }
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = size_policy().to_bytes();
    for end in (0..bytes.len()).step_by(97) {
        assert!(reread(&bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
    }
}

/// Replaces text in the file's header, keeping its length by padding with blanks.
fn edited(from: &str, to: &str) -> Vec<u8> {
    let bytes = size_policy().to_bytes();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + header_len]).expect("text");
    assert!(header.contains(from), "{header}");
    let mut header = header.replacen(from, to, 1);
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut edited = (header.len() as u64).to_le_bytes().to_vec();
    edited.extend(header.into_bytes());
    edited.extend(&bytes[8 + header_len..]);
    edited
}

#[test]
fn a_file_whose_parts_do_not_fit_is_refused_with_what_is_wrong() {
    for (from, to, message) in [
        (
            r#"\"format_version\":1"#,
            r#"\"format_version\":9"#,
            "format version 9, this program reads version 1",
        ),
        (r#"\"kind\":\"size\""#, r#"\"kind\":\"depth\""#, "kind of the actions is size, expected depth"),
        (
            r#"\"depth_cap\":4"#,
            r#"\"depth_cap\":5"#,
            "layout is 39 numbers of AllScores, expected at least 48",
        ),
        (r"[2,5,9]", r"[5,2,9]", "action table is"),
        (r"[2,5,9]", r"[2,5]", "network outputs is 3, expected 2"),
        (r#"\"offset\":39"#, r#"\"offset\":40"#, "layout is gaps or overlaps"),
        ("layers.1.bias", "layers.1.dias", "layers.1.bias"),
        (r#"\"layout\""#, r#"\"lay\""#, "unknown field `lay`"),
        (r#""policy""#, r#""police""#, "metadata is none"),
    ] {
        let error = reread(&edited(from, to)).expect_err(to).to_string();
        assert!(error.starts_with("policy.safetensors: ") && error.contains(message), "{error}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let mut bytes = size_policy().to_bytes();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(reread(&bytes).expect_err("NaN").to_string().contains("finite numbers"));
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let path = Path::new("policy.safetensors");
        let mut bytes = size_policy().to_bytes();
        let at = place.index(bytes.len());
        bytes[at] = value;
        let _ = reread(&bytes);
        let mut bytes = predictor().to_bytes();
        let at = place.index(bytes.len());
        bytes[at] = value;
        let _ = FrozenPredictor::from_bytes(&bytes, path);
        let mut text = latency_table(1.0, 0.1).to_json().into_bytes();
        let at = place.index(text.len());
        text[at] = b' ' + value % 95;
        let text = String::from_utf8(text).expect("ASCII");
        if let Ok(table) = LatencyTable::from_json(&text, path) {
            prop_assert!(table.model().cycle_ms(12, 60, 300, 4) > 0.0);
        }
    }

    #[test]
    fn layouts_of_any_width_and_depth_hold_every_score(width in 1usize..12, cap in 1usize..=12) {
        let layout = ObservationLayout::reference_size(width, cap);
        let scores = vec![-1.0; tree_candidates(width, cap)];
        let mut observation = vec![f32::NAN; layout.len()];
        let summary = CycleSummary { scores: &scores, beam_width: width, frontier: width, draft_depth: cap, context_length: 3 };
        layout.write_into(&summary, &mut observation);
        prop_assert_eq!(observation.iter().filter(|value| **value == -1.0).count(), scores.len());
    }
}

#[test]
fn a_frozen_policy_is_a_choice() {
    assert!(matches!(Choice::from(depth_policy()), Choice::Learned(_)));
}
