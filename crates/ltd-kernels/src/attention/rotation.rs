//! Rotary positions of queries and keys.

use crate::element::Element;
use crate::norm::inverse_rms;
use crate::vector::Instructions;

/// One head, normed if asked for, rotated (half-split convention) and scaled.
#[inline(always)]
pub(super) fn rotate<I: Instructions, T: Element, U: Element>(
    input: &[T],
    norm: Option<(&[T], f32)>,
    [cos, sin]: [&[f32]; 2],
    scale: f32,
    output: &mut [U],
) {
    let half = input.len() / 2;
    let (low, high) = input.split_at(half);
    let (output_low, output_high) = output.split_at_mut(half);
    let angles = cos[..half].iter().zip(&sin[..half]);
    let outputs = output_low.iter_mut().zip(&mut output_high[..half]);
    let rotations = low.iter().zip(&high[..half]).zip(angles).zip(outputs);
    // Two loops: a choice inside of one would keep it from being vectorised.
    match norm {
        None => {
            for (((low, high), (cos, sin)), (output_low, output_high)) in rotations {
                let (low, high) = (low.to_f32() * scale, high.to_f32() * scale);
                *output_low = U::from_f32(low * cos - high * sin);
                *output_high = U::from_f32(high * cos + low * sin);
            }
        }
        Some((weight, eps)) => {
            let factor = inverse_rms::<I, T>(input, eps) * scale;
            let (weight_low, weight_high) = weight.split_at(half);
            let weights = weight_low.iter().zip(&weight_high[..half]);
            for ((((low, high), (cos, sin)), (output_low, output_high)), (weight_low, weight_high)) in
                rotations.zip(weights)
            {
                let low = low.to_f32() * factor * weight_low.to_f32();
                let high = high.to_f32() * factor * weight_high.to_f32();
                *output_low = U::from_f32(low * cos - high * sin);
                *output_high = U::from_f32(high * cos + low * sin);
            }
        }
    }
}
