//! What a forward cannot go below: the time to read its weights and caches once, or to do its
//! arithmetic.

use std::time::{Duration, Instant};

use ltd_engine::measure::{ProductKernel, Products};
use ltd_engine::{BlockConfig, Engine};
use serde::Serialize;
use tch::{Cuda, Device, Kind, Tensor};

use crate::error::Result;

/// Bytes that a CPU reads for its bandwidth: far more than its caches hold.
const HOST_BYTES: usize = 1 << 29;
const DEVICE_BYTES: usize = 1 << 32;
/// Rows and columns of the products that show how fast arithmetic can be.
const HOST_PRODUCT: i64 = 1024;
const DEVICE_PRODUCT: i64 = 8192;

/// What the machine can do at best: medians of passes that took turns with the forwards.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Limits {
    /// Reading a large buffer, with the threads of the kernels.
    pub(super) bytes_per_second: f64,
    /// Multiplications and additions of a large square product, in the engine's number type, with
    /// the fastest kernel.
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

/// Shows what the machine can do, a pass at a time: whatever disturbs it disturbs what is timed
/// between these passes as well.
pub(super) struct LimitPasses {
    memory: Memory,
    product: Products,
    side: i64,
}

/// Something large to read.
enum Memory {
    Host(Vec<u64>),
    Device(Device, Tensor),
}

impl LimitPasses {
    pub(super) fn new(engine: &Engine) -> Result<Self> {
        let device = engine.device();
        let on_host = device == Device::Cpu;
        let memory = if on_host {
            Memory::Host(vec![1; HOST_BYTES / size_of::<u64>()])
        } else {
            let elements = (DEVICE_BYTES / size_of::<f32>()) as i64;
            Memory::Device(device, Tensor::f_ones([elements], (Kind::Float, device))?)
        };
        let side = if on_host { HOST_PRODUCT } else { DEVICE_PRODUCT };
        let product = Products::new(engine, &[[side, side]], side as usize)?;
        Ok(Self { memory, product, side })
    }

    /// Kernels that the product can be computed with.
    pub(super) fn kernels(&self) -> impl Iterator<Item = ProductKernel> {
        self.product.kernels()
    }

    /// Reads all of the memory.
    pub(super) fn time_reading(&self) -> Result<Duration> {
        match &self.memory {
            Memory::Host(numbers) => Ok(time_sum(numbers)),
            Memory::Device(device, numbers) => {
                let synchronize = || {
                    if let Device::Cuda(index) = device {
                        Cuda::synchronize(*index as i64);
                    }
                };
                synchronize();
                let start = Instant::now();
                let _sum = numbers.f_sum(Kind::Float)?;
                synchronize();
                Ok(start.elapsed())
            }
        }
    }

    /// Computes the product.
    pub(super) fn time_product(&self, kernel: ProductKernel) -> Result<Duration> {
        Ok(self.product.time(kernel, self.side as usize)?)
    }

    /// The limits that such times show, in milliseconds.
    pub(super) fn limits(&self, reading_ms: f64, product_ms: f64) -> Limits {
        let bytes = match &self.memory {
            Memory::Host(_) => HOST_BYTES,
            Memory::Device(..) => DEVICE_BYTES,
        };
        Limits {
            bytes_per_second: bytes as f64 / reading_ms * 1e3,
            operations_per_second: 2.0 * (self.side as f64).powi(3) / product_ms * 1e3,
        }
    }
}

/// Adds up numbers with the threads of the kernels.
fn time_sum(numbers: &[u64]) -> Duration {
    let threads = tch::get_num_threads().max(1) as usize;
    let start = Instant::now();
    let sum: u64 = std::thread::scope(|scope| {
        let parts = numbers.chunks(numbers.len().div_ceil(threads));
        let parts: Vec<_> = parts.map(|part| scope.spawn(|| part.iter().sum::<u64>())).collect();
        parts.into_iter().map(|part| part.join().expect("invariant: a sum does not fail")).sum()
    });
    let elapsed = start.elapsed();
    std::hint::black_box(sum);
    elapsed
}

impl Limits {
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
