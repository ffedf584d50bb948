//! A gated MLP as one operation.

use half::{bf16, f16};
use ltd_kernels::{Fused, Mlp, RowNorm, rms_norm};

use crate::reference::{Random, Tested, Weight, cpus};

#[test]
fn equals_its_operations_one_by_one() {
    fn case<T: Tested>(rows: usize, hidden: usize, intermediate: usize) {
        let random = &mut Random(3);
        for cpu in cpus() {
            let (x, norm) = (random.numbers::<T>(rows * hidden, 3.0), random.numbers::<T>(hidden, 1.0));
            let norm = RowNorm { weight: &norm, eps: 1e-5 };
            let shapes = [[intermediate, hidden], [intermediate, hidden], [hidden, intermediate]];
            let weights = shapes.map(|shape| Weight::<T>::new(cpu, random, shape, true));
            let [gate, up, down] = weights.each_ref().map(Weight::linear);
            let zeros = |width: usize| vec![T::rounded(0.0); rows * width];
            let (mut normed, mut gates, mut inner) =
                (zeros(hidden), zeros(intermediate), zeros(intermediate));
            let (mut expected, mut found) = (zeros(hidden), zeros(hidden));
            rms_norm(cpu, &x, norm, &mut normed);
            gate.forward(cpu, &normed, None, Fused::Silu, &mut gates);
            up.forward(cpu, &normed, None, Fused::Times(&gates), &mut inner);
            down.forward(cpu, &inner, None, Fused::Plus(&x), &mut expected);
            Mlp { gate, up, down }.forward(cpu, &x, norm, &mut found);
            assert_eq!(found, expected, "{} {}, {rows} rows", cpu.instructions, T::NAME);
        }
    }
    case::<f32>(1, 64, 96);
    case::<bf16>(29, 150, 70);
    case::<f16>(5, 32, 50);
    case::<f32>(60, 192, 300);
}
