//! The size that EAGLE measures for itself.

/// Tokens of the forwards that are timed.
pub const TOKENS: [usize; 5] = [40, 48, 50, 56, 60];

/// What a forward of so many tokens may take of one of 40.
const SHARES: [f64; 5] = [1.0, 1.05, 1.07, 1.1, 1.13];

/// What EAGLE's published code sets with `total_token = -1` (`EaModel.from_pretrained`): forwards
/// of the target with 40, 48, 50, 56 and 60 tokens are timed, `ms`, and their times divided by 1,
/// 1.05, 1.07, 1.1 and 1.13. The least wins, the first of equals.
///
/// Returns tokens as EAGLE counts them, the root included; its trees have one candidate less.
pub fn total_token(ms: [f64; 5]) -> usize {
    let scaled = |at: usize| ms[at] / SHARES[at];
    let first_of_least = |least: usize, at: usize| if scaled(at) < scaled(least) { at } else { least };
    TOKENS[(0..TOKENS.len()).fold(0, first_of_least)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_tokens_win_where_they_cost_little_more() {
        assert_eq!(total_token([10.0; 5]), 60, "all the same: 10 / 1.13");
        assert_eq!(total_token([10.0, 10.6, 10.8, 11.1, 11.4]), 40, "all above their shares");
        // 10, 9.9, 10.09, 10.45 and 10.62.
        assert_eq!(total_token([10.0, 10.4, 10.8, 11.5, 12.0]), 48);
        // 10, 10.1, 9.81, 10 and 9.91.
        assert_eq!(total_token([10.0, 10.6, 10.5, 11.0, 11.2]), 50);
        assert_eq!(total_token([20.0, 42.0, 42.8, 22.0, 33.9]), 40, "the first of equals");
    }
}
