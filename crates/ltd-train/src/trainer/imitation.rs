//! The stage in which the pair imitates the factored policy.

use ltd_engine::Learned;
use ltd_policy::{Factored, FactoredPolicy, Manifest, Policy, PolicyEntry, PolicyKind, write_json};

use super::Trainer;
use crate::evaluate::Contender;
use crate::imitation::{examples, imitate};
use crate::run::StageFolder;
use crate::{Error, Result};
use ltd_run::config::{ImitationStage, Stage};

impl Trainer {
    /// Teaches both policies of the pair what the factored policy decides at every recorded
    /// position. A stage that is interrupted begins anew: it takes seconds.
    pub(super) fn imitate(
        &mut self,
        stage: &Stage,
        imitation: ImitationStage,
        folder: &StageFolder,
    ) -> Result<()> {
        let recorded = self.recorded.as_ref().expect("invariant: the configuration was checked");
        let mut teacher = Learned::from(FactoredPolicy::of(&self.factored()?));
        let (depth, size) = (&self.config.depth, &self.config.size);
        let examples = examples(
            &recorded.train,
            &mut teacher,
            (self.config.layout(PolicyKind::Depth), depth.actions),
            (self.config.layout(PolicyKind::Size), self.sizes()?),
            &self.interrupt,
        )?;
        let mut task = self.progress.task(&stage.name, 2 * imitation.epochs);
        let (mut pair, mut done) = (self.pair.clone(), 0);
        let mut agreements = Vec::new();
        for (examples, ppo) in examples.iter().zip([&depth.ppo, &size.ppo]) {
            let mut observer = |_| {
                done += 1;
                task.update(done, done as f64 / (2 * imitation.epochs) as f64, "epochs");
            };
            let (hidden, seed) = (&ppo.net_arch.pi, self.config.seed);
            let (policy, agreement) =
                imitate(examples, hidden, imitation, seed, &self.interrupt, &mut observer)?;
            pair = pair.with(policy);
            agreements.push(format!("{:.1} % of {}", 100.0 * agreement, examples.len()));
        }
        let measured = recorded.measure(&mut [Contender::new("pair", pair.controller())]).remove(0);
        task.finish(&format!(
            "{:.1} tokens/s on the held-out recordings; decides as the factored policy does in {} depths and {} sizes",
            measured.total().tokens_per_second(),
            agreements[0],
            agreements[1]
        ));
        let table_sha256 = recorded.table_sha256.clone();
        let [depth, size] = pair.save(folder, &measured)?;
        let manifest =
            self.manifest(PolicyEntry::Pair { depth, size }, &stage.name, &measured, Some(table_sha256));
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
