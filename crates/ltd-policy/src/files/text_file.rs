//! Text files as people write them.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// The text of a file without its byte order mark: UTF-8, or UTF-16 if the mark says so. Where the
/// folder is missing, the error says so.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| match path.parent() {
        Some(folder)
            if error.kind() == ErrorKind::NotFound && !folder.as_os_str().is_empty() && !folder.is_dir() =>
        {
            Error::new(ErrorKind::NotFound, format!("folder {} does not exist", folder.display()))
        }
        // What was meant is not there.
        _ if path.is_dir() => Error::new(ErrorKind::NotFound, "is a folder, expected a file"),
        _ => error,
    })?;
    let units = |decode: fn([u8; 2]) -> u16| -> Option<Vec<u16>> {
        let (pairs, rest) = bytes[2..].as_chunks::<2>();
        rest.is_empty().then(|| pairs.iter().map(|&pair| decode(pair)).collect())
    };
    let text = match &bytes[..] {
        [0xff, 0xfe, ..] => units(u16::from_le_bytes).and_then(|units| String::from_utf16(&units).ok()),
        [0xfe, 0xff, ..] => units(u16::from_be_bytes).and_then(|units| String::from_utf16(&units).ok()),
        [0xef, 0xbb, 0xbf, text @ ..] => String::from_utf8(text.to_vec()).ok(),
        _ => String::from_utf8(bytes).ok(),
    };
    text.ok_or_else(|| Error::new(ErrorKind::InvalidData, "is not text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_are_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            read_text(&path).map_err(|error| error.to_string())
        };
        for bytes in [
            "{\"é\"}".as_bytes(),
            b"\xef\xbb\xbf{\"\xc3\xa9\"}",
            b"\xff\xfe{\0\"\0\xe9\0\"\0}\0",
            b"\xfe\xff\0{\0\"\0\xe9\0\"\0}",
        ] {
            assert_eq!(read(bytes).expect("text"), "{\"é\"}");
        }
        assert_eq!(read(b"").expect("text"), "");
        for bytes in [&b"caf\xe9"[..], b"\xff\xfe{", b"\xff\xfe\x00\xd8"] {
            assert_eq!(read(bytes).expect_err("not text"), "is not text in UTF-8");
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = |path: &str| read_text(&folder.path().join(path)).expect_err("missing").to_string();
        let expected = format!("folder {} does not exist", folder.path().join("typo").display());
        assert_eq!(error("typo/config.json"), expected);
        assert!(error("config.json").starts_with("No such file"));
        assert_eq!(error(""), "is a folder, expected a file");
        assert!(
            read_text(Path::new("no-such-file"))
                .expect_err("missing")
                .to_string()
                .starts_with("No such file")
        );
    }
}
