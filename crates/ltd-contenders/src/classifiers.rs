//! What classifiers have learned: a file for all rules that decide by one.

use std::path::Path;

use ltd_policy::{Error, Linear, Mlp, ModelIdentity, Models, Result, Scratch, read_text, write_atomically};
use serde::{Deserialize, Serialize};

use crate::{C2t, Disco};

/// Version of the file.
const VERSION: u32 = 1;

/// Classifiers for the drafts of one pair of models, and what they were made of. `ltd-train
/// classify` makes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classifiers {
    version: u32,
    /// The target whose continuations they learned.
    pub target: ModelIdentity,
    /// The draft whose tokens they classify.
    pub draft: ModelIdentity,
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
    /// What tells the trace that they learned from.
    pub trace: String,
    /// SHA-256 of the latency table whose costs chose the thresholds.
    pub latency: String,
    /// Candidates that a cycle verified at most when the thresholds were chosen.
    pub size: usize,
    /// Seed of the training.
    pub seed: u64,
    /// That of [`Disco`].
    pub disco: Classifier,
    /// That of [`C2t`].
    pub c2t: Classifier,
}

/// A network with one hidden layer whose output is the log-odds of acceptance, and the probability
/// from which on its rule says yes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classifier {
    /// Least probability of a yes, 0 to 1.
    pub threshold: f64,
    layers: Vec<Layer>,
}

/// A linear layer in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    inputs: usize,
    /// Row-major, `[outputs, inputs]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Classifier {
    /// A network that was trained, with a threshold.
    pub fn new(mlp: &Mlp, threshold: f64) -> Self {
        let layer = |Linear { weight, bias, inputs }| Layer { inputs, weight, bias };
        Self { threshold, layers: mlp.to_layers().into_iter().map(layer).collect() }
    }

    /// The network.
    pub(crate) fn mlp(&self) -> Mlp {
        let linear = |Layer { inputs, weight, bias }| Linear { weight, bias, inputs };
        Mlp::new(&self.layers.iter().cloned().map(linear).collect::<Vec<_>>())
    }

    /// Fails, naming both sides, unless the network has this form.
    fn check(&self, path: &Path, name: &str, [inputs, hidden]: [usize; 2]) -> Result<()> {
        let differs = |what: &str, expected: String, found: String| {
            Err(Error::Mismatch { path: path.to_owned(), what: format!("{name}.{what}"), expected, found })
        };
        let shape =
            |layer: &Layer| (layer.inputs, layer.bias.len(), layer.weight.len() / layer.inputs.max(1));
        let found: Vec<(usize, usize, usize)> = self.layers.iter().map(shape).collect();
        let whole = self.layers.iter().all(|layer| layer.weight.len() == layer.inputs * layer.bias.len());
        if found != [(inputs, hidden, hidden), (hidden, 1, 1)] || !whole {
            let expected = format!("layers of {inputs} to {hidden} to 1 numbers");
            let found = self.layers.iter().map(|layer| {
                let Layer { inputs, weight, bias } = layer;
                format!("{inputs} to {} ({} weights)", bias.len(), weight.len())
            });
            return differs("layers", expected, found.collect::<Vec<_>>().join(", "));
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return differs("threshold", "0 to 1".to_owned(), self.threshold.to_string());
        }
        Ok(())
    }
}

impl Classifiers {
    /// Classifiers of a pair of models, of a trace and a latency table, which verify `size`
    /// candidates.
    pub fn new(
        models: &Models,
        [trace, latency]: [String; 2],
        size: usize,
        seed: u64,
        [disco, c2t]: [Classifier; 2],
    ) -> Self {
        let Models { target, draft, beam_width } = models.clone();
        Self { version: VERSION, target, draft, beam_width, trace, latency, size, seed, disco, c2t }
    }

    /// Reads a file and checks that it can be decided by.
    ///
    /// # Errors
    /// If it is missing, damaged, of another version, or a network is not of its rule's form.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let text = read_text(path).map_err(Error::io(path))?;
        let json = |source| Error::Json { path: path.to_owned(), what: "file of classifiers", source };
        // The version first: the rest may have another form in another version.
        let Version { version: found } = serde_json::from_str(&text).map_err(json)?;
        if found != VERSION {
            return Err(Error::Version { path: path.to_owned(), expected: VERSION.to_string(), found });
        }
        let read: Self = serde_json::from_str(&text).map_err(json)?;
        read.disco.check(path, "disco", [Disco::FEATURES, Disco::HIDDEN])?;
        read.c2t.check(path, "c2t", [C2t::FEATURES, C2t::HIDDEN])?;
        if !(1..=ltd_policy::MAX_SIZE).contains(&read.size) {
            let (expected, found) = (format!("1 to {}", ltd_policy::MAX_SIZE), read.size.to_string());
            return Err(Error::Mismatch { path: path.to_owned(), what: "size".to_owned(), expected, found });
        }
        Ok(read)
    }

    /// The models that they are for.
    pub fn models(&self) -> Models {
        let Self { target, draft, beam_width, .. } = self.clone();
        Models { target, draft, beam_width }
    }

    /// The file's content.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("invariant: plain data") + "\n"
    }

    /// Writes the file: complete, or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_json().as_bytes())
    }
}

/// A classifier in use.
#[derive(Debug, Clone)]
pub(crate) struct Judge {
    mlp: Mlp,
    scratch: Scratch,
    /// Log-odds from which on it says yes.
    least: f64,
}

impl Judge {
    pub(crate) fn new(classifier: &Classifier) -> Self {
        let mlp = classifier.mlp();
        let least = (classifier.threshold / (1.0 - classifier.threshold)).ln();
        Self { scratch: mlp.scratch(), mlp, least }
    }

    /// Whether what has these features is probable enough to be accepted.
    pub(crate) fn accepts(&mut self, features: &[f32]) -> bool {
        f64::from(self.mlp.forward(features, &mut self.scratch)[0]) >= self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::classifiers;

    #[test]
    fn a_file_is_read_back() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let written = classifiers(0.25);
        written.write(file.path()).expect("written");
        assert_eq!(Classifiers::read(file.path()).expect("read"), written);
    }

    #[test]
    fn what_cannot_be_decided_by_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let refused = |edit: &dyn Fn(&mut serde_json::Value)| {
            let mut json = serde_json::to_value(classifiers(0.25)).expect("plain data");
            edit(&mut json);
            std::fs::write(file.path(), json.to_string()).expect("written");
            let error = Classifiers::read(file.path()).expect_err("refused");
            assert!(error.is_usage(), "{error}");
            error.to_string()
        };
        let assert = |message: String, expected: &str| assert!(message.contains(expected), "{message}");
        assert(refused(&|json| json["version"] = 2.into()), "version 2, this program reads version 1");
        let other = &|json: &mut serde_json::Value| json["c2t"]["layers"][0]["inputs"] = 12.into();
        assert(refused(other), "c2t.layers is 12 to 64 (192 weights), 64 to 1 (64 weights), expected layers");
        let missing = &|json: &mut serde_json::Value| _ = json["disco"]["layers"][1]["weight"][0].take();
        assert(refused(missing), "file of classifiers is not of the expected form");
        let swapped = &|json: &mut serde_json::Value| json["disco"] = json["c2t"].take();
        assert(refused(swapped), "file of classifiers is not of the expected form");
        let copied = &|json: &mut serde_json::Value| json["disco"] = json["c2t"].clone();
        assert(refused(copied), "expected layers of 12 to 128 to 1 numbers");
        let huge = &|json: &mut serde_json::Value| json["c2t"]["layers"][1]["bias"][0] = 1e60.into();
        assert(refused(huge), "number out of range");
        assert(
            refused(&|json| json["c2t"]["threshold"] = 1.5.into()),
            "c2t.threshold is 1.5, expected 0 to 1",
        );
        assert(refused(&|json| json["size"] = 0.into()), "size is 0, expected 1 to ");
        std::fs::write(file.path(), "{").expect("written");
        let error = Classifiers::read(file.path()).expect_err("refused").to_string();
        assert!(error.contains("file of classifiers is not of the expected form"), "{error}");
        assert!(Classifiers::read("no-such-file".as_ref()).expect_err("missing").is_usage());
    }
}
