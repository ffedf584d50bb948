//! Distributions equal those of Hugging Face's logits processors.

use ltd_engine::{Error, Sampler, SamplingParams, distribution};
use safetensors::SafeTensors;
use tch::{Kind, Tensor};

use crate::fixtures::workspace;

/// Softmax over 1500 tokens in f32 by other kernels.
const TOLERANCE: f64 = 1e-6;

fn rows(file: &SafeTensors, name: &str) -> Tensor {
    let view = file.tensor(name).expect("a tensor");
    let words = view.data().chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).expect("four bytes"));
    let values: Vec<f32> = words.map(f32::from_le_bytes).collect();
    Tensor::from_slice(&values).view([view.shape()[0] as i64, view.shape()[1] as i64])
}

#[test]
fn distributions_equal_those_of_the_logits_processors() {
    let folder = workspace().join("tests/fixtures/hf-sampling");
    let settings = std::fs::read_to_string(folder.join("settings.json")).expect("settings");
    let mut settings: Vec<serde_json::Value> = serde_json::from_str(&settings).expect("JSON");
    let bytes = std::fs::read(folder.join("processors.safetensors")).expect("the fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let logits = rows(&file, "logits");
    let before = logits.copy();
    for (index, setting) in settings.drain(..).enumerate() {
        let params: SamplingParams = serde_json::from_value(setting).expect("settings of ours");
        assert!(params.problems().is_empty());
        let expected = rows(&file, &format!("probabilities.{index}"));
        let found = distribution(&logits, &params).expect("a distribution");
        let kept = |p: &Tensor| p.gt(0.0);
        assert_eq!(kept(&found), kept(&expected), "{params}: other tokens are kept");
        let difference = (&found - &expected).abs().max().double_value(&[]);
        assert!(difference < TOLERANCE, "{params}: {difference}");
        // Row by row as all at once.
        for row in 0..4 {
            let alone = distribution(&logits.narrow(0, row, 1), &params).expect("a distribution");
            assert_eq!(alone, found.narrow(0, row, 1), "{params}");
        }
    }
    assert_eq!(logits, before, "the logits are the caller's");
}

#[test]
fn tokens_as_probable_as_the_last_that_stays_stay_too() {
    let logits = Tensor::from_slice(&[1.0_f32, 2.0, 1.0, 1.0, 0.0]).view([1, 5]);
    for params in [
        SamplingParams { temperature: 1.0, top_p: 1.0, top_k: Some(2) },
        SamplingParams { temperature: 1.0, top_p: 0.5, top_k: None },
    ] {
        let found = distribution(&logits, &params).expect("a distribution");
        let kept: Vec<bool> = Vec::try_from(found.view(-1).gt(0.0)).expect("truth values");
        assert_eq!(kept, [true, true, true, true, false], "{params}");
    }
}

#[test]
fn logits_that_are_not_numbers_are_an_error_and_not_a_token() {
    for params in [
        SamplingParams::default(),
        SamplingParams { temperature: 1.0, ..SamplingParams::default() },
        SamplingParams { temperature: 0.5, top_p: 0.9, top_k: Some(3) },
    ] {
        let sampler = Sampler::new(params, 1).expect("a sampler");
        for bad in [f32::NAN, f32::INFINITY] {
            let logits = Tensor::from_slice(&[0.0, 1.0, 2.0, 3.0, 0.0, bad, 2.0, 3.0]).view([2, 4]);
            let error = sampler.tokens(&logits, &[7, 8]).expect_err("no token");
            assert!(matches!(error, Error::LogitsNotANumber { position: 8 }), "{error}");
            assert!(!error.is_usage());
        }
        let none = Tensor::full([1, 4], f64::NEG_INFINITY, (Kind::Float, tch::Device::Cpu));
        assert!(sampler.tokens(&none, &[7]).is_err());
        // What cannot be chosen may be minus infinity. In f64 it is LibTorch that chooses.
        for kind in [Kind::Float, Kind::Double] {
            let logits = Tensor::from_slice(&[f32::NEG_INFINITY, f32::NEG_INFINITY, 2.0]).view([1, 3]);
            let logits = logits.to_kind(kind);
            assert_eq!(sampler.tokens(&logits, &[7]).expect("a token"), [2]);
            let bad = logits.where_self(&logits.gt(0.0), &Tensor::from(f64::NAN));
            assert!(sampler.tokens(&bad, &[7]).is_err());
        }
    }
}

#[test]
fn impossible_settings_are_named() {
    let good = SamplingParams { temperature: 1.0, top_p: 0.9, top_k: Some(40) };
    for (params, message) in [
        (SamplingParams { temperature: -0.5, ..good }, "temperature: is -0.5, must be 0 (greedy) or"),
        (SamplingParams { temperature: f64::NAN, ..good }, "temperature: is NaN, must be 0 (greedy) or"),
        (SamplingParams { temperature: f64::INFINITY, ..good }, "temperature: is inf, must be"),
        (SamplingParams { temperature: 1e-9, ..good }, "is 1e-9, must be 0 (greedy) or within 0.001..=1000"),
        (SamplingParams { top_p: 0.0, ..good }, "top_p: is 0.0, must be above 0 and at most 1"),
        (SamplingParams { top_p: 1.01, ..good }, "top_p: is 1.01, must be above 0 and at most 1"),
        (SamplingParams { top_p: f64::NAN, ..good }, "top_p: is NaN, must be above 0"),
        (SamplingParams { top_k: Some(0), ..good }, "top_k: is 0, must be within 1..=2147483647"),
    ] {
        let error = Sampler::new(params, 0).expect_err("refused");
        assert!(error.to_string().contains(message) && error.is_usage(), "{error}");
    }
    assert_eq!(SamplingParams { temperature: -1.0, top_p: 2.0, top_k: Some(0) }.problems().len(), 3);
    assert_eq!(good.to_string(), "temperature 1, top-k 40, top-p 0.9");
    assert_eq!(SamplingParams::default().to_string(), "greedy");
}
