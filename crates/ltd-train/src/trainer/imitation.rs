//! The stage in which the pair imitates the factored policy.

use std::collections::HashMap;

use ltd_engine::Learned;
use ltd_policy::{
    Factored, FactoredPolicy, FactoredSource, Manifest, Policy, PolicyKind, SourceSummary, write_json,
};

use super::Trainer;
use crate::evaluate::Contender;
use crate::imitation::{examples, imitate, source_examples};
use crate::predictor::{Records, Walks};
use crate::run::StageFolder;
use crate::{Error, Result};
use ltd_run::config::{ImitationStage, Stage};

impl Trainer {
    /// Teaches the policies of the pair what the factored policy decides at every recorded
    /// position. A stage that is interrupted begins anew: it takes seconds.
    pub(super) fn imitate(
        &mut self,
        stage: &Stage,
        imitation: ImitationStage,
        folder: &StageFolder,
    ) -> Result<()> {
        let recorded = self.recorded.as_ref().expect("invariant: the configuration was checked");
        let factored = self.factored()?;
        let mut teacher = Learned::from(FactoredPolicy::of(&factored));
        let (depth, size, seed) = (&self.config.depth, &self.config.size, self.config.seed);
        let train = recorded.train.at_most(imitation.max_positions);
        let [of_depth, of_size] = examples(
            &train,
            &mut teacher,
            (self.config.layout(PolicyKind::Depth), depth.actions),
            (self.config.layout(PolicyKind::Size), self.sizes()?),
            &self.interrupt,
        )?;
        let mut lessons = vec![("depths", of_depth, &depth.ppo), ("sizes", of_size, &size.ppo)];
        if let Some(source) = &factored.source {
            let chains = &source.predictor.actions().source;
            let (trees, interrupt) = (recorded.shape(), &self.interrupt);
            let walks = Walks::through(&train, &recorded.costs, chains, trees, seed, interrupt)?;
            let layout = self.config.layout(PolicyKind::Source);
            let records = source.tokens.as_ref().map(|tokens| Records::known(tokens.clone(), &train));
            // Of each sequence, one that knows of tokens what others say.
            let mut teachers: HashMap<usize, FactoredPolicy> = HashMap::new();
            let mut teach = |number: usize, summary: &SourceSummary| {
                let teacher = teachers.entry(number).or_insert_with(|| {
                    let sequence = train.outline(number);
                    let tokens = records.as_ref().map(|records| records.of_others(sequence).clone());
                    FactoredPolicy::of(&factored).with_source(&FactoredSource { tokens, ..source.clone() })
                });
                teacher.source(summary)
            };
            let examples = source_examples(&walks, &mut teach, layout, chains)?;
            lessons.push(("sources", examples, &self.config.source.ppo));
        }
        let planned = lessons.len() * imitation.epochs;
        let mut task = self.progress.task(&stage.name, planned);
        let (mut pair, mut done) = (self.pair.clone(), 0);
        let mut agreements = Vec::new();
        for (name, examples, ppo) in &lessons {
            let mut observer = |_| {
                done += 1;
                task.update(done, done as f64 / planned as f64, "epochs");
            };
            let hidden = &ppo.net_arch.pi;
            let (policy, agreement) =
                imitate(examples, hidden, imitation, seed, &self.interrupt, &mut observer)?;
            pair = pair.with(policy);
            agreements.push(format!("{:.1} % of {} {name}", 100.0 * agreement, examples.len()));
        }
        let measured = recorded.measure(&mut [Contender::new("pair", pair.controller())])?.remove(0);
        task.finish(&format!(
            "{:.1} tokens/s on the held-out recordings; decides as the factored policy does in {}",
            measured.total().tokens_per_second(),
            agreements.join(", ")
        ));
        let table_sha256 = recorded.table_sha256.clone();
        let entry = pair.save(folder, &measured)?;
        let manifest = self.manifest(entry, &stage.name, &measured, Some(table_sha256));
        write_json(&folder.manifest(), &manifest)?;
        self.pair = pair;
        // A place of its own on the axis of the run's curves.
        self.finish_stage(1, &measured)
    }

    /// The factored policy that the run's predictor stage left.
    pub(super) fn factored(&self) -> Result<Factored> {
        let stage = self.predictor_stage().expect("invariant: the configuration was checked");
        let folder = self.run.stage(stage);
        let manifest = Manifest::load(&folder.manifest())?;
        match manifest.load_policy(folder.path())? {
            Policy::Factored(factored) => Ok(factored),
            Policy::Pair { .. } => {
                let problem = "its policy is a pair, expected a factored one".to_owned();
                Err(Error::Checkpoint { path: folder.manifest(), problem })
            }
        }
    }
}
