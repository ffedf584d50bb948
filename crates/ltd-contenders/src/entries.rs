//! The contenders by their names, each with what makes it.

use ltd_cycle::{Controller, Static, WholeBeam};
use ltd_policy::LatencyTable;

use crate::{
    C2t, Classifiers, Costs, DCut, Ddd, Disco, EAGLE_DEFAULT, GammaTune, HuggingFace, Hvd, OptTree, Reading,
    SglangEma, SglangThroughput, Smart, SpecDec, Svip, Ucb1, copy_rules,
};

/// Levels around which `gamma-tune-ltd` stays.
const DEFAULT_LEVELS: usize = 8;

/// A contender that a name makes.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What [`controller`] knows it by.
    pub name: &'static str,
    /// What it does, in a few words.
    pub rule: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Whether it keeps something of a tree constant, which may be another than was published.
    pub keeps_trees: bool,
    make: Make,
}

/// What makes a controller, of what it needs and of other trees than the published ones.
#[derive(Debug, Clone, Copy)]
enum Make {
    Alone(fn(Option<Static>) -> Box<dyn Controller>),
    OfCosts(fn(Costs, Option<Static>) -> Box<dyn Controller>),
    OfClassifiers(fn(&Classifiers, Option<Static>) -> Box<dyn Controller>),
}

/// What a contender is made of besides its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Measured costs.
    Costs,
    /// A file of classifiers.
    Classifiers,
}

/// What there is to make contenders of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// Measured costs.
    pub costs: Option<&'a LatencyTable>,
    /// Trained classifiers.
    pub classifiers: Option<&'a Classifiers>,
    /// What contenders keep constant of a tree, in place of what was published: on a machine where
    /// verification is dear, a published size of 60 says little of a rule.
    pub trees: Option<Static>,
}

impl Entry {
    const fn new(name: &'static str, rule: &'static str, source: &'static str, make: Make) -> Self {
        Self { name, rule, source, keeps_trees: true, make }
    }

    const fn chooses_all(self) -> Self {
        Self { keeps_trees: false, ..self }
    }

    /// The entry of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|entry| entry.name == name)
    }

    /// What it cannot be made without.
    #[must_use]
    pub fn needs(&self) -> Needs {
        match self.make {
            Make::Alone(_) => Needs::Nothing,
            Make::OfCosts(_) => Needs::Costs,
            Make::OfClassifiers(_) => Needs::Classifiers,
        }
    }

    /// Makes it; none if what it needs is not given.
    ///
    /// # Panics
    /// If it needs costs, and those given have [`problems`](LatencyTable::problems).
    #[must_use]
    pub fn controller(&self, given: &Given) -> Option<Box<dyn Controller>> {
        match self.make {
            Make::Alone(make) => Some(make(given.trees)),
            Make::OfCosts(make) => Some(make(Costs::of(given.costs?), given.trees)),
            Make::OfClassifiers(make) => Some(make(given.classifiers?, given.trees)),
        }
    }
}

/// Candidates to verify: as published, or as other trees have it.
fn size(published: usize, trees: Option<Static>) -> usize {
    trees.map_or(published, |trees| trees.size)
}

/// Constant trees between copies.
fn between(trees: Option<Static>) -> WholeBeam {
    WholeBeam(trees.unwrap_or(EAGLE_DEFAULT.0))
}

fn gamma_tune(published: GammaTune, trees: Option<Static>) -> Box<dyn Controller> {
    Box::new(GammaTune { size: size(published.size, trees), ..published })
}

fn opt_tree(reading: Reading, trees: Option<Static>) -> Box<dyn Controller> {
    let published = OptTree::new(reading);
    Box::new(OptTree { nodes: size(published.nodes, trees), ..published })
}

/// All contenders.
pub const ALL: &[Entry] = &[
    Entry::new(
        "eagle-default",
        "a constant, whole levels",
        "arXiv 2503.01840",
        Make::Alone(|_| Box::new(EAGLE_DEFAULT)),
    )
    .chooses_all(),
    Entry::new(
        "ddd",
        "stops where the beam is improbable",
        "arXiv 2409.00142, 2603.01639",
        Make::Alone(|trees| {
            let published = Ddd::default();
            Box::new(Ddd { size: size(published.size, trees), ..published })
        }),
    ),
    Entry::new(
        "hugging-face",
        "two levels more after full acceptance, else one less",
        "transformers",
        Make::Alone(|trees| {
            let published = HuggingFace::default();
            Box::new(HuggingFace { size: size(published.size, trees), ..published })
        }),
    ),
    Entry::new(
        "gamma-tune",
        "levels by a moving average",
        "arXiv 2504.00030",
        Make::Alone(|trees| gamma_tune(GammaTune::default(), trees)),
    ),
    Entry::new(
        "gamma-tune-ltd",
        "levels by a moving average, around a default",
        "arXiv 2603.01639",
        Make::Alone(|trees| {
            let levels = trees.map_or(DEFAULT_LEVELS, |trees| trees.depth + 1);
            gamma_tune(GammaTune::ltd(levels), trees)
        }),
    ),
    Entry::new(
        "opt-tree",
        "stops where a level adds little probability",
        "arXiv 2406.17276",
        Make::Alone(|trees| opt_tree(Reading::Paper, trees)),
    ),
    Entry::new(
        "opt-tree-code",
        "the same, one level late",
        "github.com/Jikai0Wang/OPT-Tree",
        Make::Alone(|trees| opt_tree(Reading::Code, trees)),
    ),
    Entry::new(
        "svip",
        "stops where the draft is uncertain",
        "arXiv 2411.18462",
        Make::Alone(|trees| {
            let mut rule = Svip::default();
            rule.size = size(rule.size, trees);
            Box::new(rule)
        }),
    ),
    Entry::new(
        "smart",
        "marginal tokens over marginal time, depth and size",
        "arXiv 2604.09731",
        Make::OfCosts(|costs, _| Box::new(Smart::new(costs))),
    )
    .chooses_all(),
    Entry::new(
        "d-cut",
        "marginal tokens over marginal time, size alone",
        "arXiv 2606.01813, vLLM #44885",
        Make::OfCosts(|costs, trees| {
            let published = DCut::new(costs);
            Box::new(DCut { depth: trees.map_or(published.depth, |trees| trees.depth), ..published })
        }),
    ),
    Entry::new(
        "ucb1",
        "a bandit over constants",
        "arXiv 2505.15141",
        Make::Alone(|_| Box::new(Ucb1::default())),
    )
    .chooses_all(),
    Entry::new(
        "sglang-ema",
        "tiers of levels by a moving average",
        "SGLang, adaptive_spec_params.py",
        Make::Alone(|trees| {
            let mut rule = SglangEma::default();
            rule.size = size(rule.size, trees);
            Box::new(rule)
        }),
    ),
    Entry::new(
        "sglang-throughput",
        "levels by shares of acceptance over cost",
        "SGLang #28045",
        Make::OfCosts(|costs, trees| {
            let mut rule = SglangThroughput::new(costs);
            rule.size = size(rule.size, trees);
            Box::new(rule)
        }),
    ),
    Entry::new(
        copy_rules::TENSORRT_LLM.name,
        "copies 8 tokens where 4 match",
        copy_rules::TENSORRT_LLM.source,
        Make::Alone(|trees| Box::new(copy_rules::TENSORRT_LLM.controller(between(trees)))),
    ),
    Entry::new(
        copy_rules::SAM_DECODING.name,
        "copies 40 tokens where 5 match",
        copy_rules::SAM_DECODING.source,
        Make::Alone(|trees| Box::new(copy_rules::SAM_DECODING.controller(between(trees)))),
    ),
    Entry::new(
        copy_rules::PROMPT_LOOKUP.name,
        "copies 10 tokens where 3 match",
        copy_rules::PROMPT_LOOKUP.source,
        Make::Alone(|trees| Box::new(copy_rules::PROMPT_LOOKUP.controller(between(trees)))),
    ),
    Entry::new(
        "disco",
        "stops where the newest token is improbable",
        "arXiv 2405.04304, 2603.01639",
        Make::OfClassifiers(|classifiers, trees| {
            Box::new(Disco::new(&classifiers.disco, size(classifiers.origin().size, trees)))
        }),
    ),
    Entry::new(
        "c2t",
        "keeps probable candidates",
        "arXiv 2502.13652, 2603.01639",
        Make::OfClassifiers(|classifiers, trees| {
            Box::new(C2t::new(&classifiers.c2t, size(classifiers.origin().size, trees)))
        }),
    ),
    Entry::new(
        "specdec-pp",
        "stops where a rejection is probable",
        "arXiv 2405.19715",
        Make::OfClassifiers(|classifiers, trees| {
            Box::new(SpecDec::new(&classifiers.spec_dec, size(classifiers.origin().size, trees)))
        }),
    ),
    Entry::new(
        "hvd",
        "copies where enough is expected to be accepted",
        "arXiv 2606.01019",
        Make::OfClassifiers(|classifiers, trees| Box::new(Hvd::new(&classifiers.hvd, between(trees)))),
    ),
];

/// A contender by its name; none if there is no such name, or what it needs is not given.
///
/// # Panics
/// As [`Entry::controller`].
pub fn controller(name: &str, given: &Given) -> Option<Box<dyn Controller>> {
    Entry::find(name)?.controller(given)
}
