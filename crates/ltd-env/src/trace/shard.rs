//! Recordings that several processes share: which part each makes, and what all of them make.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ltd_policy::write_atomically;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Beside the header in the folder of a shard.
const PLAN_FILE: &str = "shard.json";
const PLAN_VERSION: u32 = 1;
/// Most continuations of a recording: what a damaged plan asks for must be looked for in seconds.
const MOST_CONTINUATIONS: usize = 100_000_000;

/// A part of a recording: every `count`-th continuation of the plan, from the one numbered `index`.
/// Neighbours in a file of prompts are often of a kind, so parts are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// Parts of the recording, at least 1.
    pub count: usize,
}

impl Shard {
    /// The whole as one part.
    pub const WHOLE: Self = Self { index: 0, count: 1 };
    /// Most parts that anything is divided into.
    pub const MOST: usize = 1_000_000;

    /// Its folder below that of the recording: parts of no two processes, and of no two numbers of
    /// processes, share one.
    pub fn folder(self, out: &Path) -> PathBuf {
        out.join(format!("shard-{}-of-{}", self.index, self.count))
    }

    /// The shard whose folder has this name.
    pub fn of_folder_name(name: &str) -> Option<Self> {
        let (index, count) = name.strip_prefix("shard-")?.split_once("-of-")?;
        Some(Self { index: index.parse().ok()?, count: count.parse().ok()? })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "shard {} of {}", self.index, self.count)
    }
}

/// All that a recording is to hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordingPlan {
    /// Number of the first prompt in its file.
    pub skip: u32,
    /// Prompts from there on.
    pub prompts: u32,
    /// Each prompt comes once with each; one 0 if continuations are greedy.
    pub seeds: Vec<u64>,
}

impl RecordingPlan {
    /// Prompt and seed of each continuation, in the order of an uninterrupted recording. All
    /// prompts come with the first seed before any comes with the next.
    pub fn continuations(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let prompts = self.skip..self.skip + self.prompts;
        self.seeds.iter().flat_map(move |&seed| prompts.clone().map(move |prompt| (prompt, seed)))
    }

    /// Those of a part.
    pub fn share(&self, shard: Shard) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.continuations().skip(shard.index).step_by(shard.count)
    }

    /// How many a part has.
    pub fn share_len(&self, shard: Shard) -> usize {
        let all = self.seeds.len().saturating_mul(self.prompts as usize);
        all.saturating_sub(shard.index).div_ceil(shard.count)
    }
}

/// What the folder of a shard is to hold. It is beside the trace and no part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlan {
    /// The part that is in the folder.
    pub shard: Shard,
    /// The whole.
    pub plan: RecordingPlan,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    version: u32,
    shard: usize,
    of: usize,
    skip: u32,
    prompts: u32,
    seeds: Vec<u64>,
}

impl ShardPlan {
    /// Writes it into a folder, in place of what another plan wrote.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let RecordingPlan { skip, prompts, seeds } = self.plan.clone();
        let Shard { index: shard, count: of } = self.shard;
        let file = PlanFile { version: PLAN_VERSION, shard, of, skip, prompts, seeds };
        let json = serde_json::to_string(&file).expect("invariant: a plan is plain data");
        Ok(write_atomically(&folder.join(PLAN_FILE), json.as_bytes())?)
    }

    /// That of a folder, if it is one of a shard.
    ///
    /// # Errors
    /// If the file cannot be read or says what no recording does.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(PLAN_FILE);
        let text = match ltd_policy::read_text(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let wrong = |problem: String| Error::Trace { path: path.clone(), problem };
        let file: PlanFile = serde_json::from_str(&text)
            .map_err(|problem| wrong(format!("is not the plan of a shard: {problem}")))?;
        let PlanFile { version, shard: index, of: count, skip, prompts, seeds } = file;
        if version != PLAN_VERSION {
            return Err(wrong(format!("has version {version}, this program reads version {PLAN_VERSION}")));
        }
        if index >= count {
            return Err(wrong(format!("shard: is {index}, must be below {count}, the value of of")));
        }
        if count > Shard::MOST {
            return Err(wrong(format!("of: is {count}, must be at most {}", Shard::MOST)));
        }
        if seeds.len().saturating_mul(prompts as usize) > MOST_CONTINUATIONS {
            let (seeds, most) = (seeds.len(), MOST_CONTINUATIONS);
            return Err(wrong(format!("{prompts} prompts with {seeds} seeds are more than {most}")));
        }
        if skip.checked_add(prompts).is_none() {
            return Err(wrong(format!("prompts: {prompts} from {skip} on are more than a trace can number")));
        }
        Ok(Some(Self { shard: Shard { index, count }, plan: RecordingPlan { skip, prompts, seeds } }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_plan_whatever_their_number() {
        let plan = RecordingPlan { skip: 5, prompts: 7, seeds: vec![9, 2] };
        let all: Vec<_> = plan.continuations().collect();
        assert_eq!((all.len(), all[0], all[6], all[7], all[13]), (14, (5, 9), (11, 9), (5, 2), (11, 2)));
        for count in 1..=20 {
            let shares = (0..count).map(|index| plan.share(Shard { index, count }).collect::<Vec<_>>());
            let shares: Vec<Vec<_>> = shares.collect();
            let sizes = shares.iter().map(Vec::len);
            let (least, most) = (sizes.clone().min(), sizes.max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
            let shares_of = |index| plan.share_len(Shard { index, count });
            assert!((0..count).map(shares_of).eq(shares.iter().map(Vec::len)), "{count}");
            let dealt = (0..all.len()).map(|number| shares[number % count][number / count]);
            assert!(dealt.eq(all.iter().copied()), "{count}");
        }
    }

    #[test]
    fn plans_are_read_as_written() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(ShardPlan::read(folder.path()).expect("none"), None);
        let plan = RecordingPlan { skip: 5, prompts: 7, seeds: vec![9, u64::MAX] };
        let plan = ShardPlan { shard: Shard { index: 2, count: 3 }, plan };
        plan.write(folder.path()).expect("written");
        assert_eq!(ShardPlan::read(folder.path()).expect("a plan"), Some(plan));

        let path = folder.path().join(PLAN_FILE);
        let written = std::fs::read_to_string(&path).expect("a file");
        for (from, to, message) in [
            ("\"version\":1", "\"version\":2", "has version 2, this program reads version 1"),
            ("\"shard\":2", "\"shard\":3", "shard: is 3, must be below 3"),
            ("\"skip\":5", "\"skip\":4294967295", "more than a trace can number"),
            ("\"skip\":5", "\"skip\":-5", "is not the plan of a shard"),
            (
                "\"of\":3",
                "\"of\":18446744073709551615",
                "of: is 18446744073709551615, must be at most 1000000",
            ),
            ("\"prompts\":7", "\"prompts\":4000000000", "4000000000 prompts with 2 seeds are more than"),
        ] {
            std::fs::write(&path, written.replace(from, to)).expect("written");
            let refused = ShardPlan::read(folder.path()).expect_err(message).to_string();
            assert!(refused.contains("shard.json: ") && refused.contains(message), "{refused}");
        }
    }

    #[test]
    fn folders_tell_their_shard() {
        let shard = Shard { index: 3, count: 16 };
        let folder = shard.folder(Path::new("traces"));
        assert_eq!(folder, Path::new("traces/shard-3-of-16"));
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(Shard::of_folder_name(name), Some(shard));
        assert_eq!(Shard::of_folder_name("shard-00000.bin"), None);
    }
}
