//! `ltd-train classify`: the classifiers that two published rules decide by.

mod fit;
mod samples;

use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::{count as counted, say};
use ltd_contenders::{C2t, Classifier, Classifiers, Disco};
use ltd_engine::{Controller, CycleStats, Static, WholeBeam};
use ltd_env::trace::{Trace, TraceHeader};
use ltd_env::{Costs, Interrupt, oracle};
use ltd_policy::{LatencyTable, MAX_SIZE, Mlp, check_output_file};
use ltd_run::Progress;

use self::fit::{Quality, fit};
use self::samples::{Labelled, Samples};
use crate::arguments::count;
use crate::recorded::Recorded;
use crate::{Error, Result};

#[derive(Debug, Args)]
pub(crate) struct ClassifyArgs {
    /// Trace to learn from (`ltd-trace record --entropies`)
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
    /// Passes over what is learned from
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
/// Thresholds that are tried are multiples of `1 / THRESHOLDS`, between 0 and 1.
const THRESHOLDS: usize = 50;

/// A classifier and what is told of it.
struct Fitted {
    name: &'static str,
    classifier: Classifier,
    quality: Quality,
    /// Tokens that were learned from: accepted ones, and others before they were balanced.
    learned: [usize; 2],
    /// In replay of the held-out prompts, at the threshold.
    tokens_per_second: f64,
}

/// Trains the classifiers, writes them, and prints how well they tell tokens apart.
pub(crate) fn classify(args: &ClassifyArgs) -> Result<()> {
    check_output_file("--out", &args.out)?;
    let trace = Trace::read_replayable(&args.trace)?;
    check_trace(&args.trace, &trace.header)?;
    let table = LatencyTable::read(&args.latency)?;
    let models = trace.header.models();
    table.identity.models().check(&args.latency, "the trace", &models)?;
    // Until the file is written there is nothing to save: an interruption ends the program at once.
    let interrupt = &Interrupt::default();
    let (train, held_out) = Recorded::split(&args.trace, &trace, HELD_OUT)?;
    let [learned, check] = [Labelled::of(&train, interrupt)?, Labelled::of(&held_out, interrupt)?];
    let replay = Replay { trace: &held_out, costs: Costs { model: table.model(), decision: table.decision } };
    let size = args.size;
    let disco =
        fitted(args, "disco", Disco::HIDDEN, [&learned.disco, &check.disco], &replay, |classifier| {
            Box::new(Disco::new(classifier, size))
        })?;
    let c2t = fitted(args, "c2t", C2t::HIDDEN, [&learned.c2t, &check.c2t], &replay, |classifier| {
        Box::new(C2t::new(classifier, size))
    })?;
    let made_of = [trace.identity(), table.sha256()];
    let both = [disco.classifier.clone(), c2t.classifier.clone()];
    Classifiers::new(&models, made_of, size, args.seed, both).write(&args.out)?;
    let whole = Static { depth: trace.header.depth, size };
    let whole = replay.tokens_per_second(&|| Box::new(WholeBeam(whole)))?;
    say!("{}", describe(&[disco, c2t], [&train, &held_out], (trace.header.depth, size, whole)))?;
    Ok(say!("written to {}", args.out.display())?)
}

/// Fails unless the trace has what classifiers look at and learn.
fn check_trace(path: &Path, header: &TraceHeader) -> Result<()> {
    let problem = if !header.entropies {
        "it has no entropies, which classifiers look at: record with --entropies"
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

    /// The network with the threshold at which its rule is fastest, the lowest of equals, and how
    /// fast that is.
    fn tuned(
        &self,
        mlp: &Mlp,
        rule: impl Fn(&Classifier) -> Box<dyn Controller> + Sync,
    ) -> Result<(Classifier, f64)> {
        let mut best: Option<(Classifier, f64)> = None;
        for step in 1..THRESHOLDS {
            let classifier = Classifier::new(mlp, step as f64 / THRESHOLDS as f64);
            let reached = self.tokens_per_second(&|| rule(&classifier))?;
            if best.as_ref().is_none_or(|(_, most)| reached > *most) {
                best = Some((classifier, reached));
            }
        }
        Ok(best.expect("invariant: there are thresholds"))
    }
}

/// A classifier that learned from the first samples, was checked on the second, and has the
/// threshold at which its rule is fastest.
fn fitted(
    args: &ClassifyArgs,
    name: &'static str,
    hidden: usize,
    [train, held_out]: [&Samples; 2],
    replay: &Replay,
    rule: impl Fn(&Classifier) -> Box<dyn Controller> + Sync,
) -> Result<Fitted> {
    for (samples, what) in [(train, "learned from"), (held_out, "held out")] {
        let [accepted, others] = samples.counts();
        if accepted == 0 || others == 0 {
            let (path, tokens) = (args.trace.display(), counted(accepted, "accepted token"));
            return Err(Error::Recorded(format!(
                "{path}: of the prompts that are {what}, {name} sees {tokens} and {others} others, expected \
                 some of both: record more prompts"
            )));
        }
    }
    let mut task = Progress::detect().task(name, args.epochs);
    let told = &mut |epoch: usize, loss: f64| {
        task.update(epoch, epoch as f64 / args.epochs as f64, &format!("held-out loss {loss:.4}"));
    };
    let (mlp, quality) =
        fit((train, held_out), hidden, args.epochs, (args.seed, name), &Interrupt::default(), told)?;
    let (classifier, tokens_per_second) = replay.tuned(&mlp, rule)?;
    task.finish(&format!("held-out loss {:.4}, threshold {:.2}", quality.loss, classifier.threshold));
    Ok(Fitted { name, classifier, quality, learned: train.counts(), tokens_per_second })
}

fn describe(
    fitted: &[Fitted],
    [train, held_out]: [&Trace; 2],
    (depth, size, whole): (usize, usize, f64),
) -> String {
    let mut lines = vec![
        format!(
            "learned from {}, checked on {}; loss, accuracy and F1 are on as many accepted tokens as others, \
             where a guess has a loss of {:.3}, and the AUC on all\n",
            counted(train.prompts(), "prompt"),
            counted(held_out.prompts(), "other"),
            std::f64::consts::LN_2
        ),
        "| classifier | accepted | others | loss | accuracy | F1 | AUC | threshold | tokens/s |".to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    lines.extend(fitted.iter().map(|fitted| {
        let Fitted { name, classifier, quality, learned: [accepted, others], tokens_per_second } = fitted;
        let Quality { loss, accuracy, f1, auc } = quality;
        let (percent, threshold) = (100.0 * accuracy, classifier.threshold);
        format!(
            "| {name} | {accepted} | {others} | {loss:.3} | {percent:.1} % | {f1:.3} | {auc:.3} | \
             {threshold:.2} | {tokens_per_second:.1} |"
        )
    }));
    lines.push(format!(
        "\nthresholds are those with the most tokens per second in replay of the held-out prompts, with at \
         most {size} candidates to verify; whole trees of depth {depth} reach {whole:.1} there"
    ));
    lines.join("\n")
}
