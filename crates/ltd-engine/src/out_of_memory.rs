//! Running out of memory, told apart from everything else that LibTorch may report: it knows one
//! kind of error, whose message is all that says what happened.

use std::fmt;

use tch::TchError;

/// What was asked of a device that has no memory for it. Amounts are in LibTorch's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct OutOfMemory {
    /// The device as in a configuration, without a number where LibTorch gives none.
    pub device: String,
    /// What was asked for, unless it was something inside a library.
    pub asked: Option<String>,
    /// What is free, and what there is in all.
    pub free: Option<(String, String)>,
}

/// What LibTorch's own allocator of device memory says.
const OF_DEVICE: &str = "CUDA out of memory. Tried to allocate ";
/// What LibTorch says that CUDA, or a library on top of it, says.
const IN_LIBRARIES: [&str; 2] = ["CUDA error: out of memory", "_ALLOC_FAILED"];
/// What LibTorch's allocator of the host's memory says.
const OF_HOST: &str = "DefaultCPUAllocator: can't allocate memory: you tried to allocate ";

impl OutOfMemory {
    /// The shortage that an error of LibTorch is about, if it is about one.
    pub(crate) fn in_message(error: &TchError) -> Option<Self> {
        let TchError::Torch(message) = error else { return None };
        // Where in LibTorch it happened stands after the first line.
        let message = message.split('\n').next()?;
        if let Some((_, rest)) = message.split_once(OF_DEVICE) {
            return Some(Self::of_device(rest));
        }
        let of = |device: &str, asked| Self { device: device.to_owned(), asked, free: None };
        if let Some((_, rest)) = message.split_once(OF_HOST) {
            return Some(of("cpu", rest.split_once(". ").map(|(asked, _)| asked.to_owned())));
        }
        IN_LIBRARIES.iter().any(|said| message.contains(said)).then(|| of("cuda", None))
    }

    /// `ASKED. GPU N has a total capacity of TOTAL of which FREE is free. ...`
    fn of_device(message: &str) -> Self {
        let (asked, rest) = message.split_once(". GPU ").unwrap_or((message.trim_end_matches('.'), ""));
        let (number, rest) = rest.split_once(" has a total capacity of ").unwrap_or_default();
        let free = rest.split_once(" of which ").and_then(|(total, rest)| {
            let (free, _) = rest.split_once(" is free")?;
            Some((free.to_owned(), total.to_owned()))
        });
        let device = if number.is_empty() { "cuda".to_owned() } else { format!("cuda:{number}") };
        Self { device, asked: Some(asked.to_owned()), free }
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { device, asked, free } = self;
        write!(f, "device {device} is out of memory")?;
        if let Some(asked) = asked {
            write!(f, ": {asked} were asked for")?;
        }
        if let Some((free, total)) = free {
            write!(f, ", and {free} of its {total} are free")?;
        }
        write!(
            f,
            "; lower max_length, name a 16-bit dtype, or share the target among several devices (devices)"
        )
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::Error;

    fn error(message: &str) -> Error {
        TchError::Torch(message.to_owned()).into()
    }

    #[test]
    fn a_device_without_memory_is_named_with_what_was_asked_of_it_and_what_it_has() {
        let message = "CUDA out of memory. Tried to allocate 1.96 GiB. GPU 1 has a total capacity of 79.10 GiB of which \
                       1.22 GiB is free. Including non-PyTorch memory, this process has 77.87 GiB memory in use. Of the \
                       allocated memory 76.21 GiB is allocated by PyTorch, and 1.10 GiB is reserved by PyTorch but \
                       unallocated. If reserved but unallocated memory is large try setting \
                       PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.\n\
                       Exception raised from malloc at CUDACachingAllocator.cpp:1575 (most recent call first):\n\
                       frame #0: c10::Error::Error";
        let found = error(message);
        assert!(!found.is_usage());
        assert_eq!(
            found.to_string(),
            "device cuda:1 is out of memory: 1.96 GiB were asked for, and 1.22 GiB of its 79.10 GiB are free; lower \
             max_length, name a 16-bit dtype, or share the target among several devices (devices)"
        );
    }

    #[test]
    fn shortages_without_numbers_are_shortages() {
        for (message, start) in [
            (
                "CUDA out of memory. Tried to allocate more than 1EB memory.",
                "device cuda is out of memory: more than 1EB memory were asked for; ",
            ),
            ("CUDA error: out of memory\nCUDA kernel errors might be", "device cuda is out of memory; "),
            (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "device cuda is out of memory; ",
            ),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "device cuda is out of memory; "),
        ] {
            let found = error(message);
            assert!(
                matches!(found, Error::OutOfMemory(_)) && found.to_string().starts_with(start),
                "{found}"
            );
        }
    }

    #[test]
    fn the_hosts_allocator_is_understood_as_it_speaks() {
        let Err(found) = Tensor::f_empty([1 << 52], (Kind::Uint8, Device::Cpu)) else {
            panic!("no machine has so much memory");
        };
        let found = Error::from(found);
        assert!(
            found
                .to_string()
                .starts_with("device cpu is out of memory: 4503599627370496 bytes were asked for; "),
            "{found}"
        );
    }

    #[test]
    fn other_errors_stay_what_they_are() {
        let Err(found) = Tensor::zeros([2], (Kind::Float, Device::Cpu)).f_view([3]) else {
            panic!("there is no such view");
        };
        assert!(matches!(Error::from(found), Error::Torch(_)));
        assert!(matches!(error("CUDA error: an illegal memory access was encountered"), Error::Torch(_)));
    }
}
