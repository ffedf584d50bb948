//! What is not a number is found in every mode, and blamed on the model that made it.

use ltd_engine::{Along, Engine, Error, GrownTree, Sampler, SamplingParams, Static};

use crate::bad_input::Pair;
use crate::fixtures::{load, rewrite_tensors};

const PROMPT: [u32; 4] = [88, 108, 105, 36];

/// The tiny pair with one number of a weight replaced.
fn poisoned(file: &str, tensor: &str, index: usize, value: f32) -> Engine {
    let pair = Pair::new();
    rewrite_tensors(&pair.path(file), |tensors| {
        let bytes = &mut tensors.get_mut(tensor).expect("a weight").2;
        bytes[4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    });
    load(&pair.config())
}

fn target(tensor: &str, index: usize, value: f32) -> Engine {
    poisoned("target/model.safetensors", tensor, index, value)
}

fn samplers() -> [Sampler; 3] {
    let sampling = |top_p| SamplingParams { temperature: 0.7, top_p, top_k: None };
    [
        Sampler::greedy(),
        Sampler::new(sampling(1.0), 1).expect("it is"),
        Sampler::new(sampling(0.9), 1).expect("it is"),
    ]
}

/// The error of growing trees along a text, as recording does.
fn along(engine: &Engine, tokens: &[u32]) -> Result<(), Error> {
    let along =
        Along { first: 1, every: 1, depth: 2, batch: 4, entropies: false, hidden: false, states: false };
    engine.trees_along(&engine.read(tokens)?, &along, |_: GrownTree| Ok::<_, Error>(()))
}

#[test]
fn a_target_that_is_not_a_number_is_found_at_the_first_token_in_every_mode() {
    // Before the features, after them, and in the logits of one token alone, where infinity may be
    // minus infinity.
    for (tensor, index, values) in [
        ("model.layers.3.mlp.up_proj.weight", 0, &[f32::NAN, f32::INFINITY][..]),
        ("model.layers.7.mlp.down_proj.weight", 5, &[f32::NAN, f32::INFINITY]),
        ("lm_head.weight", 96 * 259 + 7, &[f32::NAN]),
    ] {
        for &value in values {
            let engine = target(tensor, index, value);
            for sampler in samplers() {
                let error = engine.prefill_sampled(&PROMPT, sampler, None).err().expect("no token");
                assert!(matches!(error, Error::LogitsNotANumber { position: 4 }), "{tensor}: {error}");
                assert!(!error.is_usage() && error.to_string().contains("the target model"), "{error}");
            }
        }
    }
    for value in [f32::NAN, f32::INFINITY] {
        let engine = target("model.layers.3.mlp.up_proj.weight", 0, value);
        let error = along(&engine, &PROMPT).expect_err("no trees");
        assert!(matches!(error, Error::FeaturesNotANumber { position: 0 }), "{error}");
        assert!(!error.is_usage() && error.to_string().contains("the target model"), "{error}");
    }
}

#[test]
fn a_token_that_is_not_a_number_is_found_where_it_is_read() {
    // The vector of a token that the answer has, and the prompt does not.
    let sound = load(&Pair::new().config());
    let mut session = sound.prefill(&PROMPT, None).expect("prefill");
    while session.tokens().len() < 24 {
        sound.autoregressive_step(&mut session).expect("a step");
    }
    let answer = session.tokens();
    let (place, &token) = answer
        .iter()
        .enumerate()
        .skip(PROMPT.len() + 1)
        .find(|(place, token)| !answer[..*place].contains(token))
        .expect("a new token");
    let engine = target("model.embed_tokens.weight", 96 * token as usize, f32::NAN);
    for plain in [true, false] {
        let mut session = engine.prefill(&PROMPT, None).expect("prefill");
        let error = loop {
            let stepped = if plain {
                engine.autoregressive_step(&mut session)
            } else {
                engine.run_cycle(&mut session, &mut Static { depth: 0, size: 1 })
            };
            match stepped {
                Ok(_) => assert!(session.tokens().len() <= place, "{:?}", session.tokens()),
                Err(error) => break error,
            }
        };
        match error {
            Error::LogitsNotANumber { position } => assert_eq!(position, place + 1),
            // The draft has read it first, in the target's embedding.
            Error::EmbeddingNotANumber { token: found, position } => {
                assert!(!plain);
                assert_eq!((found, position), (token, place));
            }
            error => panic!("{plain}: {error}"),
        }
    }
    let error = along(&engine, &answer[..=place + 1]).expect_err("no trees");
    let expected =
        |error: &Error| matches!(error, Error::EmbeddingNotANumber { position, .. } if *position == place);
    assert!(expected(&error), "{error}");
}

#[test]
fn a_token_that_can_never_be_chosen_is_no_fault() {
    let expected = load(&Pair::new().config()).prefill(&PROMPT, None).expect("prefill").root();
    // Its logit is minus infinity with one of both signs, and plus infinity with the other.
    let [mut chosen, mut refused] = [0, 0];
    for value in [f32::NEG_INFINITY, f32::INFINITY] {
        match target("lm_head.weight", 96 * 259, value).prefill(&PROMPT, None) {
            Ok(session) => {
                assert_eq!(session.root(), expected);
                chosen += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::LogitsNotANumber { position: 4 }), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!([chosen, refused], [1, 1]);
}

#[test]
fn a_draft_that_is_not_a_number_is_blamed_with_the_place() {
    for (tensor, index, values) in [
        ("midlayer.mlp.up_proj.weight", 0, &[f32::NAN, f32::INFINITY][..]),
        ("fc.weight", 0, &[f32::NAN, f32::INFINITY]),
        ("lm_head.weight", 96 * 3, &[f32::NAN]),
    ] {
        for &value in values {
            let engine = poisoned("draft/model.safetensors", tensor, index, value);
            // Plain decoding does not ask it.
            let mut session = engine.prefill(&PROMPT, None).expect("prefill");
            engine.autoregressive_step(&mut session).expect("a step");
            for sampler in samplers() {
                let mut session = engine.prefill_sampled(&PROMPT, sampler, None).expect("prefill");
                let error =
                    engine.run_cycle(&mut session, &mut Static { depth: 2, size: 4 }).expect_err("no tree");
                assert!(matches!(error, Error::NotANumber { position: 4, depth: 0 }), "{tensor}: {error}");
                assert!(!error.is_usage() && error.to_string().contains("the draft model"), "{error}");
            }
            let error = along(&engine, &PROMPT).expect_err("no trees");
            assert!(matches!(error, Error::NotANumber { position: 1, depth: 0 }), "{tensor}: {error}");
        }
    }
}
