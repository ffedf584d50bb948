//! Recordings to learn from and to predict on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ltd_distributed::Group;
use ltd_engine::Static;
use ltd_env::oracle::{self, Choices, Constant, Copies, CopyConstant, Horizon, Sources};
use ltd_env::trace::Trace;
use ltd_env::{Costs, Interrupt, Scatter, calibrate};
use ltd_policy::{Calibration, LatencyTable};

use crate::evaluate::{Contender, FixedSetting, Measurement, Prediction};
use crate::{Error, Result};

/// Recorded trees, and what cycles cost.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// What is learned from.
    pub(crate) train: Arc<Trace>,
    /// What snapshots are compared on, and gains predicted.
    pub(crate) held_out: Trace,
    pub(crate) costs: Costs,
    pub(crate) table: LatencyTable,
    /// SHA-256 of the table's file.
    pub(crate) table_sha256: String,
    /// How probable candidates are; none where the trace lacks their tokens.
    pub(crate) calibration: Option<Calibration>,
    /// How the times that stages learn from scatter, if they do.
    pub(crate) scatter: Option<Scatter>,
    /// Every constant that the table has costs for, on the sequences that are learned from, fastest
    /// first.
    constants: Vec<Constant>,
    /// The same of rules of copies, with the trees that suit the fastest of them.
    rules: Vec<CopyConstant>,
    interrupt: Interrupt,
}

/// What is sought on the sequences that are learned from.
type Found = (Option<Calibration>, Vec<Constant>, Vec<CopyConstant>);

impl Recorded {
    /// Divides the sequences of a trace, which `path` names in errors; see [`Recorded::split`].
    pub(crate) fn new(
        path: &Path,
        trace: &Trace,
        table: LatencyTable,
        held_out: f64,
        group: &Group,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (train, held_out) = Self::split(path, trace, held_out)?;
        let costs = Costs { model: table.model(), decision: table.decision };
        let table_sha256 = table.sha256();
        let train = Arc::new(train);
        let mut recorded = Self {
            train,
            held_out,
            costs,
            table,
            table_sha256,
            calibration: None,
            scatter: None,
            constants: Vec::new(),
            rules: Vec::new(),
            interrupt: interrupt.clone(),
        };
        // Of several ranks one seeks, as all would find the same.
        let found = group.from_first("the constants of the recordings", || recorded.seek(interrupt))?;
        (recorded.calibration, recorded.constants, recorded.rules) = found;
        Ok(recorded)
    }

    /// How probable candidates are, and the fixed settings, fastest first.
    fn seek(&self, interrupt: &Interrupt) -> Result<Found> {
        let Self { train, costs, .. } = self;
        let known = train.header.has_candidates();
        let calibration = known.then(|| calibrate(train, interrupt)).transpose()?;
        let mut constants = oracle::constants(train, costs, &self.choices(), interrupt)?;
        constants.sort_by(|a, b| b.tokens_per_second().total_cmp(&a.tokens_per_second()));
        let copies = Copies::of(train);
        let best = constants[0];
        let rules = oracle::copy_rules(train, costs, &self.choices(), best, &copies, interrupt)?;
        Ok((calibration, constants, rules))
    }

    /// Holds out every n-th prompt that has positions, at least one, with all its continuations: a
    /// prompt that comes again would else be learned from and held out. Greedily it says the same
    /// each time, and counts once.
    pub(crate) fn split(path: &Path, trace: &Trace, share: f64) -> Result<(Trace, Trace)> {
        let of = |prompts: Vec<Vec<usize>>| trace.part(prompts.into_iter().flatten());
        // By the tokens of the prompt, in the order in which they come first.
        let (mut places, mut prompts) = (HashMap::new(), Vec::<Vec<usize>>::new());
        for (number, sequence) in trace.outlines().enumerate().filter(|(_, sequence)| !sequence.is_empty()) {
            let place = *places.entry(&sequence.tokens[..sequence.prompt_len]).or_insert(prompts.len());
            match prompts.get_mut(place) {
                None => prompts.push(vec![number]),
                Some(known) if trace.header.is_sampled() => known.push(number),
                Some(_) => {}
            }
        }
        if prompts.len() < 2 {
            let count = prompts.len();
            return Err(Error::Recorded(format!(
                "{}: {count} different prompts of it have positions, expected at least 2: one is held out",
                path.display()
            )));
        }
        let share = share.max(1.0 / prompts.len() as f64);
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (index, prompt) in prompts.into_iter().enumerate() {
            let due = (share * (index + 1) as f64 + 1e-9).floor() > (share * index as f64 + 1e-9).floor();
            if due { held_out.push(prompt) } else { train.push(prompt) }
        }
        // A share near 1 leaves nothing to learn from.
        if train.is_empty() {
            train.extend(held_out.pop());
        }
        Ok((of(train), of(held_out)))
    }

    /// Replays contenders on the held-out sequences.
    pub(crate) fn measure(&self, contenders: &mut [Contender]) -> Result<Vec<Measurement>> {
        let replayed = contenders
            .iter_mut()
            .map(|contender| contender.replay(&self.held_out, &self.costs, &self.interrupt));
        replayed.collect()
    }

    /// Every constant that the table has costs for, on the sequences that are learned from, fastest
    /// first.
    pub(crate) fn constants(&self) -> &[Constant] {
        &self.constants
    }

    /// Rules of copies on the sequences that are learned from, fastest first.
    pub(crate) fn rules(&self) -> &[CopyConstant] {
        &self.rules
    }

    /// The fastest fixed setting on the sequences that are learned from.
    pub(crate) fn strongest(&self) -> FixedSetting {
        let (constant, rule) = (self.constants[0], self.rules[0]);
        if rule.constant.tokens_per_second() > constant.tokens_per_second() {
            rule.into()
        } else {
            constant.into()
        }
    }

    /// The trees of the best constant.
    pub(crate) fn shape(&self) -> Static {
        let Constant { depth, size, .. } = self.constants[0];
        Static { depth, size }
    }

    /// The best constant whose levels expand the whole beam.
    pub(crate) fn best_whole_beam(&self, interrupt: &Interrupt) -> Result<Constant> {
        let constants = oracle::whole_beam_constants(&self.train, &self.costs, &self.choices(), interrupt)?;
        Ok(oracle::best(&constants))
    }

    /// Depths and sizes that the table has costs for.
    pub(crate) fn choices(&self) -> Choices {
        let deepest = self.table.level.counts().last().copied().unwrap_or(0).min(self.train.header.depth);
        Choices { depths: (0..=deepest).collect(), sizes: self.table.verify.counts() }
    }

    /// What replay on the held-out sequences says of contenders, which may copy `chains`, beside a
    /// fixed setting.
    pub(crate) fn predict(
        &self,
        contenders: &mut [Contender],
        fixed: FixedSetting,
        chains: &[usize],
        interrupt: &Interrupt,
    ) -> Result<Vec<Prediction>> {
        let decided = self.costs.without_decisions();
        let opponent = Contender::fixed("", fixed).replay(&self.held_out, &decided, interrupt)?;
        let opponent = opponent.total().tokens_per_second();
        let trees = self.choices();
        let mut chains: Vec<usize> = [&[0], &trees.sizes[..], chains].concat();
        chains.sort_unstable();
        chains.dedup();
        let sources = Sources { trees, chains };
        let copies = Copies::of(&self.held_out);
        let clairvoyant = oracle::clairvoyant_source(
            &self.held_out,
            &self.costs,
            &sources,
            &copies,
            Horizon::Sequence,
            interrupt,
        )?;
        let measured = self.measure(contenders)?;
        let prediction = |measured: Measurement| {
            let reached = measured.total().tokens_per_second();
            Prediction {
                name: measured.name,
                tokens_per_second: reached,
                opponent,
                clairvoyant,
                gain: reached / opponent - 1.0,
                gain_at_live_times: None,
                closed: oracle::closed(reached, opponent, clairvoyant),
            }
        };
        Ok(measured.into_iter().map(prediction).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ltd_env::trace::{Outline, TRACE_VERSION, TraceHeader, TracedSequence};
    use ltd_policy::{ModelIdentity, SamplingParams};

    use super::*;

    /// Of traces with two candidates per position.
    pub(crate) fn header() -> TraceHeader {
        let model = ModelIdentity { name: String::new(), sha256: String::new() };
        TraceHeader {
            version: TRACE_VERSION,
            target: model.clone(),
            draft: model,
            dtype: "f32".into(),
            beam_width: 2,
            depth: 0,
            every: 1,
            entropies: false,
            hidden: None,
            states: None,
            token_bytes: 0,
            sampling: SamplingParams::default(),
            max_new_tokens: 4,
            capacity: 16,
            eos: Vec::new(),
            questions: "prompts.jsonl".into(),
            questions_sha256: String::new(),
        }
    }

    #[test]
    fn a_prompt_is_learned_from_or_held_out_and_never_both() {
        let header = header();
        let sequence = |number: u32, first: u32| {
            let mut sequence = TracedSequence::new(&header, number, 2, vec![first, 5, 6, 7]);
            let tree = ltd_engine::DraftTree::new(&[-0.5, -1.0], vec![6, 8]);
            let grown = ltd_engine::GrownTree::new(2, tree);
            sequence.push(&grown);
            sequence
        };
        let split = |firsts: &[u32], header: &TraceHeader, seeds: &[u64]| {
            let numbered = (0..).zip(firsts);
            let sequences =
                numbered.flat_map(|(number, &first)| seeds.iter().map(move |&seed| (number, first, seed)));
            let sequences =
                sequences.map(|(number, first, seed)| sequence(number, first).with_seed(seed)).collect();
            let trace = Trace::new(header.clone(), sequences);
            Recorded::split(Path::new("trace"), &trace, 0.5)
        };
        let keys = |trace: &Trace| trace.outlines().map(Outline::key).collect::<Vec<_>>();
        let (train, held_out) = split(&[1, 2, 1, 3, 2, 4], &header, &[0]).expect("two parts");
        assert_eq!((keys(&train), keys(&held_out)), (vec![(0, 0), (3, 0)], vec![(1, 0), (5, 0)]));
        // Drawn, a prompt says something else each time, and stays on one side nevertheless.
        let sampling = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let sampled = TraceHeader { sampling, ..header.clone() };
        let (train, held_out) = split(&[1, 2, 1, 3], &sampled, &[4, 5]).expect("two parts");
        assert_eq!(keys(&train), [(0, 4), (0, 5), (2, 4), (2, 5), (3, 4), (3, 5)]);
        assert_eq!(keys(&held_out), [(1, 4), (1, 5)]);
        let error = split(&[1, 1, 1], &header, &[0]).expect_err("one prompt").to_string();
        assert!(error.contains("1 different prompts of it have positions"), "{error}");
    }
}
