//! A trained network as one file: what it sees, what its outputs stand for, its weights, and
//! probes.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::mlp::{Activation, Linear, Mlp};
use super::tensors::{TensorsIn, TensorsOut};
use crate::action::{DepthActions, PolicyKind, SizeActions};
use crate::files::write_atomically;
use crate::observation::{ObservationLayout, Sight};
use crate::source::SourceActions;
use crate::{Error, Result};

/// Version of the policy file.
const FORMAT_VERSION: u32 = 1;
/// Key of the JSON header among the file's metadata.
const HEADER: &str = "policy";

/// What a policy chooses among.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actions {
    /// Stop or continue.
    Depth(DepthActions),
    /// One of these sizes.
    Size(SizeActions),
    /// What to draft from.
    Source(SourceActions),
}

impl Actions {
    /// The decision these actions belong to.
    pub fn kind(&self) -> PolicyKind {
        match self {
            Self::Depth(_) => PolicyKind::Depth,
            Self::Size(_) => PolicyKind::Size,
            Self::Source(_) => PolicyKind::Source,
        }
    }

    /// Number of actions.
    pub fn count(&self) -> usize {
        match self {
            Self::Depth(_) => DepthActions::COUNT,
            Self::Size(actions) => actions.sizes.len(),
            Self::Source(actions) => actions.count(),
        }
    }
}

/// What the outputs of a frozen network stand for.
pub trait Outputs: Clone + PartialEq + Serialize + DeserializeOwned {
    /// Name of this use of a network: the `kind` in the file.
    fn kind_name(&self) -> String;

    /// Number of outputs.
    fn output_count(&self) -> usize;

    /// What is impossible about the table, if anything.
    fn problem(&self, depth_cap: usize) -> Option<String>;

    /// The table, if the outputs are a policy's: one logit per action.
    fn as_policy(&self) -> Option<&Actions> {
        None
    }

    /// What is decided from.
    fn sees(&self) -> Sight {
        Sight::Tree
    }
}

impl Outputs for Actions {
    fn kind_name(&self) -> String {
        self.kind().to_string()
    }

    fn output_count(&self) -> usize {
        self.count()
    }

    fn problem(&self, depth_cap: usize) -> Option<String> {
        match self {
            Self::Depth(actions) => {
                actions.problems(depth_cap).first().map(|(key, problem)| format!("{key} {problem}"))
            }
            Self::Size(actions) => actions.problem(),
            Self::Source(actions) => actions.problem(),
        }
    }

    fn as_policy(&self) -> Option<&Actions> {
        Some(self)
    }

    fn sees(&self) -> Sight {
        if self.kind() == PolicyKind::Source { Sight::Sequence } else { Sight::Tree }
    }
}

/// Observations from the end of training with the logits the policy gave them: whoever copies a
/// policy into another form can check the copy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probes {
    /// `[n][observation]`.
    pub observations: Vec<Vec<f32>>,
    /// `[n][outputs]`.
    pub logits: Vec<Vec<f32>>,
}

/// A network that no longer learns: what it sees, what its outputs stand for, its weights, and
/// probes.
#[derive(Debug, Clone, PartialEq)]
pub struct Frozen<O> {
    layout: ObservationLayout,
    actions: O,
    mlp: Mlp,
    probes: Probes,
}

/// A policy that no longer learns: one logit per action.
pub type FrozenPolicy = Frozen<Actions>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "O: DeserializeOwned"))]
struct Header<O> {
    format_version: u32,
    kind: String,
    layout: ObservationLayout,
    actions: O,
    /// Left out where it is `ReLU`, which older programs take for granted.
    #[serde(default, skip_serializing_if = "is_relu")]
    activation: Activation,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_relu(activation: &Activation) -> bool {
    *activation == Activation::Relu
}

impl FrozenPolicy {
    /// Which decision it makes.
    pub fn kind(&self) -> PolicyKind {
        self.actions.kind()
    }
}

impl<O: Outputs> Frozen<O> {
    /// Freezes a network; the probes' logits are computed here.
    ///
    /// # Panics
    /// If the network does not fit the layout or the actions.
    pub fn new(layout: ObservationLayout, actions: O, mlp: Mlp, observations: Vec<Vec<f32>>) -> Self {
        assert_eq!(mlp.inputs(), layout.len(), "network inputs and observation");
        assert_eq!(mlp.outputs(), actions.output_count(), "network outputs and actions");
        let mut scratch = mlp.scratch();
        let logits =
            observations.iter().map(|observation| mlp.forward(observation, &mut scratch).to_vec()).collect();
        Self { layout, actions, mlp, probes: Probes { observations, logits } }
    }

    /// What it sees.
    pub fn layout(&self) -> &ObservationLayout {
        &self.layout
    }

    /// What its outputs stand for.
    pub fn actions(&self) -> &O {
        &self.actions
    }

    /// Its network, over the full observation.
    pub fn mlp(&self) -> &Mlp {
        &self.mlp
    }

    /// Its probes.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// The file's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut tensors = TensorsOut::default();
        tensors.push_layers("", &self.mlp.to_layers());
        let Probes { observations, logits } = &self.probes;
        let rows = [observations.len(), self.layout.len()];
        tensors.push("probe.observations", &rows, &observations.concat());
        tensors.push("probe.logits", &[logits.len(), self.actions.output_count()], &logits.concat());
        let header = Header {
            format_version: FORMAT_VERSION,
            kind: self.actions.kind_name(),
            layout: self.layout.clone(),
            actions: self.actions.clone(),
            activation: self.mlp.activation(),
        };
        let header = serde_json::to_string(&header).expect("invariant: the header is plain data");
        tensors.to_bytes(HEADER, header)
    }

    /// Writes the file: complete, or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes())
    }

    /// Reads a file and checks that its parts fit one another.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::from_bytes(&bytes, path)
    }

    /// [`FrozenPolicy::load`] of bytes already read; `path` is for messages.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let file = TensorsIn::parse(bytes, path, HEADER)?;
        let header: Header<O> = read_header(file.text(), path)?;
        let layers = file.layers("")?;
        check(&header, &layers, path)?;
        let observations = read_rows(&file, "probe.observations", header.layout.len(), path)?;
        let logits = read_rows(&file, "probe.logits", header.actions.output_count(), path)?;
        if observations.len() != logits.len() {
            return Err(Error::mismatch(path, "rows of probe.logits", observations.len(), logits.len()));
        }
        let probes = Probes { observations, logits };
        let mlp = Mlp::with_activation(&layers, header.activation);
        Ok(Self { layout: header.layout, actions: header.actions, mlp, probes })
    }
}

fn read_header<O: Outputs>(text: &str, path: &Path) -> Result<Header<O>> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let json = |source| Error::Json { path: path.to_owned(), what: "policy header", source };
    // The version first: the rest may have another form in another version.
    let Version { format_version: found } = serde_json::from_str(text).map_err(json)?;
    if found != FORMAT_VERSION {
        return Err(Error::Version { path: path.to_owned(), expected: FORMAT_VERSION.to_string(), found });
    }
    serde_json::from_str(text).map_err(json)
}

fn check<O: Outputs>(header: &Header<O>, layers: &[Linear], path: &Path) -> Result<()> {
    let Header { layout, actions, kind, .. } = header;
    if *kind != actions.kind_name() {
        return Err(Error::mismatch(path, "kind of the actions", kind, actions.kind_name()));
    }
    if let Some((expected, found)) = layout.problem() {
        return Err(Error::mismatch(path, "layout", expected, found));
    }
    if layout.sight() != Some(actions.sees()) {
        return Err(Error::mismatch(
            path,
            "layout",
            format!("numbers of the {}", actions.sees()),
            format!("`{}`", layout.name),
        ));
    }
    if let Some(problem) = actions.problem(layout.depth_cap) {
        return Err(Error::mismatch(path, "action table", "a possible one", problem));
    }
    let (inputs, outputs) = (layers[0].inputs, layers[layers.len() - 1].outputs());
    if inputs != layout.len() {
        return Err(Error::mismatch(path, "network inputs", layout.len(), inputs));
    }
    if outputs != actions.output_count() {
        return Err(Error::mismatch(path, "network outputs", actions.output_count(), outputs));
    }
    Ok(())
}

fn read_rows(file: &TensorsIn, name: &str, width: usize, path: &Path) -> Result<Vec<Vec<f32>>> {
    let (shape, values) = file.tensor(name)?;
    if shape.len() != 2 || shape[1] != width {
        return Err(Error::mismatch(
            path,
            format!("shape of {name}"),
            format!("[n, {width}]"),
            format!("{shape:?}"),
        ));
    }
    Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
}
