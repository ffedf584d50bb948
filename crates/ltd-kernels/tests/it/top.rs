//! The largest entries of rows of logits.

use half::{bf16, f16};
use ltd_kernels::{argmax, top_log_probs};

use crate::reference::{Random, Tested, cpus, values};

#[test]
fn the_best_are_in_order_with_their_log_probs() {
    fn case<T: Tested>() {
        let random = &mut Random(5);
        let sizes = [(1, 1000, 10), (7, 333, 4), (2, 17, 17), (3, 5, 1)];
        for (cpu, (rows, vocabulary, width)) in cpus().flat_map(|cpu| sizes.map(|size| (cpu, size))) {
            let logits = random.numbers::<T>(rows * vocabulary, 4.0);
            let (log_probs, indices) = top_log_probs(cpu, &logits, vocabulary, width);
            let first = argmax(cpu, &logits, vocabulary);
            for (row, logits) in values(&logits).chunks_exact(vocabulary).enumerate() {
                let normaliser = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                let mut order: Vec<usize> = (0..vocabulary).collect();
                // Stable: of equals the first.
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                for (rank, index) in order[..width].iter().enumerate() {
                    let place = row * width + rank;
                    assert_eq!(indices[place] as usize, *index, "{}", cpu.instructions);
                    let error = f64::from(log_probs[place]) - (logits[*index] - normaliser);
                    assert!(error.abs() < 1e-5, "{} {}: {error}", cpu.instructions, T::NAME);
                }
                assert_eq!(first[row], (logits[order[0]] as f32, order[0] as u32));
            }
        }
    }
    case::<f32>();
    case::<bf16>();
    case::<f16>();
}

#[test]
fn of_equals_the_first_wins() {
    let mut logits = vec![0.0f32; 40];
    for (place, logit) in [(7, 2.0), (30, 2.0), (3, 1.0)] {
        logits[place] = logit;
    }
    for cpu in cpus() {
        assert_eq!(top_log_probs(cpu, &logits, 40, 5).1, [7, 30, 3, 0, 1]);
    }
}

#[test]
fn a_nan_shows_wherever_it_stands_and_in_its_row_only() {
    fn case<T: Tested>() {
        // Whole chunks of lanes, and what is left over.
        for (cpu, place) in cpus().flat_map(|cpu| [0, 1, 16, 31, 63, 64, 69].map(|place| (cpu, place))) {
            let mut logits: Vec<T> = (0..140).map(|logit| T::rounded(logit.into())).collect();
            logits[place] = T::rounded(f64::NAN);
            let found = argmax(cpu, &logits, 70);
            assert!(found[0].0.is_nan(), "{} {place}: {found:?}", T::NAME);
            assert_eq!(found[1], (139.0, 69));
            let (log_probs, _) = top_log_probs(cpu, &logits, 70, 3);
            assert!(log_probs[..3].iter().all(|value| value.is_nan()), "{} {place}", T::NAME);
            assert!(log_probs[3..].iter().all(|value| value.is_finite()), "{} {place}", T::NAME);
        }
    }
    case::<f32>();
    case::<bf16>();
    case::<f16>();
    for cpu in cpus() {
        assert_eq!(argmax(cpu, &[f32::NEG_INFINITY; 70], 70)[0].0, f32::NEG_INFINITY);
    }
}
