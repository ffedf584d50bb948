//! `ltd-train retarget`: a trained package on another machine.

mod factored;
mod pair;

use std::path::{Path, PathBuf};

use clap::Args;
use ltd_console::{note, say};
use ltd_distributed::Group;
use ltd_engine::Learned;
use ltd_env::trace::Trace;
use ltd_policy::{
    Choice, ChoiceEntry, Conditions, Fallback, LatencyTable, Manifest, Policy, PolicyEntry, PolicyPackage,
    check_new_folder,
};
use ltd_run::Interrupt;

use self::factored::refit;
use self::pair::{go_on_learning, start};
use crate::arguments::count;
use crate::evaluate::{Contender, Prediction};
use crate::recorded::Recorded;
use crate::trainer::Pair;
use crate::{Error, Result};
use ltd_run::Progress;

#[derive(Debug, Args)]
pub(crate) struct RetargetArgs {
    /// Package to start from
    #[arg(long, value_name = "DIR")]
    pub(crate) policy: PathBuf,
    /// Trace of the package's models, from any machine
    #[arg(long, value_name = "DIR")]
    pub(crate) trace: PathBuf,
    /// Latency table of the new machine
    #[arg(long, value_name = "FILE")]
    pub(crate) latency: PathBuf,
    /// Folder of the new package
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Steps of replay that each policy of a pair goes on learning for; a factored policy needs
    /// none
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = count())]
    pub(crate) steps: usize,
    /// Seed of that learning
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Share of the trace's prompts on which the gain is predicted.
const HELD_OUT: f64 = 0.125;

/// Fits a package to another machine, writes it, and prints what replay predicts of it there.
pub(crate) fn retarget(args: &RetargetArgs) -> Result<()> {
    check_new_folder("--out", &args.out)?;
    let package = PolicyPackage::load(&args.policy)?;
    if package.manifest.compat.is_some() {
        let path = args.policy.display();
        return Err(Error::Recorded(format!(
            "{path}: compat is `official`, expected null: policies of the published code do not go on learning here"
        )));
    }
    let trace = Trace::read_replayable(&args.trace)?;
    check_trace(&args.trace, &trace, &package)?;
    // Another machine is what this is for.
    let sampling = trace.header.sampling;
    if let Some(warning) = package.warning(&Conditions::of_sampling(sampling)) {
        note!("ltd-train: warning: {}: {warning}", args.policy.display());
    }
    let table = LatencyTable::read(&args.latency)?;
    // Until the package is written there is nothing to save: an interruption ends the program at
    // once.
    let interrupt = &Interrupt::default();
    let recorded = Recorded::new(&args.trace, &trace, table, HELD_OUT, &Group::alone(), interrupt)?;
    let mut retargeted = match &package.policy {
        Policy::Factored(factored) => {
            package.retargeted(refit(factored, &recorded, args.seed, Progress::detect())?)?
        }
        Policy::Pair { depth, size, source } => {
            let pair = Pair { depth: depth.clone(), size: size.clone(), source: source.clone() };
            if !pair.learns() {
                let path = args.policy.display();
                return Err(Error::Recorded(format!(
                    "{path}: all decisions are constants: nothing can be fitted"
                )));
            }
            let pair = start(pair, &recorded, args.seed, Progress::detect())?;
            let Pair { depth, size, source } =
                go_on_learning(pair, &recorded, args.steps, args.seed, Progress::detect())?;
            let mut manifest = package.manifest.clone();
            manifest.latency_table_sha256 = Some(recorded.table_sha256.clone());
            manifest.move_to(&recorded.table.identity);
            let policy = Policy::Pair { depth, size, source };
            note_choices(&mut manifest, &policy, &recorded)?;
            PolicyPackage { manifest, policy }
        }
    };
    // What it learned last, and its gain is predicted of.
    retargeted.manifest.sampling = Some(sampling);
    let strongest = recorded.strongest();
    let predictions = recorded.predict(
        &mut [
            Contender::new("untouched", Box::new(Learned::of_policy(&package.policy))),
            Contender::new("retargeted", Box::new(Learned::of_policy(&retargeted.policy))),
        ],
        strongest,
        &package.policy.chains(),
        interrupt,
    )?;
    let gain = predictions[1].gain;
    if gain <= 0.0 {
        let reason =
            format!("replay of held-out recordings predicts that it is {:.1} % slower", -100.0 * gain);
        retargeted.manifest.fallback = Some(strongest.fallback(reason));
    }
    ltd_export::write(&retargeted, &ltd_export::Forms::Suitable, &args.out)?;
    say!("{}", describe(&predictions, &recorded, retargeted.manifest.fallback.as_ref()))?;
    Ok(say!("written to {}", args.out.display())?)
}

/// Writes into a pair's manifest what its policies choose among, and whether they choose.
fn note_choices(manifest: &mut Manifest, policy: &Policy, recorded: &Recorded) -> Result<()> {
    let controller = Box::new(Learned::of_policy(policy));
    let chosen = recorded.measure(&mut [Contender::new("pair", controller)])?.remove(0).total();
    let (Policy::Pair { depth, size, .. }, PolicyEntry::Pair { depth: depth_entry, size: size_entry, .. }) =
        (policy, &mut manifest.policy)
    else {
        return Ok(());
    };
    for (entry, choice, counts) in
        [(depth_entry, depth, &chosen.depths), (size_entry, size, &chosen.requested_sizes)]
    {
        if let (ChoiceEntry::Learned { actions, is_constant, .. }, Choice::Learned(policy)) = (entry, choice)
        {
            *actions = policy.actions().clone();
            *is_constant = counts.len() <= 1;
        }
    }
    Ok(())
}

/// Fails unless the trace is of the package's models and as deep as its policy drafts.
fn check_trace(path: &Path, trace: &Trace, package: &PolicyPackage) -> Result<()> {
    let header = &trace.header;
    let deepest = package.policy.deepest();
    header.models().check(path, "the package", &package.manifest.models())?;
    if header.depth < deepest {
        let (path, depth) = (path.display(), header.depth);
        return Err(Error::Recorded(format!(
            "{path}: its trees are {depth} deep, the package drafts {deepest}"
        )));
    }
    if package.policy.merges() && !header.has_candidates() {
        return Err(Error::Recorded(format!("{}: {}", path.display(), ltd_env::Error::NoCandidates)));
    }
    Ok(())
}

fn describe(predictions: &[Prediction], recorded: &Recorded, fallback: Option<&Fallback>) -> String {
    let Prediction { opponent, clairvoyant, .. } = &predictions[0];
    let row = |name: &str, rate: f64| {
        let (gain, regret) = (100.0 * (rate / opponent - 1.0), 100.0 * (1.0 - rate / clairvoyant));
        format!("| {name} | {rate:.1} | {gain:+.1} % | {regret:.1} % |")
    };
    let mut lines = vec![
        format!(
            "replay of {} held-out prompts at the costs of {}, {}\n",
            recorded.held_out.prompts(),
            recorded.table.identity.machine,
            recorded.table.identity.dtype
        ),
        "| policy | tokens/s | over the strongest fixed setting | regret |\n| --- | --- | --- | --- |"
            .to_owned(),
        row(&format!("strongest fixed setting: {}", recorded.strongest()), *opponent),
    ];
    lines.extend(predictions.iter().map(|prediction| row(&prediction.name, prediction.tokens_per_second)));
    lines.push(row("clairvoyant", *clairvoyant));
    lines.extend(
        fallback.map(|fallback| format!("\nthe package falls back to that setting: {}", fallback.reason)),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use ltd_export::{Forms, Imported, import, write};
    use ltd_policy::{ModelIdentity, Models};

    use super::*;

    #[test]
    fn policies_of_the_published_code_are_not_fitted() {
        let model = ModelIdentity { name: "model".to_owned(), sha256: "00".to_owned() };
        let models = Models { target: model.clone(), draft: model, beam_width: 10 };
        let archive =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/official-policies/depth.zip");
        let package = import(&Imported::Archive(archive.into()), &Imported::Constant(59), models);
        let folder = tempfile::tempdir().expect("a folder");
        let [policy, out] = ["package", "out"].map(|name| folder.path().join(name));
        write(&package.expect("an import"), &Forms::These(Vec::new()), &policy).expect("written");
        let nowhere = folder.path().join("nowhere");
        let args = RetargetArgs { policy, trace: nowhere.clone(), latency: nowhere, out, steps: 1, seed: 1 };
        let error = retarget(&args).expect_err("refused");
        assert!(
            error.is_usage() && error.to_string().contains("compat is `official`, expected null"),
            "{error}"
        );
    }
}
