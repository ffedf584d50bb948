//! What a draft-and-verify cycle costs on one machine: the measured table, and its fast evaluator.
//!
//! ```no_run
//! use ltd_policy::latency::LatencyTable;
//!
//! let table = LatencyTable::read("latency.json".as_ref())?;
//! let costs = table.model();
//! // A cycle of three whole levels and 16 candidates, after 500 tokens, of which one is new.
//! let width = table.identity.beam_width;
//! let ms = costs.root_ms(1, 500) + costs.levels_ms(0..3, width, 500) + costs.verify_ms(16, 500);
//! println!("{ms:.1} ms on {}", table.identity.machine);
//! # Ok::<(), ltd_policy::Error>(())
//! ```

mod check;
mod isotonic;
mod model;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use model::LatencyModel;

use crate::files::write_atomically;
use crate::models::{ModelIdentity, Models};
use crate::{Conditions, Error, Result, sha256_hex};

/// Milliseconds of the parts of a cycle, measured on one machine with one pair of models.
///
/// A cycle of depth `D` and size `V` takes `root + level(1) + ... + level(D) + verify(V)`: the text
/// has no part in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// Version of the file's form.
    pub version: u32,
    /// What was measured, and where.
    pub identity: LatencyIdentity,
    /// Root expansion, by the rows it reads: the acceptance length of the cycle before.
    pub root: Surface,
    /// One draft level that expands all `W` candidates, by the depth that it makes, from 1.
    pub level: Surface,
    /// One draft level of any depth, by the candidates that it expands, up to `W`; `null` if levels
    /// take the same time whatever they expand.
    #[serde(default)]
    pub level_rows: Option<Surface>,
    /// Selection, target forward, acceptance and commit, by verification size (the root not
    /// counted).
    pub verify: Surface,
    /// The policies' own decisions.
    pub decision: DecisionCost,
    /// How far cycle times from this table were from live cycles that it was not made of; `null` if
    /// not compared.
    pub held_out_error: Option<HeldOutError>,
}

/// What a table holds for: another model, number type or machine has another table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyIdentity {
    /// Fingerprint of the target model.
    pub target: String,
    /// Fingerprint of the draft model.
    pub draft: String,
    /// Number type of both models.
    pub dtype: String,
    /// `cpu`, `cuda:0`, ...
    pub device: String,
    /// Version of the device's driver; `null` for a CPU.
    pub driver: Option<String>,
    /// Threads of the CPU kernels.
    pub threads: usize,
    /// Name of the processor or card.
    pub machine: String,
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
}

/// Times on a grid of a count (rows, depth or size) and the context length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Surface {
    /// The grid's points, each pair of count and context length once, in any order.
    pub points: Vec<GridPoint>,
}

/// Repeated measurements of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridPoint {
    /// Rows of a root expansion, depth of a level, or verification size.
    pub count: usize,
    /// Tokens in the target's cache, `L`.
    pub context: usize,
    /// Median of the samples, in milliseconds.
    pub median: f64,
    /// First quartile.
    pub low: f64,
    /// Third quartile.
    pub high: f64,
    /// The samples, in milliseconds, in the order they were taken.
    pub samples: Vec<f32>,
}

/// Microseconds of one decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionCost {
    /// Of the depth: asked after each level.
    pub depth_us: f64,
    /// Of the size: asked once per cycle.
    pub size_us: f64,
}

/// Relative error `|predicted - measured| / measured` of cycle times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutError {
    /// Median over the cycles.
    pub median: f64,
    /// 90th percentile over the cycles.
    pub p90: f64,
    /// Live cycles compared.
    pub cycles: usize,
}

impl LatencyIdentity {
    /// The models that were measured; a table does not have their names.
    pub fn models(&self) -> Models {
        let model = |sha256: &String| ModelIdentity { name: String::new(), sha256: sha256.clone() };
        let Self { target, draft, beam_width, .. } = self;
        Models { target: model(target), draft: model(draft), beam_width: *beam_width }
    }

    /// The machine, for a comparison with that of a run; how tokens are chosen has no part in
    /// costs.
    pub fn conditions(&self) -> Conditions {
        let Self { device, dtype, threads, .. } = self.clone();
        Conditions { sampling: None, device: Some(device), dtype: Some(dtype), threads: Some(threads) }
    }
}

impl GridPoint {
    /// A point of its samples; `NaN` statistics, which [`LatencyTable::problems`] names, if there
    /// are none.
    pub fn new(count: usize, context: usize, samples: Vec<f32>) -> Self {
        let [low, median, high] = [0.25, 0.5, 0.75].map(|q| quantile(&samples, q));
        Self { count, context, median, low, high, samples }
    }

    /// Half width of the interval that holds the true median in 95 of 100 measurements, in
    /// milliseconds: two points whose intervals do not overlap differ (McGill, Tukey and Larsen
    /// 1978, "Variations of box plots").
    pub fn notch(&self) -> f64 {
        1.57 * (self.high - self.low) / (self.samples.len() as f64).sqrt()
    }
}

impl Surface {
    /// The surface of a machine whose times follow a formula, `ms(count, context)`: what would be,
    /// or a test.
    pub fn from_fn(counts: &[usize], contexts: &[usize], ms: impl Fn(f64, f64) -> f64) -> Self {
        let places = contexts.iter().flat_map(|&context| counts.iter().map(move |&count| (count, context)));
        let points = places.map(|(count, context)| {
            let ms = ms(count as f64, context as f64) as f32;
            GridPoint::new(count, context, vec![ms; 3])
        });
        Self { points: points.collect() }
    }

    /// Context lengths of the grid, ascending.
    pub fn contexts(&self) -> Vec<usize> {
        ascending(self.points.iter().map(|point| point.context))
    }

    /// Rows, depths or sizes of the grid, ascending.
    pub fn counts(&self) -> Vec<usize> {
        ascending(self.points.iter().map(|point| point.count))
    }
}

fn ascending(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

impl LatencyTable {
    /// Version that this program writes; it reads version 1, too, which knew no
    /// [`level_rows`](LatencyTable::level_rows).
    pub const VERSION: u32 = 2;

    /// Reads a table and refuses one with [`problems`](LatencyTable::problems).
    pub fn read(path: &Path) -> Result<Self> {
        let text = crate::files::read_text(path).map_err(Error::io(path))?;
        Self::from_json(&text, path)
    }

    /// [`LatencyTable::read`] of text already read; `path` is for messages.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let json = |source| Error::Json { path: path.to_owned(), what: "latency table", source };
        // The version first: the rest may have another form in another version.
        let Version { version: found } = serde_json::from_str(text).map_err(json)?;
        if !(1..=Self::VERSION).contains(&found) {
            return Err(Error::Version {
                path: path.to_owned(),
                expected: format!("1 or {}", Self::VERSION),
                found,
            });
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let table: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| Error::Field {
            path: path.to_owned(),
            field: error.path().to_string(),
            source: error.into_inner(),
        })?;
        reader.end().map_err(json)?;
        table.check(path)?;
        Ok(table)
    }

    /// The table as written to disk.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("invariant: the table is plain data") + "\n"
    }

    /// SHA-256 of the file that it is written to, in hexadecimal digits.
    pub fn sha256(&self) -> String {
        sha256_hex(self.to_json().as_bytes())
    }

    /// Writes the file, complete or not at all; a table with [`problems`](LatencyTable::problems)
    /// is refused.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        write_atomically(path, self.to_json().as_bytes())
    }

    fn check(&self, path: &Path) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::LatencyTable { path: path.to_owned(), problems: problems.join("; ") })
        }
    }

    /// The fast evaluator of this table.
    ///
    /// # Panics
    /// If the table has [`problems`](LatencyTable::problems); one that was read has none.
    pub fn model(&self) -> LatencyModel {
        LatencyModel::new(self)
    }
}

/// Quantile with linear interpolation between order statistics (Hyndman and Fan 1996, type 7);
/// `NaN` of nothing.
fn quantile(samples: &[f32], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f32::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    f64::from(below) + place.fract() * (f64::from(above) - f64::from(below))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine whose times are `ms(count, context)`, three samples a point.
    pub(crate) fn surface(counts: &[usize], contexts: &[usize], ms: impl Fn(f64, f64) -> f64) -> Surface {
        let point = |count: usize, context: usize| {
            let ms = ms(count as f64, context as f64) as f32;
            GridPoint::new(count, context, vec![ms * 1.01, ms, ms * 0.99])
        };
        let points = contexts.iter().flat_map(|&l| counts.iter().map(move |&n| (n, l)));
        Surface { points: points.map(|(count, context)| point(count, context)).collect() }
    }

    pub(crate) fn table() -> LatencyTable {
        LatencyTable {
            version: LatencyTable::VERSION,
            identity: LatencyIdentity {
                target: "t".into(),
                draft: "d".into(),
                dtype: "bf16".into(),
                device: "cpu".into(),
                driver: None,
                threads: 2,
                machine: "test".into(),
                beam_width: 10,
            },
            root: surface(&[1, 13], &[100, 500], |rows, context| 1.0 + 0.1 * rows + 0.001 * context),
            level: surface(&[1, 12], &[100, 500], |depth, context| 2.0 + 0.01 * depth + 0.001 * context),
            level_rows: Some(surface(&[1, 4, 10], &[100, 500], |rows, _| 1.0 + 0.1 * rows)),
            verify: surface(&[1, 40, 240], &[100, 500], |size, context| 20.0 + 0.3 * size + 0.01 * context),
            decision: DecisionCost { depth_us: 10.0, size_us: 10.0 },
            held_out_error: Some(HeldOutError { median: 0.03, p90: 0.08, cycles: 100 }),
        }
    }

    #[test]
    fn quantiles_are_those_of_the_definition() {
        assert_eq!(quantile(&[4.0, 1.0, 2.0, 3.0], 0.25), 1.75);
        assert_eq!(quantile(&[4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn notches_shrink_with_samples_and_grow_with_their_scatter() {
        let notch = |samples: &[f32]| GridPoint::new(1, 100, samples.to_vec()).notch();
        assert!((notch(&[1.0, 2.0, 3.0, 4.0, 5.0]) - 1.57 * 2.0 / 5f64.sqrt()).abs() < 1e-12);
        assert_eq!(notch(&[2.0; 5]), 0.0);
    }

    #[test]
    fn a_table_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("latency.json");
        table().write(&path).expect("it is written");
        assert_eq!(LatencyTable::read(&path).expect("it is read"), table());
    }

    #[test]
    fn in_a_table_of_version_1_levels_take_the_same_whatever_they_expand() {
        let old = LatencyTable { version: 1, level_rows: None, ..table() };
        let text = old.to_json().replacen(r#""level_rows":null,"#, "", 1);
        assert!(!text.contains("level_rows"));
        let read = LatencyTable::from_json(&text, Path::new("latency.json")).expect("version 1 is read");
        let model = read.model();
        assert_eq!(model.level_ms(3, 1, 100), model.level_ms(3, 10, 100));
        assert!(table().model().level_ms(3, 1, 100) < model.level_ms(3, 1, 100));
        let short = surface(&[1, 4], &[100], |_, _| 1.0);
        let problems = LatencyTable { level_rows: Some(short), ..table() }.problems();
        assert_eq!(problems, ["level_rows: is measured up to 4 rows, must be up to 10"]);
    }

    #[test]
    fn broken_files_are_refused_with_file_and_field() {
        let path = Path::new("latency.json");
        let text = table().to_json();
        for (from, to, message) in [
            (r#""version":2"#, r#""version":3"#, "format version 3, this program reads version 1 or 2"),
            (r#""threads":2"#, r#""threads":"two""#, "identity.threads: invalid type: string"),
            (r#""count":40"#, r#""number":40"#, "verify[1].number: unknown field `number`"),
            (r#""draft":"d","#, "", "identity: missing field `draft`"),
            (r#""samples":[1.212"#, r#""samples":[-1.212"#, "root: at count 1, context 100"),
        ] {
            assert!(text.contains(from), "{text}");
            let error = LatencyTable::from_json(&text.replacen(from, to, 1), path).expect_err(to).to_string();
            assert!(error.starts_with("latency.json: ") && error.contains(message), "{error}");
        }
        let error = LatencyTable::from_json(&text[..text.len() / 2], path).expect_err("half a file");
        assert!(error.to_string().contains("latency.json: "), "{error}");
        let broken = LatencyTable { root: Surface::default(), ..table() };
        assert!(broken.write(Path::new("/nowhere/latency.json")).is_err());
    }
}
