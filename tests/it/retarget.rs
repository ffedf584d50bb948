//! A run on its own recordings, and its packages on another machine.

use ltd::policy::{GridPoint, LatencyTable, Policy, PolicyPackage};
use serde_json::json;

use crate::command::{config, refusal, stdout, text};

#[test]
fn packages_of_both_kinds_move_to_another_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), |config| {
        config["reward"] = json!("gain");
        config["replay"] = json!({ "held_out": 0.3 });
        config["stages"] = json!({
            "size": null, "predictor": { "epochs": 2, "net_arch": [16] },
            "depth": { "total_timesteps": 256, "verification_size": 4 }, "rounds": 0
        });
    });
    let run = folder.path().join("run");
    let summary = stdout("ltd-train", &["--config", text(&config), "--run-dir", text(&run)]);
    assert!(summary.contains("| factored ") && summary.contains("| pair "), "{summary}");

    // A machine whose levels cost fifty times as much.
    let mut table = LatencyTable::read(&run.join("latency.json")).expect("a table");
    for point in &mut table.level.points {
        let samples = point.samples.iter().map(|sample| sample * 50.0).collect();
        *point = GridPoint::new(point.count, point.context, samples);
    }
    let slow = folder.path().join("slow.json");
    table.write(&slow).expect("written");
    let trace = run.join("trace");
    for stage in ["01-predictor", "02-depth"] {
        let (old, new) = (folder.path().join(stage), folder.path().join(format!("{stage}-slow")));
        stdout("ltd-export", &["--run", text(&run), "--stage", stage, "--out", text(&old)]);
        let said = stdout(
            "ltd-train",
            &[
                "retarget",
                "--policy",
                text(&old),
                "--trace",
                text(&trace),
                "--latency",
                text(&slow),
                "--out",
                text(&new),
                "--steps",
                "256",
            ],
        );
        let untouched = said.lines().find(|line| line.starts_with("| untouched")).expect("a row");
        assert!(said.contains("| clairvoyant |") && untouched.contains('%'), "{said}");
        let [old, new] = [&old, &new].map(|path| PolicyPackage::load(path).expect("a package"));
        assert_ne!(new.manifest.latency_table_sha256, old.manifest.latency_table_sha256);
        match (&old.policy, &new.policy) {
            (Policy::Factored(old), Policy::Factored(new)) => {
                assert_eq!((&new.predictor, &new.latency), (&old.predictor, &table));
                assert!(new.rule.tokens_per_second < old.rule.tokens_per_second, "time is worth less there");
            }
            (Policy::Pair { .. }, Policy::Pair { .. }) => {}
            _ => panic!("another kind"),
        }
    }

    let out = folder.path().join("refused");
    let mut stranger = table;
    stranger.identity.draft = "another".to_owned();
    stranger.write(&slow).expect("written");
    let old = folder.path().join("01-predictor");
    let message = refusal(
        "ltd-train",
        &[
            "retarget",
            "--policy",
            text(&old),
            "--trace",
            text(&trace),
            "--latency",
            text(&slow),
            "--out",
            text(&out),
        ],
    );
    assert!(message.contains("identity.draft: is another"), "{message}");
    assert!(!out.exists(), "a refused package leaves nothing behind");
}
