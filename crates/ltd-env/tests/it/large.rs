//! Traces that are not kept in memory.

use std::sync::Arc;

use ltd_cycle::Static;
use ltd_env::oracle::{self, Choices, Copies, Horizon, Sources};
use ltd_env::trace::{Trace, TraceWriter};
use ltd_env::{
    Costs, CycleBackend, DepthEnv, Env, Error, Interrupt, ReplayCycles, Reward, RewardMeter, calibrate,
};
use ltd_policy::{DepthActions, ObservationLayout};

use crate::live::{choose, engine};
use crate::replay::{DEPTH, costs, replayed};
use crate::trace::{record, whole};

/// All that the oracle finds.
fn found(trace: &Trace, costs: &Costs) -> String {
    let never = &Interrupt::default();
    let choices = Choices { depths: vec![0, 1, 3], sizes: vec![2, 8, 30] };
    let constants = oracle::constants(trace, costs, &choices, never).expect("not interrupted");
    let beams = oracle::whole_beam_constants(trace, costs, &choices, never).expect("not interrupted");
    let ceiling = oracle::clairvoyant(trace, costs, &choices, never).expect("not interrupted");
    let (best, copies) = (oracle::best(&constants), Copies::of(trace));
    let rule = oracle::copy_rules(trace, costs, &choices, best, &copies, never).expect("not interrupted")[0];
    let calibration = calibrate(trace, never).expect("the candidates' tokens");
    let merged = oracle::merged_rule(trace, costs, &choices, rule, &calibration, never).expect("the same");
    let sources = Sources { trees: choices, chains: vec![0, 4] };
    let foresight = oracle::clairvoyant_source(trace, costs, &sources, &copies, Horizon::Sequence, never);
    let replay = oracle::replay(trace, costs, &mut Static { depth: 2, size: 9 }, &mut |_| ());
    let parts = oracle::replay_parallel(trace, costs, |_| Box::new(Static { depth: 2, size: 9 }));
    format!(
        "{constants:?} {beams:?} {ceiling} {rule:?} {calibration:?} {merged:?} {foresight:?} {:?} {:?}",
        replay.expect("a replay"),
        parts.expect("a replay")
    )
}

#[test]
fn what_is_read_again_is_what_was_kept() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    record(&engine, folder.path(), 24);
    let kept = Trace::read(folder.path()).expect("a trace");
    // Nothing stays in memory, or one sequence or two.
    let room = 2 * 24 * 10_000;
    let read = [0, room].map(|room| Trace::read_within(folder.path(), room).expect("a trace"));
    let costs = costs();
    for read in &read {
        assert_eq!(*read, kept);
        assert_eq!(whole(read), whole(&kept));
        assert_eq!(found(read, &costs), found(&kept, &costs));
        let [cut, expected] = [read, &kept].map(|trace| trace.part([2, 0]).cut(|_| 7));
        assert_eq!((cut.positions(), cut.len()), (14, 2));
        assert_eq!(whole(&cut), whole(&expected));
        assert_eq!(cut.identity().expect("it is read"), expected.identity().expect("it is read"));
        assert_eq!(found(&cut, &costs), found(&expected, &costs));
    }
    let same = |number: usize| {
        let [once, again] = [(); 2].map(|()| read[1].sequence(number).expect("it is read"));
        Arc::ptr_eq(&once, &again)
    };
    assert!(same(0) && !same(kept.len() - 1), "there is room for the first alone");

    // Episodes are the same, and go on from a state in the middle of a sequence.
    let env = |trace: &Trace| {
        let actions = DepthActions { min_depth: 0, max_depth: DEPTH, decide_every: 1 };
        let layout = ObservationLayout::reference_depth(10, DEPTH);
        let size = Box::new(Static { depth: 0, size: 20 });
        DepthEnv::new(replayed(trace), size, actions, layout, RewardMeter::new(Reward::Gain))
    };
    let mut envs = [env(&kept), env(&read[0])];
    let mut seen = vec![vec![0.0; envs[0].observation_len()]; 2];
    for (env, seen) in envs.iter_mut().zip(&mut seen) {
        env.reset(seen).expect("reset");
    }
    for number in 0..400 {
        assert_eq!(seen[0], seen[1], "step {number}");
        let steps = envs.iter_mut().zip(&mut seen).map(|(env, seen)| {
            let step = env.step(choose(number, 2), seen).expect("step");
            if step.terminated {
                env.reset(seen).expect("reset");
            }
            (step.reward, step.terminated)
        });
        let steps: Vec<_> = steps.collect();
        assert_eq!(steps[0], steps[1], "step {number}");
    }
    let mut cycles = [&kept, &read[0]].map(replayed);
    let first = cycles[0].begin(9).expect("a cycle");
    cycles[0].verify(first, 9).expect("verified");
    let state = CycleBackend::state(&cycles[0]);
    cycles[1].restore(state).expect("a state");
    let outcomes = cycles.map(|mut cycles| {
        let cycle = cycles.begin(9).expect("a cycle");
        cycles.verify(cycle, 9).expect("verified")
    });
    assert_eq!(outcomes[0], outcomes[1]);
}

#[test]
fn damage_that_comes_later_is_named() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    record(&engine, folder.path(), 8);
    let shard = folder.path().join("shard-00000.bin");
    let bytes = std::fs::read(&shard).expect("a shard");
    let length = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")) as usize;
    let second = 12 + length;
    let trace = Arc::new(Trace::read_within(folder.path(), 0).expect("a trace"));
    let error = |trace: &Trace| trace.sequence(1).expect_err("damage").to_string();

    let mut flipped = bytes.clone();
    flipped[second + 100] ^= 1;
    std::fs::write(&shard, &flipped).expect("a flipped bit");
    let named = format!("{}: the chunk at byte {second} does not match its checksum", shard.display());
    assert!(error(&trace).starts_with(&named), "{}", error(&trace));
    assert!(trace.sequence(0).is_ok(), "the others are as they were");
    let choices = Choices { depths: vec![1], sizes: vec![8] };
    let constants = oracle::constants(&trace, &costs(), &choices, &Interrupt::default());
    assert!(matches!(constants, Err(Error::Trace { .. })));
    let mut cycles = ReplayCycles::new(Arc::clone(&trace), costs(), 1).expect("positions");
    let failed = (0..1000).find_map(|_| match cycles.begin(4) {
        Ok(cycle) => cycles.verify(cycle, 4).err(),
        Err(error) => Some(error),
    });
    assert!(failed.expect("it comes to the second one").to_string().starts_with(&named));
    let target = tempfile::tempdir().expect("a folder");
    let mut writer = TraceWriter::open(target.path(), trace.header.clone()).expect("a trace");
    assert!(writer.merge(&trace, folder.path()).expect_err("damage").to_string().starts_with(&named));

    std::fs::write(&shard, &bytes[..second + 40]).expect("shorter");
    let named = format!("{}: the chunk at byte {second} is cut off", shard.display());
    assert!(error(&trace).starts_with(&named), "{}", error(&trace));
    std::fs::remove_file(&shard).expect("removed");
    assert!(error(&trace).starts_with(&shard.display().to_string()), "{}", error(&trace));
    std::fs::write(&shard, &bytes).expect("as it was");
    assert!(trace.sequence(1).is_ok());
}

#[test]
fn merging_copies_bytes() {
    let engine = engine();
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    record(&engine, folders[0].path(), 8);
    let shard =
        |number: usize| std::fs::read(folders[number].path().join("shard-00000.bin")).expect("a shard");
    for (number, room) in [(1, 0), (2, 1 << 20)] {
        let trace = Trace::read_within(folders[0].path(), room).expect("a trace");
        let mut writer = TraceWriter::open(folders[number].path(), trace.header.clone()).expect("a trace");
        assert_eq!(writer.merge(&trace, folders[0].path()).expect("merged"), trace.len());
        assert_eq!(shard(number), shard(0));
    }
}
