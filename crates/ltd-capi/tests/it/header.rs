//! Whether the header in `include` is that of the code.

use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("a configuration");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(folder.join("src/lib.rs"))
        .generate()
        .expect("a header");
    let mut header = Vec::new();
    bindings.write(&mut header);
    let path = folder.join("include/ltd_policy.h");
    if std::env::var_os("LTD_WRITE_HEADER").is_some() {
        std::fs::write(&path, &header).expect("written");
    }
    let found = std::fs::read(&path).unwrap_or_default();
    assert!(found == header, "{}: run this test with LTD_WRITE_HEADER=1", path.display());
}
