//! Names of a run's files.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ltd_policy::{FolderLock, PolicyKind, is_full, is_unfinished, remove_unfinished, write_json};

use crate::metrics::is_events_file;
use crate::run::Provenance;
use crate::{Error, Result};
use ltd_run::config::{Stage, TrainConfig};

/// Folders that were made for runs which have not begun. Whoever makes one holds the list
/// meanwhile: no folder is there that is not in it.
static PROVISIONAL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn provisional() -> MutexGuard<'static, Vec<PathBuf>> {
    PROVISIONAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a folder from the list, as it stays or is gone.
fn forget(path: &Path) {
    provisional().retain(|other| other != path);
}

/// The folder of a run. All that the run leaves is in it, and as long as this lives nobody else
/// writes to it.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Whether it was not there before, and no run has begun in it: then it goes when this does.
    provisional: bool,
    /// Of the rank that writes.
    _lock: Option<FolderLock>,
}

impl RunFolder {
    const CONFIG: &'static str = "config.json";
    /// Written last when a run begins: what makes a folder a run.
    const PROVENANCE: &'static str = "run.json";
    const METRICS: &'static str = "metrics.jsonl";
    /// Locked by the process that writes the run.
    const LOCK: &'static str = "run.lock";
    /// What the first of several ranks writes for the others to see, before the run begins.
    pub(crate) const PROBE: &'static str = "ranks.probe";

    /// The folder of a run that is to begin: it can be made, and holds no run yet.
    pub(crate) fn reserve(path: &Path) -> Result<Self> {
        // Before anything is written.
        Self::check_free(path)?;
        let mut made = provisional();
        let new = !path.exists();
        std::fs::create_dir_all(path).map_err(|error| unusable(path, "cannot be made", error))?;
        if new {
            made.push(path.to_owned());
        }
        drop(made);
        Self::occupy(path, new)
    }

    /// A folder that was not there before: `path`, or with a number after it if that is taken.
    pub(crate) fn reserve_unique(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| unusable(path, "cannot be made", error))?;
        }
        let mut name = path.to_owned();
        let mut made = provisional();
        for number in 2.. {
            match std::fs::create_dir(&name) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let mut numbered = path.as_os_str().to_owned();
                    numbered.push(format!("-{number}"));
                    name = numbered.into();
                }
                Err(error) => return Err(unusable(&name, "cannot be made", error)),
            }
        }
        made.push(name.clone());
        drop(made);
        Self::occupy(&name, true)
    }

    /// Fails unless a run can begin in the folder `path`: it is absent, or empty but for what a run
    /// that was killed as it began has left.
    pub(crate) fn check_free(path: &Path) -> Result<()> {
        refuse_a_run(path)?;
        let was_locked = path.join(Self::LOCK).is_file();
        let left = |name: &OsStr| {
            let of_beginning = [Self::CONFIG, Self::PROBE, Self::METRICS].iter().any(|known| name == *known)
                || is_events_file(name)
                || is_unfinished(name);
            name == Self::LOCK || was_locked && of_beginning
        };
        let mut entries = path.read_dir().into_iter().flatten().flatten();
        if path.is_file() || entries.any(|entry| !left(&entry.file_name())) {
            if was_locked {
                // It may be filling right now.
                lock(path)?;
            }
            let problem = "exists and is not empty: choose another --run-dir, or remove it";
            return Err(Error::RunFolder { path: path.to_owned(), problem: problem.to_owned() });
        }
        Ok(())
    }

    /// Removes the folders that were made for runs which have not begun: for a program that is
    /// about to end.
    pub(crate) fn remove_provisional() {
        for path in provisional().drain(..) {
            // What cannot be removed does no harm: it is no run.
            let _ = std::fs::remove_dir_all(path);
        }
    }

    /// Notes that the folder stays, or is gone.
    fn settle(&mut self) {
        self.provisional = false;
        forget(&self.path);
    }

    fn occupy(path: &Path, provisional: bool) -> Result<Self> {
        // The folder belongs to whoever has the lock, and is not ours to remove.
        let lock = lock(path).inspect_err(|_| forget(path))?;
        let run = Self { _lock: Some(lock), path: path.to_owned(), provisional };
        // Another process may have begun one, and ended, since this was looked at.
        Self::check_free(path)?;
        let cannot = |error| unusable(path, "cannot be written to", error);
        tempfile::tempfile_in(path).map_err(cannot)?;
        remove_unfinished(path)?;
        Ok(run)
    }

    /// Begins the run: writes its resolved configuration and where it comes from.
    pub(crate) fn begin(&mut self, config: &TrainConfig, provenance: &Provenance) -> Result<()> {
        write_json(&self.path.join(Self::CONFIG), config)?;
        provenance.write(&self.provenance())?;
        self.settle();
        Ok(())
    }

    /// The folder of a run that another rank begins.
    pub(crate) fn of_other_rank(path: &Path) -> Self {
        Self { _lock: None, path: path.to_owned(), provisional: false }
    }

    /// The folder of a run that was begun, which another rank writes.
    pub(crate) fn follow(path: &Path) -> Result<(Self, TrainConfig)> {
        Self::check_begun(path)?;
        Ok((Self::of_other_rank(path), Self::config(path)?))
    }

    /// Whether a run was begun in the folder `path`.
    pub(crate) fn is_begun(path: &Path) -> bool {
        path.join(Self::PROVENANCE).is_file()
    }

    fn check_begun(path: &Path) -> Result<()> {
        let problem = |problem: String| Err(Error::RunFolder { path: path.to_owned(), problem });
        if !path.is_dir() {
            return problem("does not exist".to_owned());
        }
        if !Self::is_begun(path) {
            return problem(format!("is not a run: it has no {}", Self::PROVENANCE));
        }
        Ok(())
    }

    /// Opens the folder of a run that was begun.
    pub(crate) fn open(path: &Path) -> Result<(Self, TrainConfig)> {
        Self::check_begun(path)?;
        let run = Self { _lock: Some(lock(path)?), path: path.to_owned(), provisional: false };
        remove_unfinished(path)?;
        Ok((run, Self::config(path)?))
    }

    /// The configuration that a run began with. One that knows nothing of merged trees never
    /// merged, and one that knows nothing of several environments had one: the preset's values are
    /// for new runs.
    fn config(path: &Path) -> Result<TrainConfig> {
        let path = path.join(Self::CONFIG);
        let text = ltd_policy::read_text(&path).unwrap_or_default();
        let written = serde_json::from_str(&text).unwrap_or(serde_json::Value::Null);
        let mut older = Vec::new();
        if written["source"]["merged"].is_null() {
            older.push("source.merged=null".to_owned());
        }
        for kind in ["depth", "size", "source"] {
            if written[kind]["ppo"]["n_steps"].is_u64() && written[kind]["ppo"]["n_envs"].is_null() {
                older.push(format!("{kind}.ppo.n_envs=1"));
            }
        }
        Ok(TrainConfig::load(&path, &older)?)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Machine, revision, models: where the run came from.
    pub(crate) fn provenance(&self) -> PathBuf {
        self.path.join(Self::PROVENANCE)
    }

    /// All that a resumed run needs.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }

    /// Every record of every curve, one JSON object per line.
    pub(crate) fn metrics(&self) -> PathBuf {
        self.path.join(Self::METRICS)
    }

    /// Trees that the run recorded.
    pub(crate) fn trace(&self) -> PathBuf {
        self.path.join("trace")
    }

    /// The parts of it that so many ranks record.
    pub(crate) fn shards(&self, ranks: usize) -> PathBuf {
        self.path.join(format!("trace-of-{ranks}-ranks"))
    }

    /// Costs that the run measured.
    pub(crate) fn latency(&self) -> PathBuf {
        self.path.join("latency.json")
    }

    /// Which stage's policies won.
    pub(crate) fn selected(&self) -> PathBuf {
        self.path.join("selected.json")
    }

    /// The final comparison, for programs.
    pub(crate) fn summary_json(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// The final comparison, for people.
    pub(crate) fn summary_md(&self) -> PathBuf {
        self.path.join("summary.md")
    }

    pub(crate) fn stage(&self, stage: &Stage) -> StageFolder {
        StageFolder { path: self.path.join("stages").join(&stage.name) }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.provisional {
            // What cannot be removed does no harm: it is no run.
            let _ = std::fs::remove_dir_all(&self.path);
            self.settle();
        }
    }
}

/// The folder of one stage.
#[derive(Debug, Clone)]
pub(crate) struct StageFolder {
    path: PathBuf,
}

impl StageFolder {
    const MANIFEST: &'static str = "stage.json";
    /// How the names of snapshots begin.
    const CANDIDATE: &'static str = "candidate-";

    /// Readies the folder for the stage, or for the rest of it.
    pub(crate) fn create(&self) -> Result<()> {
        std::fs::create_dir_all(&self.path)
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        remove_unfinished(&self.path)?;
        // Whoever finds the manifest takes the stage for finished.
        self.remove(|name| name == Self::MANIFEST)
    }

    /// Removes the snapshots of a stage that is over.
    pub(crate) fn remove_candidates(&self) -> Result<()> {
        self.remove(|name| name.starts_with(Self::CANDIDATE))
    }

    fn remove(&self, which: impl Fn(&str) -> bool) -> Result<()> {
        let remove = || -> std::io::Result<()> {
            for entry in self.path.read_dir()? {
                let entry = entry?;
                if which(&entry.file_name().to_string_lossy()) {
                    std::fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The pair of policies after the stage, in the form of a package's manifest.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.path.join(Self::MANIFEST)
    }

    /// Name of a policy's file.
    pub(crate) fn policy_name(kind: PolicyKind) -> String {
        format!("{kind}.safetensors")
    }

    /// Policy and value function of the snapshot that was kept.
    pub(crate) fn networks(&self) -> PathBuf {
        self.path.join("networks.safetensors")
    }

    /// The frozen policy of a snapshot.
    pub(crate) fn candidate_policy(&self, candidate: &str) -> PathBuf {
        self.path.join(format!("{}{candidate}.policy.safetensors", Self::CANDIDATE))
    }

    /// Policy and value function of a snapshot.
    pub(crate) fn candidate_networks(&self, candidate: &str) -> PathBuf {
        self.path.join(format!("{}{candidate}.networks.safetensors", Self::CANDIDATE))
    }
}

/// Takes the lock of a run's folder.
fn lock(path: &Path) -> Result<FolderLock> {
    match FolderLock::take(&path.join(RunFolder::LOCK)) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => {
            let problem =
                "another process is writing this run: wait until it has ended, or choose another folder";
            Err(Error::RunFolder { path: path.to_owned(), problem: problem.to_owned() })
        }
        Err(ltd_policy::Error::Io { source, .. }) => Err(unusable(path, "cannot be written to", source)),
        Err(other) => Err(other.into()),
    }
}

fn refuse_a_run(path: &Path) -> Result<()> {
    if path.join(RunFolder::PROVENANCE).exists() {
        let problem = "holds a run already: resume it with --resume, or choose another --run-dir";
        return Err(Error::RunFolder { path: path.to_owned(), problem: problem.to_owned() });
    }
    Ok(())
}

fn unusable(path: &Path, what: &str, error: std::io::Error) -> Error {
    let path = path.to_owned();
    if is_full(&error) {
        Error::Io { path, source: error }
    } else {
        Error::RunFolder { path, problem: format!("{what}: {error}") }
    }
}
