//! Products with packed weights.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use ltd_kernels::{Cpu, Fused, InstructionSet, Linear, Panels, RowNorm, Scoped};
use proptest::prelude::*;

use crate::reference::{Random, Tested, Weight, assert_close, cpus, normed, silu, values};

fn products<T: Tested>(seed: u64, [rows, outputs, inputs]: [usize; 3], biased: bool) {
    let random = &mut Random(seed);
    for cpu in cpus() {
        let weight = Weight::<T>::new(cpu, random, [outputs, inputs], biased);
        let (x, other) = (random.numbers::<T>(rows * inputs, 1.0), random.numbers::<T>(rows * outputs, 1.0));
        let (product, others) = (weight.product(&values(&x)), values(&other));
        let pairs = || product.iter().zip(&others);
        for (fused, expected) in [
            (Fused::Nothing, product.clone()),
            (Fused::Silu, product.iter().map(|y| silu(*y)).collect()),
            (Fused::Times(&other), pairs().map(|(y, other)| y * other).collect()),
            (Fused::Plus(&other), pairs().map(|(y, other)| y + other).collect()),
        ] {
            let mut result = vec![T::rounded(f64::NAN); rows * outputs];
            weight.linear().forward(cpu, &x, None, fused, &mut result);
            let what = format!("{} {rows} x {inputs} -> {outputs}", cpu.instructions);
            assert_close(&result, &expected, T::ROUNDING + 5e-6, &what);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn products_are_right(
        seed: u64, rows in 1usize..40, outputs in 1usize..100, half in 1usize..80, biased: bool,
    ) {
        let sizes = [rows, outputs, 2 * half];
        products::<f32>(seed, sizes, biased);
        products::<bf16>(seed, sizes, biased);
        products::<f16>(seed, sizes, biased);
    }
}

#[test]
fn normed_rows_are_those_of_an_operation_of_its_own() {
    fn case<T: Tested>([rows, inputs, outputs]: [usize; 3]) {
        let random = &mut Random(1);
        for cpu in cpus() {
            let weight = Weight::<T>::new(cpu, random, [outputs, inputs], false);
            let (x, norm) = (random.numbers::<T>(rows * inputs, 3.0), random.numbers::<T>(inputs, 1.0));
            let norm = RowNorm { weight: &norm, eps: 1e-5 };
            let [mut normed_rows, mut apart, mut at_once] =
                [inputs, outputs, outputs].map(|width| vec![T::rounded(0.0); rows * width]);
            ltd_kernels::rms_norm(cpu, &x, norm, &mut normed_rows);
            weight.linear().forward(cpu, &normed_rows, None, Fused::Nothing, &mut apart);
            weight.linear().forward(cpu, &x, Some(norm), Fused::Nothing, &mut at_once);
            assert_eq!(at_once, apart, "{} {}", cpu.instructions, T::NAME);
            assert_close(&normed_rows, &normed(&values(&x), norm), T::ROUNDING + 1e-6, "norm");
        }
    }
    case::<f32>([1, 64, 96]);
    case::<bf16>([60, 150, 70]);
    case::<f16>([7, 34, 17]);
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    fn case<T: Tested>() {
        let random = &mut Random(2);
        let (rows, inputs, outputs) = (43, 150, 70);
        for cpu in cpus() {
            let weight = Weight::<T>::new(cpu, random, [outputs, inputs], true);
            let x = random.numbers::<T>(rows * inputs, 1.0);
            let forward = |x: &[T]| {
                let mut result = vec![T::rounded(0.0); x.len() / inputs * outputs];
                weight.linear().forward(cpu, x, None, Fused::Silu, &mut result);
                result
            };
            let together = forward(&x);
            for (first, count) in (0..rows).flat_map(|first| [1, 2, 7, 13, 30].map(|count| (first, count))) {
                if first + count <= rows {
                    let apart = forward(&x[first * inputs..][..count * inputs]);
                    let expected = &together[first * outputs..][..count * outputs];
                    assert_eq!(apart, expected, "{} {}, {count} rows", cpu.instructions, T::NAME);
                }
            }
        }
    }
    case::<f32>();
    case::<bf16>();
    case::<f16>();
}

#[test]
fn silu_is_right_far_from_zero_too() {
    let x = [-1e4, -90.0, -20.0, -1.0, -0.0, 0.0, 1e-3, 20.0, 90.0, 1e4f32];
    for cpu in cpus() {
        let one = Panels::pack(cpu, &[1.0], [1, 1]).expect("a weight");
        let mut found = [f32::NAN; 10];
        Linear { weight: &one, bias: None }.forward(cpu, &x, None, Fused::Silu, &mut found);
        for (found, x) in found.into_iter().zip(x) {
            let error = (f64::from(found) - silu(x.into())).abs();
            assert!(error <= 1e-6 * f64::from(x.abs()) + 1e-30, "{}: {x} -> {found}", cpu.instructions);
        }
    }
}

#[test]
fn a_weight_is_packed_where_its_inputs_are_whole_steps() {
    for cpu in cpus() {
        let odd = Panels::pack(cpu, &[bf16::ONE; 15], [5, 3]);
        assert_eq!(odd.is_none(), cpu.instructions.name() == "avx512-bf16", "{}", cpu.instructions);
        assert!(Panels::pack(cpu, &[1.0f32; 15], [5, 3]).is_some());
        let misfit = || Panels::pack(cpu, &[1.0f32; 15], [5, 4]);
        assert!(catch_unwind(AssertUnwindSafe(misfit)).is_err());
    }
}

#[test]
fn what_does_not_fit_is_refused_before_memory_is_touched() {
    for cpu in cpus() {
        let weight = Panels::pack(cpu, &[1.0f32; 40 * 12], [40, 12]).expect("a weight");
        let [x, bias, norm, other] = [3 * 12, 40, 12, 3 * 40].map(|count| vec![1.0f32; count]);
        let refused = |x: &[f32], bias: &[f32], norm: &[f32], other: &[f32], rows: usize| {
            let linear = Linear { weight: &weight, bias: Some(bias) };
            let norm = Some(RowNorm { weight: norm, eps: 1e-5 });
            let mut result = vec![0.0; rows * 40];
            let product = || linear.forward(cpu, x, norm, Fused::Plus(other), &mut result);
            catch_unwind(AssertUnwindSafe(product)).is_err()
        };
        assert!(!refused(&x, &bias, &norm, &other, 3));
        assert!(refused(&x[1..], &bias, &norm, &other, 3));
        assert!(refused(&x, &bias[1..], &norm, &other, 3));
        assert!(refused(&x, &bias, &norm[1..], &other, 3));
        assert!(refused(&x, &bias, &[], &other, 3));
        assert!(refused(&x, &bias, &norm, &other[1..], 3));
        assert!(refused(&x, &bias, &norm, &other, 2));
        assert!(refused(&x, &bias, &norm, &other, 4));
    }
}

#[test]
fn a_weight_is_multiplied_by_the_instructions_that_it_is_packed_for() {
    for packed in InstructionSet::available() {
        for instructions in InstructionSet::available() {
            let cpu = |instructions| Cpu { instructions, threads: &Scoped(2) };
            let weight = Panels::pack(cpu(packed), &[1.0f32; 8], [2, 4]).expect("a weight");
            let mut result = [0.0; 2];
            let linear = Linear { weight: &weight, bias: None };
            let product = || linear.forward(cpu(instructions), &[1.0; 4], None, Fused::Nothing, &mut result);
            assert_eq!(catch_unwind(AssertUnwindSafe(product)).is_err(), packed != instructions);
        }
    }
}
