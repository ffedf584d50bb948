//! From a run's stage to a package: written beside its place, checked in every form, then moved
//! there.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ltd_policy::{
    Choice, Frozen, MANIFEST_FILE, Manifest, Outputs, Policy, PolicyEntry, PolicyPackage, Probes,
    SourceChoice, check_new_folder, is_full, sha256_hex, write_atomically, write_json,
};
use serde::Deserialize;
use tempfile::TempDir;

use crate::forms::Form;
use crate::{Error, Result};

/// What a stage's folder holds.
const STAGE_MANIFEST: &str = "stage.json";
/// Logits may differ by this much, relative to the largest of their probe: sums in another order,
/// in f32.
const TOLERANCE: f32 = 1e-4;

/// Forms of networks besides safetensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forms {
    /// All that each network can have.
    Suitable,
    /// These, which every network must be able to have.
    These(Vec<Form>),
}

impl Forms {
    /// Those that were asked for; all that suit, if none was.
    pub(crate) fn asked(forms: &[Form]) -> Self {
        if forms.is_empty() { Self::Suitable } else { Self::These(forms.to_vec()) }
    }

    /// Those of a network.
    fn of<O: Outputs>(&self, network: &Frozen<O>) -> Result<Vec<Form>> {
        let Self::These(forms) = self else {
            return Ok(Form::ALL.into_iter().filter(|form| form.problem(network).is_none()).collect());
        };
        let refused = |form: &Form| {
            let form_name =
                form.to_possible_value().map_or_else(String::new, |form| form.get_name().to_owned());
            form.problem(network).map(|problem| Error::Form { form: form_name, problem })
        };
        forms.iter().find_map(refused).map_or_else(|| Ok(forms.clone()), Err)
    }
}

/// What was exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// The package's manifest.
    pub manifest: Manifest,
    /// Probe observations that each network was checked on.
    pub probes: usize,
}

/// Freezes the policies of `stage` (the one that the run selected, if none is named) into the new
/// folder `out`.
pub fn export(run: &Path, stage: Option<&str>, forms: &Forms, out: &Path) -> Result<Export> {
    check_out(out)?;
    write(&load_stage(run, stage)?, forms, out)
}

/// The policies of `stage`, or of the one that the run selected.
pub(crate) fn load_stage(run: &Path, stage: Option<&str>) -> Result<PolicyPackage> {
    let source = find_stage(run, stage)?;
    let manifest = Manifest::load(&source.join(STAGE_MANIFEST))?;
    let policy = manifest.load_policy(&source)?;
    Ok(PolicyPackage { manifest, policy })
}

/// Writes a package, such as a retargeted one, in some forms into the new folder `out`.
///
/// # Errors
/// If a network cannot have one of the forms, or answers otherwise in it than in training.
pub fn write(package: &PolicyPackage, forms: &Forms, out: &Path) -> Result<Export> {
    write_folder(out, |folder| write_package(package, forms, folder))
}

/// Makes the new folder `out` of what `fill` writes: whole, or not at all.
pub(crate) fn write_folder<T>(out: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    check_out(out)?;
    let unusable = |error: std::io::Error| {
        let path = out.to_owned();
        if is_full(&error) {
            Error::Io { path, source: error }
        } else {
            Error::Out { path, problem: error.to_string() }
        }
    };
    let unfinished = Unfinished::begin(out).map_err(unusable)?;
    let folder = unfinished.folder.path();
    let filled = fill(folder).map_err(|error| at_place(error, folder, out))?;
    unfinished.publish(out).map_err(unusable)?;
    Ok(filled)
}

/// Fails unless the folder `out` can be made.
pub(crate) fn check_out(out: &Path) -> Result<()> {
    let refuse = |problem: &str| Err(Error::Out { path: out.to_owned(), problem: problem.to_owned() });
    if out.file_name().is_none() {
        return refuse("does not end in a name, expected that of a new folder");
    }
    // Without a slash at its end, which would follow the link.
    if out.components().as_path().is_symlink() {
        return refuse("is a link, expected a new folder");
    }
    check_new_folder("--out", out).map_err(|error| at_place(error.into(), out, out))
}

/// A failure of the disk in `folder`, told of the place that was asked for: nobody knows the other,
/// and it is gone by then.
fn at_place(error: Error, folder: &Path, out: &Path) -> Error {
    match error {
        Error::Io { path, source } | Error::Policy(ltd_policy::Error::Io { path, source }) => {
            let file = path.strip_prefix(folder).ok().filter(|file| !file.as_os_str().is_empty());
            Error::Io { path: file.map_or_else(|| out.to_owned(), |file| out.join(file)), source }
        }
        other => other,
    }
}

/// A folder beside its place, which goes with this unless it is published.
struct Unfinished {
    folder: TempDir,
    /// Says to others that somebody still works here, where folders can be locked.
    _lock: Option<File>,
}

impl Unfinished {
    /// A new folder; those of earlier processes for the same place, which were killed, go.
    fn begin(out: &Path) -> std::io::Result<Self> {
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let prefix = format!(".{}.exporting-", out.file_name().unwrap_or_default().display());
        std::fs::create_dir_all(parent)?;
        for entry in parent.read_dir()?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) && lock(&entry.path()).is_some() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?;
        Ok(Self { _lock: lock(folder.path()), folder })
    }

    /// Moves the folder to its place.
    fn publish(self, out: &Path) -> std::io::Result<()> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(self.folder.path(), std::fs::Permissions::from_mode(0o755))?;
        }
        // An empty folder is in the way of nothing but the renaming.
        if out.is_dir() {
            std::fs::remove_dir(out)?;
        }
        std::fs::rename(self.folder.path(), out)?;
        let _ = self.folder.keep();
        Ok(())
    }
}

/// A lock that ends with the process, unless another process has it.
fn lock(folder: &Path) -> Option<File> {
    File::open(folder).ok().filter(|folder| folder.try_lock().is_ok())
}

/// The folder of a stage.
fn find_stage(run: &Path, stage: Option<&str>) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Selected {
        stage: String,
    }
    let fail = |problem: String| Error::Run { path: run.to_owned(), problem };
    if !run.is_dir() {
        let found = if run.exists() { "is a file" } else { "does not exist" };
        return Err(fail(format!("{found}, expected the folder of a run")));
    }
    let stages = run.join("stages");
    let mut finished: Vec<String> = stages
        .read_dir()
        .map_err(|error| fail(format!("is not a run, whose folder has a folder `stages`: {error}")))?
        .flatten()
        .filter(|entry| entry.path().join(STAGE_MANIFEST).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    finished.sort();
    if finished.is_empty() {
        return Err(fail("has no finished stage yet".to_owned()));
    }
    let listed = finished.join(", ");
    let name = if let Some(name) = stage {
        name.to_owned()
    } else {
        let text = std::fs::read_to_string(run.join("selected.json"))
            .map_err(|_| fail(format!("is not finished: name the stage to export with --stage: {listed}")))?;
        let selected: Selected =
            serde_json::from_str(&text).map_err(|error| fail(format!("selected.json: {error}")))?;
        selected.stage
    };
    if finished.contains(&name) {
        Ok(stages.join(name))
    } else {
        Err(fail(format!("has no finished stage {name}: expected one of {listed}")))
    }
}

/// Writes the forms of every network, checks them, and writes the manifest last.
fn write_package(package: &PolicyPackage, forms: &Forms, folder: &Path) -> Result<Export> {
    let mut manifest = package.manifest.clone();
    let mut probes = 0;
    manifest.files.clear();
    match &package.policy {
        Policy::Pair { depth, size, source } => {
            let learned = [depth, size].into_iter().filter_map(|choice| match choice {
                Choice::Learned(policy) => Some(policy),
                Choice::Constant(_) => None,
            });
            let source = match source {
                SourceChoice::Learned(policy) => Some(policy),
                SourceChoice::Trees | SourceChoice::Rule(_) => None,
            };
            for policy in learned.chain(source) {
                probes = write_network(policy, forms, folder, &mut manifest)?;
            }
        }
        Policy::Factored(factored) => {
            probes = write_network(&factored.predictor, forms, folder, &mut manifest)?;
            if let Some(source) = &factored.source {
                write_network(&source.predictor, forms, folder, &mut manifest)?;
                let entry = match &manifest.policy {
                    PolicyEntry::Factored { source, .. } => source.as_ref(),
                    PolicyEntry::Pair { .. } => None,
                };
                let file = entry.and_then(|source| source.tokens.clone());
                if let (Some(tokens), Some(file)) = (&source.tokens, file) {
                    write_atomically(&folder.join(&file), tokens.to_json().as_bytes())?;
                    note(&mut manifest, folder, file)?;
                }
            }
            if let PolicyEntry::Factored { latency_table, .. } = &manifest.policy {
                let file = latency_table.clone();
                factored.latency.write(&folder.join(&file))?;
                note(&mut manifest, folder, file)?;
            }
        }
    }
    write_json(&folder.join(MANIFEST_FILE), &manifest)?;
    // What a server will do.
    PolicyPackage::load(folder)?;
    Ok(Export { manifest, probes })
}

/// Writes a network as safetensors and in some forms, and checks all of them on its probes, whose
/// number is returned.
fn write_network<O: Outputs>(
    network: &Frozen<O>,
    forms: &Forms,
    folder: &Path,
    manifest: &mut Manifest,
) -> Result<usize> {
    let kind = network.actions().kind_name();
    let Probes { observations, logits } = network.probes();
    if observations.is_empty() {
        return Err(Error::NoProbes { policy: kind });
    }

    let file = format!("{kind}.safetensors");
    network.save(&folder.join(&file))?;
    let reread = Frozen::<O>::load(&folder.join(&file))?;
    let mut scratch = reread.mlp().scratch();
    let found: Vec<Vec<f32>> =
        observations.iter().map(|row| reread.mlp().forward(row, &mut scratch).to_vec()).collect();
    compare("safetensors form", &kind, logits, &found)?;
    note(manifest, folder, file)?;

    for form in forms.of(network)? {
        let file = format!("{kind}.{}", form.ending());
        let path = folder.join(&file);
        form.write(network, &path)?;
        compare(form.name(), &kind, logits, &form.logits(&path, observations)?)?;
        note(manifest, folder, file)?;
    }
    Ok(observations.len())
}

fn note(manifest: &mut Manifest, folder: &Path, file: String) -> Result<()> {
    let path = folder.join(&file);
    let bytes = std::fs::read(&path).map_err(|source| Error::Io { path, source })?;
    manifest.files.insert(file, sha256_hex(&bytes));
    Ok(())
}

/// Fails at the first logit that is not what training gave.
fn compare(form: &'static str, policy: &str, expected: &[Vec<f32>], found: &[Vec<f32>]) -> Result<()> {
    for (probe, (expected, found)) in expected.iter().zip(found).enumerate() {
        let scale = expected.iter().fold(1.0f32, |largest, logit| largest.max(logit.abs()));
        for (action, (&expected, &found)) in expected.iter().zip(found).enumerate() {
            let near = (expected - found).abs() <= TOLERANCE * scale;
            if !near {
                let policy = policy.to_owned();
                return Err(Error::Mismatch { form, policy, probe, action, expected, found });
            }
        }
    }
    Ok(())
}
