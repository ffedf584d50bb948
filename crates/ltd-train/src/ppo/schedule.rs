//! Step size over a stage.

use ltd_run::config::PpoConfig;

/// The step size after a share `progress` (0..=1) of a stage: a linear rise over the warm-up, then
/// a linear fall to 0 or a constant.
pub fn learning_rate(config: &PpoConfig, progress: f64) -> f64 {
    let warmup = config.warmup_fraction;
    if progress < warmup {
        config.learning_rate * progress / warmup
    } else if config.linear_decay {
        config.learning_rate * (1.0 - progress) / (1.0 - warmup)
    } else {
        config.learning_rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_size_rises_then_falls_to_zero() {
        let config = PpoConfig { learning_rate: 1.0, warmup_fraction: 0.2, ..PpoConfig::default() };
        for (progress, expected) in [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.6, 0.5), (1.0, 0.0)] {
            assert!((learning_rate(&config, progress) - expected).abs() < 1e-12, "{progress}");
        }
        let constant = PpoConfig { linear_decay: false, ..config };
        assert!((learning_rate(&constant, 0.9) - 1.0).abs() < 1e-12);
    }
}
