//! Question files in FastChat's `question.jsonl` form.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::TextError;

/// One line of a question file: turns in words, or a prompt in token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// `question_id`, or the line number.
    pub id: String,
    /// `category`.
    pub category: Option<String>,
    /// User messages; the first one is asked.
    pub turns: Vec<String>,
    /// The prompt itself, for models without a tokenizer.
    pub token_ids: Option<Vec<u32>>,
}

/// A prompt ready for the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Which question it is.
    pub id: String,
    /// Category of the question.
    pub category: Option<String>,
}

/// A line as written; other keys (`reference`, ...) are of no interest here.
#[derive(Deserialize)]
struct Line {
    question_id: Option<Value>,
    category: Option<String>,
    #[serde(default)]
    turns: Vec<String>,
    token_ids: Option<Vec<u32>>,
}

/// Reads the lines `skip..skip + take` of a question file (`take` absent: all that follow). The
/// whole file is checked, not only that part; blank lines are passed over.
pub fn load_questions(path: &Path, skip: usize, take: Option<usize>) -> Result<Vec<Question>, TextError> {
    let text = ltd_policy::read_text(path).map_err(TextError::io(path))?;
    let none = |problem| Err(TextError::NoQuestions { path: path.to_owned(), problem });
    if is_list(&text) {
        let file = path.display();
        let problem = "is one JSON list, expected one JSON object per line: make it so with jq -c '.[]'";
        return none(format!("{problem} {file}"));
    }
    let mut questions = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let question = parse(line, number).map_err(|problem| TextError::Question {
            path: path.to_owned(),
            line: number,
            problem,
        })?;
        questions.push(question);
    }
    let total = questions.len();
    let wanted: Vec<Question> = questions.into_iter().skip(skip).take(take.unwrap_or(usize::MAX)).collect();
    if wanted.len() < take.unwrap_or(1) {
        return none(match take {
            _ if total == 0 => "no questions: expected one JSON object per line".to_owned(),
            Some(take) => format!("has {total} questions, too few for {take} after the first {skip}"),
            None => format!("has {total} questions, none after the first {skip}"),
        });
    }
    Ok(wanted)
}

/// Whether a file holds a list in place of lines, on one line or over several; anything may be
/// wrong further on.
fn is_list(text: &str) -> bool {
    let list = text.trim_start().strip_prefix('[');
    list.is_some_and(|list| list.starts_with(['\r', '\n']) || list.trim_start().starts_with('{'))
}

fn parse(text: &str, number: usize) -> Result<Question, String> {
    // The line is named beside it.
    let told = |error: serde_json::Error| error.to_string().replace(" at line 1 column ", " at column ");
    let line: Value = serde_json::from_str(text).map_err(told)?;
    let Value::Object(entries) = &line else {
        let found = if line.is_array() { "a list of values by position" } else { "a single value" };
        return Err(format!("is {found}, expected an object such as {{\"turns\": [\"a question\"]}}"));
    };
    let keys = entries.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let has_turns = entries.contains_key("turns");
    let line: Line = serde_json::from_value(line).map_err(told)?;
    if line.token_ids.as_ref().is_some_and(Vec::is_empty) {
        return Err("`token_ids` is empty".to_owned());
    }
    if line.token_ids.is_none() && line.turns.first().is_none_or(|turn| turn.trim().is_empty()) {
        let found = match (has_turns, line.turns.first()) {
            (true, None) => "an empty list",
            (true, Some(_)) => "an empty message",
            (false, _) => keys.as_str(),
        };
        return Err(format!("expected `turns` with at least one message, or `token_ids`, found {found}"));
    }
    let id = match line.question_id {
        Some(Value::String(id)) => id,
        Some(id) => id.to_string(),
        None => number.to_string(),
    };
    Ok(Question { id, category: line.category, turns: line.turns, token_ids: line.token_ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, skip: usize, take: Option<usize>) -> Result<Vec<Question>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("q.jsonl");
        std::fs::write(&path, text).expect("it is written");
        load_questions(&path, skip, take).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_are_questions_in_words_or_in_tokens() {
        let text = "{\"question_id\": 81, \"category\": \"code\", \"turns\": [\"a\", \"b\"], \"reference\": []}\n\n\
                    {\"question_id\": \"x/1\", \"token_ids\": [5, 6]}\n{\"turns\": [\"c\"]}\n";
        let questions = load(text, 0, None).expect("questions");
        let ids: Vec<_> = questions.iter().map(|question| question.id.as_str()).collect();
        assert_eq!(ids, ["81", "x/1", "4"]);
        assert_eq!(questions[0].category.as_deref(), Some("code"));
        assert_eq!(questions[1].token_ids.as_deref(), Some(&[5, 6][..]));
        assert_eq!(load(text, 1, Some(1)).expect("questions"), questions[1..2]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = "{\"turns\": [\"a\"]}\n";
        for (bad, problem) in [
            ("{\"turns\": [\"a\"", "q.jsonl:2: EOF"),
            ("{\"turns\": []}", "found an empty list"),
            ("{\"turns\": [\"  \"]}", "found an empty message"),
            ("{\"turns\": \"a\"}", "q.jsonl:2: invalid type"),
            ("{\"token_ids\": []}", "q.jsonl:2: `token_ids` is empty"),
            ("{\"token_ids\": [-1]}", "q.jsonl:2: invalid value"),
            ("{\"turns\": [\"a\"]} ,", "q.jsonl:2: trailing characters at column 18"),
            ("\u{1a}", "q.jsonl:2: expected value at column 1"),
            ("{\"prompt\": \"a\", \"id\": 1}", "or `token_ids`, found `prompt`, `id`"),
            (
                "[1, \"code\", [\"a\"], null]",
                "q.jsonl:2: is a list of values by position, expected an object such as",
            ),
            ("\"a\"", "q.jsonl:2: is a single value, expected an object such as"),
        ] {
            let error = load(&format!("{good}{bad}\n"), 0, Some(1)).expect_err(bad);
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_list_in_place_of_lines_is_told_as_that() {
        for list in [
            "[{\"turns\": [\"a\"]}]",
            "\u{feff}\n [ {\"turns\": [\"a\"]},\n{\"turns\": [\"b\"]} ]\n",
            "[\n  {\n    \"turns\": [\"a\"]\n  }\n]\n",
            "[\r\n  {\"turns\": ",
        ] {
            let error = load(list, 0, None).expect_err(list);
            let expected =
                "q.jsonl: is one JSON list, expected one JSON object per line: make it so with jq -c '.[]' /";
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn lines_end_as_they_do_on_any_system() {
        let text = "\u{feff}{\"turns\": [\"a\"]}\r\n\r\n  {\"turns\": [\"b\"]}";
        let questions = load(text, 0, None).expect("questions");
        let turns: Vec<_> =
            questions.iter().map(|question| (&question.id[..], &question.turns[0][..])).collect();
        assert_eq!(turns, [("1", "a"), ("3", "b")]);
    }

    #[test]
    fn too_few_questions_are_an_error() {
        assert!(
            load("", 0, None).expect_err("empty").contains("no questions: expected one JSON object per line")
        );
        assert!(load("\n", 0, None).expect_err("empty").contains("no questions"));
        let one = "{\"turns\": [\"a\"]}\n";
        assert!(
            load(one, 1, None).expect_err("none left").contains("has 1 questions, none after the first 1")
        );
        assert!(load(one, 0, Some(2)).expect_err("one of two").contains("too few for 2 after the first 0"));
    }
}
