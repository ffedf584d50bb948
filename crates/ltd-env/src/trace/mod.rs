//! Recorded trees: what a draft proposes at every position of a target's continuations, whatever
//! the hardware.
//!
//! At temperature 0, and above it with a fixed seed, the target's continuation does not depend on
//! what was drafted. One full-depth tree per position therefore tells the outcome of every depth
//! and size: a node of the continuation is accepted if its level was drafted and its rank by score,
//! among the levels drafted, is below the size.
//!
//! A trace may leave out positions and hold more of each: then it serves statistics and the
//! training of predictors, but cycles, which need the tree at the position they land on, cannot be
//! replayed.

mod chunk;
mod file;
mod held;
#[cfg(feature = "live")]
mod record;
mod sequence;
mod shard;

use std::path::PathBuf;

use ltd_cycle::MAX_DEPTH;
use ltd_policy::{ModelIdentity, Models, SamplingParams, tree_candidates};
use serde::{Deserialize, Serialize};

pub use file::TraceWriter;
pub use held::Trace;
#[cfg(feature = "live")]
pub use record::record_sequence;
pub use sequence::{Outline, TracedPosition, TracedSequence};
pub use shard::{RecordingPlan, Shard, ShardPlan};

/// Version of the folder's layout; see `docs/trace-format.md`. Version 1, which knew neither gaps
/// nor optional columns, version 2, without the candidates' tokens, version 3, of greedy
/// continuations only, and version 4, without states, are read too.
pub const TRACE_VERSION: u32 = 5;

/// What all sequences of a trace have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceHeader {
    /// [`TRACE_VERSION`].
    pub version: u32,
    /// The target that wrote the continuations.
    pub target: ModelIdentity,
    /// The draft whose trees these are.
    pub draft: ModelIdentity,
    /// Number type of the recording.
    pub dtype: String,
    /// Candidates kept per level, `W`.
    pub beam_width: usize,
    /// Levels beyond the root expansion, `D`.
    pub depth: usize,
    /// Tokens from one recorded position to the next; cycles can be replayed if it is 1.
    pub every: usize,
    /// Whether the entropies of the draft's distributions are recorded.
    pub entropies: bool,
    /// Width of the draft's hidden states after the roots, if they are recorded.
    pub hidden: Option<usize>,
    /// The same of those after the best candidate of each level; left out if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub states: Option<usize>,
    /// Bytes of each candidate's token, 2 or 4; 0 if they are not recorded, nor what they follow.
    pub token_bytes: usize,
    /// How the target's tokens were chosen; left out if greedily.
    #[serde(default, skip_serializing_if = "SamplingParams::is_greedy")]
    pub sampling: SamplingParams,
    /// Tokens generated per prompt at most.
    pub max_new_tokens: usize,
    /// Positions of the caches.
    pub capacity: usize,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// File of the prompts.
    pub questions: PathBuf,
    /// SHA-256 of that file.
    pub questions_sha256: String,
}

/// Numbers per position: of half precision, and whole ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    scores: usize,
    entropies: usize,
    hidden: usize,
    states: usize,
    tokens: usize,
    parents: usize,
}

impl TraceHeader {
    /// The models that wrote and drafted.
    pub fn models(&self) -> Models {
        let Self { target, draft, beam_width, .. } = self;
        Models { target: target.clone(), draft: draft.clone(), beam_width: *beam_width }
    }

    /// Scores per position: `W + D * W * W`.
    pub fn scores_per_position(&self) -> usize {
        self.candidates(self.depth)
    }

    /// Candidates of a tree of this depth.
    fn candidates(&self, depth: usize) -> usize {
        tree_candidates(self.beam_width, depth)
    }

    /// Candidates that are verified where `size` are asked for: no more than a tree of this depth
    /// holds, and than there is room for behind `context_length` tokens and the root.
    pub fn verified(&self, size: usize, depth: usize, context_length: usize) -> usize {
        size.min(self.candidates(depth)).min(self.capacity.saturating_sub(context_length + 1))
    }

    /// The first value that no trace can have, with its name.
    fn problem(&self) -> Option<String> {
        let counts = [
            ("every", self.every, 1..=u32::MAX as usize),
            // Ranks among the candidates of a tree are numbers of 16 bits.
            ("beam_width", self.beam_width, 1..=u8::MAX.into()),
            ("depth", self.depth, 0..=MAX_DEPTH),
            ("hidden", self.hidden.unwrap_or(1), 1..=u16::MAX.into()),
            ("states", self.states.unwrap_or(1), 1..=u16::MAX.into()),
        ];
        if let Some((field, problem)) = self.sampling.problems().into_iter().next() {
            return Some(format!("sampling.{field}: {problem}"));
        }
        if ![0, 2, 4].contains(&self.token_bytes) {
            return Some(format!("token_bytes: is {}, must be 0, 2 or 4", self.token_bytes));
        }
        let impossible = counts.into_iter().find(|(_, count, possible)| !possible.contains(count));
        if let Some((name, count, possible)) = impossible {
            return Some(format!("{name}: is {count}, must be within {possible:?}"));
        }
        let (candidates, most) = (self.scores_per_position(), usize::from(u16::MAX));
        (candidates > most).then(|| {
            let beam_width = self.beam_width;
            format!(
                "beam_width: is {beam_width}, which makes trees of {candidates} candidates, must be at most {most}"
            )
        })
    }

    /// The header as written to disk: of the oldest version from 3 on that can say it.
    fn to_json(&self) -> String {
        self.as_version(self.least_version(3))
    }

    fn least_version(&self, least: u32) -> u32 {
        match (self.states, self.is_sampled()) {
            (Some(_), _) => 5,
            (None, true) => 4,
            (None, false) => least,
        }
    }

    fn as_version(&self, version: u32) -> String {
        let header = Self { version, ..self.clone() };
        serde_json::to_string_pretty(&header).expect("invariant: a header is plain data")
    }

    /// The header as it counts for a trace's identity: of one without the candidates' tokens, what
    /// version 2 wrote, to the letter.
    fn identifying_json(&self) -> String {
        if self.has_candidates() {
            return self.to_json();
        }
        let json = self.as_version(self.least_version(2));
        let lines = json.lines().filter(|line| !line.trim_start().starts_with("\"token_bytes\":"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn columns(&self) -> Columns {
        let (groups, scores) = (1 + self.depth * self.beam_width, self.scores_per_position());
        let entropies = if self.entropies { groups } else { 0 };
        let [hidden, states] = [self.hidden, self.states].map(Option::unwrap_or_default);
        let [tokens, parents] = if self.has_candidates() { [scores, groups] } else { [0, 0] };
        Columns { scores, entropies, hidden, states: self.depth * states, tokens, parents }
    }

    /// Whether the tokens of the candidates are recorded, which merged trees need.
    pub fn has_candidates(&self) -> bool {
        self.token_bytes > 0
    }

    /// Whether the continuations were drawn, each from a seed.
    pub fn is_sampled(&self) -> bool {
        !self.sampling.is_greedy()
    }

    /// What one of the sequences is called: a prompt has one greedy continuation, and one per seed.
    pub fn noun(&self) -> &'static str {
        if self.is_sampled() { "continuation" } else { "prompt" }
    }

    /// The header as all do that say the same: at temperature 0 the rest of the sampling has no
    /// effect.
    fn canonical(self) -> Self {
        if self.is_sampled() { self } else { Self { sampling: SamplingParams::default(), ..self } }
    }

    /// Bytes of a candidate's token where the target has so many of them.
    pub fn bytes_of_token(vocabulary: usize) -> usize {
        if vocabulary <= 1 << 16 { 2 } else { 4 }
    }

    /// What differs from another header, as `(field, here, there)`.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let fields = |header: &Self| match serde_json::to_value(header) {
            Ok(serde_json::Value::Object(fields)) => {
                // What may be left out is told in either case.
                let sampling = ("sampling".to_owned(), header.sampling.to_string());
                let states = ("states".to_owned(), serde_json::json!(header.states).to_string());
                let written = fields.into_iter().map(|(name, value)| (name, value.to_string()));
                let written = written.filter(|(name, _)| !["sampling", "states"].contains(&name.as_str()));
                written.chain([states, sampling]).collect::<Vec<_>>()
            }
            _ => unreachable!("invariant: a header is an object"),
        };
        let pairs = fields(self).into_iter().zip(fields(other));
        let differing = pairs.filter(|((_, here), (_, there))| here != there);
        differing.map(|((name, here), (_, there))| (name, here, there)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of greedy traces whose trees are two candidates.
    pub(super) fn header() -> TraceHeader {
        let model = ModelIdentity { name: "m".to_owned(), sha256: "0".to_owned() };
        TraceHeader {
            version: TRACE_VERSION,
            target: model.clone(),
            draft: model,
            dtype: "f32".into(),
            beam_width: 2,
            depth: 0,
            every: 1,
            entropies: false,
            hidden: None,
            states: None,
            token_bytes: 2,
            sampling: SamplingParams::default(),
            max_new_tokens: 10,
            capacity: 100,
            eos: vec![2],
            questions: "prompts.jsonl".into(),
            questions_sha256: String::new(),
        }
    }

    #[test]
    fn a_greedy_header_counts_as_older_versions_wrote_it() {
        let header = TraceHeader {
            beam_width: 10,
            depth: 7,
            token_bytes: 0,
            max_new_tokens: 8,
            capacity: 64,
            questions: "q.jsonl".into(),
            questions_sha256: "1".to_owned(),
            ..header()
        };
        let version_2 = r#"{
  "version": 2,
  "target": {
    "name": "m",
    "sha256": "0"
  },
  "draft": {
    "name": "m",
    "sha256": "0"
  },
  "dtype": "f32",
  "beam_width": 10,
  "depth": 7,
  "every": 1,
  "entropies": false,
  "hidden": null,
  "max_new_tokens": 8,
  "capacity": 64,
  "eos": [
    2
  ],
  "questions": "q.jsonl",
  "questions_sha256": "1"
}"#;
        assert_eq!(header.identifying_json(), version_2);
        let sampling = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let sampled = TraceHeader { sampling, ..header.clone() }.identifying_json();
        assert!(sampled.contains("\"version\": 4") && !sampled.contains("token_bytes"), "{sampled}");

        let version_3 = version_2
            .replace("\"version\": 2", "\"version\": 3")
            .replace("\"hidden\": null,", "\"hidden\": null,\n  \"token_bytes\": 2,");
        let with_tokens = TraceHeader { token_bytes: 2, ..header };
        assert_eq!(with_tokens.identifying_json(), version_3);
        assert_eq!(with_tokens.to_json(), version_3);

        let with_states = TraceHeader { states: Some(576), ..with_tokens.clone() };
        let version_5 = version_3
            .replace("\"version\": 3", "\"version\": 5")
            .replace("\"hidden\": null,", "\"hidden\": null,\n  \"states\": 576,");
        assert_eq!(with_states.to_json(), version_5);
        let difference = ("states".to_owned(), "576".to_owned(), "null".to_owned());
        assert_eq!(with_states.differences(&with_tokens), [difference]);
    }
}
