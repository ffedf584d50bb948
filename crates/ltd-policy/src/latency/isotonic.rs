//! Isotonic regression: the non-decreasing sequence nearest to a measured one.

/// Replaces values by the non-decreasing ones of least squared distance: pool adjacent violators
/// (Ayer et al. 1955, "An empirical distribution function for sampling with incomplete
/// information").
pub(super) fn make_non_decreasing(values: &mut [f64]) {
    // Blocks of equal values: sum and length.
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(values.len());
    for &value in values.iter() {
        let (mut sum, mut length) = (value, 1);
        while let Some(&(below, count)) = blocks.last()
            && below / count as f64 > sum / length as f64
        {
            blocks.pop();
            sum += below;
            length += count;
        }
        blocks.push((sum, length));
    }
    let pooled = blocks.iter().flat_map(|&(sum, length)| std::iter::repeat_n(sum / length as f64, length));
    for (value, pooled) in values.iter_mut().zip(pooled) {
        *value = pooled;
    }
}

/// The same along both axes of a grid, row-major with `columns` columns.
///
/// One pass along each axis suffices: the regression keeps the order of two sequences (its max-min
/// formula grows with every value), so the second pass keeps what the first one made.
pub(super) fn make_grid_non_decreasing(grid: &mut [f64], columns: usize) {
    grid.chunks_exact_mut(columns).for_each(make_non_decreasing);
    let rows = grid.len() / columns;
    for column in 0..columns {
        let mut values: Vec<f64> = (0..rows).map(|row| grid[row * columns + column]).collect();
        make_non_decreasing(&mut values);
        for (row, value) in values.into_iter().enumerate() {
            grid[row * columns + column] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn violators_are_pooled_and_the_rest_is_left_alone() {
        let mut values = [1.0, 3.0, 2.0, 4.0, 4.5, 3.5];
        make_non_decreasing(&mut values);
        assert_eq!(values, [1.0, 2.5, 2.5, 4.0, 4.0, 4.0]);
    }

    proptest! {
        #[test]
        fn the_result_is_nearer_than_any_other_non_decreasing_sequence(
            values in prop::collection::vec(0.0f64..10.0, 1..12),
            other in prop::collection::vec(0.0f64..10.0, 12),
        ) {
            let mut fitted = values.clone();
            make_non_decreasing(&mut fitted);
            prop_assert!(fitted.is_sorted_by(|a, b| a <= &(b + 1e-9)));
            let mut other = other[..values.len()].to_vec();
            other.sort_by(f64::total_cmp);
            let distance = |to: &[f64]| values.iter().zip(to).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            prop_assert!(distance(&fitted) <= distance(&other) + 1e-9);
        }

        #[test]
        fn grids_do_not_decrease_along_either_axis(values in prop::collection::vec(0.0f64..10.0, 24), columns in 1usize..=4) {
            let mut grid = values;
            make_grid_non_decreasing(&mut grid, columns);
            for index in 0..grid.len() {
                if (index + 1) % columns != 0 {
                    prop_assert!(grid[index] <= grid[index + 1] + 1e-9);
                }
                if index + columns < grid.len() {
                    prop_assert!(grid[index] <= grid[index + columns] + 1e-9);
                }
            }
        }
    }
}
