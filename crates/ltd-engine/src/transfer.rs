//! Numbers on their way between host and device: what a phase of a cycle needs goes over in one
//! transfer, and what it found comes back in one. Both use pinned memory, which a device reads and
//! writes while the host does other things. On a CPU nothing is moved.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::cuda::copy_later;
use crate::device::synchronize;

/// Numbers for a device, one after another.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    bytes: Vec<u8>,
}

/// Where some numbers of an [`Upload`] are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parcel {
    start: usize,
    bytes: usize,
    kind: Kind,
}

/// An [`Upload`] on its device, or on its way there: whatever the device is asked to do next, it
/// does afterwards.
pub(crate) struct Uploaded(Tensor);

impl Upload {
    /// Numbers start at multiples of it: of all sizes, and of what kernels load at once.
    const ALIGNMENT: usize = 16;

    /// Numbers of rows, tokens or positions.
    pub(crate) fn add_indices(&mut self, numbers: impl IntoIterator<Item = i64>) -> Parcel {
        self.add(Kind::Int64, numbers.into_iter().map(i64::to_ne_bytes))
    }

    /// Small numbers of rows or positions, in 32 bits.
    pub(crate) fn add_small_indices(&mut self, numbers: impl IntoIterator<Item = i32>) -> Parcel {
        self.add(Kind::Int, numbers.into_iter().map(i32::to_ne_bytes))
    }

    /// Random numbers.
    pub(crate) fn add_doubles(&mut self, numbers: impl IntoIterator<Item = f64>) -> Parcel {
        self.add(Kind::Double, numbers.into_iter().map(f64::to_ne_bytes))
    }

    /// Zero or minus infinity, as a mask has them, in a type of floats.
    pub(crate) fn add_mask(&mut self, kind: Kind, sees: impl IntoIterator<Item = bool>) -> Parcel {
        let sees = sees.into_iter();
        match kind {
            Kind::BFloat16 => {
                self.add(kind, sees.map(|sees| if sees { 0 } else { 0xff80_u16 }.to_ne_bytes()))
            }
            Kind::Half => self.add(kind, sees.map(|sees| if sees { 0 } else { 0xfc00_u16 }.to_ne_bytes())),
            _ => {
                let number = |sees| if sees { 0.0 } else { f32::NEG_INFINITY };
                self.add(Kind::Float, sees.map(|sees| number(sees).to_ne_bytes()))
            }
        }
    }

    fn add<const N: usize>(&mut self, kind: Kind, numbers: impl Iterator<Item = [u8; N]>) -> Parcel {
        let start = self.bytes.len().next_multiple_of(Self::ALIGNMENT);
        self.bytes.resize(start, 0);
        self.bytes.extend(numbers.flatten());
        Parcel { start, bytes: self.bytes.len() - start, kind }
    }

    /// Bytes of all of it.
    pub(crate) fn len(&self) -> i64 {
        self.bytes.len() as i64
    }

    /// Sends all of it to a device.
    pub(crate) fn send(self, device: Device) -> Result<Uploaded> {
        if device == Device::Cpu {
            return Ok(Uploaded(Tensor::from_slice(&self.bytes)));
        }
        Ok(Uploaded(self.pinned(device)?.f_to_device_(device, Kind::Uint8, true, false)?))
    }

    /// Sends all of it to where a place begins.
    pub(crate) fn send_to(self, place: &UploadPlace) -> Result<Uploaded> {
        let UploadPlace(place) = place;
        assert!(self.len() <= place.numel() as i64, "an upload larger than its place");
        copy_later(&place.narrow(0, 0, self.len()), &self.pinned(place.device())?)?;
        Ok(Uploaded(place.shallow_clone()))
    }

    /// In memory of the host that a device reads. It is LibTorch's, which does not use it again
    /// before the transfer is over.
    fn pinned(&self, device: Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.bytes).f_internal_pin_memory(device)?)
    }
}

/// Memory of a CUDA device that one upload after another is sent to.
pub(crate) struct UploadPlace(Tensor);

impl UploadPlace {
    /// A place for uploads of so many bytes.
    pub(crate) fn new(bytes: i64, device: Device) -> Result<Self> {
        Ok(Self(Tensor::f_zeros([bytes], (Kind::Uint8, device))?))
    }

    /// The upload that was sent last.
    pub(crate) fn last(&self) -> Uploaded {
        Uploaded(self.0.shallow_clone())
    }
}

impl Uploaded {
    /// Numbers in a row; the parcel must be one of this upload.
    pub(crate) fn get(&self, parcel: Parcel) -> Tensor {
        self.0.narrow(0, parcel.start as i64, parcel.bytes as i64).view_dtype(parcel.kind)
    }
}

/// What a device found, on its way to the host.
pub(crate) struct Download(Tensor);

/// The proof of a wait for a device: what it was sent before can be read.
pub(crate) struct Waited(());

impl Waited {
    /// Waits until devices have done all that was asked of them.
    pub(crate) fn for_devices(devices: &[Device]) -> Self {
        for &device in devices {
            synchronize(device);
        }
        Self(())
    }

    /// Waits until what was asked of a tensor's device before is done, outside of what is timed: by
    /// a copy of a number of it, which comes after all else.
    pub(crate) fn for_all_before(tensor: &Tensor) -> Result<Self> {
        if tensor.device() != Device::Cpu && tensor.numel() > 0 {
            let _number = tensor.f_reshape(-1)?.narrow(0, 0, 1).f_to_device(Device::Cpu)?;
        }
        Ok(Self(()))
    }
}

impl Download {
    /// Begins to fetch a tensor.
    pub(crate) fn begin(tensor: &Tensor) -> Result<Self> {
        Ok(Self(match tensor.device() {
            Device::Cpu => tensor.shallow_clone(),
            // LibTorch takes pinned memory for it.
            _ => tensor.f_to_device_(Device::Cpu, tensor.kind(), true, false)?,
        }))
    }

    /// All numbers, row-major, once the device was waited for.
    pub(crate) fn read<T: tch::kind::Element>(self, _: &Waited) -> Result<Vec<T>> {
        let flat = self.0.f_contiguous()?.f_view(-1)?;
        let mut numbers = vec![T::ZERO; flat.numel()];
        flat.f_copy_data(&mut numbers, flat.numel())?;
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_hold_what_was_put_into_them() {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let mut upload = Upload::default();
            let mask = upload.add_mask(kind, [true, false, true]);
            let numbers = upload.add_indices([7, -1]);
            let nothing = upload.add_indices([]);
            let doubles = upload.add_doubles([0.25]);
            let uploaded = upload.send(Device::Cpu).expect("sent");
            assert_eq!(uploaded.get(numbers), Tensor::from_slice(&[7_i64, -1]));
            assert_eq!(uploaded.get(doubles), Tensor::from_slice(&[0.25]));
            assert_eq!(uploaded.get(nothing).size(), [0]);
            let mask = uploaded.get(mask);
            assert_eq!(mask.kind(), kind);
            let expected = Tensor::from_slice(&[0.0, f32::NEG_INFINITY, 0.0]);
            assert_eq!(mask.to_kind(Kind::Float), expected);
        }
    }

    #[test]
    fn what_comes_back_is_row_major() {
        let columns = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([2, 2]).transpose(0, 1);
        let waited = Waited::for_devices(&[]);
        let read: Vec<f32> = Download::begin(&columns).expect("begun").read(&waited).expect("read");
        assert_eq!(read, [1.0, 3.0, 2.0, 4.0]);
    }
}
