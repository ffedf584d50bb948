//! The memory of kernels: seen as numbers of one type or another, shared out among threads, and
//! used again and again where allocating it anew would take longer than filling it.

use std::marker::PhantomData;
use std::ptr::NonNull;

use half::{bf16, f16};

use crate::vector::{LANES, Vector};

/// Numbers as which any memory may be read.
///
/// # Safety
/// Every pattern of bits must be a value of the type, and every byte of a value must be part of it
/// (no padding).
pub(crate) unsafe trait Pod: Copy + Send + Sync + 'static {}

// SAFETY: Every pattern of eight bits is one.
unsafe impl Pod for u8 {}
// SAFETY: Every pattern of 32 bits is an f32.
unsafe impl Pod for f32 {}
// SAFETY: A transparent wrapper of u16.
unsafe impl Pod for bf16 {}
// SAFETY: A transparent wrapper of u16.
unsafe impl Pod for f16 {}
// SAFETY: An array is its elements, one after another without a gap.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}
// SAFETY: 64 bytes that all belong to the vector.
unsafe impl Pod for Line {}

/// Sixteen numbers of four bytes, or as many pairs of two.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct Line(Vector);

/// The same memory as numbers of another type; what is left over at the end is left out.
#[inline(always)]
pub(crate) fn cast<T: Pod, U: Pod>(numbers: &[T]) -> &[U] {
    assert!(align_of::<U>() <= align_of::<T>());
    let count = size_of_val(numbers) / size_of::<U>();
    // SAFETY: The memory is aligned, as large as is said, borrowed as long as the result, and `Pod`
    // allows to read it.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), count) }
}

/// [`cast`], to write.
#[inline(always)]
pub(crate) fn cast_mut<T: Pod, U: Pod>(numbers: &mut [T]) -> &mut [U] {
    assert!(align_of::<U>() <= align_of::<T>());
    let count = size_of_val(numbers) / size_of::<U>();
    // SAFETY: As in `cast`; the borrow is exclusive, and `Pod` lets whatever is written be read as
    // the old type.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), count) }
}

/// Memory for `count` lines, which hold whatever they were filled with before.
#[inline(always)]
pub(crate) fn lines<U: Pod>(memory: &mut Vec<Line>, count: usize) -> &mut [[U; LANES]] {
    const { assert!(size_of::<[U; LANES]>() == size_of::<Line>()) };
    grow(memory, count);
    cast_mut(&mut memory[..count])
}

/// Starts to fetch the line of the cache where some bytes begin, into the second level.
#[inline(always)]
pub(crate) fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: A hint, which may be of any address; all processors of x86-64 have it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[inline(always)]
fn grow(memory: &mut Vec<Line>, count: usize) {
    if memory.len() < count {
        memory.resize(count, Line::default());
    }
}

/// A `&mut [T]` that is shared out among threads: each may write its own part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedMut<'m, T> {
    start: NonNull<T>,
    len: usize,
    memory: PhantomData<&'m mut [T]>,
}

// SAFETY: It is a `&mut [T]`, which may be sent where `T` may be. That its copies are not used to
// write the same part at the same time, or to read it meanwhile, is left to the callers of `part`
// and of `Handover::read`.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: As for `Send`: a reference to it gives no more than a copy does.
unsafe impl<T: Send + Sync> Sync for SharedMut<'_, T> {}

impl<'m, T> SharedMut<'m, T> {
    /// Shares out memory that nothing else looks at as long as it lives.
    pub(crate) fn of(numbers: &'m mut [T]) -> Self {
        let len = numbers.len();
        Self { start: NonNull::from(numbers).cast(), len, memory: PhantomData }
    }

    /// Memory for `count` numbers, which hold whatever was there before.
    pub(crate) fn new(memory: &'m mut Vec<Line>, count: usize) -> Self
    where
        T: Pod,
    {
        grow(memory, (count * size_of::<T>()).div_ceil(size_of::<Line>()));
        Self::of(&mut cast_mut(memory)[..count])
    }

    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// `count` numbers from `first` on.
    ///
    /// # Safety
    /// They must be there, and nobody else may read or write them while the slice lives.
    #[inline(always)]
    pub(crate) unsafe fn part(self, first: usize, count: usize) -> &'m mut [T] {
        // SAFETY: The memory is there as long as `'m`, and the part is the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(first), count) }
    }
}

/// Numbers that are there before a step of work, or that an earlier step writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handover<'m, T>(SharedMut<'m, T>);

impl<'m, T> From<&'m [T]> for Handover<'m, T> {
    fn from(numbers: &'m [T]) -> Self {
        // Only read, as there is no way from here to a `SharedMut`.
        Self(SharedMut { start: NonNull::from(numbers).cast(), len: numbers.len(), memory: PhantomData })
    }
}

impl<'m, T> From<SharedMut<'m, T>> for Handover<'m, T> {
    fn from(numbers: SharedMut<'m, T>) -> Self {
        Self(numbers)
    }
}

impl<'m, T> Handover<'m, T> {
    pub(crate) fn len(self) -> usize {
        self.0.len
    }

    /// All of them.
    ///
    /// # Safety
    /// Nobody may write to them while the slice lives.
    #[inline(always)]
    pub(crate) unsafe fn read(self) -> &'m [T] {
        // SAFETY: The memory is there as long as `'m`, and nobody writes to it.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.len) }
    }

    /// `count` of them from `first` on.
    ///
    /// # Safety
    /// They must be there, and nobody may write to them while the slice lives.
    #[inline(always)]
    pub(crate) unsafe fn part(self, first: usize, count: usize) -> &'m [T] {
        // SAFETY: As in `read`, of a part that is there.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr().add(first), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_it_was_in_any_type() {
        let mut memory = Vec::new();
        let units = lines::<[bf16; 2]>(&mut memory, 3);
        units[2][15] = [bf16::ONE, bf16::NEG_INFINITY];
        let numbers: &[f32] = cast(&memory);
        assert_eq!((numbers.len(), numbers[47].to_bits()), (48, 0xff80_3f80));
        // Five numbers of two bytes are two of four, and one that is left over.
        assert_eq!(cast::<[bf16; 2], bf16>(&cast(numbers)[46..])[2..], [bf16::ONE, bf16::NEG_INFINITY]);
        let odd = [[bf16::ONE; 1]; 5];
        assert_eq!(cast::<_, [bf16; 2]>(&odd).len(), 2);
    }

    #[test]
    #[should_panic(expected = "align_of")]
    fn memory_must_be_aligned_for_its_numbers() {
        cast::<bf16, f32>(&[bf16::ONE; 4]);
    }

    #[test]
    fn parts_are_written_side_by_side() {
        let mut memory = Vec::new();
        let shared = SharedMut::<f32>::new(&mut memory, 100);
        std::thread::scope(|scope| {
            for part in 0..10 {
                // SAFETY: Each thread has ten numbers of its own.
                scope.spawn(move || unsafe { shared.part(part * 10, 10) }.fill(part as f32));
            }
        });
        // SAFETY: All threads are done.
        let numbers = unsafe { Handover::from(shared).read() };
        assert!(numbers.iter().enumerate().all(|(index, number)| *number == (index / 10) as f32));
    }
}
