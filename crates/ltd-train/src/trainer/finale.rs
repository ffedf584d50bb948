//! After all stages: which policy is fastest, which fixed setting is its strongest opponent, and
//! how all compare.

use std::rc::Rc;
use std::time::Instant;

use ltd_env::oracle::Constant;
use ltd_policy::{CopyRule, write_atomically, write_json};

use super::Trainer;
use super::selection::{BEST_CONSTANT, COPY_RULE, Opponents, Selection};
use crate::evaluate::{
    Comparison, Contender, EAGLE_CONSTANT, FixedSetting, GridPoint, Measurement, Opposition, Summary,
};
use crate::metrics::{tags, validation_record};
use crate::recorded::Recorded;
use crate::{Error, Result};
use ltd_run::config::{Minutes, StaticSetting};

/// Constants of replay that are measured live: where costs are known, few can be the fastest.
const REPLAY_FINALISTS: usize = 6;
/// Rules of copies of replay that are measured live beside them.
const RULE_FINALISTS: usize = 4;
/// Without recordings, matches and chains of the rules that are tried with the best constant.
const RULES: ([usize; 5], [usize; 3]) = ([1, 2, 3, 4, 6], [4, 8, 16]);
/// Constants that stay in the search until all validation prompts were decoded.
const FINALISTS: usize = 3;

impl Trainer {
    /// The final comparison, as Markdown. A run that has one is not measured again.
    pub(super) fn compare(&mut self) -> Result<String> {
        let path = self.run.summary_md();
        let is_there = || Ok::<_, Error>(path.is_file());
        if self.group.from_first("whether the comparison is over", is_there)? {
            return std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source });
        }
        let (opponents, grid) = self.opponents()?;
        let selection = self.select(&opponents)?;
        let mut contenders = vec![
            Contender::autoregressive(),
            Contender::whole_beam("eagle-default", self.config.evaluation.default),
        ];
        if let Some(recorded) = &self.recorded {
            let Constant { depth, size, .. } = recorded.best_whole_beam(&self.interrupt)?;
            contenders.push(Contender::whole_beam(EAGLE_CONSTANT, StaticSetting { depth, size }));
        }
        contenders.push(Contender::fixed(BEST_CONSTANT, opponents.constant));
        contenders.push(Contender::fixed(COPY_RULE, opponents.rule));
        let candidates = selection.candidates.iter();
        contenders
            .extend(candidates.map(|candidate| Contender::new(candidate.kind(), candidate.controller())));
        let limit = self.config.evaluation.max_minutes.map(Minutes::duration);
        let measured =
            self.arena().measure("comparison", &mut contenders, &self.prompts.evaluation, limit)?;
        let group = Rc::clone(&self.group);
        let text = group.from_first("the comparison", || {
            let summary = self.summary(selection, opponents, grid, &measured);
            let text = summary.to_markdown();
            self.write_final_curves(&summary)?;
            write_json(&self.run.summary_json(), &summary)?;
            write_atomically(&path, text.as_bytes())?;
            Ok::<_, Error>(text)
        })?;
        // The store is there until everybody has read this.
        group.barrier("the end of the run")?;
        Ok(text)
    }

    fn summary(
        &self,
        selection: Selection,
        opponents: Opponents,
        grid: Vec<GridPoint>,
        measured: &[Measurement],
    ) -> Summary {
        let named = |name: &str| {
            let place = measured.iter().position(|measurement| measurement.name == name);
            place.expect("invariant: all of these were measured")
        };
        let [constant, rule] = [BEST_CONSTANT, COPY_RULE].map(|name| &measured[named(name)]);
        let opposition = Opposition { plain: &measured[0], constant, rule: Some(rule) };
        let contenders: Vec<Comparison> =
            measured.iter().map(|measurement| Comparison::new(measurement, opposition)).collect();
        let chosen = &selection.candidates[selection.fastest];
        let ships = if selection.fallback.is_some() { opponents.strongest().0 } else { chosen.kind() };
        let shipped = &contenders[named(ships)];
        let (speedup_vs_static, speedup_vs_copies) =
            (shipped.gains.speedup_vs_static, shipped.gains.speedup_vs_copies);
        Summary {
            run: self.run.path().display().to_string(),
            command: self.provenance.command.clone(),
            device: self.provenance.device_text(),
            dtype: self.engine.dtype().chosen.to_string(),
            sampling: self.config.sampling,
            prompts: measured[0].prompts.len(),
            stage: chosen.described(),
            ships: ships.to_owned(),
            fallback: selection.fallback,
            best_constant: opponents.constant,
            copy_rule: opponents.rule,
            speedup_vs_static,
            speedup_vs_copies,
            loop_share: measured[0].loop_share(),
            contenders,
            predictions: selection.predictions,
            grid,
        }
    }

    /// The fastest constant and the fastest rule of copies: of the configured grid, or with
    /// recordings of those that are fastest in replay. All that were tried, fastest first.
    fn opponents(&self) -> Result<(Opponents, Vec<GridPoint>)> {
        let grid = match &self.recorded {
            Some(recorded) => self.search_replayed(recorded)?,
            None => self.search_grid()?,
        };
        let first = |copies: bool| grid.iter().find(|point| point.setting.copies.is_some() == copies);
        let both = "invariant: constants and rules were measured";
        let opponents = Opponents {
            constant: first(false).expect(both).setting,
            rule: first(true).expect(both).setting,
            rule_is_stronger: grid[0].setting.copies.is_some(),
        };
        let Opponents { constant, rule, .. } = opponents;
        self.progress.say(&format!("constants  fastest is {constant}; with copies {rule}"));
        Ok((opponents, grid))
    }

    /// The constants and rules that are fastest in replay, by what replay says of them at the times
    /// that their cycles take on the validation prompts: recordings hold more text than can be
    /// decoded here, live cycles tell the costs.
    fn search_replayed(&self, recorded: &Recorded) -> Result<Vec<GridPoint>> {
        let constants = recorded.constants().iter().take(REPLAY_FINALISTS);
        let constants =
            constants.map(|constant| (FixedSetting::from(*constant), constant.tokens_per_second()));
        let rules = recorded.rules().iter().take(RULE_FINALISTS);
        let rules = rules.map(|rule| (FixedSetting::from(*rule), rule.constant.tokens_per_second()));
        let settings: Vec<(FixedSetting, f64)> = constants.chain(rules).collect();
        let mut contenders: Vec<Contender> =
            settings.iter().map(|(setting, _)| contender(*setting)).collect();
        let limit = self.config.evaluation.validation_max_minutes.map(Minutes::duration);
        let prompts = &self.prompts.validation;
        let measured = self.arena().measure("constants", &mut contenders, prompts, limit)?;
        let mut grid: Vec<(f64, GridPoint)> = Vec::new();
        for ((setting, replayed), measured) in settings.into_iter().zip(&measured) {
            let at_live_times = replayed / measured.slowdown();
            let tokens_per_second = measured.total().tokens_per_second();
            let point = GridPoint { setting, tokens_per_second, at_live_times: Some(at_live_times) };
            grid.push((at_live_times, point));
        }
        grid.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        Ok(grid.into_iter().map(|(_, point)| point).collect())
    }

    /// The configured grid, then rules of copies with the best constant's trees.
    fn search_grid(&self) -> Result<Vec<GridPoint>> {
        let settings = self.config.evaluation.grid.settings(self.engine.beam_width());
        let constants = self.halve("constants", settings.into_iter().map(FixedSetting::from).collect())?;
        let trees = constants[0].setting;
        let (matches, chains) = RULES;
        let rules = matches
            .into_iter()
            .flat_map(|match_length| chains.into_iter().map(move |chain| CopyRule { match_length, chain }));
        let rules = rules.map(|rule| FixedSetting { copies: Some(rule), ..trees });
        let rules = self.halve("copy rules", rules.collect())?;
        // Side by side: both were measured at other times, and those behind them on fewer prompts.
        let finalists = vec![trees, rules[0].setting];
        let mut points = self.halve("constant and copy rule", finalists)?;
        points.extend(constants.into_iter().skip(1).chain(rules.into_iter().skip(1)));
        Ok(points)
    }

    /// Settings by successive halving: all decode the first validation prompts, the better half
    /// decodes further ones, until a few are left that decode all.
    fn halve(&self, name: &str, settings: Vec<FixedSetting>) -> Result<Vec<GridPoint>> {
        let limit = self.config.evaluation.validation_max_minutes.map(Minutes::duration);
        let start = Instant::now();
        let mut field: Vec<(FixedSetting, Measurement)> =
            settings.into_iter().map(|setting| (setting, Measurement::default())).collect();
        let mut eliminated: Vec<(FixedSetting, Measurement)> = Vec::new();
        let mut prompts = &self.prompts.validation[..];
        while !prompts.is_empty() {
            let last_round = field.len() <= FINALISTS;
            let (now, later) = if last_round { (prompts, &[][..]) } else { prompts.split_at(1) };
            let mut contenders: Vec<Contender> =
                field.iter().map(|(setting, _)| contender(*setting)).collect();
            let rest = limit.map(|limit| limit.saturating_sub(start.elapsed()));
            let measured = match self.arena().measure(name, &mut contenders, now, rest) {
                // An answer without a token tells nothing of any setting: the next prompt may.
                Err(Error::NothingMeasured { .. }) if !later.is_empty() => {
                    prompts = later;
                    continue;
                }
                measured => measured?,
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
        let points = field.iter().chain(&eliminated).map(|(setting, measured)| GridPoint {
            setting: *setting,
            tokens_per_second: measured.total().tokens_per_second(),
            at_live_times: None,
        });
        Ok(points.collect())
    }

    fn write_final_curves(&mut self, summary: &Summary) -> Result<()> {
        let shipped = summary.contenders.iter().find(|row| row.name == summary.ships);
        let speedup = shipped.map_or(f64::NAN, |row| row.gains.speedup);
        self.curves.write(validation_record(
            self.checkpoint.finished_timesteps,
            &[(tags::EVAL_SPEEDUP, speedup), (tags::EVAL_SPEEDUP_VS_STATIC, summary.speedup_vs_static)],
        ))
    }
}

fn contender(setting: FixedSetting) -> Contender {
    Contender::fixed(setting.to_string(), setting)
}
