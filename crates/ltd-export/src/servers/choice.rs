//! The best setting that a server accepts.

use std::fmt::Write;
use std::path::Path;

use ltd_policy::{write_atomically, write_json};
use serde::Serialize;

use super::form::{Place, ServerForm, printable};
use super::known::{Known, Rated};
use super::server::Server;
use super::setting::Setting;
use crate::export::write_folder;
use crate::{Error, Result};

/// What a folder of settings holds beside the servers' own files.
const SETTINGS_FILE: &str = "settings.json";
/// Share by which speeds of a run's trees may differ and still count as one. So little says nothing
/// of a server, which expands the whole beam of every level: trees of depths 6 and 1 that were
/// 0.4 % apart in a run were about 10 % apart with whole beams.
const TOLERANCE: f64 = 0.02;

/// A setting for a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// The server.
    pub server: Server,
    /// Of the settings that it accepts, the best.
    pub rated: Rated,
    /// The setting in its form.
    pub form: ServerForm,
    /// Share of the policy's throughput that the setting loses; negative if it is faster.
    pub lost_to_policy: Option<f64>,
    /// The same of the best choice at every position, made with foresight.
    pub lost_to_oracle: Option<f64>,
}

/// What `settings.json` says of a server.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    server: &'static str,
    version: &'static str,
    setting: String,
    files: Vec<&'static str>,
    tokens_per_second: Option<f64>,
    plain_tokens_per_second: Option<f64>,
    lost_to_policy: Option<f64>,
    lost_to_oracle: Option<f64>,
    basis: String,
    notes: &'a [String],
}

/// For each server the best known setting that it accepts.
///
/// # Errors
/// If one accepts none. All such servers are named, each with why it refused what.
pub fn advise(servers: &[Server], known: &Known, place: &Place) -> Result<Vec<Advice>> {
    let (mut advice, mut problems) = (Vec::new(), Vec::new());
    for (index, &server) in servers.iter().enumerate() {
        if servers[..index].contains(&server) {
            continue;
        }
        match best(server, known, place) {
            Ok(found) => advice.push(found),
            Err(reasons) => problems.push(format!("{}: {}", server.name(), reasons.join("; "))),
        }
    }
    if problems.is_empty() { Ok(advice) } else { Err(Error::Servers { problems }) }
}

/// Writes the servers' files, and what is known of each setting, into the new folder `out`.
pub fn write(out: &Path, known: &Known, advice: &[Advice]) -> Result<()> {
    write_folder(out, |folder| {
        for file in advice.iter().flat_map(|advice| &advice.form.files) {
            write_atomically(&folder.join(file.name), file.text.as_bytes())?;
        }
        let entries: Vec<_> = advice.iter().map(|advice| advice.entry(known)).collect();
        Ok(write_json(&folder.join(SETTINGS_FILE), &entries)?)
    })
}

/// The best setting that a server accepts, or why it accepts none.
fn best(server: Server, known: &Known, place: &Place) -> std::result::Result<Advice, Vec<String>> {
    let (mut accepted, mut reasons) = (Vec::new(), Vec::new());
    for rated in &known.settings {
        match server.form(&rated.setting, place) {
            Ok(_)
                if rated.tokens_per_second.zip(known.plain).is_some_and(|(speed, plain)| speed <= plain) =>
            {
                push_once(&mut reasons, "plain decoding is as fast as what it accepts".to_owned());
            }
            Ok(form) => accepted.push((rated, form)),
            Err(reason) => push_once(&mut reasons, reason),
        }
    }
    let chosen = choose(&accepted, known).ok_or(reasons)?;
    let (rated, form) = accepted.swap_remove(chosen);
    let lost = |to: Option<f64>| Some(1.0 - rated.tokens_per_second? / to?);
    Ok(Advice {
        server,
        form,
        lost_to_policy: lost(known.policy),
        lost_to_oracle: lost(known.oracle),
        rated: rated.clone(),
    })
}

/// The place of the first; where levels were narrow, of the trees that are as fast the place of
/// those with the fewest levels, then candidates.
fn choose(accepted: &[(&Rated, ServerForm)], known: &Known) -> Option<usize> {
    let (first, _) = accepted.first()?;
    let trees = |rated: &Rated| match rated.setting {
        Setting::Trees(trees) if trees.beam_width > 1 => Some((trees, rated.tokens_per_second?)),
        _ => None,
    };
    let Some((_, fastest)) = trees(first).filter(|_| known.narrow_levels) else { return Some(0) };
    let as_fast = accepted.iter().enumerate().filter_map(|(place, (rated, _))| {
        // One that is faster, but stands behind, was measured on fewer prompts.
        let (trees, _) = trees(rated).filter(|(_, speed)| (speed / fastest - 1.0).abs() <= TOLERANCE)?;
        Some((trees.levels(), trees.verified(), place))
    });
    as_fast.min().map(|(.., place)| place)
}

fn push_once(reasons: &mut Vec<String>, reason: String) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}

impl Advice {
    /// Where its figures are from, or without figures it.
    fn basis(&self, known: &Known) -> String {
        if self.rated.tokens_per_second.is_none() {
            return known.origin.clone();
        }
        let has_trees = matches!(self.rated.setting, Setting::Trees(_) | Setting::CopiesAndTrees(..));
        let narrow = known.narrow_levels && has_trees;
        let levels = if narrow { ", with levels that expand what can be verified and no more" } else { "" };
        format!("{}{levels}", known.basis)
    }

    /// What to tell of it beside the files.
    pub(crate) fn entry<'a>(&'a self, known: &'a Known) -> Entry<'a> {
        Entry {
            server: self.server.name(),
            version: self.server.version(),
            setting: self.rated.setting.to_string(),
            files: self.form.files.iter().map(|file| file.name).collect(),
            tokens_per_second: self.rated.tokens_per_second,
            plain_tokens_per_second: known.plain,
            lost_to_policy: self.lost_to_policy,
            lost_to_oracle: self.lost_to_oracle,
            basis: self.basis(known),
            notes: &self.form.notes,
        }
    }

    /// The files, with what is known of the setting in lines that begin with `#`.
    pub(crate) fn describe(&self, known: &Known) -> String {
        let (name, version) = (self.server.name(), self.server.version());
        let basis = self.basis(known);
        let figures = match self.rated.tokens_per_second {
            None => format!("the speed of this setting was not measured; the setting is from {basis}"),
            Some(speed) => {
                let compared = |to: Option<f64>, lost: Option<f64>, what: &str| {
                    let (to, lost) = to.zip(lost)?;
                    let word = if lost < 0.0 { "gained" } else { "lost" };
                    Some(format!(", {what} {to:.1} ({:.1} % {word})", 100.0 * lost.abs()))
                };
                let policy = compared(known.policy, self.lost_to_policy, "the policy");
                let oracle = compared(known.oracle, self.lost_to_oracle, "foresight");
                let policy = policy.unwrap_or(", the policy was not compared".to_owned());
                let oracle = oracle.unwrap_or(", foresight is not known".to_owned());
                let plain =
                    known.plain.map(|plain| format!(", plain decoding {plain:.1}")).unwrap_or_default();
                format!("{speed:.1} tokens/s{plain}{policy}{oracle}: {basis}")
            }
        };
        let mut text = format!("# {name} {version}: {}\n# {}\n", self.rated.setting, printable(&figures));
        for note in &self.form.notes {
            let _ = writeln!(text, "# note: {}", printable(note));
        }
        for (place, file) in self.form.files.iter().enumerate() {
            // What stands alone needs no name.
            if place > 0 {
                let _ = writeln!(text, "# {}:", file.name);
            }
            text.push_str(&file.text);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use ltd_policy::CopyRule;

    use super::super::setting::{Setting, Trees};
    use super::*;

    fn known(settings: Vec<(Setting, Option<f64>)>) -> Known {
        let rated = |(setting, tokens_per_second)| Rated { setting, tokens_per_second };
        let settings = settings.into_iter().map(rated).collect();
        let (plain, policy, oracle) = (Some(50.0), Some(125.0), Some(160.0));
        Known {
            settings,
            plain,
            policy,
            oracle,
            origin: "a run".to_owned(),
            basis: "replay".to_owned(),
            narrow_levels: false,
        }
    }

    fn place() -> Place {
        Place { draft: "head".to_owned(), greedy: true }
    }

    const RULE: CopyRule = CopyRule { match_length: 2, chain: 8 };

    fn trees(depth: usize, size: usize) -> Setting {
        Setting::Trees(Trees { beam_width: 10, depth, size })
    }

    #[test]
    fn each_server_gets_the_best_that_it_accepts_and_what_it_loses() {
        let known = known(vec![
            (Setting::CopiesAndTrees(RULE, Trees { beam_width: 10, depth: 1, size: 4 }), Some(120.0)),
            (trees(6, 4), Some(100.0)),
            (trees(3, 24), Some(80.0)),
            (Setting::Copies(RULE), None),
        ]);
        let servers = [Server::SgLang, Server::OpenVino, Server::Vllm];
        let found = advise(&servers, &known, &place()).expect("all accept one");
        let told: Vec<_> = found.iter().map(|advice| advice.rated.tokens_per_second).collect();
        // The fastest tree verifies fewer candidates than it has levels, which one of them refuses.
        assert_eq!(told, [Some(100.0), Some(80.0), None]);
        let lost = |value: Option<f64>| value.map(|lost| (1000.0 * lost).round());
        assert_eq!(
            (lost(found[0].lost_to_policy), lost(found[0].lost_to_oracle)),
            (Some(200.0), Some(375.0))
        );
        assert_eq!((found[2].lost_to_policy, found[2].lost_to_oracle), (None, None));
        let text = found[0].describe(&known);
        let second = "# 100.0 tokens/s, plain decoding 50.0, the policy 125.0 (20.0 % lost), foresight 160.0 (37.5 % lost): replay\n";
        assert!(
            text.starts_with(&format!(
                "# sglang 0.5.23: trees of depth 6 and beam width 10, 4 verified\n{second}"
            )),
            "{text}"
        );
        assert!(text.ends_with("--speculative-num-draft-tokens 5\n"), "{text}");
        let unmeasured = found[2].describe(&known);
        assert!(
            unmeasured
                .contains("\n# the speed of this setting was not measured; the setting is from a run\n"),
            "{unmeasured}"
        );
    }

    #[test]
    fn of_trees_that_are_as_fast_with_narrow_levels_the_shallowest_is_taken() {
        let measured = vec![
            (trees(6, 4), Some(137.6)),
            (trees(2, 8), Some(137.1)),
            (trees(1, 9), Some(137.0)),
            (trees(1, 4), Some(136.9)),
            (trees(1, 2), Some(134.0)),
            (trees(0, 2), Some(150.0)),
            (Setting::Copies(RULE), None),
        ];
        let taken = |known: &Known| {
            let found = advise(&[Server::SgLang, Server::SgLang], known, &place()).expect("it takes trees");
            assert_eq!(found.len(), 1, "asked for twice, told once");
            (found[0].rated.setting.clone(), found[0].describe(known))
        };
        let whole_beams = known(measured);
        assert_eq!(taken(&whole_beams).0, trees(6, 4));
        let narrow = Known { narrow_levels: true, ..whole_beams };
        let (setting, text) = taken(&narrow);
        assert_eq!(setting, trees(1, 4));
        assert!(text.contains("# 136.9 tokens/s") && text.contains("with levels that expand"), "{text}");
        // Copies have no levels.
        let found = advise(&[Server::Vllm], &narrow, &place()).expect("it copies");
        assert!(!found[0].describe(&narrow).contains("levels"), "{}", found[0].describe(&narrow));
    }

    #[test]
    fn what_a_package_says_stays_a_comment() {
        let origin = "the fallback (slow\nrm -r x\u{1b}[2J)".to_owned();
        let known = Known { origin, ..known(vec![(trees(3, 24), None)]) };
        let text = advise(&[Server::SgLang], &known, &place()).expect("trees")[0].describe(&known);
        assert!(text.contains("(slow\\nrm -r x\\u{1b}[2J)\n"), "{text}");
        let bare: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(matches!(bare[..], [line] if line.starts_with("--speculative-algorithm ")), "{text}");
    }

    #[test]
    fn nothing_is_written_that_plain_decoding_is_as_fast_as() {
        let known = known(vec![(trees(3, 24), Some(50.0)), (Setting::Copies(RULE), Some(49.0))]);
        let error = advise(&[Server::SgLang], &known, &place()).expect_err("plain decoding");
        let text = error.to_string();
        assert!(
            text.ends_with(
                "sglang: plain decoding is as fast as what it accepts; it copies where a single token \
                 matches, and the rule asks for 2"
            ),
            "{text}"
        );
    }

    #[test]
    fn all_servers_that_accept_nothing_are_named_and_each_reason_once() {
        let known = known(vec![(trees(3, 24), Some(70.0)), (trees(4, 24), Some(60.0))]);
        let servers = [Server::Vllm, Server::SgLang, Server::LlamaCpp];
        let error = advise(&servers, &known, &place()).expect_err("two have no trees");
        assert!(error.is_usage());
        let text = error.to_string();
        assert_eq!(text.matches("length does not follow from trees").count(), 2, "{text}");
        assert!(
            text.contains("vllm: ") && text.contains("llama.cpp: ") && !text.contains("sglang: "),
            "{text}"
        );
    }
}
