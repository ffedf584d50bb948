//! What a forward cannot go below: the time to read its weights and caches once, or to do its
//! arithmetic.

use std::time::Instant;

use ltd_engine::measure::Products;
use ltd_engine::{BlockConfig, Engine};
use ltd_run::Progress;
use serde::Serialize;
use tch::{Cuda, Device, Kind, Tensor};

use crate::error::Result;

/// Bytes that a CPU reads for its bandwidth: far more than its caches hold.
const HOST_BYTES: usize = 1 << 29;
const DEVICE_BYTES: usize = 1 << 32;
/// Rows and columns of the products that show how fast arithmetic can be.
const HOST_PRODUCT: i64 = 1024;
const DEVICE_PRODUCT: i64 = 8192;
const REPEATS: usize = 12;

/// What the machine can do at best, as measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Limits {
    /// Reading a large buffer, as STREAM does, with the threads of the kernels.
    pub(super) bytes_per_second: f64,
    /// Multiplications and additions of a large square product, in the engine's number type.
    pub(super) operations_per_second: f64,
}

/// What a forward has to do at least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    /// Weights and cached keys and values, each read once.
    bytes: f64,
    /// Multiplications and additions of products and attention.
    operations: f64,
}

impl Work {
    /// A target forward of some rows behind `context` cached positions.
    pub(super) fn target_forward(engine: &Engine, context: usize, rows: usize) -> Self {
        let config = engine.target_config();
        Self::forward(&config.products(), &config.block, config.layers, context, rows, engine.element_bytes())
    }

    /// A level of the draft behind `context` cached positions.
    pub(super) fn draft_level(engine: &Engine, context: usize) -> Self {
        let config = engine.draft_config();
        let (products, rows) = (config.products(), engine.beam_width());
        Self::forward(&products, &config.block, 1, context, rows, engine.element_bytes())
    }

    fn forward(
        products: &[[i64; 2]],
        block: &BlockConfig,
        layers: i64,
        context: usize,
        rows: usize,
        element_bytes: u64,
    ) -> Self {
        let weights: i64 = products.iter().map(|[outputs, inputs]| outputs * inputs).sum();
        let positions = (context + rows) as i64 * layers;
        let cached = 2 * block.kv_heads * block.head_dim * positions;
        let attended = 2 * block.heads * block.head_dim * positions;
        Self {
            bytes: (weights + cached) as f64 * element_bytes as f64,
            operations: 2.0 * rows as f64 * (weights + attended) as f64,
        }
    }
}

impl Limits {
    pub(super) fn measure(engine: &Engine, progress: Progress) -> Result<Self> {
        let task = progress.task("limits", 1);
        let device = engine.device();
        let bytes_per_second = match device {
            Device::Cpu => host_bandwidth(),
            _ => device_bandwidth(device)?,
        };
        let side = if device == Device::Cpu { HOST_PRODUCT } else { DEVICE_PRODUCT };
        let product = Products::new(engine, &[[side, side]], side as usize)?;
        let times =
            (0..REPEATS).flat_map(|_| product.kernels().map(|kernel| product.time(kernel, side as usize)));
        let times = times.collect::<Result<Vec<_>, _>>()?;
        let best = times.into_iter().min().expect("invariant: there are repeats").as_secs_f64();
        let limits = Self { bytes_per_second, operations_per_second: 2.0 * (side as f64).powi(3) / best };
        task.finish(&limits.to_string());
        Ok(limits)
    }

    /// The longer of reading and computing, in milliseconds.
    pub(super) fn floor_ms(&self, work: Work) -> f64 {
        let reading = work.bytes / self.bytes_per_second;
        let computing = work.operations / self.operations_per_second;
        reading.max(computing) * 1e3
    }
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { bytes_per_second, operations_per_second } = self;
        write!(f, "{:.1} GB/s, {:.2} TFLOP/s", bytes_per_second / 1e9, operations_per_second / 1e12)
    }
}

/// Bytes per second of the fastest of some passes over a large buffer.
fn host_bandwidth() -> f64 {
    let buffer = vec![1_u64; HOST_BYTES / size_of::<u64>()];
    let threads = tch::get_num_threads().max(1) as usize;
    let pass = || {
        let start = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let parts = buffer.chunks(buffer.len().div_ceil(threads));
            let parts: Vec<_> = parts.map(|part| scope.spawn(|| part.iter().sum::<u64>())).collect();
            parts.into_iter().map(|part| part.join().expect("invariant: a sum does not fail")).sum()
        });
        let elapsed = start.elapsed().as_secs_f64();
        std::hint::black_box(sum);
        elapsed
    };
    HOST_BYTES as f64 / (0..REPEATS).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

fn device_bandwidth(device: Device) -> Result<f64> {
    let synchronize = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    let elements = (DEVICE_BYTES / size_of::<f32>()) as i64;
    let buffer = Tensor::f_ones([elements], (Kind::Float, device))?;
    let pass = || {
        synchronize();
        let start = Instant::now();
        let _sum = buffer.f_sum(Kind::Float)?;
        synchronize();
        Ok(start.elapsed().as_secs_f64())
    };
    let passes = (0..REPEATS).map(|_| pass()).collect::<Result<Vec<_>>>()?;
    Ok(DEVICE_BYTES as f64 / passes.into_iter().fold(f64::INFINITY, f64::min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_reads_its_weights_once_and_multiplies_them_by_every_row() {
        let block = BlockConfig {
            hidden: 8,
            intermediate: 16,
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            rms_norm_eps: 1e-5,
            rope: ltd_engine::RopeConfig { theta: 1e4, scaling: ltd_engine::RopeScaling::None },
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            head_norms: false,
        };
        let work = Work::forward(&[[10, 8], [8, 5]], &block, 2, 7, 3, 2);
        // 120 weights; 10 positions of 2 layers with 2 x 2 heads of 3 numbers cached, and 2 x 4
        // heads of 3 attended.
        assert_eq!(work, Work { bytes: 2.0 * (120.0 + 240.0), operations: 6.0 * (120.0 + 480.0) });
        let limits = Limits { bytes_per_second: 720.0, operations_per_second: 1000.0 };
        assert_eq!(limits.floor_ms(work), 3600.0);
        assert_eq!(limits.floor_ms(Work { operations: 10.0, ..work }), 1000.0);
    }
}
