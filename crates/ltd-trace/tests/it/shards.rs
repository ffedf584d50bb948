//! Recordings that several processes share.

use std::collections::BTreeMap;
use std::path::Path;

use ltd_env::trace::{Trace, TraceWriter, TracedSequence};

use super::{config, refuse, run, run_in, succeed, text};

/// A recording of six continuations, and a place for it.
struct Recorder {
    folder: tempfile::TempDir,
    config: String,
    questions: String,
}

/// Seeds out of order: plans, not numbers, say what comes first.
const DRAWN: [&str; 4] = ["--temperature", "1", "--seed", "9,2"];

impl Recorder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (config, questions) = config(folder.path());
        Self { folder, config, questions }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path").to_owned()
    }

    fn arguments<'a>(&'a self, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let record = ["record", "--config", &self.config, "--questions", &self.questions, "--out", out];
        [&record[..], more].concat()
    }

    /// Records a shard, and says its folder.
    fn shard(&self, out: &str, index: usize, count: usize) -> String {
        let shard = format!("{index}/{count}");
        succeed(&self.arguments(out, &[&DRAWN[..], &["--shard", &shard]].concat()));
        format!("{out}/shard-{index}-of-{count}")
    }
}

/// The files of a folder with their bytes.
fn files(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = Path::new(folder).read_dir().expect("a folder").map(|entry| entry.expect("an entry"));
    let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().expect("a name");
    entries.map(|entry| (name(&entry), std::fs::read(entry.path()).expect("a file"))).collect()
}

fn merge(out: &str, shards: &[String], more: &[&str]) -> std::process::Output {
    let shards = shards.iter().map(String::as_str);
    run(&["merge", "--out", out].into_iter().chain(shards).chain(more.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn shards_merge_to_the_same_bytes_whatever_their_number() {
    let recorder = Recorder::new();
    let whole = recorder.path("whole");
    succeed(&recorder.arguments(&whole, &DRAWN));
    let expected = files(&whole);
    assert_eq!(Trace::read(Path::new(&whole)).expect("a trace").len(), 6);

    let mut all = Vec::new();
    for count in [1, 2, 3, 5] {
        let out = recorder.path(&format!("of-{count}"));
        let mut shards: Vec<String> = (0..count).map(|index| recorder.shard(&out, index, count)).collect();
        // In whatever order they are given.
        shards.rotate_left(1);
        let merged = format!("{out}-merged");
        let done = merge(&merged, &shards, &[]);
        assert!(done.status.success(), "{}", text(&done.stderr));
        assert!(files(&merged) == expected, "{count} shards");
        all.extend(shards);
    }
    // Equal ones count once, and are named.
    let (merged, all) = (recorder.path("all"), &all[..3]);
    let done = merge(&merged, all, &[]);
    let said = text(&done.stdout);
    assert!(done.status.success() && files(&merged) == expected, "{}", text(&done.stderr));
    let known = "0 of 3 continuations taken over; 3 there already: prompts 0 with seed 2, 1 with seed 9, \
                 2 with seed 2\n";
    assert!(said.contains("6 of 6 continuations taken over\n") && said.contains(known), "{said}");
    // The folder that the shards are in.
    let above = recorder.path("of-2");
    refuse(
        &["merge", "--out", &merged, &above],
        &format!("{above}: is no trace, but has traces in it: give these, {above}/*"),
    );
    // What is there already is not missing.
    let done = merge(&merged, &all[1..2], &[]);
    let said = text(&done.stdout);
    assert!(done.status.success() && files(&merged) == expected, "{}", text(&done.stderr));
    assert!(said.contains(known), "{said}");
}

#[test]
fn a_shard_that_was_killed_goes_on_and_what_is_missing_is_named() {
    let recorder = Recorder::new();
    let (out, merged) = (recorder.path("out"), recorder.path("merged"));
    let shards: Vec<String> = (0..2).map(|index| recorder.shard(&out, index, 2)).collect();
    let complete = files(&shards[1]);

    // As a process leaves it that is killed while it writes.
    let file = format!("{}/shard-00000.bin", shards[1]);
    let bytes = &complete["shard-00000.bin"];
    std::fs::write(&file, &bytes[..bytes.len() - 7]).expect("cut off");
    let refused = |shards: &[String], message: &str| {
        let output = merge(&merged, shards, &[]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(message), "{error}");
        assert!(!Path::new(&merged).exists(), "what is refused leaves nothing behind");
    };
    refused(
        &shards,
        &format!(
            "missing of what the shards were to hold: 1 continuation\n  {}: lacks 1 of 3: prompt 2 with seed 2\n",
            shards[1]
        ),
    );
    refused(
        &shards[..1],
        "hold: 3 continuations\n  shard 1 of 2 was not given: that leaves out 3 of 3: prompts 1 with seed 9, \
         0 with seed 2, 2 with seed 2\nnothing was written: ",
    );
    let gaps = recorder.path("gaps");
    let done = merge(&gaps, &shards, &["--allow-gaps"]);
    assert!(done.status.success() && text(&done.stderr).contains("warning: missing of "));
    assert_eq!(Trace::read(Path::new(&gaps)).expect("a trace").len(), 5);

    // As a process leaves it that is killed as it begins: before the header, and behind it.
    for kept in [&["trace.lock"][..], &["trace.lock", "trace.json", "shard-00000.bin"]] {
        std::fs::remove_dir_all(&shards[1]).expect("removed");
        std::fs::create_dir(&shards[1]).expect("made");
        for name in kept {
            let bytes = if *name == "trace.json" { &complete[*name][..] } else { &[] };
            std::fs::write(format!("{}/{name}", shards[1]), bytes).expect("written");
        }
        refused(&shards, &format!("  {}: lacks 3 of 3: prompts ", shards[1]));
        let output = merge(&merged, &shards[1..], &[]);
        assert!(text(&output.stderr).contains("holds nothing yet"), "{}", text(&output.stderr));
    }
    recorder.shard(&out, 1, 2);
    assert!(files(&shards[1]) == complete, "it goes on as if nothing had happened");
    assert!(merge(&merged, &shards, &[]).status.success());

    // The same prompt and seed with another answer: one of the two was recorded on something else.
    let header = Trace::read(Path::new(&shards[0])).expect("a trace").header;
    let other = recorder.path("other");
    let mut writer = TraceWriter::open(Path::new(&other), header.clone()).expect("a trace");
    writer.append(&TracedSequence::new(&header, 0, 1, vec![5, 6]).with_seed(9)).expect("written");
    drop(writer);
    let output = merge(&recorder.path("both"), &[shards[0].clone(), other.clone()], &["--allow-gaps"]);
    let message = format!("{other}: prompt 0 with seed 9 is another recording than in {}", shards[0]);
    assert!(output.status.code() == Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&message), "{}", text(&output.stderr));
}

#[test]
fn a_launcher_says_which_shard() {
    let recorder = Recorder::new();
    let (out, plain) = (recorder.path("out"), recorder.path("plain"));
    let of_rank = |rank: &str, out: &str, more: &[&str]| {
        run_in(&[("RANK", rank), ("WORLD_SIZE", "2")], &recorder.arguments(out, more))
    };
    // Without a word it is said what is left out.
    let done = of_rank("0", &out, &[]);
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("records shard 0 of 2 only, as RANK and WORLD_SIZE say: --shard none"), "{said}");
    let done = of_rank("1", &out, &["--shard", "auto"]);
    assert!(done.status.success() && !text(&done.stderr).contains("--shard none"));
    let shards = [format!("{out}/shard-0-of-2"), format!("{out}/shard-1-of-2")];
    let merged = recorder.path("merged");
    assert!(merge(&merged, &shards, &[]).status.success());
    assert!(of_rank("0", &plain, &["--shard", "none"]).status.success());
    assert!(files(&plain) == files(&merged), "greedy ones are equal too");
    // One process alone has all, in a folder of the same form.
    let alone = recorder.path("alone");
    succeed(&recorder.arguments(&alone, &["--shard", "auto"]));
    assert_eq!(Trace::read(Path::new(&format!("{alone}/shard-0-of-1"))).expect("a trace").len(), 3);

    // Bad input.
    let output = of_rank("2", &out, &[]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("RANK: is 2, expected a number below 2, the value of WORLD_SIZE"), "{error}");
    for (shard, message) in [
        ("2/2", "expected a number from 0 to 1 before the /"),
        ("0/0", "expected I/N, such as 0/4, or auto, or none"),
        ("1", "expected I/N"),
    ] {
        refuse(&recorder.arguments(&out, &["--shard", shard]), message);
    }
    refuse(&recorder.arguments(&out, &["--shard", "0/3"]), "of-2, and this is shard 0 of 3");
    refuse(&recorder.arguments(&out, &[]), "of-2, and this is a recording that is not divided");
    refuse(&recorder.arguments(&plain, &["--shard", "0/2"]), "holds a recording that is not divided");
}
