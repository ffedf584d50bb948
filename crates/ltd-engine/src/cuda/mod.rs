//! CUDA, as far as LibTorch does not wrap it: no binary links it, so everything is looked up at run
//! time.
#![expect(unsafe_code, reason = "loads a shared library and calls CUDA's C functions")]

mod shim;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::Duration;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::Cuda;

pub(crate) use shim::{Graph, GraphPool, attend_to_first, copy_later, count_kernels, empty_cache};

use crate::libtorch::check_version;
use crate::transfer::Waited;

/// Makes LibTorch's CUDA half available, and tells how many devices there are: at least one.
pub(crate) fn device_count() -> Result<usize, String> {
    check_version()
        .map_err(|problem| format!("{problem}; LD_LIBRARY_PATH can name torch/lib of such a PyTorch"))?;
    load_library().map_err(|problem| format!("libtorch_cuda.so cannot be loaded: {problem}"))?;
    switch_cudnn_attention_off()
        .map_err(|problem| format!("cuDNN's attention cannot be switched off: {problem}"))?;
    let count = Cuda::device_count().max(0) as usize;
    if !Cuda::is_available() || count == 0 {
        let reason = Runtime::find().ok().and_then(|runtime| runtime.why_no_device());
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(format!("LibTorch finds no CUDA device on this machine{reason}"));
    }
    Ok(count)
}

/// `libtorch_cuda.so` registers its kernels when it is loaded; the linker drops it because nothing
/// refers to it.
fn load_library() -> Result<(), libloading::Error> {
    // SAFETY: What runs when the library is loaded is LibTorch's own registration of kernels.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }?;
    // Kernels stay registered for the life of the process.
    std::mem::forget(library);
    Ok(())
}

/// Keeps attention from cuDNN, which LibTorch prefers on recent devices: it builds and keeps a plan
/// for each exact shape, and the length of a context is another one at each step.
fn switch_cudnn_attention_off() -> Result<(), libloading::Error> {
    type GlobalContext = unsafe extern "C" fn() -> *mut c_void;
    type SetFlag = unsafe extern "C" fn(*mut c_void, bool);
    let program = Library::this();
    // SAFETY: LibTorch declares `Context& at::globalContext()` and `void
    // at::Context::setSDPUseCuDNN(bool)`. In the C++ ABI of Unix a reference is a pointer, and a
    // member function takes its object as the first argument. The context is a static that outlives
    // all callers, the setter only writes a flag of it, and neither of them throws.
    unsafe {
        let global_context = program.get::<GlobalContext>(b"_ZN2at13globalContextEv\0")?;
        let set_use_cudnn = program.get::<SetFlag>(b"_ZN2at7Context14setSDPUseCuDNNEb\0")?;
        set_use_cudnn(global_context(), false);
    }
    Ok(())
}

/// Free bytes of each CUDA device, of which there is at least one. Asking takes a context on each,
/// which is not counted as free any more.
pub(crate) fn free_memory() -> Result<Vec<u64>, String> {
    let count = device_count()?;
    let runtime = Runtime::find().map_err(|problem| format!("no CUDA runtime: {problem}"))?;
    let of = |device| {
        let memory = runtime.memory(device);
        memory.map(|[free, _]| free).map_err(|problem| format!("free memory of cuda:{device}: {problem}"))
    };
    (0..count).map(of).collect()
}

/// Free and all bytes of one CUDA device that is there, on which this takes a context; none where
/// the runtime cannot be asked.
pub(crate) fn memory_of(device: usize) -> Result<Option<[u64; 2]>, String> {
    let Ok(runtime) = Runtime::find() else { return Ok(None) };
    runtime.memory(device).map(Some).map_err(|problem| format!("its free memory is unknown: {problem}"))
}

/// Moments in the work of a device, which it notes when it comes to them: nobody waits. They are
/// CUDA's events on its default stream, to which LibTorch gives all work.
pub(crate) struct Moments {
    functions: EventFunctions,
    events: Vec<*mut c_void>,
}

#[derive(Clone, Copy)]
struct EventFunctions {
    create: unsafe extern "C" fn(*mut *mut c_void) -> c_int,
    /// On a stream; none is the default one.
    record: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int,
    /// Milliseconds between two.
    elapsed: unsafe extern "C" fn(*mut f32, *mut c_void, *mut c_void) -> c_int,
    destroy: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl Moments {
    /// None yet, of a device; none at all if it is not this thread's current one, or the runtime
    /// has no events.
    pub(crate) fn of(device: usize) -> Option<Self> {
        let program = Library::this();
        // SAFETY: The types are those of `cuda_runtime_api.h`, in which an error is an int, and
        // events and streams are pointers. The library stays loaded.
        let (functions, current) = unsafe {
            let current: unsafe extern "C" fn(*mut c_int) -> c_int = *program.get(b"cudaGetDevice\0").ok()?;
            let functions = EventFunctions {
                create: *program.get(b"cudaEventCreate\0").ok()?,
                record: *program.get(b"cudaEventRecord\0").ok()?,
                elapsed: *program.get(b"cudaEventElapsedTime\0").ok()?,
                destroy: *program.get(b"cudaEventDestroy\0").ok()?,
            };
            (functions, current)
        };
        let mut found = -1;
        // SAFETY: It writes one number, where there is one.
        let code = unsafe { current(&raw mut found) };
        (code == 0 && found == device as c_int).then(|| Self { functions, events: Vec::new() })
    }

    /// Has the device note when it has done all that it was asked to do so far.
    pub(crate) fn note(&mut self) -> Result<(), MomentError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: It writes one pointer, where there is one.
        if unsafe { (self.functions.create)(&raw mut event) } != 0 {
            return Err(MomentError);
        }
        self.events.push(event);
        // SAFETY: The event was just made, and is destroyed when this is dropped.
        let code = unsafe { (self.functions.record)(event, std::ptr::null_mut()) };
        if code == 0 { Ok(()) } else { Err(MomentError) }
    }

    /// The times from each moment to the next one, once the device was waited for.
    pub(crate) fn spans(&self, _: &Waited) -> Result<Vec<Duration>, MomentError> {
        let span = |pair: &[*mut c_void]| {
            let mut milliseconds = 0.0;
            // SAFETY: It writes one number, where there is one; both events were recorded.
            let code = unsafe { (self.functions.elapsed)(&raw mut milliseconds, pair[0], pair[1]) };
            if code == 0 {
                Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
            } else {
                Err(MomentError)
            }
        };
        self.events.windows(2).map(span).collect()
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        for &event in &self.events {
            // SAFETY: It was made by `create`, and nobody else has it.
            unsafe { (self.functions.destroy)(event) };
        }
    }
}

/// CUDA has refused to make, note or compare moments.
#[derive(Debug, thiserror::Error)]
#[error("CUDA has refused to note when it did something")]
pub(crate) struct MomentError;

/// The functions of the CUDA runtime that LibTorch itself uses.
struct Runtime {
    count_devices: unsafe extern "C" fn(*mut c_int) -> c_int,
    set_device: unsafe extern "C" fn(c_int) -> c_int,
    /// Free and total bytes of the current device.
    memory_info: unsafe extern "C" fn(*mut usize, *mut usize) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Runtime {
    /// Finds them in the process, into which LibTorch's libraries have brought them.
    fn find() -> Result<Self, libloading::Error> {
        let program = Library::this();
        // SAFETY: The types are those of `cuda_runtime_api.h`, in which an error is an int. The
        // library stays loaded.
        unsafe {
            Ok(Self {
                count_devices: *program.get(b"cudaGetDeviceCount\0")?,
                set_device: *program.get(b"cudaSetDevice\0")?,
                memory_info: *program.get(b"cudaMemGetInfo\0")?,
                error_string: *program.get(b"cudaGetErrorString\0")?,
            })
        }
    }

    /// An error in words.
    fn problem(&self, code: c_int) -> String {
        // SAFETY: The function takes any number, and returns a text that ends with 0 and is never
        // freed.
        unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy().into_owned()
    }

    /// Why there are no devices, if the runtime has a reason.
    fn why_no_device(&self) -> Option<String> {
        let mut count = 0;
        // SAFETY: It writes one number, where there is one.
        let code = unsafe { (self.count_devices)(&raw mut count) };
        (code != 0).then(|| self.problem(code))
    }

    /// Free and all bytes of a device. A thread of its own asks: the current device is one of a
    /// thread, and to set it back would take a context on that one, too.
    fn memory(&self, device: usize) -> Result<[u64; 2], String> {
        let check = |code: c_int| if code == 0 { Ok(()) } else { Err(self.problem(code)) };
        let ask = || {
            let (mut free, mut total) = (0, 0);
            // SAFETY: It takes any number, and refuses one that is no device.
            check(unsafe { (self.set_device)(device as c_int) })?;
            // SAFETY: It writes two numbers, where there are two.
            check(unsafe { (self.memory_info)(&raw mut free, &raw mut total) })?;
            Ok([free as u64, total as u64])
        };
        std::thread::scope(|scope| scope.spawn(ask).join().expect("invariant: asking does not panic"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_a_number_for_each_device_or_the_reason_why_not() {
        match free_memory() {
            Ok(free) => {
                assert_eq!(free.len() as i64, Cuda::device_count());
                assert!(free.iter().all(|&bytes| bytes > 0));
            }
            Err(problem) => {
                assert!(!Cuda::is_available(), "{problem}");
                assert!(
                    problem.contains("libtorch_cuda.so") || problem.contains("no CUDA device"),
                    "{problem}"
                );
            }
        }
    }

    #[test]
    fn cudnn_attention_is_off_once_it_was_switched_off() {
        type GetFlag = unsafe extern "C" fn(*const c_void) -> bool;
        switch_cudnn_attention_off().expect("LibTorch has the switch");
        let program = Library::this();
        // SAFETY: as above; `bool at::Context::userEnabledCuDNNSDP() const` reads the flag.
        let enabled = unsafe {
            let context =
                program.get::<unsafe extern "C" fn() -> *const c_void>(b"_ZN2at13globalContextEv\0");
            let enabled = program.get::<GetFlag>(b"_ZNK2at7Context19userEnabledCuDNNSDPEv\0");
            enabled.expect("the flag")(context.expect("the context")())
        };
        assert!(!enabled);
    }

    /// LibTorch with CUDA brings the runtime along, which answers without a device too: with an
    /// error of its own.
    #[test]
    fn the_runtime_is_in_the_process_and_says_why_it_has_no_such_device() {
        let Ok(runtime) = Runtime::find() else {
            assert!(!Cuda::is_available());
            println!("not covered: this LibTorch has no CUDA runtime");
            return;
        };
        let problem = runtime.memory(4096).expect_err("no machine has so many devices");
        assert!(!problem.is_empty() && problem != "no error", "{problem}");
    }
}
