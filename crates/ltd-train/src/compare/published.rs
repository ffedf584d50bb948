//! Published rules by their names, as contenders of a comparison.

use std::path::{Path, PathBuf};

use ltd_console::note;
use ltd_contenders::{ALL, Classifiers, EAGLE_DEFAULT, Entry, Fixed, Given, Needs, eagle_auto, fixed};
use ltd_engine::{Engine, Static, WholeBeam};
use ltd_policy::{LatencyTable, Models, sha256_hex};

use super::header::{Entrant, Header, Role};
use crate::evaluate::{Contender, StaticEntrant};
use crate::{Error, Result};

/// EAGLE's trees with the size that it measures for itself.
const EAGLE_AUTO: &str = "eagle-auto";
/// All names at once.
const EVERY: &str = "all";
/// How often EAGLE's published code times each forward.
const EAGLE_AUTO_REPEATS: usize = 20;
/// Where the names come from.
const OPTION: &str = "--contenders";

/// What was asked for by names, which are known.
pub(crate) struct Published {
    names: Vec<&'static str>,
    costs: Option<LatencyTable>,
    /// With their file.
    classifiers: Option<(PathBuf, Classifiers)>,
    /// What rules keep constant of a tree, if it is not what was published.
    trees: Option<Static>,
}

impl Published {
    /// Looks names up, before anything takes long. Rules that weigh costs need a table of them, and
    /// those that decide by a classifier need it.
    ///
    /// # Errors
    /// If a name is unknown or twice there, or a file is missing, damaged or makes no sense.
    pub(crate) fn find(
        names: &[String],
        latency: Option<&Path>,
        classifiers: Option<&Path>,
        trees: Option<Static>,
    ) -> Result<Self> {
        let costs = latency.map(LatencyTable::read).transpose()?;
        let read = |path: &Path| Ok::<_, Error>((path.to_owned(), Classifiers::read(path)?));
        let classifiers = classifiers.map(read).transpose()?;
        let mut found = Vec::new();
        for name in names.iter().map(|name| name.trim()) {
            if name == EVERY {
                found.push(EAGLE_AUTO);
                let judged = classifiers.is_some();
                let possible = ALL.iter().filter(|entry| judged || entry.needs() != Needs::Classifiers);
                found.extend(possible.map(|entry| entry.name));
                continue;
            }
            let known = known_names().find(|known| *known == name);
            found.push(known.ok_or_else(|| unknown(name))?);
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = found.iter().find(|name| !seen.insert(**name)) {
            return Err(Error::Recorded(format!("{OPTION}: {twice} is there twice")));
        }
        for entry in found.iter().filter_map(|name| Entry::find(name)) {
            let problem = match entry.needs() {
                Needs::Costs if costs.is_none() => {
                    "weighs measured costs: --latency names a table of them (ltd-trace latency)"
                }
                Needs::Classifiers if classifiers.is_none() => {
                    "decides by a classifier: --classifiers names a file of them (ltd-train classify)"
                }
                _ => continue,
            };
            return Err(Error::Recorded(format!("{OPTION}: {} {problem}", entry.name)));
        }
        Ok(Self { names: found, costs, classifiers, trees })
    }

    /// Leaves out what measures first: parts of a comparison might find different things. `all` of
    /// what was `asked` is all others then.
    pub(crate) fn leave_out_measuring(&mut self, asked: &[String]) -> Result<()> {
        let problem = "each part would measure its size for itself";
        if asked.iter().any(|name| name == EAGLE_AUTO) {
            return Err(Error::Recorded(format!(
                "{OPTION}: {EAGLE_AUTO} cannot take part with --shard: {problem}"
            )));
        }
        let all = self.names.len();
        self.names.retain(|name| *name != EAGLE_AUTO);
        if self.names.len() < all {
            note!("ltd-train: warning: {EAGLE_AUTO} is left out: {problem}");
        }
        Ok(())
    }

    /// Fails, naming both sides, unless classifiers are of these models.
    pub(crate) fn check(&self, models: &Models) -> Result<()> {
        let Some((path, classifiers)) = &self.classifiers else { return Ok(()) };
        Ok(classifiers.models().check(path, "the configuration", models)?)
    }

    /// The table of costs, if there is one.
    pub(crate) fn costs(&self) -> Option<&LatencyTable> {
        self.costs.as_ref()
    }

    /// Readies them, each with the SHA-256 of the table that it weighs or of the file of its
    /// classifier, if it has one. What measures first does so behind a prompt, if it has not in a
    /// comparison that was begun.
    pub(crate) fn contenders(
        &self,
        engine: &Engine,
        prompt: &[u32],
        begun: Option<&Header>,
    ) -> Result<Vec<(Entrant, Contender)>> {
        let table = self.costs.as_ref().map(LatencyTable::sha256).unwrap_or_default();
        let judging = self.classifiers.as_ref().map(|(_, classifiers)| sha256_hex(&classifiers.to_bytes()));
        let judging = judging.unwrap_or_default();
        let contender = |name: &&'static str| {
            if *name == EAGLE_AUTO {
                let size = match begun.and_then(measured_before) {
                    Some(size) => size,
                    None => eagle_auto_size(engine, prompt)?,
                };
                let trees = WholeBeam(Static { size, ..EAGLE_DEFAULT.0 });
                let setting = StaticEntrant::from(Fixed { trees, copies: None });
                return Ok(fixed_entrant(eagle_auto_name(size), setting));
            }
            let entry = Entry::find(name).expect("invariant: the name is known");
            let trees = self.trees.filter(|_| entry.keeps_trees);
            let trees = trees.map(|Static { depth, size }| format!(" ({depth}, {size})"));
            let shown = format!("{name}{}", trees.unwrap_or_default());
            if let Some(setting) = fixed(name, self.trees) {
                return Ok(fixed_entrant(shown, setting.into()));
            }
            let classifiers = self.classifiers.as_ref().map(|(_, classifiers)| classifiers);
            let given = Given { costs: self.costs.as_ref(), classifiers, trees: self.trees };
            let controller = entry.controller(&given).expect("invariant: what it needs is there");
            let decides_by = match entry.needs() {
                Needs::Nothing => String::new(),
                Needs::Costs => table.clone(),
                Needs::Classifiers => judging.clone(),
            };
            let entrant = Entrant { name: shown.clone(), role: Role::Published, decides_by, setting: None };
            Ok((entrant, Contender::new(shown, controller)))
        };
        self.names.iter().map(contender).collect()
    }
}

/// A published setting that decides nothing.
fn fixed_entrant(name: String, setting: StaticEntrant) -> (Entrant, Contender) {
    let contender = Contender::unchanging(name.clone(), setting);
    (Entrant { name, role: Role::Published, decides_by: String::new(), setting: Some(setting) }, contender)
}

fn eagle_auto_name(size: usize) -> String {
    format!("{EAGLE_AUTO} (size {size})")
}

/// The size that EAGLE settled on when a comparison was begun.
fn measured_before(begun: &Header) -> Option<usize> {
    let mut sizes = eagle_auto::TOKENS.iter().map(|tokens| tokens - 1);
    sizes.find(|&size| begun.compared.contenders.iter().any(|entrant| entrant.name == eagle_auto_name(size)))
}

fn known_names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|entry| entry.name).chain([EAGLE_AUTO])
}

/// All names, with what each does and needs, as a table.
pub(crate) fn table() -> String {
    let row = |name: &str, rule: &str, needs: &str, source: &str| {
        format!("| {name} | {rule} | {needs} | {source} |")
    };
    let entries = ALL.iter().map(|entry| {
        let needs = match entry.needs() {
            Needs::Nothing => "",
            Needs::Costs => "--latency",
            Needs::Classifiers => "--classifiers",
        };
        row(entry.name, entry.rule, needs, entry.source)
    });
    let head = ["| contender | rule | needs | source |".to_owned(), "| --- | --- | --- | --- |".to_owned()];
    let automatic = row(EAGLE_AUTO, "a constant, the size measured", "", "EAGLE's code");
    head.into_iter().chain([automatic]).chain(entries).collect::<Vec<_>>().join("\n")
}

fn unknown(name: &str) -> Error {
    let known: Vec<&str> = known_names().chain([EVERY]).collect();
    Error::Recorded(format!("{OPTION}: unknown contender `{name}`; expected {}", known.join(", ")))
}

/// Candidates of the trees that EAGLE settles on after it has timed the target.
fn eagle_auto_size(engine: &Engine, prompt: &[u32]) -> Result<usize> {
    let most = eagle_auto::TOKENS[eagle_auto::TOKENS.len() - 1];
    let context = &prompt[..prompt.len().min(engine.capacity().saturating_sub(most)).max(1)];
    let mut session = engine.prefill(context, None)?;
    let mut mean_ms = |tokens: usize| {
        let rows: Vec<u32> = prompt.iter().copied().cycle().take(tokens).collect();
        // The first forward of a size takes longer.
        engine.time_target_forward(&mut session, &rows)?;
        let mut total = 0.0;
        for _ in 0..EAGLE_AUTO_REPEATS {
            total += engine.time_target_forward(&mut session, &rows)?.as_secs_f64() * 1e3;
        }
        Ok::<f64, Error>(total / EAGLE_AUTO_REPEATS as f64)
    };
    let mut ms = [0.0; eagle_auto::TOKENS.len()];
    for (ms, tokens) in ms.iter_mut().zip(eagle_auto::TOKENS) {
        *ms = mean_ms(tokens)?;
    }
    // The root is one of its tokens.
    Ok(eagle_auto::total_token(ms) - 1)
}
