//! How a program opens its engine: what concerns all of the process is here, and not in loading.

use tch::Device;

use crate::process::huge_pages::Mapped;
use crate::text::{TextError, TextModel};
use crate::{Engine, EngineConfig, Error, Result, Static};

impl TextModel {
    /// Tokenizer, chat template and stop tokens of a configuration's target.
    ///
    /// # Errors
    /// If the folder is not there, or a file in it is damaged.
    pub fn of(config: &EngineConfig) -> Result<Self, TextError> {
        Self::with_chat(&config.target, &config.chat)
    }
}

impl Engine {
    /// [`Engine::load`] for a program, with the text side of its target, which must fit the models.
    /// LibTorch gets the configuration's threads, memory that loading freed goes back to the
    /// system, and the weights are moved to huge pages where the system has them. On CUDA,
    /// libraries and kernels are loaded before anything is timed.
    ///
    /// # Errors
    /// See [`Engine::load`] and [`Engine::check_text`].
    pub fn open(config: &EngineConfig, text: &TextModel) -> Result<Self> {
        config.check()?;
        if let Some(threads) = config.threads {
            tch::set_num_threads(threads as i32);
        }
        let memory = Mapped::now();
        let mut engine = Self::load(config)?;
        release_freed_memory();
        if engine.device() == Device::Cpu {
            memory.advise_new();
        }
        engine.check_text(text)?;
        engine.warm_up();
        engine.settle_graphs();
        Ok(engine)
    }

    /// Has CUDA devices do a step and some cycles: libraries and kernels are loaded when they are
    /// first used, which takes far longer than a cycle.
    fn warm_up(&self) {
        const PROMPT: [u32; 4] = [0; 4];
        if self.device() == Device::Cpu {
            return;
        }
        let warm = || {
            let mut session = self.prefill(&PROMPT, None)?;
            let mut shape = Static { depth: self.max_depth().min(2), size: 8 };
            self.run_cycle(&mut session, &mut shape)?;
            self.run_cycle(&mut session, &mut shape)?;
            self.autoregressive_step(&mut session)?;
            Ok::<_, Error>(session)
        };
        // What fails here fails again where it matters, and is told there: a vocabulary may begin
        // with tokens that no text has.
        if let Ok(mut session) = warm() {
            self.capture_largest_graph(&mut session);
        }
    }
}

impl EngineConfig {
    /// Fails if LibTorch has other threads than are asked for: loading does not change what all
    /// engines of a process share.
    pub(crate) fn check_threads(&self) -> Result<()> {
        let found = tch::get_num_threads();
        match self.threads {
            Some(threads) if i64::from(found) != threads as i64 => Err(Error::Config {
                field: "threads",
                problem: format!("is {threads}, but LibTorch has {found} here: Engine::open sets them"),
            }),
            _ => Ok(()),
        }
    }
}

/// Gives memory back to the system. Loading frees as much as it keeps, in pieces that the allocator
/// would hold on to: weights as they were in the files, and those of a number type that was not
/// chosen.
#[expect(unsafe_code, reason = "calls the C library's allocator")]
fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: glibc's `int malloc_trim(size_t)` may be called at any time, by any thread: it
        // gives back memory that nobody has, of all of the process.
        unsafe { malloc_trim(0) };
    }
}
