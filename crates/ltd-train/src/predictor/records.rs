//! What recordings tell of tokens, to those that learn from the same recordings.

use std::collections::HashMap;
use std::sync::Arc;

use ltd_env::token_record;
use ltd_env::trace::{Trace, TracedSequence};
use ltd_policy::TokenRecord;
use rayon::prelude::*;

/// A record of tokens, and for each sequence that it learned from the record of the others: what it
/// knows of a sequence's own copies it will not know of another one's.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    all: Arc<TokenRecord>,
    /// By prompt.
    of_others: HashMap<u32, Arc<TokenRecord>>,
}

impl Records {
    /// What a trace tells.
    pub(crate) fn of(trace: &Trace) -> Self {
        let mut all = TokenRecord::default();
        let own: Vec<TokenRecord> = trace.sequences.par_iter().map(token_record).collect();
        for record in &own {
            all.merge(record);
        }
        Self::known(Arc::new(all), trace)
    }

    /// A record that was learned before. It may have learned from sequences of the trace: from those
    /// of which it has all.
    pub(crate) fn known(all: Arc<TokenRecord>, trace: &Trace) -> Self {
        let others = |sequence: &TracedSequence| {
            let others = all.without(&token_record(sequence))?;
            Some((sequence.prompt, Arc::new(others)))
        };
        let of_others = trace.sequences.par_iter().filter_map(others).collect();
        Self { all, of_others }
    }

    /// What is deployed.
    pub(crate) fn all(&self) -> &Arc<TokenRecord> {
        &self.all
    }

    /// What others tell than this sequence.
    pub(crate) fn of_others(&self, sequence: &TracedSequence) -> &Arc<TokenRecord> {
        self.of_others.get(&sequence.prompt).unwrap_or(&self.all)
    }
}
