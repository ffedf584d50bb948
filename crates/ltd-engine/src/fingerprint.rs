//! Which models these are.

use std::fs::File;
use std::path::Path;

use ltd_policy::{ModelIdentity, Models};
use sha2::{Digest, Sha256};

use crate::model::weight_files;
use crate::{EngineConfig, Error, Result};

impl EngineConfig {
    /// Which models these are. All of both is read: once per command.
    pub fn models(&self) -> Result<Models> {
        let (target, draft) = (fingerprint(&self.target)?, fingerprint(&self.draft)?);
        Ok(Models { target, draft, beam_width: self.beam_width })
    }
}

/// Names a model folder and sums up its configuration and weights.
pub fn fingerprint(folder: &Path) -> Result<ModelIdentity> {
    let mut hasher = Sha256::new();
    for path in std::iter::once(folder.join("config.json")).chain(weight_files(folder)?) {
        let mut file = File::open(&path).map_err(Error::io(&path))?;
        std::io::copy(&mut file, &mut hasher).map_err(Error::io(&path))?;
    }
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(ModelIdentity { name, sha256 })
}
