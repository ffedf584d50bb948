//! Engine settings.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::device::{DtypeSetting, cuda_index};
use crate::text::ChatConfig;
use crate::{Error, MAX_DEPTH, Result};

/// Widest beam: its levels, of a million candidates, are far beyond what a forward verifies.
pub const MAX_BEAM_WIDTH: usize = 1024;
/// Most threads: more than the processors that LibTorch runs on have.
const MAX_THREADS: usize = 1024;

/// Which models to run, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Hugging Face folder of the target model.
    pub target: PathBuf,
    /// Folder of the EAGLE-3 head, in the official layout.
    pub draft: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "default_device")]
    #[cfg_attr(feature = "schema", schemars(extend("pattern" = DEVICE_PATTERN)))]
    pub device: String,
    /// Several devices over which the target's layers are split; the draft is on the last one.
    /// Takes the place of `device`, which must be left out then.
    #[serde(default)]
    pub devices: Devices,
    /// Number type of weights, caches and activations.
    #[serde(default)]
    pub dtype: DtypeSetting,
    /// Whether a CUDA device captures forwards of the target and begins each with one launch.
    #[serde(default)]
    pub cuda_graphs: CudaGraphs,
    /// Threads of LibTorch's CPU kernels; null leaves LibTorch's own choice, the physical cores.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_THREADS)))]
    pub threads: Option<usize>,
    /// Candidates kept per level, `W`.
    #[serde(default = "default_beam_width")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_BEAM_WIDTH)))]
    pub beam_width: usize,
    /// Deepest draft that any controller may ask for, at most 12.
    #[serde(default = "default_max_depth")]
    #[cfg_attr(feature = "schema", schemars(range(max = MAX_DEPTH)))]
    pub max_depth: usize,
    /// Positions of the caches: prompt and answer together. Null is the model's own limit, at most
    /// 2048.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = *MAX_LENGTHS.start(), max = *MAX_LENGTHS.end())))]
    pub max_length: Option<usize>,
    /// How messages become prompts.
    #[serde(default)]
    pub chat: ChatConfig,
}

/// Whether forwards are CUDA graphs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CudaGraphs {
    /// Each kernel is launched.
    #[default]
    Off,
    /// Forwards of up to 128 rows are captured after the first of a form, if the target is on one
    /// CUDA device. Where that fails, a warning says so and each kernel is launched.
    Auto,
}

impl std::str::FromStr for CudaGraphs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            AUTO => Ok(Self::Auto),
            other => Err(format!("unknown setting `{other}`; expected off or auto")),
        }
    }
}

/// Several devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// These, in this order, in equal shares of the weights. Without any, [`EngineConfig::device`]
    /// is the only one.
    Listed(Vec<String>),
    /// As few CUDA devices as have room for both models, by the memory that is free when they are
    /// loaded. A machine without one is an error: a run's figures and policies are those of its
    /// device, so the CPU must be asked for.
    Auto,
}

const AUTO: &str = "auto";
const CPU: &str = "cpu";

impl Default for Devices {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Devices {
    /// From names on a command line: `auto` alone, or devices.
    pub fn from_names(names: Vec<String>) -> Self {
        if names == [AUTO] { Self::Auto } else { Self::Listed(names) }
    }
}

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Listed(names) => names.serialize(serializer),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

/// By hand for the sake of the messages: an untagged enum would only say that nothing matched.
impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DevicesVisitor;

        impl<'de> Visitor<'de> for DevicesVisitor {
            type Value = Devices;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("`auto` or a list of devices")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Devices, E> {
                match text {
                    AUTO => Ok(Devices::Auto),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Devices, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(Devices::Listed)
            }
        }

        deserializer.deserialize_any(DevicesVisitor)
    }
}

/// What [`crate::device::resolve`] reads.
#[cfg(feature = "schema")]
const DEVICE_PATTERN: &str = "^(cpu|cuda(:[0-9]+)?)$";

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Devices {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Devices".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                {
                    "const": AUTO,
                    "description": "As few CUDA devices as have room for both models, by the memory that is free \
                                    when they are loaded.",
                },
                {
                    "type": "array",
                    "items": { "type": "string", "pattern": DEVICE_PATTERN },
                },
            ],
        })
    }
}

fn default_device() -> String {
    CPU.to_owned()
}

fn default_beam_width() -> usize {
    10
}

fn default_max_depth() -> usize {
    MAX_DEPTH
}

/// Cache positions when the configuration names none: enough for a chat answer, little memory.
const DEFAULT_MAX_LENGTH: usize = 2048;

/// Cache positions that can be asked for; beyond, no model was made for them.
const MAX_LENGTHS: std::ops::RangeInclusive<usize> = 2..=1 << 24;

impl EngineConfig {
    /// Defaults for a pair of folders.
    pub fn new(target: impl Into<PathBuf>, draft: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            draft: draft.into(),
            device: default_device(),
            devices: Devices::default(),
            dtype: DtypeSetting::default(),
            cuda_graphs: CudaGraphs::default(),
            threads: None,
            beam_width: default_beam_width(),
            max_depth: default_max_depth(),
            max_length: None,
            chat: ChatConfig::default(),
        }
    }

    /// The devices that are listed, in order; nothing where they are chosen by what they have free.
    pub(crate) fn device_names(&self) -> Option<&[String]> {
        match &self.devices {
            Devices::Auto => None,
            Devices::Listed(names) if names.is_empty() => Some(std::slice::from_ref(&self.device)),
            Devices::Listed(names) => Some(names),
        }
    }

    /// Whether everything is to run on the CPU.
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.device_names().is_some_and(|names| names.iter().all(|name| name == CPU))
    }

    /// All impossible values, as `(key, problem)`.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.beam_width == 0 {
            problems.push(("beam_width", "must be at least 1".to_owned()));
        }
        if self.beam_width > MAX_BEAM_WIDTH {
            problems
                .push(("beam_width", format!("is {}, must be at most {MAX_BEAM_WIDTH}", self.beam_width)));
        }
        if self.max_depth > MAX_DEPTH {
            problems.push(("max_depth", format!("is {}, must be at most {MAX_DEPTH}", self.max_depth)));
        }
        if self.devices != Devices::default() && self.device != default_device() {
            problems.push((
                "devices",
                format!("takes the place of device, which is {}: leave one out", self.device),
            ));
        }
        let field = if self.devices == Devices::default() { "device" } else { "devices" };
        let mut named = HashSet::new();
        for name in self.device_names().unwrap_or_default() {
            match cuda_index(name) {
                Err(problem) => problems.push((field, format!("is `{name}`, {problem}"))),
                Ok(Some(index)) if !named.insert(index) => {
                    problems.push((field, format!("names cuda:{index} twice: its memory is there once")));
                }
                Ok(_) => {}
            }
        }
        if self.threads == Some(0) {
            problems.push(("threads", "must be at least 1, or null for LibTorch's own choice".to_owned()));
        }
        if let Some(threads) = self.threads.filter(|&threads| threads > MAX_THREADS) {
            problems.push(("threads", format!("is {threads}, must be at most {MAX_THREADS}")));
        }
        if let Some(length) = self.max_length.filter(|length| !MAX_LENGTHS.contains(length)) {
            problems.push(("max_length", format!("is {length}, must be within {MAX_LENGTHS:?}")));
        }
        problems
    }

    /// Fails if a level of a draft with such a vocabulary has not as many tokens as the beam is to
    /// keep.
    pub(crate) fn check_beam(&self, draft_vocabulary: i64) -> Result<()> {
        if self.beam_width as i64 <= draft_vocabulary {
            return Ok(());
        }
        let problem = format!("is {}, but the draft knows only {draft_vocabulary} tokens", self.beam_width);
        Err(Error::Config { field: "beam_width", problem })
    }

    /// Fails with the first impossible value.
    pub(crate) fn check(&self) -> Result<()> {
        match self.problems().into_iter().next() {
            Some((field, problem)) => Err(Error::Config { field, problem }),
            None => Ok(()),
        }
    }

    /// Cache positions for a model that was trained for `max_positions`.
    pub(crate) fn capacity(&self, max_positions: i64) -> Result<usize> {
        let limit = max_positions as usize;
        match self.max_length {
            None => Ok(limit.min(DEFAULT_MAX_LENGTH)),
            Some(length) if length <= limit => Ok(length),
            Some(length) => Err(Error::Config {
                field: "max_length",
                problem: format!("is {length}, but the target was made for at most {limit} positions"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_auto_or_a_list_in_files_and_on_command_lines() {
        let listed = |names: &[&str]| Devices::Listed(names.iter().map(ToString::to_string).collect());
        for (text, devices) in [
            (r#""auto""#, Devices::Auto),
            ("[]", Devices::default()),
            (r#"["cuda:1","cuda:0"]"#, listed(&["cuda:1", "cuda:0"])),
        ] {
            assert_eq!(serde_json::from_str::<Devices>(text).expect("devices"), devices);
            assert_eq!(serde_json::to_string(&devices).expect("plain data"), text);
        }
        for text in [r#""cuda""#, "2", "null"] {
            let problem = serde_json::from_str::<Devices>(text).expect_err("no devices").to_string();
            assert!(problem.contains("expected `auto` or a list of devices"), "{problem}");
        }
        assert_eq!(Devices::from_names(vec!["auto".to_owned()]), Devices::Auto);
        let names = ["auto", "cuda:0"].map(str::to_owned).to_vec();
        assert_eq!(Devices::from_names(names), listed(&["auto", "cuda:0"]));
    }
}
