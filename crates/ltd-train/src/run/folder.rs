//! Names of a run's files.

use std::path::{Path, PathBuf};

use ltd_policy::{PolicyKind, write_atomically};

use crate::config::TrainConfig;
use crate::plan::Stage;
use crate::run::Provenance;
use crate::{Error, Result};

/// The folder of a run. All that the run leaves is in it.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    const CONFIG: &'static str = "config.json";
    /// Written last when a run begins: what makes a folder a run.
    const PROVENANCE: &'static str = "run.json";

    /// The folder of a run that is to begin: it can be made, and holds no run yet.
    pub(crate) fn reserve(path: &Path) -> Result<Self> {
        let unusable = |problem: String| Error::RunFolder { path: path.to_owned(), problem };
        if path.join(Self::PROVENANCE).exists() {
            let problem = "holds a run already: resume it with --resume, or choose another --run-dir";
            return Err(unusable(problem.to_owned()));
        }
        std::fs::create_dir_all(path).map_err(|error| unusable(format!("cannot be made: {error}")))?;
        tempfile::tempfile_in(path).map_err(|error| unusable(format!("cannot be written to: {error}")))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Begins the run: writes its resolved configuration and where it comes from.
    pub(crate) fn begin(&self, config: &TrainConfig, provenance: &Provenance) -> Result<()> {
        let text =
            serde_json::to_string_pretty(config).expect("invariant: a configuration is plain data") + "\n";
        write_atomically(&self.path.join(Self::CONFIG), text.as_bytes())?;
        provenance.write(&self.provenance())
    }

    /// Opens the folder of a run that was begun.
    pub(crate) fn open(path: &Path) -> Result<(Self, TrainConfig)> {
        if !path.is_dir() {
            let problem = "there is no such folder".to_owned();
            return Err(Error::RunFolder { path: path.to_owned(), problem });
        }
        if !path.join(Self::PROVENANCE).is_file() {
            let problem = format!("is no run: it has no {}", Self::PROVENANCE);
            return Err(Error::RunFolder { path: path.to_owned(), problem });
        }
        Ok((Self { path: path.to_owned() }, TrainConfig::load(&path.join(Self::CONFIG), &[])?))
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
        self.path.join("metrics.jsonl")
    }

    /// Trees that the run recorded.
    pub(crate) fn trace(&self) -> PathBuf {
        self.path.join("trace")
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

/// The folder of one stage.
#[derive(Debug, Clone)]
pub(crate) struct StageFolder {
    path: PathBuf,
}

impl StageFolder {
    pub(crate) fn create(&self) -> Result<()> {
        std::fs::create_dir_all(&self.path).map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The pair of policies after the stage, in the form of a package's manifest.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.path.join("stage.json")
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
        self.path.join(format!("candidate-{candidate}.policy.safetensors"))
    }

    /// Policy and value function of a snapshot.
    pub(crate) fn candidate_networks(&self, candidate: &str) -> PathBuf {
        self.path.join(format!("candidate-{candidate}.networks.safetensors"))
    }
}
