//! What a measurement of the engine needs to know: single forwards of the target, and how much
//! memory is needed.

use std::time::Duration;

use tch::Device;

use crate::cuda::count_kernels;
use crate::engine::positions;
use crate::measure::operations::{Observer, Operation, OperationClock, Unobserved};
use crate::model::{AttentionMask, BlockConfig, LogitRows, Rows};
use crate::timing::Clock;
use crate::transfer::Waited;
use crate::{Engine, Error, Result, Session};

impl Engine {
    /// Runs the target over `tokens` behind the certain positions of a session, as a verification
    /// does: masked among themselves, with logits of all rows. Returns the wall-clock time, device
    /// synchronised at both ends. The session is as before: what was written to its cache is
    /// provisional. Where forwards are CUDA graphs, the choice of tokens is a part of each.
    pub fn time_target_forward(&self, session: &mut Session, tokens: &[u32]) -> Result<Duration> {
        if session.graphs.is_none() {
            return self.time_observed_forward(session, tokens, &mut Unobserved).map(|(elapsed, _)| elapsed);
        }
        let (past, clock) = self.begin_timed_forward(session, tokens)?;
        let (positions, mask) = (&positions(past, tokens.len() as i64), &causal(past, tokens));
        let rows = Rows { tokens, positions, past, mask };
        let next_positions: Vec<usize> = positions.iter().map(|&position| position as usize + 1).collect();
        let mut forwards = Duration::ZERO;
        let _chosen = self.choose_after(session, &rows, &next_positions, &mut forwards)?;
        clock.wait();
        let elapsed = clock.elapsed();
        self.capture_graph(session);
        Ok(elapsed)
    }

    /// [`Engine::time_target_forward`], and what its operations took, in the order of
    /// [`Operation::ALL`]: by the device's own clock on one CUDA device, else between
    /// synchronisations around each.
    pub fn time_target_operations(
        &self,
        session: &mut Session,
        tokens: &[u32],
    ) -> Result<(Duration, [Duration; Operation::ALL.len()])> {
        let mut clock = OperationClock::new(&self.devices);
        let (elapsed, waited) = self.time_observed_forward(session, tokens, &mut clock)?;
        let times = clock
            .times(&waited)
            .map_err(|lost| Error::Device { device: self.device_names(), problem: lost.to_string() })?;
        Ok((elapsed, times))
    }

    fn time_observed_forward(
        &self,
        session: &mut Session,
        tokens: &[u32],
        observer: &mut impl Observer,
    ) -> Result<(Duration, Waited)> {
        let (past, clock) = self.begin_timed_forward(session, tokens)?;
        let (positions, mask) = (&positions(past, tokens.len() as i64), &causal(past, tokens));
        let rows = Rows { tokens, positions, past, mask };
        let _output =
            self.target.observed_forward(&rows, &[], &session.target_cache, LogitRows::All, observer)?;
        let waited = clock.wait();
        Ok((clock.elapsed(), waited))
    }

    /// Makes a session ready for a forward over `tokens`: the positions before them, and a clock
    /// that runs.
    fn begin_timed_forward(&self, session: &mut Session, tokens: &[u32]) -> Result<(i64, Clock<'_>)> {
        session.check_engine(self.identity)?;
        session.settle()?;
        self.check_prompt(tokens)?;
        let past = session.target_cache.len();
        if past + tokens.len() as i64 > session.capacity as i64 {
            return Err(Error::CacheFull { capacity: session.capacity });
        }
        Ok((past, Clock::start(&self.devices)))
    }

    /// How many kernels CUDA devices run while `work` is done, by LibTorch's profiler, which slows
    /// it down. None on a CPU, or if the profiler has seen nothing.
    ///
    /// # Errors
    /// If `work` fails, or the profiler runs already.
    pub fn count_kernels<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<u64>> {
        if self.device == Device::Cpu {
            return work().map(|_| None);
        }
        let kernels = count_kernels(|| {
            let done = work()?;
            Waited::for_devices(&self.devices);
            Ok(done)
        })?;
        Ok((kernels > 0).then_some(kernels))
    }

    /// Bytes of both models' weights, each counted once, in the number type in use.
    pub fn weight_bytes(&self) -> u64 {
        let (target, draft) = (self.target.config(), self.draft.config());
        let products = target.products().into_iter().chain(draft.products());
        let mut elements: i64 = products.map(|[outputs, inputs]| outputs * inputs).sum();
        elements += draft.block.hidden * 3 * draft.target_hidden;
        if !target.tied_embeddings {
            elements += target.vocabulary * target.block.hidden;
        }
        if !self.draft.embedding().is(self.target.embedding()) {
            elements += draft.vocabulary * draft.block.hidden;
        }
        if draft.output_is_embedding() {
            elements -= draft.vocabulary * draft.block.hidden;
        }
        // Two norms a layer and one after them; the head normalises its other input as well.
        elements += (2 * target.layers + 1) * target.block.hidden + 4 * draft.block.hidden;
        elements as u64 * self.element_bytes()
    }

    /// Bytes of a session's caches.
    pub fn cache_bytes(&self) -> u64 {
        let elements = |layers: i64, block: &BlockConfig, positions: usize| {
            layers * 2 * block.kv_heads * block.head_dim * positions as i64
        };
        let (target, draft) = (self.target.config(), self.draft.config());
        let elements = elements(target.layers, &target.block, self.capacity())
            + elements(1, &draft.block, self.draft_rows());
        elements as u64 * self.element_bytes()
    }

    /// Bytes of a number of the type in use.
    pub fn element_bytes(&self) -> u64 {
        self.dtype().chosen.kind().elt_size_in_bytes() as u64
    }
}

/// Each row sees those before it and itself.
fn causal(past: i64, tokens: &[u32]) -> AttentionMask {
    AttentionMask::causal(past, tokens.len() as i64)
}
