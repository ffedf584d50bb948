//! What recordings tell of tokens, to those that learn from the same recordings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ltd_env::token_record;
use ltd_env::trace::{Outline, Trace};
use ltd_policy::TokenRecord;
use rayon::prelude::*;

/// A record of tokens, and for each prompt that it learned from the record of the others: a
/// prompt's own copies are known in training, and not in use.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    all: Arc<TokenRecord>,
    /// By prompt.
    of_others: HashMap<u32, Arc<TokenRecord>>,
}

impl Records {
    /// What a trace tells.
    pub(crate) fn of(trace: &Trace) -> Self {
        let own = own(trace);
        let mut all = TokenRecord::default();
        for record in own.values() {
            all.merge(record);
        }
        Self::new(Arc::new(all), &own)
    }

    /// A record that was learned before. It may have learned from prompts of the trace: from those
    /// of which it has all.
    pub(crate) fn known(all: Arc<TokenRecord>, trace: &Trace) -> Self {
        Self::new(all, &own(trace))
    }

    fn new(all: Arc<TokenRecord>, own: &BTreeMap<u32, TokenRecord>) -> Self {
        let others = own.iter().filter_map(|(&prompt, own)| Some((prompt, Arc::new(all.without(own)?))));
        Self { of_others: others.collect(), all }
    }

    /// What is deployed.
    pub(crate) fn all(&self) -> &Arc<TokenRecord> {
        &self.all
    }

    /// The record of all prompts but that of a sequence.
    pub(crate) fn of_others(&self, sequence: &Outline) -> &Arc<TokenRecord> {
        self.of_others.get(&sequence.prompt).unwrap_or(&self.all)
    }
}

/// What each prompt of a trace tells, with all its continuations.
fn own(trace: &Trace) -> BTreeMap<u32, TokenRecord> {
    let numbers = (0..trace.len()).into_par_iter();
    let records: Vec<TokenRecord> = numbers.map(|number| token_record(trace.outline(number))).collect();
    let mut own = BTreeMap::<u32, TokenRecord>::new();
    for (sequence, record) in trace.outlines().zip(&records) {
        own.entry(sequence.prompt).or_default().merge(record);
    }
    own
}

#[cfg(test)]
mod tests {
    use ltd_engine::{DraftTree, GrownTree};
    use ltd_env::trace::{TraceHeader, TracedSequence};

    use super::*;
    use crate::recorded::tests::header;

    /// A prompt that says 5 after 4, and an answer of two positions that does so again or does not.
    fn sequence(header: &TraceHeader, prompt: u32, says: u32) -> TracedSequence {
        let tokens = vec![4, 5, prompt + 10, 4, says, 8, 9];
        let mut sequence = TracedSequence::new(header, prompt, 3, tokens);
        for root in [3, 4] {
            let tree = DraftTree::new(&[-0.5, -1.0], vec![6, 8]);
            sequence.push(&GrownTree::new(root, tree));
        }
        sequence
    }

    #[test]
    fn a_sequence_is_told_what_others_say() {
        let header = header();
        let [right, wrong, unknown] =
            [(0, 5), (1, 7), (2, 5)].map(|(prompt, says)| sequence(&header, prompt, says));
        let trace = Trace::new(header, vec![right.clone(), wrong.clone()]);
        let records = Records::of(&trace);
        let share = |record: &TokenRecord| record.shares(4, 5)[0];
        let all = share(records.all());
        assert!(share(records.of_others(&right)) < all && all < share(records.of_others(&wrong)));
        assert_eq!(records.of_others(&unknown), records.all());
        // One that learned from the first alone has nothing of the second to leave out.
        let known = Records::known(Arc::new(token_record(&right)), &trace);
        assert_eq!(known.of_others(&wrong), known.all());
        assert_eq!(**known.of_others(&right), TokenRecord::default());
    }
}
