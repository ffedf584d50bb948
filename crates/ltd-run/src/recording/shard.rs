//! Which part of a recording a process makes, by what started it.

use std::path::Path;
use std::str::FromStr;

use ltd_env::trace::Shard;

use crate::{Error, Result};

/// A launcher that started several processes of this program, and which of them this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// The variables of the environment that say so.
    pub variables: &'static str,
    /// The part of this process.
    pub shard: Shard,
}

/// The launcher of this process, if there is one of several processes, by its variables:
///
/// 1. `RANK` and `WORLD_SIZE`, of torchrun and the like;
/// 2. those of a Slurm array (`SLURM_ARRAY_TASK_ID`, `_MIN`, `_MAX`, `_STEP`, `_COUNT`), those of a
///    step of `srun` (`SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`), or both: each task of the array may
///    start several processes;
/// 3. `JOB_COMPLETION_INDEX` of an indexed Job of Kubernetes, with `JOB_COMPLETIONS`, which its
///    manifest must set: Kubernetes does not.
///
/// The first of these that tells of more than one process counts.
///
/// # Errors
/// If what is set makes no sense, or half of it is missing.
pub fn launched(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launcher>> {
    let launcher = find(variable)?;
    if let Some(Launcher { variables, shard: Shard { count, .. } }) = &launcher
        && *count > Shard::MOST
    {
        let expected = format!("at most {}", Shard::MOST);
        return Err(wrong(variables, &format!("of {count} processes"), &expected));
    }
    Ok(launcher)
}

fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launcher>> {
    let read = Variables(variable);
    let ranks = read.pair("RANK", "WORLD_SIZE", "")?;
    if let Some(launcher) = several("RANK and WORLD_SIZE", ranks) {
        return Ok(Some(launcher));
    }
    let (array, step) = (read.array()?, read.step()?);
    let slurm = match (array, step) {
        (Some(array), Some(step)) if array.count > 1 && step.count > 1 => {
            let index = array.index.saturating_mul(step.count).saturating_add(step.index);
            let shard = Shard { index, count: array.count.saturating_mul(step.count) };
            several("SLURM_ARRAY_TASK_ID and SLURM_PROCID", Some(shard))
        }
        _ => several("SLURM_ARRAY_TASK_ID", array).or_else(|| several("SLURM_PROCID", step)),
    };
    if slurm.is_some() {
        return Ok(slurm);
    }
    let hint = " (Kubernetes does not set it: the Job's manifest has to, to the value of completions)";
    let pods = read.pair("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", hint)?;
    Ok(several("JOB_COMPLETION_INDEX and JOB_COMPLETIONS", pods))
}

fn several(variables: &'static str, shard: Option<Shard>) -> Option<Launcher> {
    shard.filter(|shard| shard.count > 1).map(|shard| Launcher { variables, shard })
}

/// The variables of an environment.
pub(crate) struct Variables<'v>(pub(crate) &'v dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn number(&self, name: &str) -> Result<Option<usize>> {
        let Some(found) = (self.0)(name) else { return Ok(None) };
        let number =
            found.trim().parse().map_err(|_| wrong(name, &format!("{found:?}"), "a whole number"))?;
        Ok(Some(number))
    }

    fn needed(&self, name: &str, with: &str, hint: &str) -> Result<usize> {
        let missing = || wrong(name, "not set", &format!("a number, since {with} is set{hint}"));
        self.number(name)?.ok_or_else(missing)
    }

    /// A number from 0, and how many there are.
    pub(crate) fn pair(&self, index_name: &str, count_name: &str, hint: &str) -> Result<Option<Shard>> {
        let Some(index) = self.number(index_name)? else {
            // A number of processes is also what some set who start none.
            return match self.number(count_name)? {
                Some(count) if count > 1 => Err(wrong(
                    index_name,
                    "not set",
                    &format!("a number below {count}, since {count_name} is set"),
                )),
                _ => Ok(None),
            };
        };
        let count = self.needed(count_name, index_name, hint)?;
        if index >= count {
            let expected = format!("a number below {count}, the value of {count_name}");
            return Err(wrong(index_name, &index.to_string(), &expected));
        }
        Ok(Some(Shard { index, count }))
    }

    /// A task of an array; it must be a range from 0 or 1. Of another, parts would be missing.
    fn array(&self) -> Result<Option<Shard>> {
        let id_name = "SLURM_ARRAY_TASK_ID";
        let Some(id) = self.number(id_name)? else { return Ok(None) };
        let needed = |name| self.needed(name, id_name, "");
        let (least, most) = (needed("SLURM_ARRAY_TASK_MIN")?, needed("SLURM_ARRAY_TASK_MAX")?);
        let (count, step) = (needed("SLURM_ARRAY_TASK_COUNT")?, self.number("SLURM_ARRAY_TASK_STEP")?);
        let step = step.unwrap_or(1).max(1);
        let again = "to record some shards again, name each with --shard I/N";
        if least > 1 {
            let expected = format!("0 or 1: the array has to be a whole one ({again})");
            return Err(wrong("SLURM_ARRAY_TASK_MIN", &least.to_string(), &expected));
        }
        let whole = most.checked_sub(least).map(|range| (range / step).saturating_add(1));
        if whole != Some(count) {
            let found = format!("{count} with tasks {least} to {most}, step {step}");
            let expected = format!("an array without gaps ({again})");
            return Err(wrong("SLURM_ARRAY_TASK_COUNT", &found, &expected));
        }
        if id < least || id > most || (id - least) % step != 0 {
            let expected = format!("one of {least} to {most}, step {step}, as SLURM_ARRAY_TASK_* say");
            return Err(wrong(id_name, &id.to_string(), &expected));
        }
        Ok(Some(Shard { index: (id - least) / step, count }))
    }

    /// A task of a step. Outside of steps the number of tasks is that of a whole job, in which
    /// this program may be alone.
    fn step(&self) -> Result<Option<Shard>> {
        match self.number("SLURM_STEP_NUM_TASKS")? {
            Some(_) => self.pair("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ""),
            None => Ok(None),
        }
    }
}

fn wrong(variable: &str, found: &str, expected: &str) -> Error {
    Error::Launcher(format!("{variable}: is {found}, expected {expected}"))
}

/// What `--shard` says: `I/N`, `auto` or `none`.
#[derive(Debug, Clone, Copy)]
pub enum ShardChoice {
    /// This part.
    This(Shard),
    /// What the environment says.
    Auto,
    /// Everything.
    All,
}

impl FromStr for ShardChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::All),
            _ => {}
        }
        let parts =
            text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((_, count)) if count > Shard::MOST => Err(format!("expected at most {} parts", Shard::MOST)),
            Some((index, count)) if index < count => Ok(Self::This(Shard { index, count })),
            Some((_, count)) if count > 0 => {
                Err(format!("expected a number from 0 to {} before the /", count - 1))
            }
            _ => Err("expected I/N, such as 0/4, or auto, or none".to_owned()),
        }
    }
}

impl ShardChoice {
    /// The part of the work that is this process's; without one, everything. Where nothing is
    /// chosen and a launcher started several processes, `note` is given the part and the variables
    /// that say so.
    ///
    /// # Errors
    /// If the environment makes no sense.
    pub fn shard(choice: Option<Self>, note: impl FnOnce(Shard, &str)) -> Result<Option<Shard>> {
        let launcher = match choice {
            Some(Self::This(shard)) => return Ok(Some(shard)),
            Some(Self::All) => return Ok(None),
            Some(Self::Auto) | None => launched(&|name| std::env::var(name).ok())?,
        };
        if let (Some(Launcher { variables, shard }), None) = (&launcher, choice) {
            note(*shard, variables);
        }
        let whole = choice.map(|_| Shard::WHOLE);
        Ok(launcher.map(|launcher| launcher.shard).or(whole))
    }
}

/// Why a recording cannot go where other recordings are: what `shard-*` names would be no longer
/// one recording.
pub(super) fn neighbour_problem(out: &Path, shard: Option<Shard>) -> Option<String> {
    let entries = out.read_dir().ok()?.flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let whole = names.iter().any(|name| name == "trace.json");
    if whole {
        return shard.map(|shard| {
            format!("holds a recording that is not divided, and this is {shard}: choose another folder")
        });
    }
    let count = shard.map(|shard| shard.count);
    let others = names
        .iter()
        .filter(|name| Shard::of_folder_name(name).is_some_and(|there| Some(there.count) != count));
    let other = others.min()?;
    let this = shard.map_or_else(|| "a recording that is not divided".to_owned(), |shard| shard.to_string());
    Some(format!("holds {other}, and this is {this}: choose another folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(environment: &str) -> Result<Option<Launcher>> {
        let set: Vec<(&str, &str)> =
            environment.split_whitespace().filter_map(|set| set.split_once('=')).collect();
        launched(&|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
    }

    const ARRAY: &str = "SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_STEP=2 \
                         SLURM_ARRAY_TASK_COUNT=4";
    const FROM_0: &str = "SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 SLURM_ARRAY_TASK_COUNT=4";

    #[test]
    fn launchers_say_which_part_is_whose() {
        for (environment, expected) in [
            (String::new(), None),
            ("RANK=2 WORLD_SIZE=4".into(), Some((2, 4))),
            // One process has everything.
            ("RANK=0 WORLD_SIZE=1".into(), None),
            ("WORLD_SIZE=1".into(), None),
            (format!("{ARRAY} SLURM_ARRAY_TASK_ID=5"), Some((2, 4))),
            (format!("{FROM_0} SLURM_ARRAY_TASK_ID=3"), Some((3, 4))),
            // The inner launcher has numbered its processes; one of a single process has not.
            (format!("{FROM_0} SLURM_ARRAY_TASK_ID=3 RANK=1 WORLD_SIZE=2"), Some((1, 2))),
            (format!("{FROM_0} SLURM_ARRAY_TASK_ID=3 RANK=0 WORLD_SIZE=1"), Some((3, 4))),
            // Each task of an array, several processes.
            (format!("{FROM_0} SLURM_ARRAY_TASK_ID=3 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2"), Some((7, 8))),
            (format!("{FROM_0} SLURM_ARRAY_TASK_ID=3 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1"), Some((3, 4))),
            ("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2".into(), Some((1, 2))),
            // A shell, or the script of a batch job, in an allocation for several tasks.
            ("SLURM_PROCID=0 SLURM_NTASKS=4".into(), None),
            ("JOB_COMPLETION_INDEX=0 JOB_COMPLETIONS=3".into(), Some((0, 3))),
        ] {
            let shard = launch(&environment).expect("no contradiction").map(|launcher| launcher.shard);
            assert_eq!(shard, expected.map(|(index, count)| Shard { index, count }), "{environment}");
        }
    }

    #[test]
    fn contradictions_name_the_variable() {
        for (environment, message) in [
            ("RANK=4 WORLD_SIZE=4".to_owned(), "RANK: is 4, expected a number below 4, the value of WORLD_SIZE"),
            ("RANK=0 WORLD_SIZE=0".into(), "RANK: is 0, expected a number below 0"),
            ("RANK=one WORLD_SIZE=4".into(), "RANK: is \"one\", expected a whole number"),
            ("RANK=1 WORLD_SIZE=-4".into(), "WORLD_SIZE: is \"-4\", expected a whole number"),
            ("RANK=1".into(), "WORLD_SIZE: is not set, expected a number, since RANK is set"),
            ("WORLD_SIZE=4".into(), "RANK: is not set, expected a number below 4, since WORLD_SIZE is set"),
            ("JOB_COMPLETION_INDEX=1".into(), "JOB_COMPLETIONS: is not set, expected a number"),
            ("SLURM_ARRAY_TASK_ID=1".into(), "SLURM_ARRAY_TASK_MIN: is not set"),
            (format!("{ARRAY} SLURM_ARRAY_TASK_ID=2"), "SLURM_ARRAY_TASK_ID: is 2, expected one of 1 to 7, step 2"),
            (format!("{FROM_0} SLURM_ARRAY_TASK_ID=4"), "SLURM_ARRAY_TASK_ID: is 4, expected one of 0 to 3"),
            (
                "SLURM_ARRAY_TASK_ID=5 SLURM_ARRAY_TASK_MIN=5 SLURM_ARRAY_TASK_MAX=5 SLURM_ARRAY_TASK_COUNT=1".into(),
                "SLURM_ARRAY_TASK_MIN: is 5, expected 0 or 1: the array has to be a whole one (to record some \
                 shards again, name each with --shard I/N)",
            ),
            (
                "SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=9 SLURM_ARRAY_TASK_COUNT=2".into(),
                "SLURM_ARRAY_TASK_COUNT: is 2 with tasks 0 to 9, step 1, expected an array without gaps",
            ),
            ("RANK=0 WORLD_SIZE=100000000000".into(), "RANK and WORLD_SIZE: is of 100000000000 processes, expected at most 1000000"),
            ("SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=2".into(), "SLURM_PROCID: is 2, expected a number below 2"),
        ] {
            let error = launch(&environment).expect_err(message);
            assert!(error.is_usage() && error.to_string().contains(message), "{environment}: {error}");
        }
    }

    #[test]
    fn one_folder_holds_one_recording() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        let shard = |index, count| Some(Shard { index, count });
        assert_eq!(neighbour_problem(&out, None), None);
        std::fs::create_dir_all(out.join("shard-1-of-4")).expect("made");
        assert_eq!(neighbour_problem(&out, shard(0, 4)), None);
        for (other, message) in [
            (None, "holds shard-1-of-4, and this is a recording that is not divided"),
            (shard(0, 3), "holds shard-1-of-4, and this is shard 0 of 3: choose another folder"),
        ] {
            let problem = neighbour_problem(&out, other).expect(message);
            assert!(problem.starts_with(message), "{problem}");
        }
        std::fs::write(out.join("trace.json"), "{}").expect("written");
        assert_eq!(neighbour_problem(&out, None), None);
        let problem = neighbour_problem(&out, shard(0, 4)).expect("a problem");
        assert!(problem.starts_with("holds a recording that is not divided"), "{problem}");
    }
}
