//! What servers take: files, and why some take no setting of a kind.

/// A file that a server loads, or whose text stands on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// What it holds.
    pub text: String,
}

/// A setting as a server takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerForm {
    /// The files, what to begin with first.
    pub files: Vec<ServerFile>,
    /// Where the server does something else than was measured, and what else it needs.
    pub notes: Vec<String>,
}

/// What a form depends on besides the setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where the server finds the draft model.
    pub draft: String,
    /// Whether the most probable token is always taken.
    pub greedy: bool,
}

/// Why servers that draft chains alone take no trees.
pub(super) const NO_TREES: &str = "it drafts chains alone, and their length does not follow from trees: record chains \
                                   with engine.beam_width 1, and name them with --chains and --chains-latency beside \
                                   --trace and --latency";
/// Why servers that either copy or draft take no rule that does both.
pub(super) const NO_MIXTURE: &str = "it either copies or drafts, and the setting does both";
/// Why servers without adaptive chains take none.
pub(super) const NO_ADAPTIVE: &str = "it has no chains whose length follows what was accepted lately";

/// Why a server whose look-up begins with a single matching token takes no rule that asks for more.
pub(super) fn no_shortest_match(match_length: usize) -> String {
    format!("it copies where a single token matches, and the rule asks for {match_length}")
}

/// What is said of servers that look for so many tokens and for no longer match.
pub(super) fn fixed_match(match_length: usize) -> String {
    let tokens = if match_length == 1 { "token".to_owned() } else { format!("{match_length} tokens") };
    format!("it looks for the latest {tokens} and for no longer match, where the rule takes the longest")
}

/// A text as part of one line: names and reasons in a package may hold anything, such as the end of
/// a comment or what steers a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, letter| {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
        line
    })
}

/// Arguments as a line of a shell.
pub(super) fn line(arguments: &[(&str, &str)]) -> String {
    let words = arguments.iter().map(|(flag, value)| {
        if value.is_empty() { (*flag).to_owned() } else { format!("{flag} {}", quoted(value)) }
    });
    words.collect::<Vec<_>>().join(" ") + "\n"
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A JSON value as the text of a file.
pub(super) fn json_line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_line_or_steers_a_terminal_is_spelt_out() {
        assert_eq!(printable("a\nrm\r\u{1b}[2J\u{85}é"), "a\\nrm\\r\\u{1b}[2J\\u{85}é");
    }

    #[test]
    fn words_of_a_shell_are_quoted_where_they_must_be() {
        let text = line(&[("--flag", ""), ("--path", "/models/a b's"), ("--plain", "org/head-1.2")]);
        assert_eq!(text, "--flag --path '/models/a b'\\''s' --plain org/head-1.2\n");
        let told = std::process::Command::new("bash")
            .args(["-c", &format!("printf '%s|' {text}")])
            .output()
            .expect("a shell");
        assert_eq!(
            String::from_utf8_lossy(&told.stdout),
            "--flag|--path|/models/a b's|--plain|org/head-1.2|"
        );
    }
}
