//! A factored policy at the costs of another machine.

use ltd_engine::Learned;
use ltd_policy::{DepthActions, Factored, FactoredPolicy, ObservationLayout, SizeActions, SourceActions};
use ltd_run::Interrupt;

use crate::Result;
use crate::evaluate::Contender;
use crate::predictor::{Fitted, Records, fit, settle, settle_source, size_tables};
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
    let (table, train, interrupt) = (&recorded.table, &recorded.train, &Interrupt::default());
    let rule = settle(predictor, table, train, start, interrupt)?;
    let (rule, source) = match &factored.source {
        None => (rule, None),
        Some(source) => {
            let records = source.tokens.as_ref().map(|tokens| Records::known(tokens.clone(), train));
            let (rule, source) =
                settle_source(predictor, &source.predictor, records.as_ref(), rule, table, train, interrupt)?;
            (rule, Some(source))
        }
    };
    let kept = Factored { predictor: predictor.clone(), latency: table.clone(), rule, source };
    let controller = Box::new(Learned::from(FactoredPolicy::of(&kept)));
    let measured = recorded.measure(&mut [Contender::new("kept", controller)])?.remove(0);

    let stage = PredictorStage { net_arch: predictor.mlp().hidden_widths(), ..PredictorStage::default() };
    let chains = factored.source.as_ref().map(|source| {
        let mut chains = source.predictor.actions().source.clone();
        if let (Some(merged), Some(calibration)) = (&mut chains.merged, &recorded.calibration) {
            merged.calibration = calibration.clone();
        }
        chains
    });
    let depth = predictor.actions().depth;
    let learned = learn(recorded, predictor.layout(), depth, chains.as_ref(), &stage, seed, progress)?;
    let rates = [&measured, &learned.measured].map(|measured| measured.total().tokens_per_second());
    // What it decided, it goes on deciding.
    let decides_less = kept.source.is_some() && learned.source.is_none();
    if decides_less || rates[1] <= rates[0] {
        progress.say("the predictor as it was, with the new costs");
        return Ok(kept);
    }
    let largest = learned.predictor.actions().size.largest();
    progress.say(&format!("the predictor that learned again, sizes up to {largest}"));
    let Fitted { predictor, rule, source, .. } = learned;
    Ok(Factored { predictor, latency: table.clone(), rule, source })
}

/// A factored policy of the recordings, which chooses among the sizes that the table has costs for.
pub(super) fn learn(
    recorded: &Recorded,
    layout: &ObservationLayout,
    depth: DepthActions,
    chains: Option<&SourceActions>,
    stage: &PredictorStage,
    seed: u64,
    progress: Progress,
) -> Result<Fitted> {
    let sizes = SizeActions { sizes: recorded.choices().sizes };
    let tables = size_tables(&sizes, recorded.constants(), stage);
    let planned = (tables.len() + usize::from(chains.is_some())) * stage.epochs;
    let (mut task, mut epochs) = (progress.task("predictor", planned), 0);
    let mut observer = |_: &_, _| {
        epochs += 1;
        task.update(epochs, epochs as f64 / planned as f64, "epochs");
        true
    };
    let interrupt = Interrupt::default();
    let fitted = fit(recorded, layout, depth, &tables, chains, stage, seed, &interrupt, &mut observer)?;
    task.finish(&format!("sizes up to {}", fitted.predictor.actions().size.largest()));
    Ok(fitted)
}
