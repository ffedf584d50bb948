//! The C interface: `include/ltd_policy.h` is generated from this file by cbindgen, comments
//! included.

#![expect(unsafe_code, reason = "reads and writes where a C program points to")]

mod border;
mod handles;

use std::ffi::c_char;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use ltd_cycle::{Controller, Learned, Sequence};
use ltd_policy::{DraftSource, Policy, PolicyPackage, SamplingParams};

use border::{Failure, Result, call, check_pointer, check_room, numbers, text, write, write_all};
use handles::Handles;

/// Version of this interface. It is raised when a program that was compiled before would be wrong.
pub const LTD_POLICY_ABI: u32 = 1;

/// Whether a call did what it was asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It did.
    Ok = 0,
    /// An argument is wrong: a null pointer, text that is not UTF-8, not-a-number, too
    /// little room.
    Argument = 1,
    /// The package is damaged, of another version, or of other models.
    Package = 2,
    /// The handle was closed, or never opened.
    Handle = 3,
    /// Something else has to be called first.
    Order = 4,
    /// A fault of this library: please report it. The sequence can only be closed. (Where memory
    /// runs out, the process ends.)
    Fault = 5,
}

/// What decides in a package.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A constant setting, which was faster than the policies.
    Fallback = 0,
    /// One policy for each decision.
    Pair = 1,
    /// A predictor of what is accepted, and a table of what it costs.
    Factored = 2,
}

/// What a package is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Info {
    /// What decides.
    pub kind: Kind,
    /// Continuations of each node, W.
    pub beam_width: usize,
    /// The deepest draft that it may ask for: levels below the first.
    pub max_depth: usize,
    /// The most candidates that it lets the target verify.
    pub size_limit: usize,
    /// Whether it chooses what to draft from.
    pub chooses_source: bool,
}

/// What is known of a run; 0 or null where it is not known.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// "cpu" or "cuda".
    pub device: *const c_char,
    /// "f32", "bf16" or "f16".
    pub dtype: *const c_char,
    /// Threads of a CPU.
    pub threads: usize,
    /// Temperature of sampling, 0 is greedy; negative if it is not known.
    pub temperature: f64,
}

/// What a cycle drafts from.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// The draft model: a tree.
    Tree = 0,
    /// What was said before: a chain of tokens. A chain of none is a step of plain decoding.
    Copy = 1,
    /// Both: a tree, with the most probable tokens of a chain.
    Merged = 2,
}

/// What a cycle drafts from.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Which of the sources.
    pub kind: SourceKind,
    /// Tokens to copy at most.
    pub chain: usize,
}

/// A package and where it came from.
struct Opened {
    folder: PathBuf,
    package: PolicyPackage,
    /// What its sequences decide by: they share its networks.
    learned: Learned,
}

static POLICIES: Handles<Opened> = Handles::new();
static SEQUENCES: Handles<Mutex<Sequence>> = Handles::new();

fn policy(handle: u64) -> Result<Arc<Opened>> {
    POLICIES.get(handle).ok_or(Failure::Handle { what: "policy", handle })
}

/// Runs a call on a sequence, after those of other threads.
fn with<T>(handle: u64, run: impl FnOnce(&mut Sequence) -> Result<T>) -> Result<T> {
    let sequence = SEQUENCES.get(handle).ok_or(Failure::Handle { what: "sequence", handle })?;
    let mut sequence: MutexGuard<Sequence> = sequence.lock().map_err(|_| Failure::Broken)?;
    run(&mut sequence)
}

/// Version of the interface that this library has: `LTD_POLICY_ABI` of its header.
#[unsafe(no_mangle)]
pub extern "C" fn ltd_abi_version() -> u32 {
    LTD_POLICY_ABI
}

/// What was wrong with the latest call of this thread that failed, until the next one that fails.
#[unsafe(no_mangle)]
pub extern "C" fn ltd_last_error() -> *const c_char {
    border::last_error()
}

/// Loads a package from a folder and checks it. It stays open until `ltd_policy_close`.
///
/// # Safety
/// `folder` points to text that ends with 0, `policy` to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_policy_open(folder: *const c_char, policy: *mut u64) -> Status {
    call(|| {
        // SAFETY: as this function asks for.
        let folder = unsafe { text("folder", folder) }?;
        let folder =
            folder.ok_or_else(|| Failure::Argument("folder: expected a path, found null".to_owned()))?;
        check_pointer("policy", policy)?;
        let folder = PathBuf::from(folder);
        let package = PolicyPackage::load(&folder)?;
        let handle = POLICIES.open(Opened { folder, learned: Learned::of_package(&package), package });
        // SAFETY: as this function asks for.
        unsafe { write("policy", policy, handle) }
    })
}

/// Closes a package. Sequences of it stay open.
#[unsafe(no_mangle)]
pub extern "C" fn ltd_policy_close(policy: u64) -> Status {
    call(|| {
        let closed = POLICIES.close(policy);
        closed.then_some(()).ok_or(Failure::Handle { what: "policy", handle: policy })
    })
}

/// What a package is.
///
/// # Safety
/// `info` points to room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_policy_info(policy: u64, info: *mut Info) -> Status {
    call(|| {
        let opened = self::policy(policy)?;
        let Opened { package, learned, .. } = &*opened;
        let kind = match (&package.manifest.fallback, &package.policy) {
            (Some(_), _) => Kind::Fallback,
            (None, Policy::Pair { .. }) => Kind::Pair,
            (None, Policy::Factored(_)) => Kind::Factored,
        };
        let found = Info {
            kind,
            beam_width: package.manifest.beam_width,
            max_depth: package.deepest(),
            size_limit: learned.size_limit(),
            chooses_source: learned.chooses_source(),
        };
        // SAFETY: as this function asks for.
        unsafe { write("info", info, found) }
    })
}

/// Fails unless the package is of models with these SHA-256 sums, in hexadecimal digits; null is
/// any.
///
/// # Safety
/// Each argument is null or points to text that ends with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_policy_check_models(
    policy: u64,
    target: *const c_char,
    draft: *const c_char,
) -> Status {
    call(|| {
        let opened = self::policy(policy)?;
        // SAFETY: as this function asks for.
        let (target, draft) = unsafe { (text("target", target)?, text("draft", draft)?) };
        Ok(opened.package.check_models(&opened.folder, target, draft)?)
    })
}

/// What is different here from the conditions that the package was made for, in words: nothing, an
/// empty text, if nothing is known to be. Decisions stay lossless elsewhere, but a constant may be
/// faster.
///
/// # Safety
/// `conditions` points to conditions, their texts end with 0, and `warning` points to room for
/// `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_policy_warning(
    policy: u64,
    conditions: *const Conditions,
    warning: *mut c_char,
    capacity: usize,
) -> Status {
    call(|| {
        check_pointer("conditions", conditions)?;
        // SAFETY: as this function asks for.
        let Conditions { device, dtype, threads, temperature } = unsafe { conditions.read() };
        // SAFETY: as this function asks for.
        let (device, dtype) = unsafe { (text("device", device)?, text("dtype", dtype)?) };
        // A negative one is not known.
        let known = temperature.is_nan() || temperature >= 0.0;
        let sampling = known.then(|| SamplingParams { temperature, ..SamplingParams::default() });
        let here = ltd_policy::Conditions {
            sampling,
            device: device.map(str::to_owned),
            dtype: dtype.map(str::to_owned),
            threads: (threads > 0).then_some(threads),
        };
        if let Some((key, problem)) = here.problem() {
            return Err(Failure::Argument(format!("conditions: {key} {problem}")));
        }
        let text = self::policy(policy)?.package.warning(&here).unwrap_or_default().replace('\0', " ");
        check_pointer("warning", warning)?;
        check_room("warning", capacity, text.len() + 1)?;
        let bytes = text.bytes().chain([0]).map(|byte| byte as c_char);
        // SAFETY: as this function asks for, and there is room.
        unsafe { write_all("warning", warning, bytes) }
    })
}

/// Opens a sequence: its prompt, and the target's first token after it.
///
/// # Safety
/// `prompt` points to `prompt_length` tokens, `sequence` to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_open(
    policy: u64,
    prompt: *const u32,
    prompt_length: usize,
    root: u32,
    sequence: *mut u64,
) -> Status {
    call(|| {
        let opened = self::policy(policy)?;
        // SAFETY: as this function asks for.
        let prompt = unsafe { numbers("prompt", prompt, prompt_length) }?;
        check_pointer("sequence", sequence)?;
        let shape = [opened.package.manifest.beam_width, opened.package.deepest()];
        let opening = Sequence::steered_by(opened.learned.clone(), shape, prompt, root);
        let handle = SEQUENCES.open(Mutex::new(opening));
        // SAFETY: as this function asks for.
        unsafe { write("sequence", sequence, handle) }
    })
}

/// Closes a sequence.
#[unsafe(no_mangle)]
pub extern "C" fn ltd_sequence_close(sequence: u64) -> Status {
    call(|| {
        let closed = SEQUENCES.close(sequence);
        closed.then_some(()).ok_or(Failure::Handle { what: "sequence", handle: sequence })
    })
}

/// Begins a cycle: what it drafts from. A cycle that was not committed is forgotten.
///
/// # Safety
/// `source` points to room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_begin(sequence: u64, source: *mut Source) -> Status {
    call(|| {
        check_pointer("source", source)?;
        let chosen = with(sequence, |sequence| Ok(sequence.begin()))?;
        let chosen = match chosen {
            DraftSource::Tree => Source { kind: SourceKind::Tree, chain: 0 },
            DraftSource::Copy { chain } => Source { kind: SourceKind::Copy, chain },
            DraftSource::Merged { chain } => Source { kind: SourceKind::Merged, chain },
        };
        // SAFETY: as this function asks for.
        unsafe { write("source", source, chosen) }
    })
}

/// Begins a cycle that copies so many tokens, whatever the policy thinks of it.
#[unsafe(no_mangle)]
pub extern "C" fn ltd_sequence_begin_copy(sequence: u64, chain: usize) -> Status {
    call(|| with(sequence, |sequence| Ok(sequence.begin_copy(chain)?)))
}

/// Adds a level: log-probs and tokens of the W best continuations of each node of the frontier,
/// best first, `rows` times W of each; first those of the root, one row. A program that expands the
/// whole beam passes as many of its rows as `ltd_sequence_frontier` has.
///
/// # Safety
/// `log_probs` and `tokens` point to `rows` times W numbers each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_push_level(
    sequence: u64,
    log_probs: *const f32,
    tokens: *const u32,
    rows: usize,
) -> Status {
    call(|| {
        with(sequence, |sequence| {
            let width = sequence.beam_width();
            let count = rows.checked_mul(width);
            let count = count.ok_or_else(|| {
                Failure::Argument(format!("rows: expected a number of nodes, found {rows}"))
            })?;
            // SAFETY: as this function asks for.
            let (log_probs, tokens) =
                unsafe { (numbers("log_probs", log_probs, count)?, numbers("tokens", tokens, count)?) };
            Ok(sequence.push_level(log_probs, tokens)?)
        })
    })
}

/// The nodes that the next level expands: their tokens, and for each the row of the level before
/// that proposed it. Before there is a tree it is the root alone. An array that is null is left
/// out; `count` says how many there are, also where there is too little room.
///
/// # Safety
/// `tokens` and `parents` are null or point to room for `capacity` numbers, `count` to room for
/// one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_frontier(
    sequence: u64,
    tokens: *mut u32,
    parents: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> Status {
    call(|| {
        with(sequence, |sequence| {
            let (nodes, proposed): (Vec<u32>, Vec<u32>) = match sequence.growing() {
                Some(growing) => (
                    growing.frontier_tokens().collect(),
                    growing.parents().iter().map(|&row| row as u32).collect(),
                ),
                None => (vec![sequence.root()], vec![0]),
            };
            // SAFETY: as this function asks for.
            unsafe { write("count", count, nodes.len()) }?;
            if tokens.is_null() && parents.is_null() {
                return Ok(());
            }
            check_room("capacity", capacity, nodes.len())?;
            // SAFETY: as this function asks for, and there is room for all nodes.
            unsafe {
                write_all("tokens", tokens, nodes.into_iter())?;
                write_all("parents", parents, proposed.into_iter())
            }
        })
    })
}

/// Whether to add one more level. To be asked after each.
///
/// # Safety
/// `more` points to room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_continue(sequence: u64, more: *mut bool) -> Status {
    call(|| {
        let goes_on = with(sequence, |sequence| Ok(sequence.continue_drafting()?))?;
        // SAFETY: as this function asks for.
        unsafe { write("more", more, goes_on) }
    })
}

/// How many candidates the target verifies.
///
/// # Safety
/// `size` points to room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_size(sequence: u64, size: *mut usize) -> Status {
    call(|| {
        let found = with(sequence, |sequence| Ok(sequence.verification_size()?))?;
        // SAFETY: as this function asks for.
        unsafe { write("size", size, found) }
    })
}

/// The tree of tokens that the target verifies: tokens of its rows, root first, the row of each
/// one's parent, -1 for the root, and its depth, root 0. It has at most `at_most` rows beside the
/// root; asked again in a cycle, it is made anew. An array that is null is left out; `rows` says
/// how many there are, also where there is too little room.
///
/// # Safety
/// `tokens`, `parents` and `depths` are null or point to room for `capacity` numbers, `rows` to
/// room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_verification(
    sequence: u64,
    at_most: usize,
    tokens: *mut u32,
    parents: *mut i32,
    depths: *mut u32,
    capacity: usize,
    rows: *mut usize,
) -> Status {
    call(|| {
        with(sequence, |sequence| {
            let tree = sequence.verification(at_most)?;
            // SAFETY: as this function asks for.
            unsafe { write("rows", rows, tree.rows()) }?;
            if tokens.is_null() && parents.is_null() && depths.is_null() {
                return Ok(());
            }
            check_room("capacity", capacity, tree.rows())?;
            let of_rows = [-1].into_iter().chain(tree.parent_rows.iter().map(|&row| row as i32));
            // SAFETY: as this function asks for, and there is room for all rows.
            unsafe {
                write_all("tokens", tokens, tree.tokens.iter().copied())?;
                write_all("parents", parents, of_rows)?;
                write_all("depths", depths, tree.depths.iter().map(|&depth| depth as u32))
            }
        })
    })
}

/// Ends the cycle: the draft tokens that the target accepted, and its own token after them. Without
/// a cycle it was a step of plain decoding.
///
/// # Safety
/// `accepted` points to `accepted_length` tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ltd_sequence_commit(
    sequence: u64,
    accepted: *const u32,
    accepted_length: usize,
    next: u32,
) -> Status {
    call(|| {
        with(sequence, |sequence| {
            // SAFETY: as this function asks for.
            let accepted = unsafe { numbers("accepted", accepted, accepted_length) }?;
            sequence.commit(accepted, next);
            Ok(())
        })
    })
}
