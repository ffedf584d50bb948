//! What classifiers have learned: a file for all rules that decide by one.

use std::path::Path;

use ltd_policy::{
    Error, Linear, Mlp, ModelIdentity, Models, Result, Scratch, TensorsIn, TensorsOut, write_atomically,
};
use serde::{Deserialize, Serialize};

use crate::{AcceptanceHead, C2t, Disco, Hvd};

/// Version of the file.
const VERSION: u32 = 2;
/// Key of the JSON header among the file's metadata.
const HEADER: &str = "classifiers";

/// Classifiers for the drafts of one pair of models, and what they were made of. `ltd-train
/// classify` makes them. Their file is a safetensors file.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifiers {
    models: Models,
    origin: Origin,
    /// That of [`Disco`].
    pub disco: Classifier,
    /// That of [`C2t`].
    pub c2t: Classifier,
    /// That of [`SpecDec`](crate::SpecDec).
    pub spec_dec: AcceptanceHead,
    /// That of [`Hvd`].
    pub hvd: Classifier,
}

/// What classifiers were made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// What tells the trace that they learned from.
    pub trace: String,
    /// SHA-256 of the latency table whose costs chose the thresholds.
    pub latency: String,
    /// Candidates that a cycle verified at most when the thresholds were chosen.
    pub size: usize,
    /// Seed of the training.
    pub seed: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    target: ModelIdentity,
    draft: ModelIdentity,
    beam_width: usize,
    origin: Origin,
    thresholds: Thresholds,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Thresholds {
    disco: f64,
    c2t: f64,
}

/// A network with one hidden layer whose output is the log-odds of acceptance, and the probability
/// from which on its rule says yes.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// Least probability of a yes, 0 to 1.
    pub threshold: f64,
    mlp: Mlp,
}

impl Classifier {
    /// A network that was trained, with a threshold.
    pub fn new(mlp: Mlp, threshold: f64) -> Self {
        Self { threshold, mlp }
    }

    /// The network of a file, which must have this form.
    fn read(
        file: &TensorsIn,
        path: &Path,
        name: &str,
        threshold: f64,
        [inputs, hidden]: [usize; 2],
    ) -> Result<Self> {
        let layers = file.layers(&format!("{name}."))?;
        let found: Vec<[usize; 2]> = layers.iter().map(|layer| [layer.inputs, layer.outputs()]).collect();
        if found != [[inputs, hidden], [hidden, 1]] {
            let expected = format!("{inputs} to {hidden}, {hidden} to 1 numbers");
            return Err(differs(path, &format!("layers of {name}"), expected, shapes(&layers)));
        }
        if !(0.0..=1.0).contains(&threshold) {
            let what = format!("threshold of {name}");
            return Err(differs(path, &what, "0 to 1".to_owned(), threshold.to_string()));
        }
        Ok(Self { threshold, mlp: Mlp::new(&layers) })
    }
}

/// What each layer reads and gives.
fn shapes(layers: &[Linear]) -> String {
    let shapes = layers.iter().map(|layer| format!("{} to {}", layer.inputs, layer.outputs()));
    shapes.collect::<Vec<_>>().join(", ")
}

fn differs(path: &Path, what: &str, expected: String, found: String) -> Error {
    Error::Mismatch { path: path.to_owned(), what: what.to_owned(), expected, found }
}

impl Classifiers {
    /// Classifiers of a pair of models.
    pub fn new(
        models: &Models,
        origin: Origin,
        disco: Classifier,
        c2t: Classifier,
        spec_dec: AcceptanceHead,
        hvd: Classifier,
    ) -> Self {
        Self { models: models.clone(), origin, disco, c2t, spec_dec, hvd }
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
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let file = TensorsIn::parse(&bytes, path, HEADER)?;
        let json = |source| Error::Json { path: path.to_owned(), what: "header of classifiers", source };
        // The version first: the rest may have another form in another version.
        let Version { version: found } = serde_json::from_str(file.text()).map_err(json)?;
        if found != VERSION {
            return Err(Error::Version { path: path.to_owned(), expected: VERSION.to_string(), found });
        }
        let header: Header = serde_json::from_str(file.text()).map_err(json)?;
        let Header { target, draft, beam_width, origin, thresholds, .. } = header;
        let [disco, c2t, hvd] = [
            ("disco", thresholds.disco, [Disco::FEATURES, Disco::HIDDEN]),
            ("c2t", thresholds.c2t, [C2t::FEATURES, C2t::HIDDEN]),
            ("hvd", Hvd::THRESHOLD, [Hvd::FEATURES, Hvd::HIDDEN]),
        ]
        .map(|(name, threshold, form)| Classifier::read(&file, path, name, threshold, form));
        let layers = file.layers("specdec-pp.")?;
        let spec_dec = match &layers[..] {
            [layer, output] => AcceptanceHead::new(layer, output),
            _ => None,
        };
        let spec_dec = spec_dec.ok_or_else(|| {
            let expected = "n to n, n to 1 numbers".to_owned();
            differs(path, "layers of specdec-pp", expected, shapes(&layers))
        })?;
        if !(1..=ltd_policy::MAX_SIZE).contains(&origin.size) {
            let (expected, found) = (format!("1 to {}", ltd_policy::MAX_SIZE), origin.size.to_string());
            return Err(differs(path, "size", expected, found));
        }
        Ok(Self {
            models: Models { target, draft, beam_width },
            origin,
            disco: disco?,
            c2t: c2t?,
            spec_dec,
            hvd: hvd?,
        })
    }

    /// The models that they are for: the target whose continuations they learned, and the draft
    /// whose tokens they classify.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// What they were made of.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The file's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Models { target, draft, beam_width } = self.models.clone();
        let thresholds = Thresholds { disco: self.disco.threshold, c2t: self.c2t.threshold };
        let origin = self.origin.clone();
        let header = Header { version: VERSION, target, draft, beam_width, origin, thresholds };
        let mut tensors = TensorsOut::default();
        let networks: [(&str, &[Linear]); 4] = [
            ("disco.", &self.disco.mlp.to_layers()),
            ("c2t.", &self.c2t.mlp.to_layers()),
            ("specdec-pp.", &self.spec_dec.to_layers()),
            ("hvd.", &self.hvd.mlp.to_layers()),
        ];
        for (prefix, layers) in networks {
            tensors.push_layers(prefix, layers);
        }
        tensors.to_bytes(HEADER, serde_json::to_string(&header).expect("invariant: plain data"))
    }

    /// Writes the file: complete, or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes())
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
        let mlp = classifier.mlp.clone();
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
        let good = classifiers(0.25);
        let refused = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).expect("written");
            let error = Classifiers::read(file.path()).expect_err("refused");
            assert!(error.is_usage(), "{error}");
            error.to_string()
        };
        let assert = |message: String, expected: &str| assert!(message.contains(expected), "{message}");
        // A change of the header that keeps its length.
        let edited = |from: &str, to: &str| {
            let (bytes, from) = (good.to_bytes(), from.as_bytes());
            let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
            [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
        };
        let version = edited(r#"version\":2"#, r#"version\":1"#);
        assert(refused(&version), "version 1, this program reads version 2");
        assert(
            refused(&edited(r#"disco\":0.25"#, r#"disco\":1.25"#)),
            "threshold of disco is 1.25, expected 0 to 1",
        );
        assert(
            refused(&edited(r#"size\":60"#, r#"size\":00"#)),
            "header of classifiers is not of the expected form",
        );
        assert(refused(&edited("seed", "sead")), "header of classifiers is not of the expected form");
        let size = Origin { size: 0, ..good.origin.clone() };
        assert(
            refused(&Classifiers { origin: size, ..good.clone() }.to_bytes()),
            "size is 0, expected 1 to ",
        );
        let swapped = Classifiers { disco: good.c2t.clone(), ..good.clone() };
        assert(
            refused(&swapped.to_bytes()),
            "layers of disco is 3 to 64, 64 to 1, expected 12 to 128, 128 to 1",
        );
        let missing = edited("specdec-pp.layers.1.weight", "specdec-pp.layers.9.weight");
        assert(refused(&missing), "layers of specdec-pp is 3 to 3, expected n to n, n to 1 numbers");
        let infinite = Linear { weight: vec![f32::NAN], bias: vec![0.0], inputs: 1 };
        let head = AcceptanceHead::new(&infinite, &infinite).expect("a head");
        assert(refused(&Classifiers { spec_dec: head, ..good.clone() }.to_bytes()), "infinities or NaN");
        assert(refused(b"{"), "not a complete safetensors file");
        let bytes = good.to_bytes();
        assert(refused(&bytes[..bytes.len() - 1]), "not a complete safetensors file");
        assert!(Classifiers::read("no-such-file".as_ref()).expect_err("missing").is_usage());
    }
}
