//! A factored policy at the costs of another machine.

use ltd_engine::Learned;
use ltd_policy::{DepthActions, Factored, FactoredPolicy, ObservationLayout, SizeActions};
use ltd_run::Interrupt;

use crate::Result;
use crate::evaluate::Contender;
use crate::predictor::{Fitted, fit, settle, size_tables};
use crate::recorded::Recorded;
use ltd_run::Progress;
use ltd_run::config::PredictorStage;

/// The same predictor with the other table, or one that learned the trace again for other sizes,
/// whichever is faster on the held-out recordings: where candidates cost another share of a cycle,
/// another largest size is worth it.
pub(super) fn refit(
    factored: &Factored,
    recorded: &Recorded,
    seed: u64,
    progress: Progress,
) -> Result<Factored> {
    let predictor = &factored.predictor;
    let start = recorded.constants()[0].tokens_per_second();
    let rule = settle(predictor, &recorded.table, &recorded.train, start, &Interrupt::default())?;
    let kept = Learned::from(FactoredPolicy::new(predictor, &recorded.table, rule));
    let kept = recorded.measure(&mut [Contender::new("kept", Box::new(kept))]).remove(0);

    let stage = PredictorStage { net_arch: predictor.mlp().hidden_widths(), ..PredictorStage::default() };
    let learned = learn(recorded, predictor.layout(), predictor.actions().depth, &stage, seed, progress)?;
    let rates = [&kept, &learned.measured].map(|measured| measured.total().tokens_per_second());
    let (predictor, rule, what) = if rates[1] > rates[0] {
        let what = format!("that learned again, sizes up to {}", learned.predictor.actions().size.largest());
        (learned.predictor, learned.rule, what)
    } else {
        (predictor.clone(), rule, "as it was, with the new costs".to_owned())
    };
    progress.say(&format!("the predictor {what}"));
    Ok(Factored { predictor, latency: recorded.table.clone(), rule })
}

/// A factored policy of the recordings, which chooses among the sizes that the table has costs for.
pub(super) fn learn(
    recorded: &Recorded,
    layout: &ObservationLayout,
    depth: DepthActions,
    stage: &PredictorStage,
    seed: u64,
    progress: Progress,
) -> Result<Fitted> {
    let sizes = SizeActions { sizes: recorded.choices().sizes };
    let tables = size_tables(&sizes, recorded.constants(), stage);
    let planned = tables.len() * stage.epochs;
    let (mut task, mut epochs) = (progress.task("predictor", planned), 0);
    let mut observer = |_: &_, _| {
        epochs += 1;
        task.update(epochs, epochs as f64 / planned as f64, "epochs");
        true
    };
    let interrupt = Interrupt::default();
    let fitted = fit(recorded, layout, depth, &tables, stage, seed, &interrupt, &mut observer)?;
    task.finish(&format!("sizes up to {}", fitted.predictor.actions().size.largest()));
    Ok(fitted)
}
