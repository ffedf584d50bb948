//! Forwards of the target with the choice of tokens after them, as CUDA graphs: captured once, then
//! begun with one launch in place of hundreds.
//!
//! A graph does the same at the same addresses whenever it is begun. So the forwards of a
//! [`Bucket`] have one form, and what differs between them are numbers that are sent to one place.
//! The first forward of a form is launched kernel by kernel, which loads the kernels. When its time
//! was taken the form is captured, and from the second one on it is a graph.
#![expect(unsafe_code, reason = "begins what was captured")]

mod outputs;

use std::time::Duration;

use tch::{Device, Tensor};

use self::outputs::{OutputPlaces, Outputs};
use crate::cuda::{Graph, GraphPool, empty_cache};
use crate::kv_cache::KvCache;
use crate::model::{AttentionMask, Bucket, LogitRows, Rows, StageInputs, TargetModel};
use crate::sampling::Choices;
use crate::session::Session;
use crate::transfer::{Upload, UploadPlace, Uploaded, Waited};
use crate::{CudaGraphs, Engine, Error, Result, Sampler, SamplingParams};

/// The graphs of a target's cache.
pub(crate) struct Graphs {
    /// Of its own: LibTorch takes no more of a pool whose graphs have all been dropped.
    pool: GraphPool,
    device: usize,
    /// Where the cache is: what was captured reads and writes it there.
    cache: Vec<usize>,
    inputs: UploadPlace,
    outputs: OutputPlaces,
    captured: Vec<Captured>,
    /// The oldest one goes before there are more.
    most_captured: usize,
    /// How many were captured since the beginning.
    captures: usize,
    /// A form that has been run, and can be captured, with what it has found.
    pending: Option<(Form, Outputs)>,
}

/// What two forwards have in common that are the same graph.
#[derive(Debug, Clone, Copy)]
struct Form {
    bucket: Bucket,
    sampling: SamplingParams,
}

impl Form {
    fn is_as(&self, other: &Self) -> bool {
        self.bucket == other.bucket && self.sampling.is_as(&other.sampling)
    }
}

struct Captured {
    form: Form,
    graph: Graph,
    outputs: Outputs,
}

impl Graphs {
    fn new(engine: &Engine, device: usize, cache: &KvCache) -> Result<Self> {
        /// Ways of sampling whose graphs are kept.
        const SAMPLINGS: usize = 2;
        let all = Bucket::all(cache.capacity() as i64);
        let most_captured = SAMPLINGS * all.len();
        let bytes = all.into_iter().map(|bucket| {
            let mut upload = Upload::default();
            let _ = prepare_nothing(&engine.target, &mut upload, bucket, bucket.rows);
            upload.len()
        });
        let inputs = UploadPlace::new(bytes.max().unwrap_or(0), Device::Cuda(device))?;
        let (pool, captured, outputs) = (GraphPool::new()?, Vec::new(), OutputPlaces::default());
        let cache = cache.addresses();
        let (captures, pending) = (0, None);
        Ok(Self { pool, device, cache, inputs, outputs, captured, most_captured, captures, pending })
    }

    /// The choices and features of `rows`, which are filled up to those of a bucket; by a graph if
    /// there is one.
    fn run(
        &mut self,
        target: &TargetModel,
        sampler: &Sampler,
        (bucket, rows): (Bucket, &Rows),
        randoms: &[f64],
        cache: &KvCache,
    ) -> Result<Outputs> {
        assert_eq!(self.cache, cache.addresses(), "the cache whose forwards were captured");
        let form = Form { bucket, sampling: *sampler.params() };
        self.pending = None;
        let filled = bucket.rows as usize;
        let mut upload = Upload::default();
        // With rows that are finite for sure: others attend to them, though with no weight.
        let mut tokens = rows.tokens.to_vec();
        tokens.resize(filled, tokens[0]);
        let mut positions = rows.positions.to_vec();
        positions.resize(filled, positions[0]);
        let mask = &rows.mask.in_bucket(bucket);
        let in_bucket = Rows { tokens: &tokens, positions: &positions, past: rows.past, mask };
        let mut randoms = randoms.to_vec();
        if !randoms.is_empty() {
            randoms.resize(filled, 0.0);
        }
        let inputs = target.prepare(&mut upload, &in_bucket, &randoms);
        let uploaded = upload.send_to(&self.inputs)?;
        if let Some(captured) = self.captured.iter().find(|captured| captured.form.is_as(&form)) {
            // SAFETY: Its inputs and outputs are this value's, the cache is the one that was
            // captured, and the weights are those of the engine whose session this is.
            unsafe { captured.graph.replay() }?;
            return captured.outputs.first(rows.count());
        }
        let outputs = Outputs::of(target, sampler, inputs(&uploaded)?, bucket.rows, cache)?;
        let found = outputs.first(rows.count())?;
        self.pending = Some((form, outputs));
        Ok(found)
    }

    /// Captures the form that was run last, if it is to be.
    fn capture(&mut self, target: &TargetModel, sampler: &Sampler, cache: &KvCache) -> Result<()> {
        let Some((form, found)) = self.pending.take() else { return Ok(()) };
        let Form { bucket, sampling } = form;
        if !sampling.is_as(sampler.params()) {
            return Ok(());
        }
        if self.captured.is_empty() {
            // If it cannot, the capture says whether there is memory enough.
            let _ = empty_cache();
        }
        if self.captured.len() == self.most_captured {
            self.captured.remove(0);
        }
        let outputs = self.outputs.for_outputs(&found)?;
        drop(found);
        let randoms = if sampling.is_greedy() { 0 } else { bucket.rows };
        // Only where the numbers are counts here, not what they are.
        let inputs = prepare_nothing(target, &mut Upload::default(), bucket, randoms);
        let graph = Graph::capture(self.device, self.pool, || {
            let found = Outputs::of(target, sampler, inputs(&self.inputs.last())?, bucket.rows, cache)?;
            found.copy_into(&outputs)
        })?;
        self.captured.push(Captured { form, graph, outputs });
        self.captures += 1;
        Ok(())
    }
}

/// Gets ready a forward of rows that do not matter.
fn prepare_nothing(
    target: &TargetModel,
    upload: &mut Upload,
    bucket: Bucket,
    randoms: i64,
) -> impl FnOnce(&Uploaded) -> Result<StageInputs> + use<> {
    let rows = bucket.rows as usize;
    let mask = &AttentionMask::causal(0, bucket.rows).in_bucket(bucket);
    let rows = Rows { tokens: &vec![0; rows], positions: &vec![0; rows], past: 0, mask };
    target.prepare(upload, &rows, &vec![0.0; randoms as usize])
}

/// Says why there are no graphs. Of what LibTorch says, the first line is for people.
fn warning(problem: &str) -> String {
    let problem = problem.lines().next().unwrap_or_default();
    format!("engine.cuda_graphs: each kernel is launched: {problem}")
}

impl Engine {
    /// Has forwards of the target captured, as it is set; a warning says why none can be.
    pub(crate) fn set_cuda_graphs(&mut self, setting: CudaGraphs) {
        let (CudaGraphs::Auto, Device::Cuda(device)) = (setting, self.device) else { return };
        // Whether LibTorch has what it takes shows when a pool is made.
        let possible = match self.target.only_device() {
            Some(_) => GraphPool::new().map_err(|error: Error| error.to_string()),
            None => Err::<_, String>(format!(
                "the target is on {} devices, a graph is of one",
                self.devices.len()
            )),
        };
        match possible {
            Ok(_) => self.graph_device = Some(device),
            Err(problem) => self.warnings.push(warning(&problem)),
        }
    }

    /// Has a session capture the form that takes most memory. What it holds is spoilt.
    pub(crate) fn capture_largest_graph(&self, session: &mut Session) {
        let largest = Bucket::all(session.capacity as i64).last().copied();
        let (Some(Bucket { rows, positions }), true) = (largest, session.graphs.is_some()) else { return };
        let past = positions - rows;
        let (places, mask) = (crate::engine::positions(past, rows), AttentionMask::causal(past, rows));
        let next_positions: Vec<usize> = places.iter().map(|&place| place as usize + 1).collect();
        let rows = Rows { tokens: &vec![0; rows as usize], positions: &places, past, mask: &mask };
        session.target_cache.set_len(past);
        // What is chosen does not matter. What fails does: it is noted.
        let chosen = self.choose_after(session, &rows, &next_positions, &mut Duration::default());
        Waited::for_devices(&self.devices);
        drop(chosen);
        self.capture_graph(session);
    }

    /// What failed so far is a warning of an engine that begins.
    pub(crate) fn settle_graphs(&mut self) {
        if let Some(warning) = self.no_graphs.take() {
            self.warnings.push(warning);
            self.graph_device = None;
        }
    }

    /// Captures nothing any more. The first problem is the one that counts.
    fn do_without_graphs(&self, error: &Error) {
        let _ = self.no_graphs.set(warning(&error.to_string()));
    }

    /// The device of graphs, if there are any.
    pub(crate) fn graph_device(&self) -> Option<usize> {
        self.graph_device.filter(|_| self.no_graphs.get().is_none())
    }

    /// Graphs for a cache, none of which is captured yet, where there are to be any.
    pub(crate) fn new_graphs(&self, cache: &KvCache) -> Option<Graphs> {
        let graphs = Graphs::new(self, self.graph_device()?, cache);
        graphs.map_err(|error| self.do_without_graphs(&error)).ok()
    }

    /// What the target chooses after each of some rows of a session, on its way to the host, and
    /// their features, which the next forward may overwrite. `next_positions` are those of the
    /// tokens that are chosen.
    pub(crate) fn choose_after(
        &self,
        session: &mut Session,
        rows: &Rows,
        next_positions: &[usize],
        forwards: &mut Duration,
    ) -> Result<(Choices, Tensor)> {
        let Session { sampler, target_cache, graphs, .. } = session;
        let randoms = sampler.randoms(next_positions);
        let bucket = Bucket::of(rows.count(), rows.past, target_cache.capacity() as i64);
        let mut failed = None;
        if let (Some(of_session), Some(bucket)) = (graphs.as_mut(), bucket) {
            let run = || of_session.run(&self.target, sampler, (bucket, rows), &randoms, target_cache);
            match self.forward(forwards, run) {
                Ok(Outputs { chosen, features }) => return Ok((chosen.fetch()?, features)),
                Err(error) => {
                    // What they hold may be what is missing.
                    *graphs = None;
                    let _ = empty_cache();
                    failed = Some(error);
                }
            }
        }
        let forward = || self.target.forward(rows, &randoms, target_cache, LogitRows::All);
        let output = self.forward(forwards, forward)?;
        let choices = sampler.choose(&output.logits, &output.randoms)?;
        // It goes well in the other form.
        if let Some(error) = failed {
            self.do_without_graphs(&error);
        }
        Ok((choices, output.features))
    }

    /// Captures what a session has run for the first time, outside of what is timed. If that fails,
    /// nothing is captured any more, and a warning says why.
    pub(crate) fn capture_graph(&self, session: &mut Session) {
        let Session { sampler, target_cache, graphs, .. } = session;
        let Some(of_session) = graphs else { return };
        if self.no_graphs.get().is_some() {
            *graphs = None;
        } else if let Err(error) = of_session.capture(&self.target, sampler, target_cache) {
            self.do_without_graphs(&error);
            *graphs = None;
        }
    }
}

impl Session {
    /// Forwards that have been captured: one more after each that was the first of its form.
    pub fn captured_graphs(&self) -> usize {
        self.graphs.as_ref().map_or(0, |graphs| graphs.captures)
    }
}

#[cfg(test)]
mod tests {
    use ltd_cuda_sim::{Event, Wait};

    use super::*;
    use crate::engine::positions;
    use crate::pairs::{PAIRS, folders};
    use crate::timing::Clock;
    use crate::{DtypeSetting, EngineConfig, Static, simulated};

    const DTYPES: [DtypeSetting; 2] = [DtypeSetting::F32, DtypeSetting::Bf16];

    fn engine(pair: &str, dtype: DtypeSetting, cuda_graphs: CudaGraphs) -> Engine {
        let [target, draft] = folders(pair);
        let config = EngineConfig { dtype, cuda_graphs, ..EngineConfig::new(target, draft) };
        let config = EngineConfig { device: "cuda:1".to_owned(), max_length: Some(400), ..config };
        Engine::load(&config).expect("the engine loads")
    }

    /// Ways to choose tokens: all that differ in what they find.
    fn samplers() -> [Sampler; 4] {
        let sampled = |top_p, top_k| {
            Sampler::new(SamplingParams { temperature: 0.8, top_p, top_k }, 7).expect("a sampler")
        };
        [Sampler::greedy(), sampled(1.0, None), sampled(0.9, None), sampled(0.9, Some(20))]
    }

    fn prompt(length: u32) -> Vec<u32> {
        (0..length).map(|i| 4 + i * 37 % 250).collect()
    }

    /// What is decoded by turns of trees, copies and plain steps, and the session.
    fn decoded(engine: &Engine, sampler: Sampler, recycle: Option<Session>) -> (Vec<u32>, Session) {
        let mut session = engine.prefill_sampled(&prompt(200), sampler, recycle).expect("a prompt");
        for turn in 0..30 {
            if turn % 3 == 1 {
                engine.copy(&mut session, turn).expect("a copy");
            } else {
                let mut shape = Static { depth: 3, size: 4 + turn };
                engine.run_cycle(&mut session, &mut shape).expect("a cycle");
            }
        }
        for _ in 0..30 {
            engine.autoregressive_step(&mut session).expect("a step");
        }
        (session.tokens().to_vec(), session)
    }

    #[test]
    fn graphs_decode_what_kernels_decode() {
        simulated::holds("graphs::tests::case_of_tokens");
    }

    #[test]
    #[ignore = "a case"]
    fn case_of_tokens() {
        for pair in PAIRS {
            let [with, without] =
                [CudaGraphs::Auto, CudaGraphs::Off].map(|setting| engine(pair, DtypeSetting::F32, setting));
            let mut recycled = None;
            for sampler in samplers().into_iter().chain([Sampler::greedy()]) {
                let (found, session) = decoded(&with, sampler.clone(), recycled);
                let graphs = session.graphs.as_ref().expect("graphs");
                assert!(graphs.pending.is_none());
                // Rows of several numbers, before and after position 256.
                let forms = |end: i64| {
                    let of = |captured: &&Captured| captured.form.bucket.positions == end;
                    graphs.captured.iter().filter(of).count()
                };
                assert!(forms(256) > 1 && forms(400) > 1, "{} and {}", forms(256), forms(400));
                recycled = Some(session);
                let (expected, session) = decoded(&without, sampler, None);
                assert!(session.graphs.is_none());
                assert_eq!(found, expected, "{pair}");
            }
            assert!(with.warnings().is_empty() && with.late_warning().is_none());
        }
    }

    /// What is chosen after some rows that see all before them, and their features. They are
    /// provisional afterwards.
    fn chosen_after(engine: &Engine, session: &mut Session, tokens: &[u32]) -> (Vec<u32>, Tensor) {
        let (past, rows) = (session.target_cache.len(), tokens.len() as i64);
        let (positions, mask) = (positions(past, rows), AttentionMask::causal(past, rows));
        let next_positions: Vec<usize> = positions.iter().map(|&position| position as usize + 1).collect();
        let rows = Rows { tokens, positions: &positions, past, mask: &mask };
        let clock = Clock::start(&engine.devices);
        let chosen = engine.choose_after(session, &rows, &next_positions, &mut Duration::default());
        let (choices, features) = chosen.expect("chosen");
        let features = features.copy();
        (choices.read(&clock.wait(), &next_positions).expect("tokens"), features)
    }

    #[test]
    fn a_graph_finds_the_bits_that_kernels_find_in_the_same_form() {
        simulated::holds("graphs::tests::case_of_bits");
    }

    #[test]
    #[ignore = "a case"]
    fn case_of_bits() {
        for (pair, dtype) in PAIRS.iter().flat_map(|pair| DTYPES.map(|dtype| (pair, dtype))) {
            let engine = engine(pair, dtype, CudaGraphs::Auto);
            let start = |sampler: &Sampler, length| {
                engine.prefill_sampled(&prompt(length), sampler.clone(), None).expect("a prompt")
            };
            for (sampler, rows) in samplers().iter().flat_map(|sampler| [1, 5].map(|rows| (sampler, rows))) {
                let mut with_graph = start(sampler, 90);
                let _ = chosen_after(&engine, &mut with_graph, &prompt(rows));
                engine.capture_graph(&mut with_graph);
                for length in [90, 120] {
                    // Nothing was captured for the other one.
                    let mut with_kernels = start(sampler, length);
                    with_graph = engine
                        .prefill_sampled(&prompt(length), sampler.clone(), Some(with_graph))
                        .expect("a prompt");
                    let tokens: Vec<u32> = (0..rows).map(|row| 7 + (length + 31 * row) % 240).collect();
                    let [found, expected] = [&mut with_graph, &mut with_kernels]
                        .map(|session| chosen_after(&engine, session, &tokens));
                    assert_eq!(found, expected, "{pair}, {dtype:?}, {rows} rows after {length}");
                    assert_eq!(with_graph.graphs.as_ref().map(|graphs| graphs.captured.len()), Some(1));
                    // Rows that fill a bucket change nothing but rounding.
                    let (past, rows) = (i64::from(length), i64::from(rows));
                    let (positions, mask) = (positions(past, rows), AttentionMask::causal(past, rows));
                    let rows = Rows { tokens: &tokens, positions: &positions, past, mask: &mask };
                    let alone = engine.target.forward(&rows, &[], &with_kernels.target_cache, LogitRows::All);
                    let difference =
                        (alone.expect("features").features - found.1).abs().max().double_value(&[]);
                    let tolerance = if dtype == DtypeSetting::F32 { 1e-4 } else { 0.1 };
                    assert!(difference < tolerance, "{pair}, {dtype:?}: {difference}");
                }
            }
        }
    }

    /// Forwards of one form, kernel by kernel: nothing is captured between them.
    #[test]
    fn forwards_of_a_form_launch_the_same_at_the_same_addresses() {
        let Some(events) = simulated::traced("graphs::tests::case_of_launches") else { return };
        let is_boundary = |event: &Event| *event == Event::Wait(Wait::Device);
        let phases: Vec<&[Event]> = events.split(is_boundary).skip(1).step_by(2).collect();
        // What was allocated by the first of each form stays.
        for forms in [&phases[1..4], &phases[5..8]] {
            let launches = forms[0].iter().filter(|event| matches!(event, Event::Launch(_))).count();
            let addresses =
                forms[0].iter().filter(|event| matches!(event, Event::With(with) if with.contains("0x")));
            assert!(launches > 50 && addresses.count() > launches / 2, "{launches} launches");
            for (number, other) in forms.iter().enumerate() {
                let differs = forms[0].iter().zip(*other).find(|(first, second)| first != second);
                assert!(differs.is_none() && forms[0].len() == other.len(), "{number}: {differs:#?}");
            }
        }
    }

    #[test]
    #[ignore = "a case"]
    fn case_of_launches() {
        for rows in [1, 5] {
            let [target, draft] = folders(PAIRS[1]);
            let config = EngineConfig {
                dtype: DtypeSetting::Bf16,
                cuda_graphs: CudaGraphs::Auto,
                ..EngineConfig::new(target, draft)
            };
            let engine = Engine::load(&EngineConfig { device: "cuda".to_owned(), ..config })
                .expect("the engine loads");
            let mut session = engine.prefill(&prompt(90), None).expect("a prompt");
            for _ in 0..4 {
                let _ = chosen_after(&engine, &mut session, &prompt(rows));
                session.target_cache.advance(1);
            }
        }
    }
}
