//! Mutated weight files are refused or read.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ltd_fuzz::{Form, folder, fuzz};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use zip::write::FileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{WeightFile, Weights, weight_files};
use tch::Kind;

#[global_allocator]
static METER: ltd_fuzz::Meter = ltd_fuzz::Meter;

/// Opens a file and reads all that is in it.
fn read(path: &Path) {
    let Ok(file) = WeightFile::open(path) else { return };
    file.sizes();
    for name in file.names() {
        let (shape, _) = (file.shape(&name), file.type_of(&name));
        if let Ok(tensor) = file.read(&name) {
            assert_eq!(tensor.size(), shape);
        }
        let _ = file.map(&name);
    }
}

fn small_file(metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    let bytes = [3u8; 96];
    let tensors = [
        ("norm.weight", Dtype::F32, vec![4]),
        ("fc.weight", Dtype::BF16, vec![3, 8]),
        ("lm_head.weight", Dtype::F16, vec![8, 3]),
        ("d2t", Dtype::I64, vec![8]),
        ("t2d", Dtype::BOOL, vec![12]),
        ("scalar", Dtype::F64, vec![]),
    ];
    let views = tensors.map(|(name, dtype, shape)| {
        let count: usize = shape.iter().product();
        (name, TensorView::new(dtype, shape, &bytes[..count * dtype.bitsize() / 8]).expect("a tensor"))
    });
    safetensors::serialize(views, metadata).expect("a file")
}

#[test]
fn safetensors_files() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    fuzz(Form::Safetensors, &[small_file(None), small_file(Some(metadata))], |bytes| {
        std::fs::write(&path, bytes).expect("written");
        read(&path);
    });
}

/// The records of an archive by their names, with no more of each storage than makes a small file.
fn records(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = ZipArchive::new(std::fs::File::open(path).expect("the fixture")).expect("an archive");
    let count = archive.len();
    let record = |index: usize| {
        let mut record = archive.by_index(index).expect("a record");
        let mut bytes = Vec::new();
        record.read_to_end(&mut bytes).expect("its bytes");
        if record.name().contains("/data/") {
            bytes.truncate(256);
        }
        (record.name().to_owned(), bytes)
    };
    (0..count).map(record).collect()
}

fn archive(records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in records {
        let stored = FileOptions::default().compression_method(CompressionMethod::Stored);
        writer.start_file(name, stored).expect("a record");
        writer.write_all(bytes).expect("written");
    }
    writer.finish().expect("an archive").into_inner()
}

fn fixtures() -> Vec<PathBuf> {
    let heads = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/heads");
    ["official/pytorch_model.bin", "pickles/command.bin", "pickles/object.bin"]
        .map(|file| heads.join(file))
        .to_vec()
}

#[test]
fn archives() {
    let folder = folder();
    let path = folder.path().join("pytorch_model.bin");
    let seeds: Vec<Vec<u8>> = fixtures().iter().map(|path| archive(&records(path))).collect();
    fuzz(Form::Bytes, &seeds, |bytes| {
        std::fs::write(&path, bytes).expect("written");
        read(&path);
    });
}

#[test]
fn pickles_in_archives_whose_checksums_are_right() {
    let folder = folder();
    let path = folder.path().join("pytorch_model.bin");
    let mut records = records(&fixtures()[0]);
    let pickle = records.iter().position(|(name, _)| name.ends_with("data.pkl")).expect("a pickle");
    let (name, program) = records.remove(pickle);
    fuzz(Form::Bytes, &[program], |bytes| {
        let pickle = (name.clone(), bytes.to_vec());
        std::fs::write(&path, archive(&[&[pickle], &records[..]].concat())).expect("written");
        read(&path);
    });
}

#[test]
fn indices_of_shards() {
    let folder = folder();
    std::fs::write(folder.path().join("a.safetensors"), small_file(None)).expect("written");
    let index = folder.path().join("model.safetensors.index.json");
    let seed = r#"{"metadata": {"total_size": 96}, "weight_map": {"fc.weight": "a.safetensors", "d2t": "a.safetensors"}}"#;
    fuzz(Form::Json, &[seed.as_bytes().to_vec()], |bytes| {
        std::fs::write(&index, bytes).expect("written");
        let _ = weight_files(folder.path());
        if let Ok(mut weights) = Weights::open(folder.path(), Kind::Float) {
            let _ = weights.take("fc.weight", &[3, 8]);
            let _ = weights.take_integers("d2t", 8);
            let _ = weights.finish();
        }
    });
}
