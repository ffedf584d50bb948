//! Huge pages for what a forward reads from end to end: with pages of 4 KiB, a processor spends a tenth of a small forward
//! on finding out where the weights are.
#![expect(
    unsafe_code,
    reason = "advises the system about memory of this process, whose content stays as it is"
)]

/// Asks the system to move the memory that this process has filled so far to huge pages. Advice only: a system that
/// has none, or needs none, leaves everything as it is.
#[cfg(target_os = "linux")]
pub(crate) fn advise() {
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    const HUGE_PAGE: usize = 2 << 20;
    const MADV_HUGEPAGE: c_int = 14;
    const MADV_COLLAPSE: c_int = 25;

    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for range in maps.lines().filter_map(anonymous) {
        // Whole huge pages only.
        let (start, end) = (range.start.next_multiple_of(HUGE_PAGE), range.end / HUGE_PAGE * HUGE_PAGE);
        if start < end {
            for advice in [MADV_HUGEPAGE, MADV_COLLAPSE] {
                unsafe { madvise(start as *mut c_void, end - start, advice) };
            }
        }
    }
}

/// Elsewhere the system decides alone.
#[cfg(not(target_os = "linux"))]
pub(crate) fn advise() {}

/// The addresses of a line of `/proc/self/maps`, if it is of memory that can be written and belongs to no file.
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
}
