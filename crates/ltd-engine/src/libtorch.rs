//! Which LibTorch is in the process.
#![expect(unsafe_code, reason = "calls a C function")]

use libloading::os::unix::Library;

/// The version that this was written for and is tested with, of any patch.
pub(crate) const KNOWN: [u8; 2] = [2, 11];

/// The version of the LibTorch in this process: major, minor and patch; unknown before 2.9.
pub fn libtorch_version() -> Option<[u8; 3]> {
    let program = Library::this();
    // SAFETY: `uint64_t aoti_torch_abi_version()`, which is part of the interface that stays as it
    // is (`TORCH_ABI_VERSION`).
    let version = unsafe {
        let version = program.get::<unsafe extern "C" fn() -> u64>(b"aoti_torch_abi_version\0").ok()?;
        version()
    };
    let [major, minor, patch, ..] = version.to_be_bytes();
    Some([major, minor, patch])
}

/// Fails where it is not the version that is known.
pub(crate) fn check_version() -> Result<(), String> {
    let found = match libtorch_version() {
        Some(version) if version.starts_with(&KNOWN) => return Ok(()),
        Some([major, minor, patch]) => format!("{major}.{minor}.{patch}"),
        None => "of an unknown version".to_owned(),
    };
    let [major, minor] = KNOWN;
    Err(format!("LibTorch is {found}, and its functions are known for {major}.{minor} only"))
}
