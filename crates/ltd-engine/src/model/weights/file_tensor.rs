//! A tensor that stays in its file until it is needed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Where a contiguous tensor is in a file. What is kept of the file in memory is the operating
/// system's affair, which drops it when memory is short.
#[derive(Debug, Clone)]
pub(crate) struct FileTensor {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// Its first byte.
    pub(super) start: u64,
    pub(super) shape: Vec<i64>,
    /// The type in the file.
    pub(super) kind: Kind,
}

impl FileTensor {
    /// All of it, in memory of its own.
    pub(super) fn read(&self) -> Result<Tensor> {
        let mut bytes = vec![0; self.byte_count()];
        self.read_bytes(&mut bytes, 0)?;
        Ok(Tensor::f_from_data_size(&bytes, &self.shape, self.kind)?)
    }

    /// All of it, if possible as a view of the file: no memory is needed, and the pages are given
    /// back with the tensor.
    ///
    /// A view is for the time of loading only. As with any mapped file (the contract of `memmap2`),
    /// nobody may write to the file meanwhile: what is written may be seen, which makes the weights
    /// worthless, and where the file was cut short the system ends the process with SIGBUS. To
    /// replace a file by renaming another one over it is harmless.
    pub(crate) fn map(&self) -> Result<Tensor> {
        let size = self.kind.elt_size_in_bytes() as u64;
        let (Some(path), true) = (self.path.to_str(), self.start.is_multiple_of(size)) else {
            return self.read();
        };
        let (start, bytes) = (self.start as i64, self.byte_count() as i64);
        let whole = Tensor::f_from_file(path, false, start + bytes, (Kind::Uint8, Device::Cpu))?;
        Ok(whole.f_narrow(0, start, bytes)?.f_view_dtype(self.kind)?.f_view(self.shape.as_slice())?)
    }

    /// Some rows of a matrix, `[n, width]`, by plain reads: those of a file that was cut short
    /// meanwhile are an error, and those of one that was written to are what was written.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn rows(&self, rows: &[i64]) -> Result<Tensor> {
        let [count, width] = self.shape[..] else { unreachable!("invariant: rows are those of a matrix") };
        let row_bytes = width as usize * self.kind.elt_size_in_bytes();
        let mut bytes = vec![0; rows.len() * row_bytes];
        for (bytes, &row) in bytes.chunks_exact_mut(row_bytes).zip(rows) {
            assert!((0..count).contains(&row), "row {row} of {count}");
            self.read_bytes(bytes, row as u64 * row_bytes as u64)?;
        }
        Ok(Tensor::f_from_data_size(&bytes, &[rows.len() as i64, width], self.kind)?)
    }

    /// Whether both are the same place of the same file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.path == other.path && self.start == other.start
    }

    fn byte_count(&self) -> usize {
        self.shape.iter().product::<i64>() as usize * self.kind.elt_size_in_bytes()
    }

    fn read_bytes(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, self.start + offset).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_view_and_copy_are_what_the_file_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tensor");
        let numbers: Vec<f32> = (0..12).map(|number| number as f32 * 0.5).collect();
        // A view needs a start that fits the type; the odd one is read.
        for start in [0, 4, 3] {
            let bytes: Vec<u8> = std::iter::repeat_n(0xff, start)
                .chain(numbers.iter().flat_map(|number| number.to_le_bytes()))
                .collect();
            std::fs::write(&path, bytes).expect("a file");
            let tensor = FileTensor {
                path: path.clone(),
                file: Arc::new(File::open(&path).expect("a file")),
                start: start as u64,
                shape: vec![4, 3],
                kind: Kind::Float,
            };
            let expected = Tensor::from_slice(&numbers).view([4, 3]);
            assert_eq!(tensor.read().expect("a copy"), expected);
            assert_eq!(tensor.map().expect("a view"), expected);
            let rows = [2, 0, 2];
            let expected = expected.index_select(0, &Tensor::from_slice(&rows));
            assert_eq!(tensor.rows(&rows).expect("rows"), expected);
        }
        let gone = FileTensor {
            path: path.clone(),
            file: Arc::new(File::open(&path).expect("a file")),
            start: 40,
            shape: vec![4, 3],
            kind: Kind::Float,
        };
        let error = gone.rows(&[3]).expect_err("beyond the end").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
