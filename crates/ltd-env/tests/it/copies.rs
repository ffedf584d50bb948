//! Recorded cycles with copies are the live ones.

use std::borrow::Cow;

use ltd_engine::{Controller, Copying, CycleOutcome, Engine, Generation, Sampler, Static, StopRule};
use ltd_env::trace::{Trace, TraceHeader, TracedSequence};
use ltd_env::{Interrupt, Reward, RewardMeter, SizeEnv, SourceEnv};
use ltd_policy::{
    Agreement, Calibration, CopyRule, CycleSummary, DraftSource, Merged, ObservationLayout, SizeActions,
    SourceActions, SourceSummary, TokenRecord,
};

use crate::live::{cycles, engine};
use crate::replay::{DEPTH, compare, costs, replayed};
use crate::trace::{record, whole};

#[test]
fn the_same_sources_meet_the_same_cycles() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 24);
    let layout = ObservationLayout::sequence(10, DEPTH);
    let merged = Some(Merged { chain: 12, calibration: Calibration::default() });
    for (chains, merged) in [(vec![3, 8], None), (vec![0, 1, 4, 20], None), (vec![4], merged)] {
        let chains = SourceActions { chains, merged };
        let meter = || RewardMeter::new(Reward::Gain);
        let trees = || Box::new(Static { depth: 2, size: 6 });
        let live = cycles(&engine, &Sampler::greedy());
        let mut live = SourceEnv::new(live, trees(), chains.clone(), layout.clone(), meter());
        let mut replay = SourceEnv::new(replayed(&trace), trees(), chains.clone(), layout.clone(), meter());
        compare(&mut live, &mut replay, chains.count(), 200);
    }

    // Where another decision is learned, the counterpart's copies go by, the same in both.
    let sizes = SizeActions { sizes: vec![1, 4, 16] };
    let layout = ObservationLayout::reference_size(10, DEPTH);
    let rule = CopyRule { match_length: 2, chain: 6 };
    let trees = Static { depth: 2, size: 6 };
    let copying = || -> Box<dyn Controller> { Box::new(Copying { rule, merged: None, trees }) };
    let merging =
        || -> Box<dyn Controller> { Box::new(Copying { rule, merged: Some(Calibration::default()), trees }) };
    let asked = || -> Box<dyn Controller> {
        Box::new(Asked { calibration: Calibration::default(), depth: 0, told: [0; 3] })
    };
    for counterpart in [&copying as &dyn Fn() -> Box<dyn Controller>, &merging, &asked] {
        let meter = || RewardMeter::new(Reward::Gain);
        let live = cycles(&engine, &Sampler::greedy());
        let mut live = SizeEnv::new(live, counterpart(), sizes.clone(), layout.clone(), meter());
        let mut replay =
            SizeEnv::new(replayed(&trace), counterpart(), sizes.clone(), layout.clone(), meter());
        compare(&mut live, &mut replay, 3, 60);
    }
}

#[test]
fn whole_answers_with_copies_replay_as_they_are_decoded() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 48);
    let rule = CopyRule { match_length: 1, chain: 5 };
    let trees = Static { depth: 3, size: 9 };
    let calibration = ltd_env::calibrate(&trace, &Interrupt::default()).expect("a calibration");
    assert_eq!(calibration.problem(), None);
    decodes_as_replayed(&engine, &trace, &mut Copying { rule, merged: None, trees });
    decodes_as_replayed(&engine, &trace, &mut Copying { rule, merged: Some(calibration.clone()), trees });
    let mut asked = Asked { calibration, depth: 0, told: [0; 3] };
    decodes_as_replayed(&engine, &trace, &mut asked);
    assert!(asked.told.iter().filter(|&&times| times > 0).count() > 1, "{:?}", asked.told);
}

/// Copies by the tokens that it is told of, and notes them.
#[derive(Default)]
struct ByToken(Vec<(u32, Option<u32>)>);

impl Controller for ByToken {
    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        self.0.push((summary.root, summary.copied));
        match summary.copied {
            Some(copied) if (copied + summary.root).is_multiple_of(3) => DraftSource::Tree,
            Some(_) => DraftSource::Copy { chain: 2 },
            None => DraftSource::Tree,
        }
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < 1
    }

    fn verification_size(&mut self, _: &CycleSummary) -> usize {
        4
    }
}

#[test]
fn the_tokens_that_a_copy_begins_with_are_known_and_counted() {
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = record(&engine, folder.path(), 48);
    let mut by_token = ByToken::default();
    decodes_as_replayed(&engine, &trace, &mut by_token);
    let told = by_token.0;
    assert!(
        told.iter().any(|(_, copied)| copied.is_some()) && told.iter().any(|(_, copied)| copied.is_none())
    );

    // What the record of a sequence counts, counted from its tokens.
    for sequence in &whole(&trace) {
        let mut expected = TokenRecord::default();
        for root in (0..sequence.len()).map(|at| sequence.root(at)) {
            let said = &sequence.tokens[..=root];
            // The latest of the longest matches, up to sixteen tokens.
            let matching = |end: usize| {
                said[..end].iter().rev().zip(said.iter().rev()).take(16).take_while(|(a, b)| a == b).count()
            };
            let (length, end) = (1..said.len()).map(|end| (matching(end), end)).max().unwrap_or_default();
            // The target's own token after a copied one must be known.
            if let Some(&[next, _, ..]) = sequence.tokens.get(root + 1..).filter(|_| length > 0) {
                expected.observe(said[root], said[end], said[end] == next);
            }
        }
        assert_ne!(expected, TokenRecord::default());
        assert_eq!(ltd_env::token_record(sequence), expected);
    }
}

/// Merges where the head lists the first token to copy, drafts deeper where it does not.
struct Asked {
    calibration: Calibration,
    depth: usize,
    /// How often it was told of each agreement.
    told: [usize; 3],
}

impl Controller for Asked {
    fn begin_cycle(&mut self) {
        self.depth = 1;
    }

    fn chooses_source(&self) -> bool {
        true
    }

    fn source(&mut self, summary: &SourceSummary) -> DraftSource {
        if summary.context_length.is_multiple_of(2) {
            DraftSource::Merged { chain: 4 }
        } else {
            DraftSource::Tree
        }
    }

    fn merge_with(&mut self, chain: Option<usize>, agreement: Agreement) -> Option<usize> {
        self.told[agreement as usize] += 1;
        self.depth = 2 - agreement as usize;
        match agreement {
            Agreement::Absent => None,
            Agreement::Listed => Some(7),
            Agreement::First => chain,
        }
    }

    fn calibration(&self) -> Cow<'_, Calibration> {
        Cow::Borrowed(&self.calibration)
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        summary.draft_depth < self.depth
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        9
    }
}

/// Decodes the prompts of a trace as a replay of it says.
fn decodes_as_replayed(engine: &Engine, trace: &Trace, controller: &mut dyn Controller) {
    let cycles = decoded_and_replayed(engine, trace, controller);
    for (live, replayed) in &cycles {
        // All but the time.
        let timing = replayed.timing;
        assert_eq!(&CycleOutcome { timing, ..live.clone() }, replayed);
    }
    let copies = cycles.iter().filter(|(live, _)| live.copied.is_some()).count();
    assert!(copies > 10, "{copies} copies");
}

/// The cycles of all sequences of a trace, live and replayed: as many of both.
pub(crate) fn decoded_and_replayed(
    engine: &Engine,
    trace: &Trace,
    controller: &mut dyn Controller,
) -> Vec<(CycleOutcome, CycleOutcome)> {
    let mut cycles = Vec::new();
    for sequence in &whole(trace) {
        let mut replayed = Vec::new();
        ltd_env::oracle::replay_sequence(&trace.header, sequence, &costs(), controller, &mut |outcome| {
            replayed.push(outcome.clone());
        })
        .expect("a replay");
        let mut answer = answer(engine, trace, sequence);
        for replayed in replayed {
            let live = answer.advance(engine, Some(&mut *controller)).expect("a cycle").expect("more of it");
            cycles.push((live, replayed));
        }
        assert!(answer.ended().is_some(), "both end together");
    }
    cycles
}

/// The answer that a sequence was recorded of, before its first token.
pub(crate) fn answer(engine: &Engine, trace: &Trace, sequence: &TracedSequence) -> Generation {
    let TraceHeader { max_new_tokens, ref eos, sampling, .. } = trace.header;
    let stop = StopRule { max_new_tokens, eos: eos.clone() };
    let sampler = Sampler::new(sampling, sequence.seed).expect("a sampler");
    let sampler = sampler.for_sequence(sequence.prompt.into());
    engine.generate(&sequence.tokens[..sequence.prompt_len], sampler, stop, None).expect("prefill")
}
