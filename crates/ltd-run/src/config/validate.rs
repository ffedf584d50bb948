//! Values that parse and still make no sense.

use ltd_engine::text::load_questions;
use ltd_policy::{MAX_SIZE, ObservationLayout, SourceActions, tree_candidates};

use super::{
    Advantage, Backend, EvaluationConfig, Grid, PredictorStage, Problems, PromptSet, PromptSets, SizeConfig,
    SourceConfig, StagesConfig, TrainConfig, limits,
};

const NOT_IN_ADVANCE: &str = "exact needs replay: outcomes of live cycles are not known in advance";

impl TrainConfig {
    /// All impossible values, with their paths. Model folders and question files are looked at,
    /// models not loaded.
    pub(super) fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        for (field, problem) in self.engine.problems() {
            problems.add(format!("engine.{field}"), problem);
        }
        for (field, folder) in [("target", &self.engine.target), ("draft", &self.engine.draft)] {
            if !folder.join("config.json").is_file() {
                let hint = self.about.as_deref().unwrap_or("scripts/setup makes the default target");
                let missing = if folder.is_dir() {
                    "is not a model folder: it has no config.json"
                } else {
                    "is not there"
                };
                let problem = format!("`{}` {missing} ({hint})", folder.display());
                problems.add(format!("engine.{field}"), problem);
            }
        }
        self.prompts.note_problems(&mut problems);
        problems.check_count("max_new_tokens", self.max_new_tokens, limits::COUNTS);
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
                problems.add(format!("{name}.ppo.advantage"), NOT_IN_ADVANCE);
            }
        }
        self.size.note_problems(self.largest_tree(), &mut problems);
        self.source.note_problems(self.largest_tree(), &mut problems);
        if self.source.ppo.advantage == Advantage::Exact && self.replay.is_none() {
            problems.add("source.ppo.advantage", NOT_IN_ADVANCE);
        }
        self.stages.note_problems(max_depth, &mut problems);
        self.evaluation.note_problems(max_depth, &mut problems);
        problems
    }

    fn note_replay_problems(&self, problems: &mut Problems) {
        if let Some(replay) = &self.replay {
            problems.check_count("replay.seeds", replay.seeds, limits::SEEDS);
            if replay.seeds > 1 && self.sampling.is_greedy() {
                let problem = format!(
                    "is {}, but a prompt has one continuation at sampling.temperature 0: set it to 1",
                    replay.seeds
                );
                problems.add("replay.seeds", problem);
            }
            let share = replay.held_out;
            if !(share > 0.0 && share < 1.0) {
                problems.add("replay.held_out", format!("is {share:?}, must be above 0 and below 1"));
            }
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
        tree_candidates(self.engine.beam_width, self.engine.max_depth)
    }
}

impl PromptSets {
    fn note_problems(&self, problems: &mut Problems) {
        let sets =
            [("train", &self.train), ("validation", &self.validation), ("evaluation", &self.evaluation)];
        for (name, set) in sets {
            if let Some(problem) = set.problem() {
                problems.add(format!("prompts.{name}"), problem);
            }
        }
    }
}

impl PromptSet {
    /// Why its questions cannot be read, if they cannot.
    fn problem(&self) -> Option<String> {
        if self.take == Some(0) {
            return Some("take is 0, must be at least 1, or null for all".to_owned());
        }
        load_questions(&self.file, self.skip, self.take).err().map(|error| error.to_string())
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

impl SourceConfig {
    /// Of longer chains than trees have candidates, costs cannot be measured.
    fn note_problems(&self, largest_tree: usize, problems: &mut Problems) {
        let longest = self.chains.last().copied().unwrap_or_default();
        if let Some(chain) = self.merged {
            problems.check_count("source.merged", chain, 1..=MAX_SIZE);
        }
        let chains = SourceActions { chains: self.chains.clone(), merged: None };
        if let Some(problem) = chains.problem() {
            problems.add("source.chains", problem);
        } else if longest > largest_tree {
            problems.add(
                "source.chains",
                format!("has {longest}, but the deepest tree has {largest_tree} candidates"),
            );
        }
        self.ppo.validate("source.ppo", problems);
    }
}

impl StagesConfig {
    fn note_problems(&self, max_depth: usize, problems: &mut Problems) {
        if let Some(stage) = &self.size {
            problems.check_count("stages.size.total_timesteps", stage.total_timesteps, limits::COUNTS);
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
            problems.check_count("stages.imitation.max_positions", stage.max_positions, limits::COUNTS);
        }
        if let Some(stage) = &self.depth {
            problems.check_count("stages.depth.total_timesteps", stage.total_timesteps, limits::COUNTS);
            problems.check_count("stages.depth.verification_size", stage.verification_size, limits::SIZES);
        }
        for (index, stage) in self.round.iter().enumerate() {
            let path = format!("stages.round[{index}].total_timesteps");
            problems.check_count(path, stage.total_timesteps, limits::COUNTS);
        }
        let stages = self.rounds.saturating_mul(self.round.len());
        if stages > limits::ROUND_STAGES {
            let (rounds, round, most) = (self.rounds, self.round.len(), limits::ROUND_STAGES);
            let problem =
                format!("is {rounds}, with {round} stages each; must be at most {most} stages together");
            problems.add("stages.rounds", problem);
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
        problems.check_count("stages.candidates", self.candidates, limits::CANDIDATES);
    }
}

/// Problems of a fit by gradient steps.
fn note_fit(stage: &str, epochs: usize, batch_size: usize, learning_rate: f64, problems: &mut Problems) {
    problems.check_count(format!("{stage}.epochs"), epochs, limits::EPOCHS);
    problems.check_count(format!("{stage}.batch_size"), batch_size, limits::BATCHES);
    problems.check_number(format!("{stage}.learning_rate"), learning_rate, limits::LEARNING_RATES);
}

impl PredictorStage {
    fn note_problems(&self, problems: &mut Problems) {
        let (known, layout) = (ObservationLayout::FAMILIES, &self.layout);
        if !known.contains(&layout.as_str()) {
            let problem = format!("is {layout}, must be one of {}", known.join(", "));
            problems.add("stages.predictor.layout", problem);
        }
        problems.check_net_arch("stages.predictor.net_arch", &self.net_arch);
        note_fit("stages.predictor", self.epochs, self.batch_size, self.learning_rate, problems);
        problems.check_count("stages.predictor.max_positions", self.max_positions, limits::COUNTS);
    }
}

impl EvaluationConfig {
    fn note_problems(&self, max_depth: usize, problems: &mut Problems) {
        problems.check_count("evaluation.max_new_tokens", self.max_new_tokens, limits::COUNTS);
        let too_deep = |depth: usize| format!("{depth} is more than engine.max_depth = {max_depth}");
        if self.default.depth > max_depth {
            problems.add("evaluation.default.depth", too_deep(self.default.depth));
        }
        problems.check_count("evaluation.default.size", self.default.size, limits::SIZES);
        let Grid { depths, sizes } = &self.grid;
        if let Some(&depth) = depths.iter().find(|&&depth| depth > max_depth) {
            problems.add("evaluation.grid.depths", too_deep(depth));
        }
        if let Some(&size) = sizes.iter().find(|size| !limits::SIZES.contains(*size)) {
            problems.check_count("evaluation.grid.sizes", size, limits::SIZES);
        }
        for (field, list) in [("depths", depths), ("sizes", sizes)] {
            if list.is_empty() {
                problems.add(
                    format!("evaluation.grid.{field}"),
                    "is empty: the best constant is sought among these",
                );
            }
        }
        let constants = depths.len().saturating_mul(sizes.len());
        if constants > limits::GRID {
            let problem =
                format!("has {constants} pairs of depth and size, must have at most {}", limits::GRID);
            problems.add("evaluation.grid", problem);
        }
    }
}
