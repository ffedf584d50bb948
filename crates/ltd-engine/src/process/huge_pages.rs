//! Huge pages for what a forward reads from end to end: with pages of 4 KiB, a processor spends a
//! tenth of a small forward on finding out where the weights are.
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "advises the system about memory, whose content stays as it is")
)]

/// The memory of this process at some moment: what is new afterwards was made since, as the weights
/// of models are.
///
/// Where a weight is cannot be asked, as those that oneDNN packs do not tell. What other threads
/// make meanwhile is advised with them; that of a program before and after is left alone.
pub(crate) struct Mapped {
    /// Memory that belongs to no file, in rising order.
    #[cfg(target_os = "linux")]
    ranges: Vec<std::ops::Range<usize>>,
}

/// Elsewhere the system decides alone.
#[cfg(not(target_os = "linux"))]
impl Mapped {
    pub(crate) fn now() -> Self {
        Self {}
    }

    pub(crate) fn advise_new(&self) {}
}

#[cfg(target_os = "linux")]
impl Mapped {
    pub(crate) fn now() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self { ranges: maps.lines().filter_map(anonymous).collect() }
    }

    /// Asks the system to move memory that is new since then to huge pages. Advice only: a system
    /// that has none, or needs none, leaves everything as it is.
    pub(crate) fn advise_new(&self) {
        use std::ffi::{c_int, c_void};

        unsafe extern "C" {
            fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
        }
        const HUGE_PAGE: usize = 2 << 20;
        const MADV_HUGEPAGE: c_int = 14;
        const MADV_COLLAPSE: c_int = 25;

        for range in self.new_in(&Self::now()) {
            // Whole huge pages only.
            let (start, end) = (range.start.next_multiple_of(HUGE_PAGE), range.end / HUGE_PAGE * HUGE_PAGE);
            if start < end {
                for advice in [MADV_HUGEPAGE, MADV_COLLAPSE] {
                    // SAFETY: This is POSIX's `madvise`. Both pieces of advice leave the content of
                    // memory as it is, whoever uses it meanwhile; where nothing is mapped any more
                    // it fails.
                    unsafe { madvise(start as *mut c_void, end - start, advice) };
                }
            }
        }
    }

    /// What is mapped later and was not now.
    fn new_in(&self, later: &Self) -> Vec<std::ops::Range<usize>> {
        let mut new = Vec::new();
        for range in &later.ranges {
            let mut start = range.start;
            for old in self.ranges.iter().filter(|old| old.start < range.end && old.end > range.start) {
                new.push(start..old.start);
                start = old.end;
            }
            new.push(start..range.end);
        }
        new.retain(|range| range.start < range.end);
        new
    }
}

/// The addresses of a line of `/proc/self/maps`, if it is of memory that can be written and belongs
/// to no file.
#[cfg(target_os = "linux")]
fn anonymous(line: &str) -> Option<std::ops::Range<usize>> {
    let mut fields = line.split_whitespace();
    let (range, permissions, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    let plain = permissions == "rw-p" && inode == "0" && matches!(fields.next(), None | Some("[heap]"));
    let (start, end) = range.split_once('-').filter(|_| plain)?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_without_a_file_is_told_from_the_rest() {
        assert_eq!(anonymous("7f00-7fff rw-p 00000000 00:00 0 "), Some(0x7f00..0x7fff));
        assert_eq!(anonymous("1000-2000 rw-p 00000000 00:00 0     [heap]"), Some(0x1000..0x2000));
        for other in [
            "7f00-7fff r--p 00000000 00:00 0 ",
            "7f00-7fff rw-p 00001000 08:01 1234    /lib/libc.so.6",
            "7f00-7fff rw-p 00000000 00:00 0     [stack]",
            "",
        ] {
            assert_eq!(anonymous(other), None, "{other}");
        }
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "memory is a list of ranges")]
    fn only_what_is_new_is_advised() {
        let new = |before: &[std::ops::Range<usize>], after: &[std::ops::Range<usize>]| {
            let [before, after] = [before, after].map(|ranges| Mapped { ranges: ranges.to_vec() });
            before.new_in(&after)
        };
        assert!(new(&[10..20, 40..50], &[10..20, 40..50]).is_empty());
        assert_eq!(new(&[10..20, 40..50], &[12..18, 60..70]), [60..70]);
        // Mappings that touch become one; a heap grows.
        assert_eq!(new(&[10..20, 40..50], &[5..55, 60..70]), [5..10, 20..40, 50..55, 60..70]);
        assert_eq!(new(&[], &[1..2]), [1..2]);
    }
}
