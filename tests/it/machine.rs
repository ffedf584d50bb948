//! What a made-up machine costs.

use ltd::engine::fingerprint;
use ltd::policy::{DecisionCost, LatencyIdentity, LatencyTable, Surface};

use crate::command::workspace;

/// A machine that runs the tiny pair, with levels of this cost.
pub(crate) fn machine(level_ms: f64) -> LatencyTable {
    let model = |part: &str| {
        let folder = workspace().join("tests/fixtures/tiny-pair").join(part);
        fingerprint(&folder).expect("a fingerprint").sha256
    };
    let identity = LatencyIdentity {
        target: model("target"),
        draft: model("draft"),
        device: "the other".to_owned(),
        beam_width: 10,
        ..LatencyIdentity::default()
    };
    let contexts = [4, 128];
    LatencyTable {
        version: LatencyTable::VERSION,
        identity,
        root: Surface::from_fn(&[1, 13], &contexts, |_, _| 1.0),
        level: Surface::from_fn(&[1, 12], &contexts, |_, _| level_ms),
        level_rows: None,
        verify: Surface::from_fn(&[1, 64], &contexts, |size, _| 5.0 + 0.1 * size),
        decision: DecisionCost { depth_us: 5.0, size_us: 5.0 },
        held_out_error: None,
    }
}
