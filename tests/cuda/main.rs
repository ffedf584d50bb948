//! The CUDA path without a GPU, on the rehearsals of ltd-cuda-sim: the programs as they are, with
//! other libraries beneath them. LibTorch asks for devices once in a process, so each run is a
//! process of its own.

#[path = "../it/command.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod command;
mod gpu_check;
mod graphs;
#[path = "../it/machine.rs"]
mod machine;
mod runtime;
mod values;
