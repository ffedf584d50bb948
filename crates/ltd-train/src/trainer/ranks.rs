//! The processes of a run as one of them sees them: all do the same, the first one decides, learns
//! and writes.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use ltd_distributed::{Fact, Group, Launch, Work};
use ltd_engine::text::TextModel;
use ltd_engine::{Devices, DtypeSetting, Engine, EngineConfig};
use ltd_policy::write_atomically;
use ltd_run::config::TrainConfig;
use ltd_run::local_rank::{has_own_device, on_own_device};
use ltd_run::{Interrupt, Progress};
use serde_json::Value;

use super::Trainer;
use crate::run::{Program, RunFolder, timestamp};
use crate::{Error, Result};

/// The processes of a run, and how this one shows what it does.
pub(crate) struct Ranks {
    pub(crate) group: Rc<Group>,
    pub(crate) progress: Progress,
    pub(crate) interrupt: Interrupt,
    /// Number among the ranks of this machine, where there are others.
    local_rank: Option<usize>,
}

impl Ranks {
    /// One process, without a launcher.
    pub(crate) fn alone(progress: Progress, interrupt: Interrupt) -> Self {
        Self { group: Rc::new(Group::alone()), progress, interrupt, local_rank: None }
    }

    /// The processes that a launcher started, which must be of one program, with one configuration
    /// where they have one. A configuration that cannot be read is told to the others, too.
    pub(crate) fn join(
        launch: &Launch,
        config: Option<&Result<TrainConfig>>,
        progress: Progress,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let mut facts = vec![Fact::new("the program", Program::this().to_string())];
        if let Some(Err(error)) = config {
            facts.push(Fact::new("the configuration", format!("none ({error})")));
        } else if let Some(Ok(config)) = config {
            facts.push(Fact::new("the configuration", "one"));
            let value = serde_json::to_value(config).expect("invariant: a configuration is plain data");
            leaves(&value, "", &mut facts);
        }
        let [stop, progress_of, loss] = [(); 3].map(|()| interrupt.clone());
        let work = Work {
            stop: Box::new(move || stop.glance()),
            progress: Box::new(move || progress_of.looks()),
            on_loss: Box::new(move || loss.request()),
        };
        let group = Group::join(launch, &facts, work)?;
        let progress = if group.leads() { progress } else { Progress::Silent };
        let local_rank = (launch.local_world_size > 1).then_some(launch.local_rank);
        Ok(Self { group: Rc::new(group), progress, interrupt, local_rank })
    }

    /// The folder of the run that was begun before the launcher started the ranks again, if it did.
    pub(crate) fn earlier_folder(&self) -> Result<Option<PathBuf>> {
        let found = self.group.recall(RUN_FOLDER)?;
        Ok(found.map(|found| PathBuf::from(String::from_utf8_lossy(&found).into_owned())))
    }

    /// Fails everywhere unless all ranks see what the first one writes into a folder.
    pub(super) fn check_shared(&self, folder: &Path) -> Result<()> {
        if self.group.size() == 1 {
            return Ok(());
        }
        let probe = folder.join(RunFolder::PROBE);
        let content = format!("{}-{}", std::process::id(), timestamp());
        let write = || -> Result<String> {
            write_atomically(&probe, content.as_bytes())?;
            Ok(content)
        };
        let expected = self.group.from_first("the run's folder", write)?;
        let found = std::fs::read_to_string(&probe).is_ok_and(|found| found == expected);
        let seen = self.group.all_gather("the run's folder", vec![u8::from(found)]);
        if self.group.leads() {
            // What is left of it is left out of everything.
            let _ = std::fs::remove_file(&probe);
        }
        match seen?.iter().position(|seen| seen != &[1]) {
            None => Ok(()),
            Some(rank) => {
                let problem = format!(
                    "rank {rank} does not see here what rank 0 wrote: --run-dir must be on a disk that all ranks share"
                );
                Err(Error::RunFolder { path: folder.to_owned(), problem })
            }
        }
    }

    /// Fails if ranks of this machine would time their cycles on one device.
    pub(crate) fn check_devices(&self, config: &TrainConfig) -> Result<()> {
        check_devices(&config.engine, self.local_rank)
    }

    /// Loads the models on the device of this rank. The run's configuration stays that of all
    /// ranks.
    pub(super) fn open_engine(&self, config: &TrainConfig, text: &TextModel) -> Result<Engine> {
        let own = on_own_device(config.engine.clone(), self.local_rank);
        // What is measured where ranks disturb each other may differ: the first one's choice
        // counts.
        if own.dtype != DtypeSetting::Auto || own.device != "cpu" {
            return Ok(Engine::open(&own, text)?);
        }
        let mut engine = None;
        let measured = || -> Result<DtypeSetting> {
            let opened = engine.insert(Engine::open(&own, text)?);
            Ok(opened.dtype().chosen.into())
        };
        let chosen = self.group.from_first("the number type", measured)?;
        match engine {
            Some(engine) => Ok(engine),
            None => Ok(Engine::open(&EngineConfig { dtype: chosen, ..own }, text)?),
        }
    }

    /// The folder of a run that was begun, and its configuration.
    pub(super) fn open(&self, folder: &Path) -> Result<(RunFolder, TrainConfig)> {
        if self.group.leads() { RunFolder::open(folder) } else { RunFolder::follow(folder) }
    }
}

/// Fails if processes of this machine would time their cycles on one device.
pub(crate) fn check_devices(engine: &EngineConfig, local_rank: Option<usize>) -> Result<()> {
    if local_rank.is_none() || has_own_device(engine) {
        return Ok(());
    }
    let device = if engine.devices == Devices::default() {
        format!("engine.device: {}", engine.device)
    } else {
        "engine.devices".to_owned()
    };
    Err(Error::Ranks(format!(
        "{device} would be shared by several ranks of this machine, which disturb each other's times: \
         start one rank per device (`cuda` gives each its own), or allow it with --share-device"
    )))
}

/// Under which name ranks find their run again.
const RUN_FOLDER: &str = "run-folder";

/// Notes the folder of a run that was begun, for ranks that are started again.
pub(super) fn note_folder(group: &Group, folder: &Path) -> Result<()> {
    Ok(group.remember(RUN_FOLDER, folder.to_string_lossy().as_bytes())?)
}

/// All values of a configuration by their paths.
fn leaves(value: &Value, path: &str, facts: &mut Vec<Fact>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, &below, facts);
            }
        }
        other => facts.push(Fact::new(path, other.to_string())),
    }
}

impl Trainer {
    /// Has all ranks stand where the first one does.
    pub(super) fn follow(&mut self, what: &str) -> Result<()> {
        if self.group.size() == 1 {
            return Ok(());
        }
        let value = || Ok::<_, Error>(serde_json::to_value(&self.checkpoint).expect("invariant: plain data"));
        let value = self.group.from_first(what, value)?;
        if !self.group.leads() {
            self.checkpoint = serde_json::from_value(value).expect("invariant: the same program wrote it");
        }
        Ok(())
    }
}
