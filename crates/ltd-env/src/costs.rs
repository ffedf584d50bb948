//! What replayed cycles cost.

use std::time::Duration;

use ltd_cycle::{CycleOutcome, CycleTiming};
use ltd_policy::{DecisionCost, DraftSource, LatencyModel};

/// What a cycle costs: the table's times, and those of the decisions.
#[derive(Debug, Clone)]
pub struct Costs {
    /// Milliseconds of the parts of a cycle.
    pub model: LatencyModel,
    /// Microseconds of the decisions.
    pub decision: DecisionCost,
}

impl Costs {
    /// The same with decisions that take no time, as those of a constant.
    #[must_use]
    pub fn without_decisions(&self) -> Self {
        Self { decision: DecisionCost::default(), ..self.clone() }
    }

    /// Time of a cycle whose levels expand `level_rows` candidates and that verifies `size`, after
    /// `context_length` tokens, of which the draft has not read the last `rows`. The depth is
    /// decided after each level.
    pub fn timing(
        &self,
        level_rows: &[usize],
        size: usize,
        context_length: usize,
        rows: usize,
    ) -> CycleTiming {
        let (model, context) = (&self.model, context_length);
        let levels = (1..).zip(level_rows).map(|(depth, &rows)| model.level_ms(depth, rows, context));
        let draft = self.root_ms(rows, context) + levels.sum::<f64>();
        self.cycle(level_rows.len(), draft, model.verify_ms(size, context))
    }

    /// Time of a cycle that verifies `size` copied tokens after `context_length` others.
    pub fn copying(&self, size: usize, context_length: usize) -> CycleTiming {
        let verify = Duration::from_secs_f64(self.model.verify_ms(size, context_length) * 1e-3);
        CycleTiming { verify, ..CycleTiming::default() }
    }

    /// Time of a cycle that ended so, before which the draft had not read the last `unread` tokens.
    pub fn of(&self, outcome: &CycleOutcome, unread: usize) -> CycleTiming {
        let CycleOutcome { source, level_rows, verification_size, context_length, .. } = outcome;
        match source {
            DraftSource::Tree | DraftSource::Merged { .. } => {
                self.timing(level_rows, *verification_size, *context_length, unread)
            }
            DraftSource::Copy { .. } => self.copying(*verification_size, *context_length),
        }
    }

    /// A root expansion of more rows than were measured reads them in several forwards.
    pub(crate) fn root_ms(&self, rows: usize, context: usize) -> f64 {
        let most = self.model.most_root_rows();
        let whole = rows.saturating_sub(1) / most;
        let rest = self.model.root_ms(rows - whole * most, context);
        whole as f64 * self.model.root_ms(most, context) + rest
    }

    /// A cycle of depth `depth` with these times, in milliseconds, and its decisions.
    pub(crate) fn cycle(&self, depth: usize, draft: f64, verify: f64) -> CycleTiming {
        let policy = self.decision.depth_us * (depth + 1) as f64 + self.decision.size_us;
        CycleTiming {
            draft: Duration::from_secs_f64(draft * 1e-3),
            policy: Duration::from_secs_f64(policy * 1e-6),
            verify: Duration::from_secs_f64(verify * 1e-3),
            forwards: Duration::ZERO,
        }
    }
}
