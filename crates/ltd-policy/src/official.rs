//! The code published with the paper (arXiv 2603.01639, github.com/zhzihao/Learning-to-Draft): what
//! it fixes, and what of a policy it can run.
//!
//! It shows its policies something else when it decodes than when it trains them. A package with
//! `compat = "official"` does what it does when it decodes, where its policies were measured.
//!
//! ```
//! use ltd_policy::action::DepthRule;
//! use ltd_policy::official;
//!
//! let actions = official::depth_actions();
//! let asks = |&depth: &usize| actions.rule_at(depth) == DepthRule::Ask;
//! let asked: Vec<usize> = (0..=12).filter(asks).collect();
//! assert_eq!(asked, [3, 6, 9]);
//! assert_eq!(official::size_actions().sizes[..3], [10, 20, 30]);
//! ```

use crate::action::{DepthActions, DepthRule, PolicyKind, SizeActions};
use crate::network::Actions;
use crate::observation::ObservationLayout;

/// Candidates kept per level.
pub const BEAM_WIDTH: usize = 10;
/// Draft forwards at which drafting always ends.
pub const DEPTH_CAP: usize = 12;

/// When it asks a depth policy: after every third level, and not after the last.
pub fn depth_actions() -> DepthActions {
    DepthActions { min_depth: 3, max_depth: DEPTH_CAP, decide_every: 3 }
}

/// What its size policies choose among: action `a` is `(a + 1) * 10`.
pub fn size_actions() -> SizeActions {
    SizeActions { sizes: (1..=24).map(|tens| tens * 10).collect() }
}

/// What it shows a policy of a kind and lets it choose among, if it has such policies.
pub fn of_kind(kind: PolicyKind) -> Option<(ObservationLayout, Actions)> {
    match kind {
        PolicyKind::Depth => Some((ObservationLayout::official_depth(), Actions::Depth(depth_actions()))),
        PolicyKind::Size => Some((ObservationLayout::official_size(), Actions::Size(size_actions()))),
        PolicyKind::Source => None,
    }
}

/// Why the published code cannot run a policy with this layout and table as it was trained, if it
/// cannot.
pub fn why_not(layout: &ObservationLayout, actions: &Actions) -> Option<String> {
    let kind = actions.kind();
    let own = of_kind(kind).map(|(layout, _)| layout);
    let reference = ObservationLayout::named("reference", kind, BEAM_WIDTH, DEPTH_CAP);
    let (Some(own), Some(reference)) = (own, reference) else {
        return Some(format!("the published code has no {kind} policy"));
    };
    if *layout != reference && *layout != own {
        let ObservationLayout { name, beam_width, depth_cap, .. } = layout;
        return Some(format!(
            "the layout is `{name}` ({} numbers, beam width {beam_width}, depth {depth_cap}), expected `{}` ({} \
             numbers, beam width {BEAM_WIDTH}, depth {DEPTH_CAP})",
            layout.len(),
            reference.name,
            reference.len()
        ));
    }
    match actions {
        Actions::Depth(actions) => {
            let asks = |depth| depth_actions().rule_at(depth) == DepthRule::Ask;
            let never_asked =
                (0..DEPTH_CAP).find(|&depth| asks(depth) && actions.rule_at(depth) != DepthRule::Ask);
            if actions.max_depth != DEPTH_CAP {
                return Some(format!("max_depth is {}, expected {DEPTH_CAP}", actions.max_depth));
            }
            never_asked.map(|depth| {
                format!(
                    "the policy was never asked at depth {depth}, where the published code asks (min_depth is {}, \
                     decide_every is {})",
                    actions.min_depth, actions.decide_every
                )
            })
        }
        Actions::Size(actions) => (*actions != size_actions()).then(|| {
            format!("the sizes are {:?}, expected 10, 20, ... 240, one for each action", actions.sizes)
        }),
        Actions::Source(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(min_depth: usize, max_depth: usize, decide_every: usize) -> Actions {
        Actions::Depth(DepthActions { min_depth, max_depth, decide_every })
    }

    #[test]
    fn it_runs_policies_of_its_layouts_and_tables() {
        let reference = ObservationLayout::reference_depth(BEAM_WIDTH, DEPTH_CAP);
        for actions in [depth(3, 12, 3), depth(0, 12, 1), depth(1, 12, 1), depth(0, 12, 3)] {
            for layout in [reference.clone(), ObservationLayout::official_depth()] {
                assert_eq!(why_not(&layout, &actions), None);
            }
        }
        let size = Actions::Size(size_actions());
        for layout in
            [ObservationLayout::reference_size(BEAM_WIDTH, DEPTH_CAP), ObservationLayout::official_size()]
        {
            assert_eq!(why_not(&layout, &size), None);
        }
    }

    #[test]
    fn what_it_cannot_run_is_said() {
        let reference = ObservationLayout::reference_depth;
        let twelve = Actions::Size(SizeActions { sizes: (1..=12).map(|size| size * 20).collect() });
        for (layout, actions, problem) in [
            (
                reference(8, 12),
                depth(0, 12, 1),
                "the layout is `reference-depth` (92 numbers, beam width 8, depth 12), expected",
            ),
            (reference(10, 11), depth(0, 11, 1), "beam width 10, depth 11), expected"),
            (reference(10, 12), depth(0, 11, 1), "max_depth is 11, expected 12"),
            (reference(10, 12), depth(0, 12, 2), "never asked at depth 3, where"),
            (reference(10, 12), depth(4, 12, 1), "never asked at depth 3, where"),
            (
                ObservationLayout::reference_size(10, 12),
                twelve,
                "the sizes are [20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240], expected 10, 20",
            ),
            (
                ObservationLayout::sequence(10, 12),
                Actions::Source(crate::SourceActions { chains: vec![2], merged: None }),
                "the published code has no source policy",
            ),
        ] {
            let found = why_not(&layout, &actions).expect("a problem");
            assert!(found.contains(problem), "{found}");
        }
    }
}
