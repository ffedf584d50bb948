//! Changes of a file.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::form::Form;
use crate::json::{Change, change, change_node};

/// Bytes that a mutation inserts, removes or copies at most.
const LONGEST: usize = 64;
const LENGTH_BYTES: usize = 8;

#[derive(Debug, Clone)]
pub(crate) enum Mutation {
    Flip {
        at: Index,
        bit: u8,
    },
    Set {
        at: Index,
        byte: u8,
    },
    /// A number in some of eight bytes, the lowest first.
    Number {
        at: Index,
        bytes: usize,
        number: u64,
    },
    Insert {
        at: Index,
        bytes: Vec<u8>,
    },
    Remove {
        at: Index,
        count: usize,
    },
    Copy {
        from: Index,
        to: Index,
        count: usize,
    },
    Truncate {
        at: Index,
    },
    /// What stands from some place on in another input.
    Splice {
        seed: Index,
        from: Index,
        at: Index,
    },
    /// A node of the JSON value that the form has.
    Json {
        line: Index,
        node: Index,
        change: Change,
    },
}

/// Mutations of a file of some form, those of its JSON as often as all others.
pub(crate) fn mutation(form: Form) -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let number = prop_oneof![
        any::<u64>(),
        0u64..300,
        (0u32..64, any::<bool>()).prop_map(|(bit, below)| (1u64 << bit).wrapping_sub(u64::from(below))),
    ];
    let bytes = prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set { at, byte }),
        (at(), prop::sample::select(vec![1, 2, 4, 8]), number)
            .prop_map(|(at, bytes, number)| Mutation::Number { at, bytes, number }),
        (at(), prop::collection::vec(any::<u8>(), 1..LONGEST))
            .prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        (at(), 1..LONGEST).prop_map(|(at, count)| Mutation::Remove { at, count }),
        (at(), at(), 1..LONGEST).prop_map(|(from, to, count)| Mutation::Copy { from, to, count }),
        at().prop_map(|at| Mutation::Truncate { at }),
        (at(), at(), at()).prop_map(|(seed, from, at)| Mutation::Splice { seed, from, at }),
    ];
    let json = (at(), at(), change()).prop_map(|(line, node, change)| Mutation::Json { line, node, change });
    let weight = u32::from(form != Form::Bytes);
    prop_oneof![1 => bytes, weight => json]
}

impl Mutation {
    /// Changes the input, if it has what is to be changed.
    pub(crate) fn apply(&self, form: Form, seeds: &[Vec<u8>], input: &mut Vec<u8>) {
        if input.is_empty() {
            return;
        }
        let length = input.len();
        let range = |at: &Index, count: usize| {
            let start = at.index(length);
            start..length.min(start + count)
        };
        match self {
            Self::Flip { at, bit } => input[at.index(length)] ^= 1 << bit,
            Self::Set { at, byte } => input[at.index(length)] = *byte,
            Self::Number { at, bytes, number } => {
                let place = range(at, *bytes);
                let count = place.len();
                input[place].copy_from_slice(&number.to_le_bytes()[..count]);
            }
            Self::Insert { at, bytes } => {
                let at = at.index(length);
                _ = input.splice(at..at, bytes.iter().copied());
            }
            Self::Remove { at, count } => _ = input.drain(range(at, *count)),
            Self::Copy { from, to, count } => {
                let copied = input[range(from, *count)].to_vec();
                let to = to.index(length);
                _ = input.splice(to..to, copied);
            }
            Self::Truncate { at } => input.truncate(at.index(length)),
            Self::Splice { seed, from, at } => {
                let other = &seeds[seed.index(seeds.len())];
                input.truncate(at.index(length));
                input.extend_from_slice(&other[from.index(other.len())..]);
            }
            Self::Json { line, node, change } => change_json(form, *line, *node, change, input),
        }
    }
}

/// Changes a node of the JSON value in a file of such a form, and what frames it accordingly.
fn change_json(form: Form, line: Index, node: Index, change: &Change, input: &mut Vec<u8>) {
    let place = match form {
        Form::Bytes => return,
        Form::Json => 0..input.len(),
        Form::Lines => {
            let lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
            let number = line.index(lines.len());
            let start: usize = lines[..number].iter().map(|line| line.len() + 1).sum();
            start..start + lines[number].len()
        }
        Form::Safetensors => {
            let Some(length) = input.first_chunk::<LENGTH_BYTES>().map(|bytes| u64::from_le_bytes(*bytes))
            else {
                return;
            };
            let end = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_BYTES));
            let Some(end) = end.filter(|&end| end <= input.len()) else { return };
            LENGTH_BYTES..end
        }
    };
    let Some(changed) = change_node(&input[place.clone()], node, change) else { return };
    if form == Form::Safetensors {
        input[..LENGTH_BYTES].copy_from_slice(&(changed.len() as u64).to_le_bytes());
    }
    input.splice(place, changed.into_bytes());
}
