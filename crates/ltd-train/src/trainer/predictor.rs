//! The stage of the factored policy.

use std::time::Instant;

use ltd_policy::{
    Factored, FactoredSource, FactoredSourceEntry, ObservationLayout, PolicyEntry, PolicyKind, TOKENS_FILE,
    write_atomically, write_json,
};

use super::Trainer;
use crate::Result;
use crate::metrics::predictor_record;
use crate::predictor::{Epoch, Fitted, fit, size_tables};
use crate::run::StageFolder;
use ltd_run::config::{PredictorStage, Stage};

impl Trainer {
    /// Fits the predictor, finds the rule, and describes the factored policy. A stage that is
    /// interrupted begins anew: it takes a minute.
    pub(super) fn fit_predictor(
        &mut self,
        stage: &Stage,
        predictor: &PredictorStage,
        folder: &StageFolder,
    ) -> Result<()> {
        let recorded = self.recorded.as_ref().expect("invariant: the configuration was checked");
        let layout = self.predictor_layout(predictor);
        let tables = size_tables(&self.config.size.sizes, recorded.constants(), predictor);
        let chains = predictor.source.then(|| self.sources());
        let fits = tables.len() + usize::from(chains.is_some());
        let planned = fits * predictor.epochs;
        self.curves.begin_stage(&stage.name, folder.path())?;
        let mut task = self.progress.task(&stage.name, planned);
        let (started, mut written, mut epochs, mut seen) = (Instant::now(), Ok(()), 0, 0);
        let mut observer = |epoch: &Epoch, samples: usize| {
            (epochs, seen) = (epochs + 1, seen + samples);
            let record = predictor_record(&stage.name, epoch, seen, started.elapsed());
            written = self.curves.write(record);
            let by_time =
                stage.max_time.map_or(0.0, |limit| started.elapsed().as_secs_f64() / limit.as_secs_f64());
            let by_epochs = epochs as f64 / planned as f64;
            let explained = 100.0 * epoch.explained_variance;
            let message = format!("{explained:.1} % explained on the held-out recordings");
            task.update(epochs, by_epochs.max(by_time).min(1.0), &message);
            written.is_ok() && by_time < 1.0
        };
        let depth = self.config.depth.actions;
        let (seed, interrupt) = (self.config.seed, &self.interrupt);
        let fitted = fit(
            recorded,
            &layout,
            depth,
            &tables,
            chains.as_ref(),
            predictor,
            seed,
            interrupt,
            &mut observer,
        );
        written?;
        let Fitted { predictor: trained, rule, source, measured } = fitted?;
        let copies = match &source {
            Some(FactoredSource { predictor, margin, merged_margin, .. }) => {
                let merges = predictor.actions().source.merged.is_some();
                let merged = if merges { format!(", merges by {merged_margin:.2}") } else { String::new() };
                format!("copies by a margin of {margin:.2}{merged}")
            }
            None => "no copies".to_owned(),
        };
        task.finish(&format!(
            "{:.1} tokens/s on the held-out recordings, lambda {:.1}, margin {:.2}, sizes up to {}, {copies}",
            measured.total().tokens_per_second(),
            rule.tokens_per_second,
            rule.margin,
            trained.actions().size.largest()
        ));

        let table_sha256 = recorded.table_sha256.clone();
        let latency = recorded.table.clone();
        let entry = save(&Factored { predictor: trained, latency, rule, source }, folder)?;
        let manifest = self.manifest(entry, &stage.name, &measured, Some(table_sha256));
        write_json(&folder.manifest(), &manifest)?;
        // A place of its own on the axis of the run's curves.
        self.finish_stage(1, &measured)
    }

    /// What the predictor sees: it decides both, so neither kind's name is right; the depth's
    /// stands for both.
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
    let source = match &factored.source {
        None => None,
        Some(FactoredSource { predictor, margin, merged_margin, caution, tokens }) => {
            let file = "factored-source.safetensors".to_owned();
            write_atomically(&folder.path().join(&file), &predictor.to_bytes())?;
            if let Some(tokens) = tokens {
                write_atomically(&folder.path().join(TOKENS_FILE), tokens.to_json().as_bytes())?;
            }
            let (layout, outcomes) = (predictor.layout().clone(), predictor.actions().clone());
            Some(FactoredSourceEntry {
                file,
                layout,
                outcomes,
                margin: *margin,
                merged_margin: *merged_margin,
                caution: *caution,
                tokens: tokens.as_ref().map(|_| TOKENS_FILE.to_owned()),
            })
        }
    };
    Ok(PolicyEntry::Factored {
        file,
        layout: factored.predictor.layout().clone(),
        actions: factored.predictor.actions().clone(),
        latency_table,
        tokens_per_second: factored.rule.tokens_per_second,
        margin: factored.rule.margin,
        source,
    })
}
