//! Which tokens are safe to copy: how often copies of them were right in recordings.
//!
//! ```
//! use ltd_policy::tokens::TokenRecord;
//!
//! let mut record = TokenRecord::default();
//! // After token 7 a copy of token 5 was right four times, one of token 9 was wrong.
//! (0..4).for_each(|_| record.observe(7, 5, true));
//! record.observe(7, 9, false);
//! let [of_five, after_seven] = record.shares(7, 5);
//! assert!(of_five > after_seven && after_seven > record.shares(7, 9)[0]);
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::read_text;
use crate::source::SourceSummary;
use crate::{Error, Result};

/// Observations that the share of all tokens weighs as much as.
const PRIOR: f32 = 4.0;

/// How often the first token of a copy was right, by that token and by the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    all: Count,
    copied: BTreeMap<u32, Count>,
    after: BTreeMap<u32, Count>,
}

/// Copies, and how many of them were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count(u32, u32);

impl Count {
    fn observe(&mut self, right: bool) {
        self.0 += 1;
        self.1 += u32::from(right);
    }

    /// The share that was right, `assumed` where nothing is known.
    fn share(self, assumed: f32) -> f32 {
        (self.1 as f32 + PRIOR * assumed) / (self.0 as f32 + PRIOR)
    }

    /// Less than none is impossible.
    fn without(self, other: Self) -> Option<Self> {
        let rest = Self(self.0.checked_sub(other.0)?, self.1.checked_sub(other.1)?);
        rest.is_possible().then_some(rest)
    }

    fn is_possible(self) -> bool {
        self.1 <= self.0
    }
}

impl TokenRecord {
    /// Notes a copy whose first token is `copied`, after `root`.
    pub fn observe(&mut self, root: u32, copied: u32, right: bool) {
        self.all.observe(right);
        self.copied.entry(copied).or_default().observe(right);
        self.after.entry(root).or_default().observe(right);
    }

    /// Adds what another one knows.
    pub fn merge(&mut self, other: &Self) {
        let add = |count: &mut Count, other: &Count| *count = Count(count.0 + other.0, count.1 + other.1);
        add(&mut self.all, &other.all);
        for (counts, others) in [(&mut self.copied, &other.copied), (&mut self.after, &other.after)] {
            for (token, other) in others {
                add(counts.entry(*token).or_default(), other);
            }
        }
    }

    /// The record without what `other` contributed; `None` if it does not hold all of that.
    pub fn without(&self, other: &Self) -> Option<Self> {
        let rest = |counts: &BTreeMap<u32, Count>, others: &BTreeMap<u32, Count>| {
            let mut rest = counts.clone();
            for (token, other) in others {
                let count = rest.get_mut(token)?;
                *count = count.without(*other)?;
            }
            rest.retain(|_, count| *count != Count::default());
            Some(rest)
        };
        Some(Self {
            all: self.all.without(other.all)?,
            copied: rest(&self.copied, &other.copied)?,
            after: rest(&self.after, &other.after)?,
        })
    }

    /// The shares of copies that were right: of those of `copied`, and of those after `root`. A
    /// token that is new has the share of all.
    pub fn shares(&self, root: u32, copied: u32) -> [f32; 2] {
        let assumed = self.all.share(0.5);
        let share = |counts: &BTreeMap<u32, Count>, token: u32| {
            counts.get(&token).copied().unwrap_or_default().share(assumed)
        };
        [share(&self.copied, copied), share(&self.after, root)]
    }

    /// What is known before a cycle, with what the record tells of its tokens.
    #[must_use]
    pub fn tell(&self, summary: &SourceSummary) -> SourceSummary {
        let trust = summary.copied.map(|copied| self.shares(summary.root, copied));
        SourceSummary { trust, ..*summary }
    }

    /// As files have it, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("invariant: a record is plain data") + "\n"
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no possible record.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_text(path).map_err(Error::io(path))?;
        let json = |source| Error::Json { path: path.to_owned(), what: "record of tokens", source };
        let record: Self = serde_json::from_str(&text).map_err(json)?;
        let named = [("copied", &record.copied), ("after", &record.after)];
        let counts = named.iter().flat_map(|(name, counts)| {
            counts.iter().map(move |(token, count)| (format!("{name}.{token}"), *count))
        });
        let mut counts = std::iter::once(("all".to_owned(), record.all)).chain(counts);
        match counts.find(|(_, count)| !count.is_possible()) {
            None => Ok(record),
            Some((name, Count(all, right))) => {
                Err(Error::mismatch(path, name, format!("at most {all} right copies of {all}"), right))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(copies: &[(u32, u32, bool)]) -> TokenRecord {
        let mut record = TokenRecord::default();
        for &(root, copied, right) in copies {
            record.observe(root, copied, right);
        }
        record
    }

    #[test]
    fn shares_begin_with_that_of_all() {
        assert_eq!(TokenRecord::default().shares(1, 2), [0.5, 0.5]);
        let known = record(&[(1, 2, true), (1, 3, true), (1, 2, true), (4, 2, false)]);
        // Three of four, and half of what is assumed without any.
        let all = (3.0 + PRIOR * 0.5) / (4.0 + PRIOR);
        assert_eq!(known.shares(9, 9), [all, all]);
        assert_eq!(known.shares(4, 3), [(1.0 + PRIOR * all) / (1.0 + PRIOR), PRIOR * all / (1.0 + PRIOR)]);
    }

    #[test]
    fn what_a_part_knows_can_be_taken_out() {
        let (first, second) =
            (record(&[(1, 2, true), (3, 2, false)]), record(&[(1, 2, false), (5, 6, true)]));
        let mut both = first.clone();
        both.merge(&second);
        let rest = both.without(&second).expect("a part");
        for (root, copied) in [(1, 2), (3, 2), (5, 6), (7, 8)] {
            assert_eq!(rest.shares(root, copied), first.shares(root, copied));
        }
        // One copy fewer, and one right one more than there are.
        assert_eq!(second.without(&first), None);
        assert_eq!(record(&[(1, 2, true)]).without(&record(&[(1, 2, false)])), None);
    }

    #[test]
    fn files_hold_all_of_it_and_impossible_ones_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.json");
        let known = record(&[(1, 2, true), (3, 2, false), (3, 70000, true)]);
        std::fs::write(&path, known.to_json()).expect("a file");
        assert_eq!(TokenRecord::load(&path).expect("the same"), known);
        for (text, expected) in [
            (
                r#"{"all": [2, 3], "copied": {}, "after": {}}"#,
                "all is 3, expected at most 2 right copies of 2",
            ),
            (r#"{"all": [2, 1], "copied": {}, "after": {"7": [0, 1]}}"#, "after.7"),
            (r#"{"all": [2, 1], "copied": {"x": [1, 1]}, "after": {}}"#, "tokens.json"),
            (r#"{"all": [2, 1], "copied": {}}"#, "after"),
        ] {
            std::fs::write(&path, text).expect("a file");
            let error = TokenRecord::load(&path).expect_err("impossible").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn nothing_is_told_where_nothing_matches() {
        let known = record(&[(1, 2, true)]);
        let summary = SourceSummary { root: 1, copied: Some(2), ..SourceSummary::default() };
        assert_eq!(known.tell(&summary).trust, Some(known.shares(1, 2)));
        assert_eq!(known.tell(&SourceSummary { copied: None, ..summary }).trust, None);
    }
}
