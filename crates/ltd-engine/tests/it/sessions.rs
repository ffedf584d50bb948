//! A session belongs to the engine that started it, and a cycle to the session that it was begun
//! on: anything else is an error, before memory is touched.

use ltd_engine::{CycleState, DtypeSetting, Engine, EngineConfig, Error, Session, Static};

use crate::fixtures::{load, tiny_config, tiny_configs};

const PROMPT: [u32; 4] = [1, 88, 108, 105];

fn started(engine: &Engine) -> Session {
    engine.prefill(&PROMPT, None).expect("a session")
}

fn begun(engine: &Engine, session: &mut Session) -> CycleState {
    engine.begin_cycle(session, usize::MAX).expect("a cycle")
}

/// Engines of both pairs, the first one also with caches of other sizes, with another number type,
/// and once more.
fn engines() -> Vec<Engine> {
    let settings = [
        (200, DtypeSetting::F32),
        (16, DtypeSetting::F32),
        (200, DtypeSetting::Bf16),
        (200, DtypeSetting::F32),
    ];
    let of_first = settings.map(|(max_length, dtype)| EngineConfig {
        max_length: Some(max_length),
        dtype,
        ..tiny_config()
    });
    let of_others = tiny_configs().skip(1).map(|(_, config)| config);
    of_first.into_iter().chain(of_others).map(|config| load(&config)).collect()
}

#[test]
fn a_session_of_another_engine_is_refused() {
    let engines = engines();
    for (a, own) in engines.iter().enumerate() {
        for (b, other) in engines.iter().enumerate().filter(|(b, _)| *b != a) {
            let mut session = started(own);
            let foreign = |result: Result<(), Error>, what: &str| {
                let error = result.expect_err(what);
                assert!(matches!(error, Error::ForeignSession), "{what}, {a} with {b}: {error}");
                assert!(!error.is_usage());
            };
            let shape = Static { depth: 3, size: 12 };
            foreign(other.autoregressive_step(&mut session).map(drop), "a plain step");
            foreign(other.step(&mut session, None).map(drop), "a step");
            foreign(other.step(&mut session, Some(&mut { shape })).map(drop), "a step with a controller");
            foreign(other.run_cycle(&mut session, &mut { shape }).map(drop), "a cycle");
            foreign(other.run_cycle_tree(&mut session, &mut { shape }).map(drop), "a cycle with its tree");
            foreign(other.copy(&mut session, 4).map(drop), "a copy");
            foreign(other.source_summary(&mut session).map(drop), "what is known before a cycle");
            foreign(other.begin_cycle(&mut session, 12).map(drop), "the beginning of a cycle");
            foreign(other.time_target_forward(&mut session, &PROMPT).map(drop), "a timed forward");
            foreign(other.time_target_operations(&mut session, &PROMPT).map(drop), "timed operations");
            let mut rehearsal = own.rehearsal(PROMPT.to_vec()).expect("a rehearsal");
            foreign(rehearsal.at(other, 2, 1).map(drop), "a rehearsal");

            let mut cycle = begun(own, &mut session);
            foreign(other.expand(&mut session, &mut cycle), "a level");
            foreign(other.verify(&mut session, cycle, 12).map(drop), "a verification");
            let mut of_other = started(other);
            let cycle = begun(other, &mut of_other);
            foreign(other.verify_tree(&mut session, cycle, 12).map(drop), "another's verification");
            foreign(other.prefill(&PROMPT, Some(session)).map(drop), "memory that is passed on");

            // What was refused left no trace.
            let mut session = started(own);
            let expected = own.run_cycle(&mut session, &mut { shape }).expect("a cycle").accepted_ids;
            let mut session = started(own);
            other.run_cycle(&mut session, &mut { shape }).expect_err("foreign");
            let found = own.run_cycle(&mut session, &mut { shape }).expect("a cycle").accepted_ids;
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn memory_of_the_same_engine_is_passed_on() {
    let engine = load(&EngineConfig { max_length: Some(16), ..tiny_config() });
    let session = engine.prefill(&PROMPT, Some(started(&engine))).expect("a session");
    assert_eq!(session.tokens(), PROMPT);
}

#[test]
fn a_cycle_that_a_session_has_left_behind_is_refused() {
    let engine = load(&EngineConfig { max_length: Some(6), ..tiny_config() });
    let refused = |session: &mut Session, mut cycle: CycleState, what: &str| {
        let error = engine.expand(session, &mut cycle).expect_err(what);
        assert!(matches!(error, Error::ForeignCycle), "{what}: {error}");
        let error = engine.verify(session, cycle, 60).expect_err(what);
        assert!(matches!(error, Error::ForeignCycle), "{what}: {error}");
    };
    let (mut session, mut other) = (started(&engine), started(&engine));
    let cycle = begun(&engine, &mut session);
    let of_other = begun(&engine, &mut other);
    refused(&mut other, cycle, "of another session");
    // The cache is full before the cycle ends: there is no room to verify in.
    for _ in 0..2 {
        engine.autoregressive_step(&mut other).expect("a step");
    }
    assert!(other.is_full());
    refused(&mut other, of_other, "before plain steps");
    let mut session = started(&engine);
    let cycle = begun(&engine, &mut session);
    refused(&mut engine.prefill(&PROMPT, Some(session)).expect("a session"), cycle, "before another prompt");
    let mut rehearsal = engine.rehearsal(PROMPT.to_vec()).expect("a rehearsal");
    let cycle = begun(&engine, rehearsal.at(&engine, 4, 1).expect("a place"));
    refused(rehearsal.at(&engine, 2, 1).expect("a place"), cycle, "before a rehearsal");
}
