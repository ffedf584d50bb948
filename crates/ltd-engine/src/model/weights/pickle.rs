//! `pytorch_model.bin`: a zip archive of a pickle and the bytes of its tensors.
//!
//! A pickle is a program, and Python's reader runs whatever it names. LibTorch's own reader, used here, is a
//! restricted one: it knows dictionaries, numbers and tensors, and any other name in the file is an error.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tch::Tensor;

use crate::{Error, Result};

/// First bytes of a zip archive.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// All tensors of a file, on the CPU.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(ZIP.len() as u64).read_to_end(&mut start).map_err(Error::io(path))?;
    let refuse = |problem: String| Error::Pickle { path: path.to_owned(), problem };
    if start != ZIP {
        let problem =
            "not a zip archive, as torch.save writes since PyTorch 1.6: save it anew, or as safetensors";
        return Err(refuse(problem.to_owned()));
    }
    Tensor::loadz_multi(path).map_err(|error| {
        let message = error.to_string();
        refuse(message.lines().next().unwrap_or_default().to_owned())
    })
}
