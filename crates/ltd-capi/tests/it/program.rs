//! A program in C, compiled with the header and linked to the library, under `AddressSanitizer`
//! too.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ltd_cycle::Sequence;
use ltd_policy::{DraftSource, PolicyPackage};

const CYCLES: usize = 300;

/// The static library that was built with these tests.
fn library() -> PathBuf {
    let tests = std::env::current_exe().expect("a path");
    let path = tests.with_file_name("libltdpolicy.a");
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

fn compile(program: &Path, flags: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g"]).args(flags);
    command.arg("-I").arg(folder.join("include")).arg(folder.join("examples/steer.c")).arg(library());
    let compiled =
        command.args(["-lm", "-lpthread", "-ldl", "-o"]).arg(program).output().expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}

fn run(program: &Path, package: &Path) -> Output {
    Command::new(program).arg(package).arg(CYCLES.to_string()).output().expect("the program runs")
}

/// The decisions of the program, made here.
fn decisions(package: &Path) -> String {
    let mut state = 97u32;
    let mut number_below = move |limit: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % limit
    };
    let package = PolicyPackage::load(package).expect("a package");
    let prompt: Vec<u32> = (0..30).map(|place| place % 7).collect();
    let mut sequence = Sequence::new(&package, &prompt, 2);
    let width = package.manifest.beam_width;
    let mut lines = String::new();
    for _ in 0..CYCLES {
        let (mut depth, mut more) = (-1, true);
        let (kind, chain) = match sequence.begin() {
            DraftSource::Tree => (0, 0),
            DraftSource::Copy { chain } => (1, chain),
            DraftSource::Merged { chain } => (2, chain),
        };
        while kind != 1 && more {
            let rows = sequence.growing().map_or(1, |growing| growing.parents().len());
            let (mut log_probs, mut tokens) = (Vec::new(), Vec::new());
            for _ in 0..rows {
                let mut log_prob = 0.0;
                for column in 0..width {
                    log_prob -= number_below(1000) as f32 / 500.0;
                    log_probs.push(log_prob);
                    tokens.push(100 + column as u32);
                }
            }
            sequence.push_level(&log_probs, &tokens).expect("a level");
            more = sequence.continue_drafting().expect("a tree");
            depth += 1;
        }
        let size = sequence.verification_size().expect("a cycle");
        let tree = sequence.verification(1023).expect("a cycle").clone();
        let tokens: String = tree.tokens.iter().map(|token| format!(" {token}")).collect();
        writeln!(lines, "{kind} {chain} {depth} {size}:{tokens}").expect("text");
        let wanted = number_below(4) as usize;
        let (mut accepted, mut at) = (Vec::new(), 0);
        for row in 1..tree.rows() {
            if accepted.len() < wanted && tree.parent_rows[row - 1] == at {
                accepted.push(tree.tokens[row]);
                at = row;
            }
        }
        sequence.commit(&accepted, number_below(5));
    }
    lines
}

#[test]
fn the_header_is_one_for_cpp_too() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/ltd_policy.h");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let flags = ["-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"];
    let checked = Command::new(compiler).args(flags).arg(header).output().expect("a C++ compiler");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn a_program_in_c_decides_as_in_rust() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, flags) in [("plain", &["-O2"][..]), ("sanitized", &["-fsanitize=address,undefined"])] {
        let program = folder.path().join(name);
        compile(&program, flags);
        for package in ["factored", "pair"] {
            let package = crate::package(package);
            let expected = decisions(&package);
            let kinds =
                ["0 ", "1 "].map(|kind| expected.lines().filter(|line| line.starts_with(kind)).count());
            assert!(kinds.iter().all(|count| *count > 20), "{name}: {kinds:?} trees and copies");
            let Output { status, stdout, stderr } = run(&program, &package);
            assert!(status.success(), "{name}: {}", String::from_utf8_lossy(&stderr));
            assert_eq!(String::from_utf8_lossy(&stdout), expected, "{name}");
        }
        let Output { status, stderr, .. } = run(&program, Path::new("/nowhere"));
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.code() == Some(2) && stderr.contains("/nowhere"), "{name}: {stderr}");
    }
}
