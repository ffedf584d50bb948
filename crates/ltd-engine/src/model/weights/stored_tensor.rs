//! Where the tensors of a checkpoint are.

/// Where a tensor is in its archive.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredTensor {
    /// Name of the storage's type, such as `torch.HalfStorage`.
    pub(super) kind: String,
    /// Name of the record under `data/`.
    pub(super) record: String,
    /// In elements.
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

impl StoredTensor {
    /// Place of the last element in the storage; nothing if the sizes make no sense or there are no
    /// elements.
    pub(super) fn last_element(&self) -> Option<u64> {
        if self.shape.len() != self.strides.len() || self.offset < 0 {
            return None;
        }
        let steps = self.shape.iter().zip(&self.strides).try_fold(self.offset, |last, (&size, &stride)| {
            let step = size.checked_sub(1).filter(|&steps| steps >= 0)?.checked_mul(stride)?;
            last.checked_add(step).filter(|_| stride >= 0)
        });
        steps.map(|last| last as u64)
    }
}
