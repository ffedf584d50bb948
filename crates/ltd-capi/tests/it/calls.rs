//! Calls that are wrong, and calls from several threads.

#![expect(unsafe_code, reason = "calls as from C")]

use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};

use ltdpolicy::{
    Conditions, Info, Kind, Status, ltd_last_error, ltd_policy_check_models, ltd_policy_close,
    ltd_policy_info, ltd_policy_open, ltd_policy_warning, ltd_sequence_begin, ltd_sequence_begin_copy,
    ltd_sequence_close, ltd_sequence_commit, ltd_sequence_continue, ltd_sequence_frontier, ltd_sequence_open,
    ltd_sequence_push_level, ltd_sequence_size, ltd_sequence_verification,
};

fn last_error() -> String {
    // SAFETY: the text lives until the next call of this thread that fails.
    unsafe { CStr::from_ptr(ltd_last_error()) }.to_str().expect("UTF-8").to_owned()
}

fn c_text(text: &str) -> CString {
    CString::new(text).expect("no zero")
}

fn opened(name: &str) -> u64 {
    let mut policy = 0;
    let folder = c_text(crate::package(name).to_str().expect("UTF-8"));
    // SAFETY: both pointers are of living values.
    assert_eq!(unsafe { ltd_policy_open(folder.as_ptr(), &raw mut policy) }, Status::Ok, "{}", last_error());
    policy
}

fn sequence_of(policy: u64, prompt: &[u32], root: u32) -> u64 {
    let mut sequence = 0;
    // SAFETY: all pointers are of living values.
    let status = unsafe { ltd_sequence_open(policy, prompt.as_ptr(), prompt.len(), root, &raw mut sequence) };
    assert_eq!(status, Status::Ok, "{}", last_error());
    sequence
}

#[track_caller]
fn expect(status: Status, expected: Status, problem: &str) {
    assert_eq!(status, expected);
    let found = last_error();
    assert!(found.contains(problem), "expected `{problem}`, found `{found}`");
}

#[test]
fn a_package_is_told_and_checked() {
    let policy = opened("factored");
    let mut info =
        Info { kind: Kind::Fallback, beam_width: 0, max_depth: 0, size_limit: 0, chooses_source: false };
    // SAFETY: here and below, all pointers are of living values, or null.
    assert_eq!(unsafe { ltd_policy_info(policy, &raw mut info) }, Status::Ok);
    let found = (info.kind, info.beam_width, info.max_depth, info.size_limit, info.chooses_source);
    assert_eq!(found, (Kind::Factored, 10, 7, 4, true));
    let other = c_text(&"0".repeat(64));
    // SAFETY: as above.
    unsafe {
        assert_eq!(ltd_policy_check_models(policy, null(), null()), Status::Ok);
        let status = ltd_policy_check_models(policy, other.as_ptr(), null());
        expect(status, Status::Package, "its target is smollm2-135m-instruct (dec38f0410fd)");
    }
    let (device, dtype) = (c_text("cpu"), c_text("f32"));
    let here = Conditions { device: device.as_ptr(), dtype: dtype.as_ptr(), threads: 0, temperature: 0.0 };
    let mut warning: [c_char; 200] = [0; 200];
    // SAFETY: as above.
    unsafe {
        assert_eq!(ltd_policy_warning(policy, &raw const here, warning.as_mut_ptr(), 200), Status::Ok);
        let text = CStr::from_ptr(warning.as_ptr()).to_str().expect("UTF-8");
        assert!(text.contains("dtype bf16 (here: f32)"), "{text}");
        expect(
            ltd_policy_warning(policy, &raw const here, warning.as_mut_ptr(), 20),
            Status::Argument,
            "warning: expected room for",
        );
        let impossible = Conditions { temperature: f64::NAN, ..here };
        let status = ltd_policy_warning(policy, &raw const impossible, warning.as_mut_ptr(), 200);
        expect(status, Status::Argument, "conditions: temperature is NaN");
        let unknown = Conditions { device: null(), dtype: null(), threads: 0, temperature: -1.0 };
        assert_eq!(ltd_policy_warning(policy, &raw const unknown, warning.as_mut_ptr(), 1), Status::Ok);
        assert_eq!(warning[0], 0);
    }
    assert_eq!(ltd_policy_close(policy), Status::Ok);
}

#[test]
fn damaged_packages_are_refused() {
    let package = crate::package("pair");
    let damaged = tempfile::tempdir().expect("a folder");
    let copy = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        for file in std::fs::read_dir(&package).expect("a package") {
            let file = file.expect("a file");
            let bytes = std::fs::read(file.path()).expect("its bytes");
            let bytes = if file.file_name() == name { change(bytes) } else { bytes };
            std::fs::write(damaged.path().join(file.file_name()), bytes).expect("written");
        }
        let (folder, mut policy) = (c_text(damaged.path().to_str().expect("UTF-8")), 7);
        // SAFETY: both pointers are of living values.
        let status = unsafe { ltd_policy_open(folder.as_ptr(), &raw mut policy) };
        assert_eq!(policy, 7, "nothing was opened");
        status
    };
    let replaced = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).expect("JSON").replace(from, to).into_bytes()
    };
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let hash = "SHA-256 is";
    for (name, change, problem) in [
        ("size.safetensors", &half as &dyn Fn(Vec<u8>) -> Vec<u8>, hash),
        ("manifest.json", &half, "manifest.json"),
        ("manifest.json", &replaced("\"format_version\": 7", "\"format_version\": 70"), "70"),
        ("manifest.json", &replaced("\"context_length\"", "\"telepathy\""), "telepathy"),
        ("manifest.json", &replaced("\"compat\": null", "\"compat\": \"unheard-of\""), "unheard-of"),
    ] {
        expect(copy(name, change), Status::Package, problem);
    }
}

#[test]
fn wrong_calls_are_told() {
    let mut handle = 0;
    let nowhere = c_text("/nowhere");
    // SAFETY: all pointers are of living values, or null.
    unsafe {
        expect(ltd_policy_open(null(), &raw mut handle), Status::Argument, "folder: expected a path");
        expect(
            ltd_policy_open(c"\xff".as_ptr(), &raw mut handle),
            Status::Argument,
            "folder: expected UTF-8",
        );
        expect(ltd_policy_open(nowhere.as_ptr(), &raw mut handle), Status::Package, "/nowhere");
        let folder = c_text(crate::package("pair").to_str().expect("UTF-8"));
        expect(ltd_policy_open(folder.as_ptr(), null_mut()), Status::Argument, "policy: expected a pointer");
        expect(ltd_policy_info(12, null_mut()), Status::Handle, "policy: expected an open policy, found 0xc");
        expect(ltd_sequence_open(0, null(), 0, 1, &raw mut handle), Status::Handle, "policy");
    }
    let policy = opened("pair");
    let (sequence, other) = (sequence_of(policy, &[1, 2, 3], 4), opened("pair"));
    // A sequence outlives its package.
    assert_eq!(ltd_policy_close(policy), Status::Ok);
    expect(ltd_policy_close(policy), Status::Handle, "policy: expected an open policy");
    let (mut more, mut size, mut count) = (true, 0, 0);
    let mut source = ltdpolicy::Source { kind: ltdpolicy::SourceKind::Copy, chain: 9 };
    let mut log_probs: Vec<f32> = (1..=10).map(|number| -(number as f32)).collect();
    let tokens: Vec<u32> = (0..10).collect();
    let mut rows = [0u32; 64];
    // SAFETY: all pointers are of living values of the number that is given, or null.
    unsafe {
        let too_many = ltd_sequence_open(policy, tokens.as_ptr(), usize::MAX, 1, &raw mut handle);
        assert_eq!(too_many, Status::Handle, "the policy is closed");
        expect(
            ltd_sequence_continue(sequence, &raw mut more),
            Status::Order,
            "no cycle is under way: expected begin first",
        );
        let status = ltd_sequence_push_level(sequence, log_probs.as_ptr(), tokens.as_ptr(), 1);
        expect(status, Status::Order, "no cycle is under way: expected begin first");
        assert_eq!(ltd_sequence_begin(sequence, &raw mut source), Status::Ok);
        let push = |log_probs: &[f32], rows| {
            ltd_sequence_push_level(sequence, log_probs.as_ptr(), tokens.as_ptr(), rows)
        };
        expect(push(&log_probs, 0), Status::Argument, "log_probs: expected 1 rows of 10, found 0");
        expect(push(&log_probs, usize::MAX), Status::Argument, "rows: expected a number of nodes");
        expect(push(&log_probs, usize::MAX / 16), Status::Argument, "log_probs: expected at most");
        let status = ltd_sequence_push_level(sequence, null(), tokens.as_ptr(), 1);
        expect(status, Status::Argument, "log_probs: expected a pointer");
        log_probs[3] = f32::NAN;
        expect(push(&log_probs, 1), Status::Argument, "log_probs[0][3]: expected a logarithm");
        log_probs[3] = -3.5;
        assert_eq!(push(&log_probs, 1), Status::Ok);
        assert_eq!(ltd_sequence_frontier(sequence, null_mut(), null_mut(), 0, &raw mut count), Status::Ok);
        let status =
            ltd_sequence_frontier(sequence, rows.as_mut_ptr(), null_mut(), count - 1, &raw mut count);
        expect(status, Status::Argument, "capacity: expected room for 4, found 3");
        assert_eq!(ltd_sequence_size(sequence, &raw mut size), Status::Ok);
        let at = rows.as_mut_ptr();
        let status = ltd_sequence_verification(sequence, 1, at, null_mut(), null_mut(), 1, &raw mut count);
        expect(status, Status::Argument, "capacity: expected room for 2, found 1");
        let status = ltd_sequence_verification(sequence, 9, at, null_mut(), null_mut(), 2, &raw mut count);
        expect(status, Status::Argument, "capacity: expected room for 5, found 2");
        let status = ltd_sequence_verification(sequence, 1, at, null_mut(), null_mut(), 2, &raw mut count);
        assert_eq!((status, count, &rows[..2]), (Status::Ok, 2, &[4, 0][..]), "each time as it is asked for");
        let status = ltd_sequence_commit(sequence, tokens.as_ptr(), usize::MAX / 8, 9);
        expect(status, Status::Argument, "accepted: expected at most");
        expect(ltd_sequence_begin_copy(sequence, 5000), Status::Argument, "at most 4096 tokens, found 5000");
        // A handle of the one kind is none of the other.
        expect(ltd_sequence_close(other), Status::Handle, "sequence: expected an open sequence");
        expect(ltd_policy_close(sequence), Status::Handle, "policy: expected an open policy");
        let misaligned = at.wrapping_byte_add(1);
        let status =
            ltd_sequence_verification(sequence, 1, misaligned, null_mut(), null_mut(), 2, &raw mut count);
        expect(status, Status::Argument, "tokens: expected a pointer aligned to 4 bytes");
        assert_eq!(ltd_sequence_commit(sequence, tokens.as_ptr(), 1, 9), Status::Ok);
        assert_eq!(ltd_sequence_close(sequence), Status::Ok);
        expect(
            ltd_sequence_commit(sequence, null(), 0, 9),
            Status::Handle,
            "sequence: expected an open sequence",
        );
        expect(ltd_sequence_close(sequence), Status::Handle, "sequence");
    }
}

#[test]
fn threads_wait_for_a_sequence() {
    let policy = opened("factored");
    let sequence = sequence_of(policy, &[1, 2, 1, 2], 1);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            scope.spawn(move || {
                for cycle in 0..200 {
                    let mut source = ltdpolicy::Source { kind: ltdpolicy::SourceKind::Tree, chain: 0 };
                    // SAFETY: all pointers are of living values.
                    unsafe {
                        assert_eq!(ltd_sequence_begin(sequence, &raw mut source), Status::Ok);
                        assert_eq!(ltd_sequence_commit(sequence, [1, 2].as_ptr(), 2, cycle), Status::Ok);
                    }
                    // Sequences of its own come and go meanwhile.
                    let own = sequence_of(policy, &[thread; 5], thread);
                    assert_eq!(ltd_sequence_close(own), Status::Ok);
                }
            });
        }
    });
    let mut rows = 0;
    assert_eq!(ltd_sequence_begin_copy(sequence, 3), Status::Ok);
    // SAFETY: the pointer is of a living value.
    let status = unsafe {
        ltd_sequence_verification(sequence, 60, null_mut(), null_mut(), null_mut(), 0, &raw mut rows)
    };
    assert_eq!((status, rows), (Status::Ok, 4));
    assert_eq!((ltd_sequence_close(sequence), ltd_policy_close(policy)), (Status::Ok, Status::Ok));
}
