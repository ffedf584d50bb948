//! Attention of a few rows over a cache.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use ltd_kernels::{Attention, Caches, Cpu, Fused, HeadNorms, Heads, RowNorm, Visibility};
use proptest::prelude::*;

use crate::reference::{Random, Tested, Weight, assert_close, cpus, normed, values};

/// Rows after some cached positions.
struct Case<T> {
    heads: Heads,
    norms: Option<[Vec<T>; 2]>,
    /// Per row, for all its heads.
    angles: Vec<f64>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    qkv: Vec<T>,
    keys: Vec<T>,
    values: Vec<T>,
    capacity: usize,
    past: usize,
    /// Which of the positions after `past` a row sees, row-major.
    sees: Option<Vec<bool>>,
    visibility: Visibility,
}

impl<T: Tested> Case<T> {
    fn new(seed: u64, heads: Heads, rows: usize, past: usize, sees: Option<Vec<bool>>, normed: bool) -> Self {
        let random = &mut Random(seed);
        let Heads { queries, keys, width, .. } = heads;
        let capacity = past + rows + 3;
        let angles: Vec<f64> =
            random.numbers::<f32>(rows * width / 2, 2.0).into_iter().map(f64::from).collect();
        let everywhere = if sees.is_some() { past } else { past + rows };
        Self {
            heads,
            norms: normed.then(|| [(); 2].map(|()| random.numbers(width, 1.0))),
            cos: angles.iter().map(|angle| angle.cos() as f32).collect(),
            sin: angles.iter().map(|angle| angle.sin() as f32).collect(),
            angles,
            qkv: random.numbers(rows * (queries + 2 * keys) * width, 1.0),
            keys: random.numbers(keys * capacity * width, 1.0),
            values: random.numbers(keys * capacity * width, 1.0),
            capacity,
            past,
            visibility: Visibility::new(everywhere, sees.as_deref(), rows, queries / keys.max(1)),
            sees,
        }
    }

    fn attention(&mut self) -> Attention<'_, T> {
        let norm = |weight| RowNorm { weight, eps: 1e-5 };
        Attention {
            heads: self.heads,
            norms: self.norms.as_ref().map(|[query, key]| HeadNorms { query: norm(query), key: norm(key) }),
            cos: &self.cos,
            sin: &self.sin,
            caches: Caches {
                keys: &mut self.keys,
                values: &mut self.values,
                capacity: self.capacity,
                past: self.past,
            },
            visibility: &self.visibility,
        }
    }

    fn attend(&mut self, cpu: Cpu, rows: usize) -> Vec<T> {
        let mut result = vec![T::rounded(f64::NAN); rows * self.heads.queries * self.heads.width];
        let qkv = self.qkv.clone();
        self.attention().attend(cpu, &qkv, &mut result);
        result
    }

    /// A head of a row: normed and rotated.
    fn rotated(&self, row: usize, head: usize, norm: usize) -> Vec<f64> {
        let Heads { queries, keys, width, .. } = self.heads;
        let mut x = values(&self.qkv[(row * (queries + 2 * keys) + head) * width..][..width]);
        if let Some(norms) = &self.norms {
            x = normed(&x, RowNorm { weight: &norms[norm], eps: 1e-5 });
        }
        let half = width / 2;
        let angle = |i: usize| self.angles[row * half + i % half];
        let rotate = |i: usize| {
            let crossed = if i < half { -x[i + half] } else { x[i - half] };
            x[i] * angle(i).cos() + crossed * angle(i).sin()
        };
        (0..width).map(rotate).collect()
    }

    /// What it should give, of the cache as it is after it.
    fn expected(&self, rows: usize) -> Vec<f64> {
        let Heads { queries, keys, width, scale } = self.heads;
        let cached = |cache: &[T], head: usize, position: usize| {
            values(&cache[(head * self.capacity + position) * width..][..width])
        };
        let of_head = |row: usize, head: usize| {
            let (query, key_head) = (self.rotated(row, head, 0), head / (queries / keys));
            let sees = |position: usize| {
                let sees = self.sees.as_ref().filter(|_| position >= self.past);
                sees.is_none_or(|sees| sees[row * rows + position - self.past])
            };
            let seen: Vec<usize> = (0..self.past + rows).filter(|position| sees(*position)).collect();
            let score = |position: &usize| {
                let key = cached(&self.keys, key_head, *position);
                query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * f64::from(scale)
            };
            let weights: Vec<f64> = seen.iter().map(|position| score(position).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; width];
            for (position, weight) in seen.iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(cached(&self.values, key_head, *position)) {
                    *sum += weight / total * value;
                }
            }
            sums
        };
        (0..rows).flat_map(|row| (0..queries).flat_map(move |head| of_head(row, head))).collect()
    }
}

fn attention_is_right<T: Tested>(
    seed: u64,
    heads: Heads,
    rows: usize,
    past: usize,
    sees: Option<&Vec<bool>>,
    normed: bool,
) {
    for cpu in cpus() {
        let mut case = Case::<T>::new(seed, heads, rows, past, sees.cloned(), normed);
        let (keys_before, values_before) = (case.keys.clone(), case.values.clone());
        let found = case.attend(cpu, rows);
        let what = format!("{} {heads:?}, {rows} after {past}", cpu.instructions);
        // Scores of rounded queries, weights of rounded scores.
        assert_close(&found, &case.expected(rows), 6.0 * T::ROUNDING + 1e-5, &what);
        // The caches hold the new rows, and nothing else has changed.
        let Heads { queries, keys, width, .. } = heads;
        for (head, position) in
            (0..keys).flat_map(|head| (0..case.capacity).map(move |position| (head, position)))
        {
            let place = (head * case.capacity + position) * width;
            let (key, value) = (&case.keys[place..][..width], &case.values[place..][..width]);
            if (past..past + rows).contains(&position) {
                let row = position - past;
                assert_close(key, &case.rotated(row, queries + head, 1), T::ROUNDING + 2e-6, &what);
                let first = (row * (queries + 2 * keys) + queries + keys + head) * width;
                assert_eq!(value, &case.qkv[first..][..width], "{what}");
            } else {
                assert_eq!((key, value), (&keys_before[place..][..width], &values_before[place..][..width]));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn rows_attend_to_what_they_see(
        seed: u64, keys in 1usize..4, group in 1usize..5, half in 1usize..40, rows in 1usize..40,
        past in 0usize..60, flags in prop::collection::vec(any::<bool>(), 1600), masked: bool, normed: bool,
    ) {
        // Each row sees itself at least.
        let sees = || (0..rows * rows).map(|i| flags[i] || i % rows == i / rows).collect();
        let (sees, width) = (masked.then(sees), 2 * half);
        let heads = Heads { queries: keys * group, keys, width, scale: 1.0 / (width as f32).sqrt() };
        attention_is_right::<f32>(seed, heads, rows, past, sees.as_ref(), normed);
        attention_is_right::<bf16>(seed, heads, rows, past, sees.as_ref(), normed);
        attention_is_right::<f16>(seed, heads, rows, past, sees.as_ref(), normed);
    }
}

#[test]
fn with_its_projections_it_is_the_same_in_one_operation() {
    fn case<T: Tested>() {
        let heads = Heads { queries: 6, keys: 2, width: 16, scale: 0.25 };
        let (rows, past, hidden, projected) = (5, 9, 24, 10 * 16);
        for cpu in cpus() {
            let random = &mut Random(7);
            let weights = [[projected, hidden], [hidden, 6 * 16]];
            let [qkv, output] = weights.map(|shape| Weight::<T>::new(cpu, random, shape, true));
            let (x, residual) =
                (random.numbers::<T>(rows * hidden, 1.0), random.numbers::<T>(rows * hidden, 1.0));
            let norm = random.numbers::<T>(hidden, 1.0);
            let norm = Some(RowNorm { weight: &norm, eps: 1e-5 });
            let zeros = |width: usize| vec![T::rounded(0.0); rows * width];
            let mut apart = Case::<T>::new(8, heads, rows, past, None, true);
            let mut at_once = Case::<T>::new(8, heads, rows, past, None, true);
            apart.qkv = zeros(projected);
            qkv.linear().forward(cpu, &x, norm, Fused::Nothing, &mut apart.qkv);
            let attended = apart.attend(cpu, rows);
            let (mut expected, mut found) = (zeros(hidden), zeros(hidden));
            output.linear().forward(cpu, &attended, None, Fused::Plus(&residual), &mut expected);
            let linears = [qkv.linear(), output.linear()];
            at_once.attention().attend_projected(cpu, linears, &x, norm, &residual, &mut found);
            assert_eq!(found, expected, "{} {}", cpu.instructions, T::NAME);
            assert_eq!((at_once.keys, at_once.values), (apart.keys, apart.values));
        }
    }
    case::<f32>();
    case::<bf16>();
    case::<f16>();
}

#[test]
fn what_does_not_fit_is_refused_before_memory_is_touched() {
    type Misfit = (&'static str, fn(&mut Case<f32>));
    let misfits: [Misfit; 12] = [
        ("no room for the last row", |case| case.past = 7),
        ("caches that are too small", |case| case.keys.truncate(20)),
        ("too few heads in a cache", |case| case.values.truncate(64)),
        ("a past beyond all caches", |case| case.past = usize::MAX),
        ("a past that wraps around with its rows", |case| case.past = usize::MAX - 1),
        ("a capacity that wraps around", |case| case.capacity = usize::MAX / 2),
        ("angles of one row", |case| case.cos.truncate(4)),
        ("no sines", |case| case.sin.clear()),
        ("a norm of other heads", |case| case.norms.as_mut().expect("norms")[0].truncate(4)),
        ("rows that are cut off", |case| case.qkv.truncate(126)),
        ("heads that cannot be shared", |case| case.heads.queries = 3),
        ("a mask of a longer cache", |case| case.visibility = Visibility::new(3, Some(&[true; 6]), 2, 2)),
    ];
    for (cpu, (what, change)) in cpus().flat_map(|cpu| misfits.map(|misfit| (cpu, misfit))) {
        let heads = Heads { queries: 4, keys: 2, width: 8, scale: 0.4 };
        let sees = Some(vec![true, false, true, true]);
        let case = || Case::<f32>::new(9, heads, 2, 3, sees.clone(), true);
        assert_eq!(case().attend(cpu, 2).len(), 64);
        let mut case = case();
        change(&mut case);
        assert!(catch_unwind(AssertUnwindSafe(|| case.attend(cpu, 2))).is_err(), "{what}");
    }
}
