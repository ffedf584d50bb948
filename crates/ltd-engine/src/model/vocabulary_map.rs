//! Which target token each draft token is.

use super::config::DraftConfig;
use super::weights::{Integers, Weights};
use crate::{Error, Result};

/// Reads `d2t`, whose entry `i` is added to draft token `i` to get its target token, and checks it,
/// and `t2d`, which marks the target tokens that are reached, against it. A head with the full
/// vocabulary may have neither.
pub(super) fn target_ids(config: &DraftConfig, weights: &mut Weights) -> Result<Vec<u32>> {
    let (count, vocabulary) = (config.draft_vocabulary, config.vocabulary);
    let full = count == vocabulary;
    let marks = if weights.contains("t2d") { weights.take_integers("t2d", vocabulary)? } else { None };
    let offsets =
        if full && !weights.contains("d2t") { None } else { weights.take_integers("d2t", count)? };
    let map = match &offsets {
        Some(offsets) => Map::new(offsets, vocabulary).map_err(|problem| {
            let hint = if holds_ids(offsets, marks.as_ref(), vocabulary) { HINT } else { "" };
            offsets.error(problem + hint)
        })?,
        None => Map::identity(count, vocabulary),
    };
    let unmarked = marks.as_ref().is_none_or(|marks| marks.values.iter().all(|&mark| mark == 0));
    if let Some(offsets) = offsets.as_ref().filter(|_| !full && marks.is_none())
        && offsets.values.iter().all(|&offset| offset == 0)
    {
        let problem = format!("is all zeros: no map (of the first {count} tokens, t2d would mark these)");
        return Err(offsets.error(problem));
    }
    // With the full vocabulary, EAGLE's own code reads neither: both may be as empty as they were
    // made.
    if let Some(marks) = marks.as_ref().filter(|_| !(full && unmarked && map.is_identity())) {
        map.check_marks(marks).map_err(|problem| {
            let as_ids = offsets.as_ref().is_some_and(|offsets| holds_ids(offsets, Some(marks), vocabulary));
            marks.error(problem + if as_ids { HINT } else { "" })
        })?;
    }
    Ok(map.target_ids)
}

const HINT: &str = "; d2t seems to hold target tokens, expected offsets: target token - draft token";

/// A map in both directions.
struct Map {
    target_ids: Vec<u32>,
    /// The draft token of each target token.
    draft_ids: Vec<Option<u32>>,
}

impl Map {
    fn identity(count: i64, vocabulary: i64) -> Self {
        let draft_ids = (0..vocabulary).map(|token| (token < count).then_some(token as u32)).collect();
        Self { target_ids: (0..count as u32).collect(), draft_ids }
    }

    /// Fails, with what is wrong, if a draft token has no target token or shares it with another.
    fn new(offsets: &Integers, vocabulary: i64) -> Result<Self, String> {
        let (mut target_ids, mut draft_ids) = (Vec::new(), vec![None; vocabulary as usize]);
        for (draft_id, offset) in (0u32..).zip(&offsets.values) {
            let target_id = i64::from(draft_id).saturating_add(*offset);
            if !(0..vocabulary).contains(&target_id) {
                return Err(format!(
                    "maps draft token {draft_id} to {target_id}, outside the target's vocabulary of {vocabulary}"
                ));
            }
            if let Some(other) = draft_ids[target_id as usize].replace(draft_id) {
                return Err(format!(
                    "maps draft tokens {other} and {draft_id} to the same token, {target_id}"
                ));
            }
            target_ids.push(target_id as u32);
        }
        Ok(Self { target_ids, draft_ids })
    }

    fn is_identity(&self) -> bool {
        (0..).zip(&self.target_ids).all(|(draft_id, &target_id)| draft_id == target_id)
    }

    /// Fails, with what is wrong, if the marked tokens are not those that the map reaches.
    fn check_marks(&self, marks: &Integers) -> Result<(), String> {
        if let Some(index) = marks.values.iter().position(|mark| !(0..=1).contains(mark)) {
            return Err(format!("entry {index} is {}, expected 0 or 1", marks.values[index]));
        }
        let pairs = || marks.values.iter().map(|&mark| mark == 1).zip(&self.draft_ids).enumerate();
        let mut differing = pairs().filter(|(_, (marked, draft_id))| *marked != draft_id.is_some());
        let Some((token, (_, draft_id))) = differing.next() else { return Ok(()) };
        let others = match differing.count() {
            0 => String::new(),
            count => format!(" (and so for {count} more)"),
        };
        Err(match draft_id {
            Some(draft_id) => {
                format!("does not mark token {token}, to which d2t maps draft token {draft_id}{others}")
            }
            None => format!("marks token {token}, to which d2t maps no draft token{others}"),
        })
    }
}

/// Whether what should be offsets makes sense as target tokens.
fn holds_ids(offsets: &Integers, marks: Option<&Integers>, vocabulary: i64) -> bool {
    let values = (0i64..).zip(&offsets.values).map(|(draft_id, &target_id)| target_id - draft_id).collect();
    let Ok(map) = Map::new(&Integers { values, ..offsets.clone() }, vocabulary) else { return false };
    marks.is_none_or(|marks| map.check_marks(marks).is_ok())
}

impl Integers {
    fn error(&self, problem: String) -> Error {
        Error::IndexTensor { file: self.file.clone(), tensor: self.name.clone(), problem }
    }
}
