//! After all stages: which pair is fastest, which constant is its strongest opponent, and how all compare.

use std::time::Instant;

use ltd_policy::write_atomically;
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::pair::Pair;
use super::validate::fastest;
use crate::config::StaticSetting;
use crate::evaluate::{Comparison, Contender, GridPoint, Measurement, Summary};
use crate::metrics::{tags, validation_record};
use crate::{Error, Result};

/// The outcome of the selection: `selected.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Selected {
    /// The stage whose pair is fastest on the validation prompts.
    stage: String,
    /// Throughput of each stage's pair there.
    tokens_per_second: Vec<(String, f64)>,
}

/// Constants that stay in the search until all validation prompts were decoded.
const FINALISTS: usize = 3;

impl Trainer {
    /// The final comparison, as Markdown; nothing if it was interrupted. A run that has one is not measured again.
    pub(super) fn compare(&mut self) -> Result<Option<String>> {
        let path = self.run.summary_md();
        if path.is_file() {
            return std::fs::read_to_string(&path).map(Some).map_err(|source| Error::Io { path, source });
        }
        let Some((stage, pair)) = self.select_pair()? else { return Ok(None) };
        let Some((best_constant, grid)) = self.search_grid()? else { return Ok(None) };
        let mut contenders = [
            Contender::autoregressive(),
            Contender::constant("eagle-default", self.config.evaluation.default),
            Contender::constant("best-constant", best_constant),
            Contender::new("policy", pair.controller()),
        ];
        let minutes = self.config.evaluation.max_minutes;
        let measured =
            self.arena().measure("comparison", &mut contenders, &self.prompts.evaluation, minutes)?;
        let Some(measured) = measured else { return Ok(None) };
        let summary = self.summary(stage, best_constant, grid, &measured);
        let json = serde_json::to_string_pretty(&summary).expect("invariant: plain data") + "\n";
        let text = summary.to_markdown();
        self.write_final_curves(&summary)?;
        write_atomically(&self.run.summary_json(), json.as_bytes())?;
        write_atomically(&path, text.as_bytes())?;
        Ok(Some(text))
    }

    fn summary(
        &self,
        stage: String,
        best_constant: StaticSetting,
        grid: Vec<GridPoint>,
        measured: &[Measurement],
    ) -> Summary {
        let baseline = measured[0].total().tokens_per_second();
        let policy = &measured[3];
        Summary {
            run: self.run.path().display().to_string(),
            command: self.provenance.command.clone(),
            device: self.provenance.device_text(),
            dtype: self.engine.dtype().chosen.to_string(),
            sampling: self.config.sampling,
            prompts: measured[0].prompts.len(),
            stage,
            depth_is_constant: policy.depths.len() <= 1,
            size_is_constant: policy.sizes.len() <= 1,
            best_constant,
            speedup_vs_static: policy.total().tokens_per_second() / measured[2].total().tokens_per_second(),
            contenders: measured.iter().map(|measurement| Comparison::new(measurement, baseline)).collect(),
            grid,
        }
    }

    /// The stage whose pair is fastest on the validation prompts, all of them measured side by side.
    fn select_pair(&self) -> Result<Option<(String, Pair)>> {
        let mut pairs: Vec<(String, Pair)> = Vec::new();
        for stage in &self.plan {
            let pair = Pair::load(&self.run.stage(stage))?;
            // A stage that kept the policy it began with adds no contender.
            if pairs.iter().all(|(_, known)| *known != pair) {
                pairs.push((stage.name.clone(), pair));
            }
        }
        let mut rates = Vec::new();
        let mut best = 0;
        if pairs.len() > 1 {
            let mut contenders: Vec<Contender> =
                pairs.iter().map(|(name, pair)| Contender::new(name, pair.controller())).collect();
            let minutes = self.config.evaluation.validation_max_minutes;
            let measured =
                self.arena().measure("selection", &mut contenders, &self.prompts.validation, minutes)?;
            let Some(measured) = measured else { return Ok(None) };
            best = fastest(&measured);
            rates = measured.iter().map(|m| (m.name.clone(), m.total().tokens_per_second())).collect();
        }
        let (stage, pair) = pairs.swap_remove(best);
        self.progress.say(&format!("selection  kept the policies of stage {stage}"));
        let selected = Selected { stage: stage.clone(), tokens_per_second: rates };
        let json = serde_json::to_string_pretty(&selected).expect("invariant: plain data") + "\n";
        write_atomically(&self.run.selected(), json.as_bytes())?;
        Ok(Some((stage, pair)))
    }

    /// The fastest constant of the grid, by successive halving: all settings decode the first validation prompts,
    /// the better half decodes further ones, until a few are left that decode all.
    fn search_grid(&self) -> Result<Option<(StaticSetting, Vec<GridPoint>)>> {
        let settings = self.config.evaluation.grid.settings(self.engine.beam_width());
        let limit = self.config.evaluation.validation_max_minutes;
        let start = Instant::now();
        let mut field: Vec<(StaticSetting, Measurement)> =
            settings.into_iter().map(|setting| (setting, Measurement::default())).collect();
        let mut eliminated: Vec<(StaticSetting, Measurement)> = Vec::new();
        let mut prompts = &self.prompts.validation[..];
        while !prompts.is_empty() {
            let last_round = field.len() <= FINALISTS;
            let (now, later) = if last_round { (prompts, &[][..]) } else { prompts.split_at(1) };
            let mut contenders: Vec<Contender> = field
                .iter()
                .map(|(setting, _)| {
                    Contender::constant(format!("depth {}, size {}", setting.depth, setting.size), *setting)
                })
                .collect();
            let rest = limit.map(|minutes| (minutes - start.elapsed().as_secs_f64() / 60.0).max(0.0));
            let Some(measured) = self.arena().measure("constants", &mut contenders, now, rest)? else {
                return Ok(None);
            };
            for ((_, sum), more) in field.iter_mut().zip(measured) {
                sum.prompts.extend(more.prompts);
            }
            field.sort_by(|(_, a), (_, b)| {
                b.total().tokens_per_second().total_cmp(&a.total().tokens_per_second())
            });
            if !last_round {
                let survivors = field.len().div_ceil(2).max(FINALISTS).min(field.len());
                let mut out = field.split_off(survivors);
                out.append(&mut eliminated);
                eliminated = out;
            }
            prompts = later;
        }
        let best = field[0].0;
        self.progress.say(&format!("constants  fastest is depth {}, size {}", best.depth, best.size));
        let points = field.iter().chain(&eliminated).map(|(setting, measured)| GridPoint {
            depth: setting.depth,
            size: setting.size,
            tokens_per_second: measured.total().tokens_per_second(),
        });
        Ok(Some((best, points.collect())))
    }

    fn write_final_curves(&mut self, summary: &Summary) -> Result<()> {
        let policy = &summary.contenders[3];
        self.curves.write(&validation_record(
            self.checkpoint.finished_timesteps,
            &[
                (tags::EVAL_SPEEDUP, policy.speedup),
                (tags::EVAL_SPEEDUP_VS_STATIC, summary.speedup_vs_static),
            ],
        ))
    }
}
