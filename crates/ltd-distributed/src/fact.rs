//! In what ranks must be alike.

use serde::{Deserialize, Serialize};

/// Something in which all ranks must be alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// What it is here.
    pub value: String,
}

impl Fact {
    /// A fact.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// What is different in the facts that a rank sent, in words.
pub(crate) fn difference(rank: usize, bytes: &[u8], ours: &[Fact]) -> Option<String> {
    match serde_json::from_slice::<Vec<Fact>>(bytes) {
        Ok(theirs) => differing(rank, &theirs, ours),
        Err(error) => Some(format!("rank {rank} says nothing that can be read: {error}")),
    }
}

/// The first fact that a rank has otherwise than the first rank, in words.
pub(crate) fn differing(rank: usize, theirs: &[Fact], ours: &[Fact]) -> Option<String> {
    let value = |facts: &[Fact], name: &str| {
        let found = facts.iter().find(|fact| fact.name == name);
        found.map_or("nothing".to_owned(), |fact| fact.value.clone())
    };
    let names = ours.iter().chain(theirs).map(|fact| fact.name.as_str());
    let mut differing = names.filter(|name| value(theirs, name) != value(ours, name));
    differing.next().map(|name| {
        let (theirs, ours) = (value(theirs, name), value(ours, name));
        format!("ranks differ in {name}: rank {rank} has {theirs}, rank 0 has {ours}")
    })
}
