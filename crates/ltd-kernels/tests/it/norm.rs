//! Root-mean-square norms.

use half::{bf16, f16};
use ltd_kernels::{RowNorm, rms_norm};

use crate::reference::{Random, Tested, assert_close, cpus, normed, values};

#[test]
fn rows_are_normed() {
    fn case<T: Tested>() {
        let random = &mut Random(4);
        for (cpu, (rows, width)) in
            cpus().flat_map(|cpu| [(0, 8), (1, 576), (3, 40), (7, 17), (200, 576)].map(|size| (cpu, size)))
        {
            let (x, weight) = (random.numbers::<T>(rows * width, 3.0), random.numbers::<T>(width, 1.0));
            let norm = RowNorm { weight: &weight, eps: 1e-5 };
            let mut found = vec![T::rounded(f64::NAN); rows * width];
            rms_norm(cpu, &x, norm, &mut found);
            let what = format!("{} {rows} x {width}", cpu.instructions);
            assert_close(&found, &normed(&values(&x), norm), T::ROUNDING + 1e-6, &what);
        }
    }
    case::<f32>();
    case::<bf16>();
    case::<f16>();
}
