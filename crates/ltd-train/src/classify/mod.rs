//! `ltd-train classify`: the classifiers that some published rules decide by.

mod fit;
mod samples;

use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::{count as counted, say};
use ltd_contenders::{AcceptanceHead, C2t, Classifier, Classifiers, Disco, Hvd, Origin, SpecDec};
use ltd_engine::{Controller, CycleStats, Static, WholeBeam};
use ltd_env::trace::{Trace, TraceHeader};
use ltd_env::{Costs, Interrupt, oracle, stream};
use ltd_policy::{LatencyTable, MAX_SIZE, Mlp, check_output_file};
use ltd_run::Progress;
use rand_chacha::ChaCha8Rng;

use self::fit::{Balance, Classifying, Quality, Residual, fit};
use self::samples::{Labelled, Samples};
use crate::arguments::count;
use crate::autograd::Network;
use crate::recorded::Recorded;
use crate::{Error, Result};

#[derive(Debug, Args)]
pub(crate) struct ClassifyArgs {
    /// Trace to learn from (`ltd-trace record --entropies --states`)
    #[arg(long, value_name = "DIR")]
    pub(crate) trace: PathBuf,
    /// Latency table of the machine that is to be fast: its costs choose the thresholds
    #[arg(long, value_name = "FILE")]
    pub(crate) latency: PathBuf,
    /// File of the classifiers, for `compare --classifiers`
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Candidates that the rules verify at most
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = size())]
    pub(crate) size: usize,
    /// Passes over what is learned from, at most: it ends where 20 have brought nothing
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = count())]
    pub(crate) epochs: usize,
    /// Seed of the training
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

fn size() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=MAX_SIZE as u64)
}

/// Share of the trace's prompts that are held out: on them epochs are compared and thresholds
/// chosen.
const HELD_OUT: f64 = 0.2;
/// Positions whose tokens are learned from, or checked on, at most: they are held in memory.
const MAX_POSITIONS: usize = 50_000;
/// Thresholds that are tried are multiples of `1 / THRESHOLDS`, between 0 and 1.
const THRESHOLDS: usize = 50;

/// What is told of a classifier.
struct Told {
    name: &'static str,
    threshold: f64,
    quality: Quality,
    /// Tokens that were learned from: accepted ones, and others before they were balanced.
    learned: [usize; 2],
    /// In replay of the held-out prompts, at the threshold.
    tokens_per_second: f64,
}

/// Trains the classifiers, writes them, and prints how well they tell tokens apart.
pub(crate) fn classify(args: &ClassifyArgs) -> Result<()> {
    check_output_file("--out", &args.out, [args.latency.as_path()])?;
    let trace = Trace::read_replayable(&args.trace)?;
    check_trace(&args.trace, &trace.header)?;
    let table = LatencyTable::read(&args.latency)?;
    let models = trace.header.models();
    table.identity.models().check(&args.latency, "the trace", &models)?;
    // Until the file is written there is nothing to save: an interruption ends the program at once.
    let interrupt = &Interrupt::default();
    let (train, held_out) = Recorded::split(&args.trace, &trace, HELD_OUT)?;
    let [train, held_out] = [train, held_out].map(|trace| trace.at_most(MAX_POSITIONS));
    let [learned, check] = [Labelled::of(&train, interrupt)?, Labelled::of(&held_out, interrupt)?];
    let replay = Replay { trace: &held_out, costs: Costs { model: table.model(), decision: table.decision } };
    let size = args.size;
    let whole = Static { depth: trace.header.depth, size };
    let learning = Learning { args, interrupt };
    let mlp = |name, inputs, hidden| Network::new(inputs, &[hidden], 1, 1.0, &mut learning.random(name));
    let disco = learning.fitted(
        "disco",
        &mlp("disco", Disco::FEATURES, Disco::HIDDEN),
        [&learned.disco, &check.disco],
        Balance::Drawn,
        |mlp| replay.tuned(&mlp, |classifier| Box::new(Disco::new(classifier, size))),
    )?;
    let c2t = learning.fitted(
        "c2t",
        &mlp("c2t", C2t::FEATURES, C2t::HIDDEN),
        [&learned.c2t, &check.c2t],
        Balance::Drawn,
        |mlp| replay.tuned(&mlp, |classifier| Box::new(C2t::new(classifier, size))),
    )?;
    let hidden = trace.header.states.expect("invariant: it was checked");
    let spec_dec = learning.fitted(
        "specdec-pp",
        &Residual::new(hidden, &mut learning.random("specdec-pp")),
        [&learned.spec_dec, &check.spec_dec],
        Balance::Weighted(AcceptanceHead::MISMATCH_WEIGHT),
        |head| {
            // The threshold is as published.
            let rule = SpecDec::new(&head, size);
            let reached = replay.tokens_per_second(&|| Box::new(rule.clone()))?;
            Ok((head, rule.threshold, reached))
        },
    )?;
    let hvd = learning.fitted(
        "hvd",
        &mlp("hvd", Hvd::FEATURES, Hvd::HIDDEN),
        [&learned.hvd, &check.hvd],
        Balance::Weighted(1.0),
        |mlp| {
            let classifier = Classifier::new(mlp, Hvd::THRESHOLD);
            let rule = Hvd::new(&classifier, WholeBeam(whole));
            let reached = replay.tokens_per_second(&|| Box::new(rule.clone()))?;
            Ok((classifier, Hvd::THRESHOLD, reached))
        },
    )?;
    let origin = Origin { trace: trace.identity()?, latency: table.sha256(), size, seed: args.seed };
    let told = [disco.1, c2t.1, spec_dec.1, hvd.1];
    Classifiers::new(&models, origin, disco.0, c2t.0, spec_dec.0, hvd.0).write(&args.out)?;
    let reached = replay.tokens_per_second(&|| Box::new(WholeBeam(whole)))?;
    say!("{}", describe(&told, [&train, &held_out], (whole, reached)))?;
    Ok(say!("written to {}", args.out.display())?)
}

/// Fails unless the trace has what classifiers look at and learn.
fn check_trace(path: &Path, header: &TraceHeader) -> Result<()> {
    let problem = if !header.entropies {
        "it has no entropies, which classifiers look at: record with --entropies"
    } else if header.states.is_none() {
        "it has no states of the draft, which SpecDec++ looks at: record with --states"
    } else if !header.has_candidates() {
        "it lacks the tokens of the candidates (it is older than version 3): record it into another folder"
    } else {
        return Ok(());
    };
    Err(Error::Recorded(format!("{}: {problem}", path.display())))
}

/// Recordings that rules are replayed on.
struct Replay<'t> {
    trace: &'t Trace,
    costs: Costs,
}

impl Replay<'_> {
    fn tokens_per_second(&self, rule: &(dyn Fn() -> Box<dyn Controller> + Sync)) -> Result<f64> {
        let stats = oracle::replay_parallel(self.trace, &self.costs, |_| rule())?;
        Ok(CycleStats::merged(&stats).tokens_per_second())
    }

    /// The network with the threshold at which its rule is fastest, the lowest of equals; that
    /// threshold, and how fast the rule is.
    fn tuned(
        &self,
        mlp: &Mlp,
        rule: impl Fn(&Classifier) -> Box<dyn Controller> + Sync,
    ) -> Result<(Classifier, f64, f64)> {
        let mut best: Option<(Classifier, f64)> = None;
        for step in 1..THRESHOLDS {
            let classifier = Classifier::new(mlp.clone(), step as f64 / THRESHOLDS as f64);
            let reached = self.tokens_per_second(&|| rule(&classifier))?;
            if best.as_ref().is_none_or(|(_, most)| reached > *most) {
                best = Some((classifier, reached));
            }
        }
        let (classifier, reached) = best.expect("invariant: there are thresholds");
        let threshold = classifier.threshold;
        Ok((classifier, threshold, reached))
    }
}

/// How classifiers learn.
struct Learning<'a> {
    args: &'a ClassifyArgs,
    interrupt: &'a Interrupt,
}

impl Learning<'_> {
    /// What the first weights of a classifier are drawn from.
    fn random(&self, name: &str) -> ChaCha8Rng {
        stream(self.args.seed, &format!("first weights of {name}"))
    }

    /// A classifier that learned from the first samples and was checked on the second. `replayed`
    /// makes it what decides, and says its threshold and how fast its rule is.
    fn fitted<C: Classifying, D>(
        &self,
        name: &'static str,
        network: &C,
        [train, held_out]: [&Samples; 2],
        balance: Balance,
        replayed: impl FnOnce(C::Frozen) -> Result<(D, f64, f64)>,
    ) -> Result<(D, Told)> {
        let Self { args, interrupt } = *self;
        for (samples, what) in [(train, "learned from"), (held_out, "held out")] {
            let [accepted, others] = samples.counts();
            if accepted == 0 || others == 0 {
                let (path, tokens) = (args.trace.display(), counted(accepted, "accepted token"));
                return Err(Error::Recorded(format!(
                    "{path}: of the prompts that are {what}, {name} sees {tokens} and {others} others, \
                     expected some of both: record more prompts"
                )));
            }
        }
        let mut task = Progress::detect().task(name, args.epochs);
        let told = &mut |epoch: usize, loss: f64| {
            task.update(epoch, epoch as f64 / args.epochs as f64, &format!("held-out loss {loss:.4}"));
        };
        let mut random = stream(args.seed, &format!("classifier {name}"));
        let (frozen, quality) =
            fit(network, (train, held_out), balance, args.epochs, &mut random, interrupt, told)?;
        let (decides, threshold, tokens_per_second) = replayed(frozen)?;
        task.finish(&format!("held-out loss {:.4}, threshold {threshold:.2}", quality.loss));
        Ok((decides, Told { name, threshold, quality, learned: train.counts(), tokens_per_second }))
    }
}

fn describe(
    told: &[Told],
    [train, held_out]: [&Trace; 2],
    (Static { depth, size }, whole): (Static, f64),
) -> String {
    let mut lines = vec![
        format!(
            "learned from {}, checked on {}; accuracy and F1 are on as many accepted tokens as others, and so is \
             the loss, where a guess has {:.3}, but of specdec-pp, where others count {} times, and of hvd, \
             where all count; the AUC is on all\n",
            counted(train.prompts(), "prompt"),
            counted(held_out.prompts(), "other"),
            std::f64::consts::LN_2,
            AcceptanceHead::MISMATCH_WEIGHT
        ),
        "| classifier | accepted | others | loss | accuracy | F1 | AUC | threshold | tokens/s |".to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    lines.extend(told.iter().map(|told| {
        let Told { name, threshold, quality, learned: [accepted, others], tokens_per_second } = told;
        let Quality { loss, accuracy, f1, auc } = quality;
        let percent = 100.0 * accuracy;
        format!(
            "| {name} | {accepted} | {others} | {loss:.3} | {percent:.1} % | {f1:.3} | {auc:.3} | \
             {threshold:.2} | {tokens_per_second:.1} |"
        )
    }));
    lines.push(format!(
        "\nthresholds are those with the most tokens per second in replay of the held-out prompts, those of \
         specdec-pp and hvd are as published, with at most {size} candidates to verify; whole trees of depth {depth} reach {whole:.1} there"
    ));
    lines.join("\n")
}
