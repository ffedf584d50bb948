//! `SpecDec++`.

use ltd_cycle::{Controller, Glimpse, Looks, MAX_DEPTH};
use ltd_policy::{CycleSummary, Linear, Mlp, Scratch};

/// `SpecDec++` (arXiv 2405.19715): a head on the draft's last hidden state says how probable each
/// drafted token is to be accepted if those before it are. Drafting ends where the probability that
/// one of them is not exceeds a threshold.
///
/// As in its code, a token is judged from the draft's output after it, which the forward of the
/// next token makes: the newest token is not judged yet, and the first decision is the second
/// token's.
///
/// It is for chains. Read so on trees: the tokens are the best candidates of the levels, by their
/// paths' probability. A chain of 20 tokens at most becomes the engine's most levels.
#[derive(Debug, Clone)]
pub struct SpecDec {
    head: AcceptanceHead,
    working: Working,
    /// Probability of a rejection from which on it stops.
    pub threshold: f64,
    /// Least levels, the root expansion's included.
    pub least: usize,
    /// Most levels, the root expansion's included.
    pub most: usize,
    /// Candidates to verify.
    pub size: usize,
    /// Probability that all tokens judged so far are accepted.
    accepted: f64,
}

/// The head: residual layers with `SiLU`, `x + silu(W x + b)`, and a linear one whose output is the
/// log-odds of acceptance. As in the published code, which repeats one layer object, all residual
/// layers are the same one.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptanceHead {
    layer: Mlp,
    output: Mlp,
}

#[derive(Debug, Clone)]
struct Working {
    state: Vec<f32>,
    layer: Scratch,
    output: Scratch,
}

impl AcceptanceHead {
    /// Residual layers.
    pub const LAYERS: usize = 3;
    /// Weight of a token that is rejected in the loss; that of one that is accepted is 1.
    pub const MISMATCH_WEIGHT: f64 = 6.0;

    /// A head of the residual layer, `[hidden, hidden]`, and the last one, `[1, hidden]`; none if
    /// these are not their shapes.
    pub fn new(layer: &Linear, output: &Linear) -> Option<Self> {
        let hidden = layer.inputs;
        let fits = (layer.outputs(), output.inputs, output.outputs()) == (hidden, hidden, 1);
        fits.then(|| Self {
            layer: Mlp::new(std::slice::from_ref(layer)),
            output: Mlp::new(std::slice::from_ref(output)),
        })
    }

    /// Width of the states.
    pub fn hidden(&self) -> usize {
        self.layer.inputs()
    }

    /// The residual layer and the last one.
    pub fn to_layers(&self) -> [Linear; 2] {
        [&self.layer, &self.output].map(|network| network.to_layers().remove(0))
    }

    fn working(&self) -> Working {
        let (layer, output) = (self.layer.scratch(), self.output.scratch());
        Working { state: Vec::with_capacity(self.hidden()), layer, output }
    }

    /// Probability that the token which has this state is accepted.
    fn probability(&self, state: &[f32], working: &mut Working) -> f64 {
        let Working { state: x, layer, output } = working;
        x.clear();
        x.extend_from_slice(state);
        for _ in 0..Self::LAYERS {
            let added = self.layer.forward(x, layer);
            x.iter_mut().zip(added).for_each(|(x, y)| *x += y / (1.0 + (-y).exp()));
        }
        let log_odds = f64::from(self.output.forward(x, output)[0]);
        1.0 / (1.0 + (-log_odds).exp())
    }
}

impl SpecDec {
    /// The rule with a head.
    pub fn new(head: &AcceptanceHead, size: usize) -> Self {
        let (head, working) = (head.clone(), head.working());
        Self { head, working, threshold: 0.3, least: 2, most: MAX_DEPTH, size, accepted: 1.0 }
    }
}

impl Controller for SpecDec {
    fn size_limit(&self) -> usize {
        self.size
    }

    fn begin_cycle(&mut self) {
        self.accepted = 1.0;
    }

    fn looks(&self) -> Looks {
        Looks::STATES
    }

    /// # Panics
    /// If the states have another width than those that the head learned from.
    fn look(&mut self, summary: &CycleSummary, glimpse: &Glimpse) {
        let state = glimpse.last_state(summary);
        if !state.is_empty() {
            self.accepted *= self.head.probability(state, &mut self.working);
        }
    }

    fn continue_drafting(&mut self, summary: &CycleSummary) -> bool {
        let levels = summary.draft_depth + 1;
        levels < self.most && (levels < self.least || 1.0 - self.accepted <= self.threshold)
    }

    fn verification_size(&mut self, _summary: &CycleSummary) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{acceptance_head, summary};

    /// Goes on after each of some levels of a chain, whose tokens' states are these numbers.
    fn decisions(states: &[f32]) -> Vec<bool> {
        let scores = [-0.1; 12];
        let mut rule = SpecDec::new(&acceptance_head(1, &[1.0], 0.0), 60);
        rule.begin_cycle();
        (0..=states.len())
            .map(|depth| {
                let summary = summary(1, depth, &scores[..=depth]);
                rule.look(&summary, &Glimpse { states: &states[..depth], ..Glimpse::default() });
                rule.continue_drafting(&summary)
            })
            .collect()
    }

    #[test]
    fn a_token_is_judged_by_what_the_layers_make_of_its_state() {
        // A layer that adds silu(0.5) = 0.311 to each number, three times, and the sum of what
        // comes of it: 1 + 2 + 6 * 0.311.
        let layer = Linear { weight: vec![0.0; 4], bias: vec![0.5; 2], inputs: 2 };
        let output = Linear { weight: vec![1.0, 1.0], bias: vec![-4.0], inputs: 2 };
        let head = AcceptanceHead::new(&layer, &output).expect("a head");
        let silu = 0.5 / (1.0 + (-0.5f64).exp());
        let expected = 1.0 / (1.0 + (-(3.0 + 6.0 * silu - 4.0)).exp());
        assert!((head.probability(&[1.0, 2.0], &mut head.working()) - expected).abs() < 1e-6);
        assert_eq!(head.to_layers(), [layer.clone(), output.clone()]);
        // One that multiplies: 2, then 2 + silu(2), and so on.
        let doubled = Linear { weight: vec![1.0], bias: vec![0.0], inputs: 1 };
        let output = Linear { weight: vec![1.0], bias: vec![0.0], inputs: 1 };
        let head = AcceptanceHead::new(&doubled, &output).expect("a head");
        let expected = (0..3).fold(0.5f64, |x, _| x + x / (1.0 + (-x).exp()));
        let expected = 1.0 / (1.0 + (-expected).exp());
        assert!((head.probability(&[0.5], &mut head.working()) - expected).abs() < 1e-6);
        assert!(AcceptanceHead::new(&layer, &output).is_none(), "widths must fit");
    }

    #[test]
    fn it_stops_where_a_rejection_is_probable() {
        // Log-odds: 0.95 and 0.8 are below a rejection of 0.3 together, and 0.9 once more is not.
        let log_odds = |probability: f32| (probability / (1.0 - probability)).ln();
        let [likely, fair, sure] = [0.95, 0.8, 0.9].map(log_odds);
        assert_eq!(decisions(&[likely, fair, sure]), [true, true, true, false]);
        // The least is two levels, and the newest token is not judged: 0.5 ends the second.
        assert_eq!(decisions(&[log_odds(0.5)]), [true, false]);
        // At the threshold it goes on.
        assert_eq!(decisions(&[log_odds(0.701)]), [true, true]);
        let endless = decisions(&[30.0; 11]);
        assert_eq!((endless.len(), endless[10], endless[11]), (12, true, false), "at most 12 levels");
        // What a cycle has drafted does not count in the next.
        let mut rule = SpecDec::new(&acceptance_head(1, &[1.0], 0.0), 60);
        let scores = [-0.1; 2];
        rule.look(&summary(1, 1, &scores), &Glimpse { states: &[-9.0], ..Glimpse::default() });
        assert!(!rule.continue_drafting(&summary(1, 1, &scores)));
        rule.begin_cycle();
        assert!(rule.continue_drafting(&summary(1, 1, &scores)));
    }
}
