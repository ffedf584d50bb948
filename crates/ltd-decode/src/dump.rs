//! Trees of a run in the layout of the golden files (`tests/fixtures/golden/README.md`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Result;
use ltd_engine::{CycleOutcome, Session, VerifiedTree};
use ltd_policy::write_atomically;
use safetensors::{Dtype, tensor::TensorView};

/// Collects cycles and writes them as one file.
#[derive(Default)]
pub(crate) struct TreeDump {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    cycles: usize,
}

impl TreeDump {
    /// Notes the features that the next root expansion reads: row-major rows of a given width.
    pub(crate) fn features(&mut self, features: &[f32], width: usize) {
        let shape = vec![features.len() / width, width];
        let bytes = features.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.insert(format!("cycle.{}.features", self.cycles), (Dtype::F32, shape, bytes));
    }

    /// Notes a cycle.
    pub(crate) fn cycle(&mut self, outcome: &CycleOutcome, verified: &VerifiedTree) {
        let VerifiedTree { tree, verification, accepted_rows } = verified;
        let prefix = format!("cycle.{}", self.cycles);
        let tree = tree.as_ref().expect("invariant: what copies is refused where trees are wanted");
        let bytes = tree.scores().iter().flat_map(|score| score.to_le_bytes()).collect();
        self.tensors.insert(format!("{prefix}.scores"), (Dtype::F32, vec![tree.scores().len()], bytes));
        let tokens = tree.tokens().iter().map(|&token| token as usize);
        self.ints(&format!("{prefix}.tokens"), tokens);
        self.ints(&format!("{prefix}.parents"), tree.group_parents().iter().copied());
        self.ints(&format!("{prefix}.prefix_len"), [outcome.context_length]);
        self.ints(&format!("{prefix}.root_token"), [verification.tokens[0] as usize]);
        self.ints(&format!("{prefix}.selected"), verification.selected.iter().copied());
        self.ints(&format!("{prefix}.parent_rows"), verification.parent_rows.iter().copied());
        self.ints(&format!("{prefix}.tree_positions"), verification.depths.iter().copied());
        self.ints(&format!("{prefix}.accepted"), accepted_rows.iter().copied());
        self.ints(&format!("{prefix}.next_token"), [outcome.next_token as usize]);
        self.cycles += 1;
    }

    /// Writes the file: complete, or not at all.
    pub(crate) fn write(
        mut self,
        path: &Path,
        session: &Session,
        prompt: &[u32],
        settings: &[(&str, String)],
    ) -> Result<()> {
        self.ints("prompt_ids", prompt.iter().map(|&token| token as usize));
        self.ints("ids", session.tokens().iter().map(|&token| token as usize));
        let mut metadata: HashMap<String, String> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        metadata.insert("cycles".to_owned(), self.cycles.to_string());
        metadata.insert("cycles_with_trees".to_owned(), self.cycles.to_string());
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let bytes = safetensors::serialize(views, Some(metadata))?;
        Ok(write_atomically(path, &bytes)?)
    }

    fn ints(&mut self, name: &str, values: impl IntoIterator<Item = usize>) {
        let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.insert(name.to_owned(), (Dtype::I32, vec![values.len()], bytes));
    }
}
