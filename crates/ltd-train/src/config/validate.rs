//! Values that parse and still make no sense.

use std::ops::Range;
use std::path::Path;

use ltd_engine::text::load_questions;
use ltd_policy::ObservationLayout;

use super::{
    Backend, EvaluationConfig, PredictorStage, Problems, PromptSet, PromptSets, SizeConfig, StagesConfig,
    TrainConfig,
};
use crate::ppo::Advantage;

impl TrainConfig {
    /// All impossible values, with their paths. Model folders and question files are looked at, models not loaded.
    pub(super) fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        for (field, problem) in self.engine.problems() {
            problems.add(format!("engine.{field}"), problem);
        }
        for (field, folder) in [("target", &self.engine.target), ("draft", &self.engine.draft)] {
            if !folder.join("config.json").is_file() {
                let hint = self.about.as_deref().unwrap_or("scripts/setup makes the default target");
                let missing = if folder.is_dir() {
                    "is no model folder: it has no config.json"
                } else {
                    "is not there"
                };
                let problem = format!("`{}` {missing} ({hint})", folder.display());
                problems.add(format!("engine.{field}"), problem);
            }
        }
        self.prompts.note_problems(&mut problems);
        if self.max_new_tokens == 0 {
            problems.add("max_new_tokens", "must be at least 1");
        }
        for (field, problem) in self.sampling.problems() {
            problems.add(format!("sampling.{field}"), problem);
        }
        self.note_replay_problems(&mut problems);
        let max_depth = self.engine.max_depth;
        for (field, problem) in self.depth.actions.problems(max_depth) {
            problems.add(format!("depth.actions.{field}"), problem);
        }
        self.depth.ppo.validate("depth.ppo", &mut problems);
        for (name, layout, ppo) in
            [("depth", &self.depth.layout, &self.depth.ppo), ("size", &self.size.layout, &self.size.ppo)]
        {
            if !ObservationLayout::FAMILIES.contains(&layout.as_str()) {
                let known = ObservationLayout::FAMILIES.join("`, `");
                problems.add(format!("{name}.layout"), format!("is `{layout}`, expected one of `{known}`"));
            }
            if ppo.advantage == Advantage::Exact && self.replay.is_none() {
                problems.add(
                    format!("{name}.ppo.advantage"),
                    "exact needs replay: outcomes of live cycles are not known in advance",
                );
            }
        }
        self.size.note_problems(self.largest_tree(), &mut problems);
        self.stages.note_problems(max_depth, &mut problems);
        self.evaluation.note_problems(max_depth, &mut problems);
        problems
    }

    fn note_replay_problems(&self, problems: &mut Problems) {
        if let Some(replay) = &self.replay {
            if !self.sampling.is_greedy() {
                problems.add("replay", "needs greedy decoding: set sampling.temperature to 0");
            }
            let share = replay.held_out;
            if !(share > 0.0 && share < 1.0) {
                problems.add("replay.held_out", format!("is {share}, must be above 0 and below 1"));
            }
            note_minutes("replay.max_minutes", replay.max_minutes, problems);
            return;
        }
        if self.stages.predictor.is_some() {
            problems.add("stages.predictor", "learns from recorded trees: set replay, or null");
        }
        for (index, stage) in self.stages.round.iter().enumerate() {
            if stage.backend == Some(Backend::Replay) {
                problems.add(format!("stages.round[{index}].backend"), "is replay, but replay is null");
            }
        }
    }

    /// Candidates of the deepest tree.
    fn largest_tree(&self) -> usize {
        let width = self.engine.beam_width;
        width + self.engine.max_depth * width * width
    }
}

impl PromptSets {
    fn note_problems(&self, problems: &mut Problems) {
        let sets =
            [("train", &self.train), ("validation", &self.validation), ("evaluation", &self.evaluation)];
        let mut lines: Vec<(&str, &Path, Range<usize>)> = Vec::new();
        for (name, set) in sets {
            match set.lines() {
                Ok(range) => lines.push((name, &set.file, range)),
                Err(problem) => problems.add(format!("prompts.{name}"), problem),
            }
        }
        for (index, (name, file, range)) in lines.iter().enumerate() {
            for (other, other_file, other_range) in &lines[..index] {
                let shared = range.start.max(other_range.start)..range.end.min(other_range.end);
                if file == other_file && !shared.is_empty() {
                    problems.add(
                        format!("prompts.{name}"),
                        format!(
                            "shares questions {}..{} of {} with prompts.{other}: measure on other prompts than are learned from",
                            shared.start, shared.end, file.display()
                        ),
                    );
                }
            }
        }
    }
}

impl PromptSet {
    /// Which questions of the file these are, from 0.
    fn lines(&self) -> Result<Range<usize>, String> {
        if self.take == Some(0) {
            return Err("take is 0, must be at least 1, or null for all".to_owned());
        }
        let questions =
            load_questions(&self.file, self.skip, self.take).map_err(|error| error.to_string())?;
        Ok(self.skip..self.skip + questions.len())
    }
}

impl SizeConfig {
    fn note_problems(&self, largest_tree: usize, problems: &mut Problems) {
        if let Some(problem) = self.sizes.problem() {
            problems.add("size.sizes", problem);
        } else if let Some(&largest) = self.sizes.sizes.last()
            && largest > largest_tree
        {
            problems.add(
                "size.sizes",
                format!("has {largest}, but the deepest tree has {largest_tree} candidates"),
            );
        }
        self.ppo.validate("size.ppo", problems);
    }
}

impl StagesConfig {
    fn note_problems(&self, max_depth: usize, problems: &mut Problems) {
        if let Some(stage) = &self.size {
            note_budget("stages.size", stage.total_timesteps, stage.max_minutes, problems);
            let range = stage.random_depth;
            if range.max > max_depth {
                problems.add(
                    "stages.size.random_depth.max",
                    format!("is {}, must be at most engine.max_depth = {max_depth}", range.max),
                );
            }
            if range.min > range.max {
                problems.add(
                    "stages.size.random_depth.min",
                    format!("is {}, above max = {}", range.min, range.max),
                );
            }
        }
        if let Some(stage) = &self.predictor {
            stage.note_problems(problems);
        }
        if let Some(stage) = &self.imitation {
            if self.predictor.is_none() {
                problems
                    .add("stages.imitation", "imitates the factored policy: set stages.predictor, or null");
            }
            note_fit("stages.imitation", stage.epochs, stage.batch_size, stage.learning_rate, problems);
        }
        if let Some(stage) = &self.depth {
            note_budget("stages.depth", stage.total_timesteps, stage.max_minutes, problems);
            if stage.verification_size == 0 {
                problems.add("stages.depth.verification_size", "must be at least 1");
            }
        }
        for (index, stage) in self.round.iter().enumerate() {
            note_budget(
                &format!("stages.round[{index}]"),
                stage.total_timesteps,
                stage.max_minutes,
                problems,
            );
        }
        if self.rounds > 0 && self.round.is_empty() {
            problems.add("stages.round", format!("is empty, but stages.rounds is {}", self.rounds));
        }
        if self.size.is_none() && self.depth.is_none() && self.predictor.is_none() && self.rounds == 0 {
            problems.add(
                "stages",
                "there is nothing to train: size, depth and predictor are null and rounds is 0",
            );
        }
        if self.candidates == 0 {
            problems.add("stages.candidates", "must be at least 1");
        }
    }
}

/// Problems of a fit by gradient steps.
fn note_fit(stage: &str, epochs: usize, batch_size: usize, learning_rate: f64, problems: &mut Problems) {
    for (name, number) in [("epochs", epochs), ("batch_size", batch_size)] {
        if number == 0 {
            problems.add(format!("{stage}.{name}"), "must be at least 1");
        }
    }
    if !(learning_rate > 0.0 && learning_rate.is_finite()) {
        problems.add(format!("{stage}.learning_rate"), format!("is {learning_rate}, must be above 0"));
    }
}

impl PredictorStage {
    fn note_problems(&self, problems: &mut Problems) {
        let mut check = |holds: bool, field: &str, problem: String| {
            if !holds {
                problems.add(format!("stages.predictor.{field}"), problem);
            }
        };
        let known = ObservationLayout::FAMILIES;
        let layout = &self.layout;
        check(
            known.contains(&layout.as_str()),
            "layout",
            format!("is {layout}, must be one of {}", known.join(", ")),
        );
        check(!self.net_arch.contains(&0), "net_arch", "has a width of 0".to_owned());
        note_fit("stages.predictor", self.epochs, self.batch_size, self.learning_rate, problems);
        note_minutes("stages.predictor.max_minutes", self.max_minutes, problems);
    }
}

impl EvaluationConfig {
    fn note_problems(&self, max_depth: usize, problems: &mut Problems) {
        if self.max_new_tokens == 0 {
            problems.add("evaluation.max_new_tokens", "must be at least 1");
        }
        let too_deep = |depth: usize| format!("{depth} is more than engine.max_depth = {max_depth}");
        if self.default.depth > max_depth {
            problems.add("evaluation.default.depth", too_deep(self.default.depth));
        }
        if let Some(&depth) = self.grid.depths.iter().find(|&&depth| depth > max_depth) {
            problems.add("evaluation.grid.depths", too_deep(depth));
        }
        if self.grid.sizes.contains(&0) || self.default.size == 0 {
            problems.add("evaluation", "verification sizes must be at least 1");
        }
        for (field, list) in [("depths", &self.grid.depths), ("sizes", &self.grid.sizes)] {
            if list.is_empty() {
                problems.add(
                    format!("evaluation.grid.{field}"),
                    "is empty: the best constant is sought among these",
                );
            }
        }
        for (field, minutes) in
            [("validation_max_minutes", self.validation_max_minutes), ("max_minutes", self.max_minutes)]
        {
            note_minutes(&format!("evaluation.{field}"), minutes, problems);
        }
    }
}

fn note_budget(path: &str, total_timesteps: usize, max_minutes: Option<f64>, problems: &mut Problems) {
    if total_timesteps == 0 {
        problems.add(format!("{path}.total_timesteps"), "must be at least 1");
    }
    note_minutes(&format!("{path}.max_minutes"), max_minutes, problems);
}

fn note_minutes(path: &str, minutes: Option<f64>, problems: &mut Problems) {
    if let Some(minutes) = minutes
        && !(minutes > 0.0 && minutes.is_finite())
    {
        problems.add(path, format!("is {minutes}, must be above 0, or null for no limit"));
    }
}
