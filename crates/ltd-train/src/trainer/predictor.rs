//! The stage of the factored policy.

use std::time::Instant;

use ltd_engine::Learned;
use ltd_policy::{
    Factored, FactoredActions, FactoredPolicy, ObservationLayout, PolicyEntry, PolicyKind, write_atomically,
};

use super::{Flow, Trainer};
use crate::Result;
use crate::config::PredictorStage;
use crate::evaluate::Contender;
use crate::metrics::{Metrics, predictor_record};
use crate::plan::Stage;
use crate::predictor::{Epoch, Samples, settle, train};
use crate::run::StageFolder;

impl Trainer {
    /// Fits the predictor, finds the rule, and describes the factored policy. A stage that is interrupted
    /// begins anew: it takes a minute.
    pub(super) fn fit_predictor(
        &mut self,
        stage: &Stage,
        predictor: &PredictorStage,
        folder: &StageFolder,
    ) -> Result<Flow> {
        let recorded = self.recorded.as_ref().expect("invariant: the configuration was checked");
        let layout = self.predictor_layout(predictor);
        let actions =
            FactoredActions { depth: self.config.depth.actions, size: self.config.size.sizes.clone() };
        let samples = Samples::of(&recorded.train, &layout, &actions);
        let held_out = Samples::of(&recorded.held_out, &layout, &actions);
        let mut metrics = Metrics::open(&self.run.metrics(), folder.path())?;
        let mut task = self.progress.task(&stage.name, predictor.epochs);
        let (started, mut written) = (Instant::now(), Ok(()));
        let mut observer = |epoch: &Epoch| {
            let record =
                predictor_record(&stage.name, epoch, epoch.number * samples.len(), started.elapsed());
            written = metrics.write(&record);
            let by_time =
                stage.max_time.map_or(0.0, |limit| started.elapsed().as_secs_f64() / limit.as_secs_f64());
            let by_epochs = epoch.number as f64 / predictor.epochs as f64;
            let explained = 100.0 * epoch.explained_variance;
            let message = format!("{explained:.1} % of the held-out variance explained");
            task.update(epoch.number, by_epochs.max(by_time).min(1.0), &message);
            written.is_ok() && by_time < 1.0 && !self.interrupt.requested()
        };
        let trained =
            train(&samples, &held_out, (layout, actions), predictor, self.config.seed, &mut observer);
        written?;
        if self.interrupt.requested() {
            return Ok(Flow::Interrupted);
        }
        let start = recorded.constants()[0].tokens_per_second();
        let rule = settle(&trained, &recorded.table, &recorded.train, start);
        let controller = Learned::from(FactoredPolicy::new(&trained, &recorded.table, rule));
        let measured = recorded.measure(&mut [Contender::new("factored", Box::new(controller))]).remove(0);
        task.finish(&format!(
            "{:.1} tokens/s on the held-out recordings, lambda {:.1}, margin {:.2}",
            measured.total().tokens_per_second(),
            rule.tokens_per_second,
            rule.margin
        ));

        let table_sha256 = recorded.table_sha256.clone();
        let latency = recorded.table.clone();
        let entry = save(&Factored { predictor: trained, latency, rule }, folder)?;
        let manifest = self.manifest(entry, &stage.name, &measured, Some(table_sha256));
        write_atomically(&folder.manifest(), manifest.to_json().as_bytes())?;
        self.finish_stage(0, &measured)?;
        Ok(Flow::Done)
    }

    /// What the predictor sees: it decides both, so neither kind's name is right; the depth's stands for both.
    fn predictor_layout(&self, predictor: &PredictorStage) -> ObservationLayout {
        // The reference's depth observation shows the newest level only, its size observation all.
        let kind = if predictor.layout == "reference" { PolicyKind::Size } else { PolicyKind::Depth };
        let (width, cap) = (self.engine.beam_width(), self.config.depth.actions.max_depth);
        ObservationLayout::named(&predictor.layout, kind, width, cap)
            .expect("invariant: the configuration was checked")
    }
}

/// Writes a factored policy into a stage's folder and returns its manifest entry.
fn save(factored: &Factored, folder: &StageFolder) -> Result<PolicyEntry> {
    let (file, latency_table) = ("factored.safetensors".to_owned(), "latency.json".to_owned());
    write_atomically(&folder.path().join(&file), &factored.predictor.to_bytes())?;
    factored.latency.write(&folder.path().join(&latency_table))?;
    Ok(PolicyEntry::Factored {
        file,
        layout: factored.predictor.layout().clone(),
        actions: factored.predictor.actions().clone(),
        latency_table,
        tokens_per_second: factored.rule.tokens_per_second,
        margin: factored.rule.margin,
    })
}
