//! How LibTorch's threads wait for work.
//!
//! Between two pieces of work the threads of GNU's OpenMP runtime spin on their cores: 300,000
//! looks unless told otherwise, which is as long as a scheduler's time slice. Alone on a machine
//! that is fast. Beside busy processes a thread that spins takes the core that the thread it waits
//! for would need, at every one of a forward's many meetings, and decoding with two threads becomes
//! a hundred times slower than with one.

/// Looks before a thread sleeps: longer than the gaps within a cycle, and far shorter than a time
/// slice.
#[cfg(target_os = "linux")]
const SPIN_COUNT: &str = "10000";

/// Lets LibTorch's threads spin for a short while only, unless `OMP_WAIT_POLICY` or
/// `GOMP_SPINCOUNT` says how they are to wait. For the beginning of a program's `main`, when its
/// arguments are known to be right.
///
/// The runtime reads its environment when it is loaded, which is before `main`: the program is
/// started once more, in the same process, with `GOMP_SPINCOUNT` set. Where that cannot be done,
/// threads wait as the runtime has it.
pub fn bound_spinning() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;

        if ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"].into_iter().any(|name| std::env::var_os(name).is_some()) {
            return;
        }
        // By its path, not as /proc/self/exe: the process keeps its name.
        let Ok(program) = std::env::current_exe() else { return };
        let mut arguments = std::env::args_os();
        let mut again = std::process::Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // Only an error comes back, and then nothing has changed.
        _ = again.args(arguments).env("GOMP_SPINCOUNT", SPIN_COUNT).exec();
    }
}
