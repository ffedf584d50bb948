//! Grouped-query attention over a preallocated cache.

use tch::Tensor;

use super::host::{self, Attending, HeadNorms, Heads};
use super::linear::Linear;
use super::mask::Seen;
use super::norm::RmsNorm;
use super::plan::{AttentionPlan, HostForm, PlanForm, TensorForm};
use super::rope::Rotation;
use crate::cuda::attend_to_first;
use crate::kv_cache::LayerCache;
use crate::model::config::BlockConfig;
use crate::model::weights::Weights;
use crate::{Error, Result};

const HEADS: i64 = 1;

/// Projections of one attention layer; q, k and v packed in one product.
pub(crate) struct Attention {
    qkv: Linear,
    output: Linear,
    head_norms: Option<QueryKeyNorms>,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
}

/// Norms of each query and each key head, before the rotation.
struct QueryKeyNorms {
    query: RmsNorm,
    key: RmsNorm,
    /// Weights of all heads, `[heads + 2 * kv_heads, head_dim]`; 1 for the values.
    of_all: Tensor,
}

impl QueryKeyNorms {
    fn new(query: RmsNorm, key: RmsNorm, heads: i64, kv_heads: i64) -> Result<Self> {
        let repeated = |weight: &Tensor, heads: i64| weight.f_expand([heads, -1], false);
        let (q, k) = (repeated(query.weight(), heads)?, repeated(key.weight(), kv_heads)?);
        let of_all = Tensor::f_cat(&[q, k.shallow_clone(), k.f_ones_like()?], 0)?;
        Ok(Self { query, key, of_all })
    }

    /// Norms all heads of `[n, heads + 2 * kv_heads, head_dim]`, the values as well: nobody may use
    /// those.
    fn forward(&self, qkv: &Tensor) -> Result<Tensor> {
        self.query.forward_unweighted(qkv)?.f_mul_(&self.of_all).map_err(Error::from)
    }
}

impl Attention {
    /// `input` is the width that q, k and v read: `hidden` in a target, `2 * hidden` in an EAGLE-3
    /// head.
    pub(crate) fn load(weights: &mut Weights, name: &str, config: &BlockConfig, input: i64) -> Result<Self> {
        let BlockConfig { hidden, heads, kv_heads, head_dim, qkv_bias, .. } = *config;
        let parts = [("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)];
        let mut concatenated = |kind: &str, inputs: &[i64]| {
            let part = |(part, heads): &(&str, i64)| {
                let shape: Vec<i64> =
                    std::iter::once(heads * head_dim).chain(inputs.iter().copied()).collect();
                weights.take_view(&format!("{name}.{part}.{kind}"), &shape)
            };
            let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>(Tensor::f_cat(&parts, 0)?)
        };
        let weight = concatenated("weight", &[input])?;
        let bias = qkv_bias.then(|| concatenated("bias", &[])).transpose()?;
        let mut norm =
            |part: &str| RmsNorm::load(weights, &format!("{name}.{part}"), head_dim, config.rms_norm_eps);
        let head_norms =
            config.head_norms.then(|| QueryKeyNorms::new(norm("q_norm")?, norm("k_norm")?, heads, kv_heads));
        let head_norms = head_norms.transpose()?;
        let shape = [hidden, heads * head_dim];
        let output = Linear::load(weights, &format!("{name}.o_proj"), shape, config.output_bias)?;
        Ok(Self { qkv: Linear::with_bias(weight, bias), output, head_norms, heads, kv_heads, head_dim })
    }

    /// Whether a row's result has the same bits whatever the rows beside it that it does not see.
    /// Where the products are, the device is a CPU, on which attention is, too.
    pub(crate) fn is_batch_invariant(&self) -> bool {
        self.qkv.is_batch_invariant() && self.output.is_batch_invariant()
    }

    /// `residual + attention(x)`, with the rows of `x` normed if there is a `norm`: `[n, input] ->
    /// [n, hidden]`. Writes the rows' keys and values into the cache, after those that the plan
    /// says are there, and attends to both. The result may lie in the memory of `residual`, which
    /// is not to be read any more.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        norm: Option<&RmsNorm>,
        residual: &Tensor,
        plan: &AttentionPlan,
        cache: &LayerCache,
    ) -> Result<Tensor> {
        let Self { qkv, output, .. } = self;
        if let (PlanForm::Host(form), Some(qkv), Some(output)) = (&plan.form, qkv.on_host(), output.on_host())
        {
            let attending = self.attending(form, cache);
            return Ok(attending.attend_projected([qkv, output], x, norm.map(RmsNorm::on_host), residual));
        }
        let qkv = match norm {
            Some(norm) => qkv.forward_normed(x, norm)?,
            None => qkv.forward(x)?,
        };
        output.forward_plus(&self.attend(&qkv, plan, cache)?, residual)
    }

    fn attend(&self, qkv: &Tensor, plan: &AttentionPlan, cache: &LayerCache) -> Result<Tensor> {
        match &plan.form {
            PlanForm::Host(form) => Ok(self.attending(form, cache).attend(qkv)),
            PlanForm::Tensors(form) => self.attend_with_libtorch(qkv, form, cache),
        }
    }

    fn attending<'t>(&'t self, form: &'t HostForm, cache: &'t LayerCache) -> Attending<'t> {
        let HostForm { past, rotation: Rotation { cos, sin }, visibility, instructions } = form;
        let (keys, values) = cache.whole();
        let norms = self.head_norms.as_ref();
        Attending {
            cpu: host::with_instructions(*instructions),
            heads: Heads {
                queries: self.heads as usize,
                keys: self.kv_heads as usize,
                width: self.head_dim as usize,
                scale: 1.0 / (self.head_dim as f32).sqrt(),
            },
            norms: norms.map(|QueryKeyNorms { query, key, .. }| HeadNorms {
                query: query.on_host(),
                key: key.on_host(),
            }),
            cos,
            sin,
            keys,
            values,
            past: *past as usize,
            visibility,
        }
    }

    fn attend_with_libtorch(&self, qkv: &Tensor, form: &TensorForm, cache: &LayerCache) -> Result<Tensor> {
        let TensorForm { rotation, seen, places, end } = form;
        let n = qkv.size()[0];
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        let group = heads / kv_heads;
        let qkv = qkv.f_view([n, heads + 2 * kv_heads, head_dim])?;
        let normed = self.head_norms.as_ref().map(|norms| norms.forward(&qkv)).transpose()?;
        // Heads become the slowest in memory, as attention and the cache have them. Finite values
        // are turned by nothing.
        let rotated = Tensor::f_empty([heads + 2 * kv_heads, n, head_dim], (qkv.kind(), qkv.device()))?;
        let groups = rotated.f_view([group + 2, kv_heads, n, head_dim])?.permute([2, 0, 1, 3]);
        let by_groups = normed.as_ref().unwrap_or(&qkv).f_view([n, group + 2, kv_heads, head_dim])?;
        rotation.apply(&by_groups, &groups)?;
        if normed.is_none() {
            cache.write(0, places, &rotated.narrow(0, heads, 2 * kv_heads))?;
        } else {
            let values = qkv.narrow(HEADS, heads + kv_heads, kv_heads).transpose(0, 1);
            cache.write(0, places, &rotated.narrow(0, heads, kv_heads))?;
            cache.write(kv_heads, places, &values)?;
        }

        let (keys, values) = cache.read(*end);
        let attend = |shape: [i64; 3], [keys, values]: [&Tensor; 2], mask: Option<&Tensor>, causal| {
            let q = rotated.narrow(0, 0, heads).f_view(shape)?.unsqueeze(0);
            let (keys, values, scale) = (keys.unsqueeze(0), values.unsqueeze(0), None);
            Tensor::f_scaled_dot_product_attention(&q, &keys, &values, mask, 0.0, causal, scale, false)
        };
        // Query heads that share a key head are rows of one problem: no copy of the cache for each.
        let grouped = [kv_heads, group * n, head_dim];
        let attended = match seen {
            Seen::All => attend(grouped, [&keys, &values], None, false)?,
            Seen::Added(mask) => attend(grouped, [&keys, &values], Some(mask), false)?,
            Seen::First { count, ends: [of_queries, of_keys] } => {
                let queries = rotated.narrow(0, 0, heads).f_view([1, heads, head_dim])?;
                let [keys, values] = [keys, values].map(|kv| kv.transpose(0, 1));
                let ends = [of_queries, of_keys];
                let attended = attend_to_first(&queries, [&keys, &values], ends, count)?;
                return Ok(attended.f_view([1, heads * head_dim])?);
            }
            Seen::InOrder => {
                // Kernels that know this order need no mask, but a key head for each query head.
                let for_each = |kv: &Tensor| {
                    let shape = [kv_heads, group, n, head_dim];
                    kv.unsqueeze(1).f_expand(shape, false)?.f_reshape([heads, n, head_dim])
                };
                attend([heads, n, head_dim], [&for_each(&keys)?, &for_each(&values)?], None, true)?
            }
        };
        heads_to_rows(&attended, [n, heads * head_dim])
    }
}

/// `[1, kv_heads, group * n, head_dim]` or `[1, heads, n, head_dim]`, in whatever order in memory a
/// kernel leaves it, to `[n, heads * head_dim]`: with one copy at most.
fn heads_to_rows(attended: &Tensor, rows: [i64; 2]) -> Result<Tensor> {
    let size = attended.size();
    let [_, problems, grouped, head_dim] = size[..] else {
        unreachable!("invariant: attention is over four dimensions")
    };
    let n = rows[0];
    // Dimensions that are divided can be looked at in any order; only dimensions that become one
    // cannot.
    let divided = attended.f_view([problems, grouped / n, n, head_dim])?;
    Ok(divided.permute([2, 0, 1, 3]).f_reshape(rows)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Device, Kind};

    use super::super::host::InstructionSet;
    use super::super::mask::AttentionMask;
    use super::super::rope::RotaryTable;
    use super::super::rows::Rows;
    use super::*;
    use crate::kv_cache::KvCache;
    use crate::model::config::{RopeConfig, RopeScaling};
    use crate::transfer::Upload;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn block(heads: i64, kv_heads: i64, head_dim: i64, head_norms: bool) -> BlockConfig {
        BlockConfig {
            hidden: 1,
            intermediate: 1,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: 1e-5,
            rope: RopeConfig { theta: 1e4, scaling: RopeScaling::None },
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            head_norms,
        }
    }

    /// To attend with, not to project.
    fn bare_attention(config: &BlockConfig, norms: Option<[RmsNorm; 2]>) -> Attention {
        let BlockConfig { heads, kv_heads, head_dim, .. } = *config;
        let head_norms = norms.map(|[query, key]| QueryKeyNorms::new(query, key, heads, kv_heads));
        let head_norms = head_norms.transpose().expect("norms");
        let weight = || Linear::new(Tensor::zeros([1, 1], CPU));
        Attention { qkv: weight(), output: weight(), head_norms, heads, kv_heads, head_dim }
    }

    /// A plan on the CPU, made at once.
    fn plan(
        instructions: Option<InstructionSet>,
        rows: &Rows,
        rotary: &RotaryTable,
        config: &BlockConfig,
        kind: Kind,
    ) -> AttentionPlan {
        let mut upload = Upload::default();
        let place = (kind, Device::Cpu);
        let prepared = AttentionPlan::prepare_with(instructions, &mut upload, rows, rotary, config, place);
        prepared(&upload.send(Device::Cpu).expect("numbers")).expect("a plan")
    }

    /// The largest difference between LibTorch's kernels and those of any instruction set of this
    /// processor, in the results and in what the cache holds.
    fn case(
        heads: (i64, i64, i64),
        rows: i64,
        past: i64,
        kind: Kind,
        sees: Option<Vec<bool>>,
        normed: bool,
    ) -> f64 {
        let (kv_heads, group, head_dim) = heads;
        let config = block(kv_heads * group, kv_heads, head_dim, normed);
        let random = |shape: &[i64]| Tensor::randn(shape, CPU).to_kind(kind);
        let norm = || RmsNorm::new(random(&[head_dim]) * 0.3 + 0.7, config.rms_norm_eps);
        let attention = bare_attention(&config, normed.then(|| [norm(), norm()]));
        let qkv = random(&[rows, (config.heads + 2 * kv_heads) * head_dim]);
        let cached = random(&[1, 2, kv_heads, past + rows + 3, head_dim]);
        let mask = match sees {
            Some(sees) => AttentionMask::tree(past, sees),
            None => AttentionMask::tree(past, vec![true; (rows * rows) as usize]),
        };
        // Positions of a tree: several rows share one.
        let positions: Vec<i64> = (0..rows).map(|row| past + row / 2).collect();
        let rotary = RotaryTable::new(past + rows, head_dim, &config.rope);
        let rotary = rotary.on_devices([Device::Cpu], kind).expect("a table");
        let run = |instructions: Option<InstructionSet>| {
            let cache = KvCache::new(1, kv_heads, past + rows + 3, head_dim, kind, Device::Cpu);
            let mut cache = cache.expect("a cache");
            cache.fill(&cached);
            let new = Rows { tokens: &[], positions: &positions, past, mask: &mask };
            let plan = plan(instructions, &new, &rotary, &config, kind);
            let result = attention.attend(&qkv, &plan, cache.layer(0)).expect("a result");
            cache.advance(past + rows);
            [result.to_kind(Kind::Float), cache.certain().to_kind(Kind::Float)]
        };
        let plain = run(None);
        InstructionSet::available()
            .flat_map(|set| run(Some(set)).into_iter().zip(&plain))
            .map(|(own, plain)| (own - plain).abs().max().double_value(&[]))
            // Not `f64::max`, which would pass over NaN.
            .fold(0.0, |a, b| if a > b { a } else { b })
    }

    /// Rows of random trees: each sees itself and what its parent sees.
    fn tree(parents: &[usize], rows: usize) -> Vec<bool> {
        let mut sees = vec![false; rows * rows];
        for row in 0..rows {
            if row > 0 {
                let parent = parents[row] % row;
                sees.copy_within(parent * rows..(parent + 1) * rows, row * rows);
            }
            sees[row * rows + row] = true;
        }
        sees
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_hosts_kernel_equals_libtorchs(
            kv_heads in 1i64..4, group in 1i64..5, half in 1i64..70,
            rows in 1i64..40, past in 0i64..100, flags in prop::collection::vec(any::<bool>(), 1600),
            masked in any::<bool>(), normed in any::<bool>(),
        ) {
            let sees = (masked && rows > 1).then(|| {
                // Each row sees itself at least.
                (0..(rows * rows) as usize).map(|i| flags[i] || i as i64 % rows == i as i64 / rows).collect()
            });
            let heads = (kv_heads, group, 2 * half);
            let difference = case(heads, rows, past, Kind::Float, sees.clone(), normed);
            prop_assert!(difference < 2e-5, "f32: {}", difference);
            let difference = case(heads, rows, past, Kind::BFloat16, sees, normed);
            // LibTorch rounds once more, after the norms.
            let tolerance = if normed { 0.12 } else { 0.06 };
            prop_assert!(difference < tolerance, "bf16: {}", difference);
        }

        #[test]
        fn the_hosts_kernel_equals_libtorchs_on_trees_behind_a_context(
            group in prop::sample::select(vec![1i64, 3, 4]), head_dim in prop::sample::select(vec![64i64, 96, 128]),
            rows in 1i64..=130, past in 0i64..=600, parents in prop::collection::vec(any::<usize>(), 130),
        ) {
            let sees = Some(tree(&parents, rows as usize));
            for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 0.06)] {
                let difference = case((2, group, head_dim), rows, past, kind, sees.clone(), false);
                prop_assert!(difference < tolerance, "{:?}: {}", kind, difference);
            }
        }
    }

    #[test]
    fn heads_become_rows_whatever_their_order_in_memory() {
        let (kv_heads, group, rows, head_dim) = (2, 3, 5, 4);
        let shape = [1, kv_heads, group * rows, head_dim];
        let numbers = Tensor::arange(shape.iter().product::<i64>(), CPU).view(shape);
        let value = |row: i64, head: i64, place: i64| {
            // Head `h` of the queries is the one of number `h % group` on key head `h / group`.
            let at = [0, head / group, head % group * rows + row, place];
            numbers.double_value(&at)
        };
        let expected = (0..rows).flat_map(|row| {
            let heads = (0..kv_heads * group).flat_map(|head| (0..head_dim).map(move |place| (head, place)));
            heads.map(move |(head, place)| (row, head, place))
        });
        let expected: Vec<f32> = expected.map(|(row, head, place)| value(row, head, place) as f32).collect();
        let expected = Tensor::from_slice(&expected).view([rows, kv_heads * group * head_dim]);
        // As flash attention leaves it, as the memory-efficient kernel does, and in the order of
        // columns.
        for order in [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]] {
            let attended = numbers.permute(order).contiguous().permute(order);
            assert_eq!(attended.is_contiguous(), order == [0, 1, 2, 3]);
            assert_eq!(
                heads_to_rows(&attended, [rows, kv_heads * group * head_dim]).expect("rows"),
                expected,
                "{order:?}"
            );
        }
        let step = numbers.narrow(2, 0, group).transpose(1, 2).contiguous().transpose(1, 2);
        let rows = heads_to_rows(&step, [1, kv_heads * group * head_dim]).expect("rows");
        assert_eq!(rows, numbers.narrow(2, 0, group).reshape([1, kv_heads * group * head_dim]));
    }

    #[test]
    fn one_operation_equals_its_parts() {
        let (hidden, rows, past) = (96, 21, 40);
        let config = block(6, 2, 32, true);
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
            let random = |shape: &[i64]| Tensor::randn(shape, CPU).to_kind(kind);
            let (x, norm) = (random(&[rows, hidden]), RmsNorm::new(random(&[hidden]), config.rms_norm_eps));
            let weights = [random(&[10 * 32, hidden]), random(&[hidden, 6 * 32])].map(|weight| weight * 0.1);
            let cached = random(&[1, 2, 2, past, 32]);
            let rotary = RotaryTable::new(past + rows, 32, &config.rope);
            let positions: Vec<i64> = (past..past + rows).collect();
            let mask = AttentionMask::causal(past, rows);
            let new = Rows { tokens: &[], positions: &positions, past, mask: &mask };
            let instructions = host::supports(Device::Cpu, kind).then(host::instructions);
            let plan = plan(instructions, &new, &rotary, &config, kind);
            let run = |linear: fn(Tensor) -> Linear| {
                let cache = KvCache::new(1, 2, past + rows, 32, kind, Device::Cpu).expect("a cache");
                cache.fill(&cached);
                let [qkv, output] = weights.each_ref().map(|weight| linear(weight.shallow_clone()));
                let norms = [(); 2].map(|()| RmsNorm::new(Tensor::ones([32], CPU).to_kind(kind), 1e-5));
                let attention = Attention { qkv, output, ..bare_attention(&config, Some(norms)) };
                let result = attention.forward(&x, Some(&norm), &x.copy(), &plan, cache.layer(0));
                result.expect("a result").to_kind(Kind::Float)
            };
            // Weights as they are stored are multiplied by LibTorch.
            let difference = (run(Linear::new) - run(Linear::as_stored)).abs().max().double_value(&[]);
            assert!(difference < tolerance, "{kind:?}: {difference}");
        }
    }

    #[test]
    fn a_path_of_a_tree_gets_the_bits_of_one_step_after_another() {
        let block = block(3, 1, 64, false);
        let attention = bare_attention(&block, None);
        let rows = 40;
        let parents: Vec<usize> = (0..rows).map(|row| row * 7 / 2 + 1).collect();
        let sees = tree(&parents, rows);
        let path =
            |row: usize| -> Vec<usize> { (0..rows).filter(|other| sees[row * rows + other]).collect() };
        let rotary = RotaryTable::new(200, block.head_dim, &block.rope);
        // The first new row is the first or the second one of a pair of positions that is
        // multiplied at once.
        let kinds = [Kind::Float, Kind::BFloat16, Kind::Half];
        let cases = (40..60).flat_map(|past| kinds.map(|kind| (kind, past)));
        for (set, (kind, past)) in
            InstructionSet::available().flat_map(|set| cases.clone().map(move |case| (set, case)))
        {
            // Equal weights, and values of which the large ones cancel out: what is left depends on
            // the order of the sum.
            let random = |shape: &[i64]| Tensor::randn(shape, CPU);
            // The largest of f16 is below 2^16.
            let large = if kind == Kind::Half { 12 } else { 24 };
            let values =
                |shape: &[i64]| random(shape).sign() * (random(shape).sign().clamp_min(0) * large).exp2();
            let (count, width) = (rows as i64, block.head_dim);
            let new =
                [random(&[count, 3 * width]), Tensor::zeros([count, width], CPU), values(&[count, width])];
            let qkv = Tensor::cat(&new, 1).to_kind(kind);
            let context = [Tensor::zeros([1, 1, 1, past, width], CPU), values(&[1, 1, 1, past, width])];
            let context = Tensor::cat(&context, 1).to_kind(kind);
            let attend = |cache: &KvCache, x: &Tensor, positions: &[i64], past: i64, mask: &AttentionMask| {
                let rows = Rows { tokens: &[], positions, past, mask };
                let plan = plan(Some(set), &rows, &rotary, &block, kind);
                attention.attend(x, &plan, cache.layer(0)).expect("a result")
            };
            let new_cache = || {
                let cache = KvCache::new(1, 1, past + rows as i64, block.head_dim, kind, Device::Cpu);
                let cache = cache.expect("a cache");
                cache.fill(&context);
                cache
            };
            let positions: Vec<i64> = (0..rows).map(|row| past + path(row).len() as i64 - 1).collect();
            let mask = AttentionMask::tree(past, sees.clone());
            let in_tree = attend(&new_cache(), &qkv, &positions, past, &mask);
            for leaf in 0..rows {
                let cache = new_cache();
                for (step, row) in path(leaf).into_iter().enumerate() {
                    let (x, past) = (qkv.narrow(0, row as i64, 1), past + step as i64);
                    let alone = attend(&cache, &x, &[past], past, &AttentionMask::causal(past, 1));
                    assert_eq!(
                        alone,
                        in_tree.narrow(0, row as i64, 1),
                        "{set} {kind:?}, {past}: row {row} of {leaf}"
                    );
                }
            }
        }
    }
}
