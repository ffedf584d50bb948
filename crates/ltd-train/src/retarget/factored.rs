//! A factored policy at the costs of another machine.

use ltd_engine::Learned;
use ltd_policy::{Factored, FactoredPolicy, SizeActions};

use crate::config::PredictorStage;
use crate::evaluate::Contender;
use crate::predictor::{Fitted, fit, settle, size_tables};
use crate::progress::Progress;
use crate::recording::Recorded;

/// The same predictor with the other table, or one that learned the trace again for other sizes, whichever is faster on
/// the held-out recordings: where candidates cost another share of a cycle, another largest size is worth it.
pub(super) fn refit(factored: &Factored, recorded: &Recorded, seed: u64, progress: Progress) -> Factored {
    let predictor = &factored.predictor;
    let constants = recorded.constants();
    let start = constants[0].tokens_per_second();
    let rule = settle(predictor, &recorded.table, &recorded.train, start);
    let kept = Learned::from(FactoredPolicy::new(predictor, &recorded.table, rule));
    let kept = recorded.measure(&mut [Contender::new("kept", Box::new(kept))]).remove(0);

    let layers = predictor.mlp().to_layers();
    let net_arch = layers[..layers.len() - 1].iter().map(|layer| layer.bias.len()).collect();
    let stage = PredictorStage { net_arch, ..PredictorStage::default() };
    let sizes = SizeActions { sizes: recorded.choices().sizes };
    let tables = size_tables(&sizes, &constants, &stage);
    let planned = tables.len() * stage.epochs;
    let (mut task, mut epochs) = (progress.task("retarget factored", planned), 0);
    let mut observer = |_: &_, _| {
        epochs += 1;
        task.update(epochs, epochs as f64 / planned as f64, "epochs");
        true
    };
    let depth = predictor.actions().depth;
    let fitted = fit(recorded, predictor.layout(), depth, &tables, &stage, seed, &mut observer);
    let rates = [&kept, &fitted.measured].map(|measured| measured.total().tokens_per_second());
    let Fitted { predictor: learned, rule: learned_rule, .. } = fitted;
    let (predictor, rule, what) = if rates[1] > rates[0] {
        let what = format!("learned again, sizes up to {}", learned.actions().size.largest());
        (learned, learned_rule, what)
    } else {
        (predictor.clone(), rule, "with the new costs".to_owned())
    };
    task.finish(&format!("the predictor {what}"));
    Factored { predictor, latency: recorded.table.clone(), rule }
}
