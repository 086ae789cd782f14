//! Bytes that nobody wrote like this.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::fs::SpoolFs;
use super::super::fs::faulty::FaultyFs;
use super::super::reader::Reader;
use super::super::segment::{self, End};
use super::{open, row, settings};

fn sealed_segment() -> Vec<u8> {
    let disk = FaultyFs::default();
    let fs: Arc<dyn SpoolFs> = Arc::new(disk.clone());
    let (mut writer, _) = open(&fs, &settings(Path::new("/spool")), 1).unwrap();
    (0..20).for_each(|value| assert!(writer.append(&row(value, 5)).is_ok()));
    writer.close().unwrap();
    fs.read(&disk.paths(".seg")[0], u64::MAX).unwrap()
}

fn present(name: &str, bytes: &[u8]) -> (FaultyFs, Arc<dyn SpoolFs>) {
    let disk = FaultyFs::default();
    let fs: Arc<dyn SpoolFs> = Arc::new(disk.clone());
    let path = Path::new("/spool").join(name);
    fs.create(&path).unwrap().write_all(bytes).unwrap();
    (disk, fs)
}

/// Reads and recovers the bytes; whatever is accepted must be a prefix of what was written.
fn check(bytes: &[u8], original: &[u8]) -> Result<(), TestCaseError> {
    let (_, fs) = present("00000000000000000001.seg", bytes);
    let reader = Reader::open(Path::new("/spool"), fs).unwrap();
    let at = &reader.sealed().unwrap()[0];
    let loaded = reader.load(at).is_ok();
    prop_assert_eq!(loaded, bytes == original);

    let (disk, fs) = present("00000000000000000001.open", bytes);
    let (writer, recovered) = open(&fs, &settings(Path::new("/spool")), 2).unwrap();
    drop(writer);
    prop_assert_eq!(disk.paths(".open").len(), 0);
    for path in disk.paths("/spool/00000000000000000001.seg") {
        let sealed = fs.read(&path, u64::MAX).unwrap();
        let scan = segment::scan(&sealed, |_| {}).unwrap();
        prop_assert!(matches!(scan.end, End::Sealed(_)));
        prop_assert_eq!(sealed.get(..scan.intact), original.get(..scan.intact));
        prop_assert_eq!(recovered.segments[0].records, scan.records);
    }
    Ok(())
}

#[test]
fn any_bit_that_flips_is_noticed() {
    let original = sealed_segment();
    for at in 0..original.len() {
        let mut bytes = original.clone();
        bytes[at] ^= 1 << (at % 8);
        check(&bytes, &original).unwrap();
    }
}

#[test]
fn any_cut_is_noticed() {
    let original = sealed_segment();
    for len in 0..original.len() {
        check(&original[..len], &original).unwrap();
    }
    check(&[&original[..], b"x"].concat(), &original).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes, &sealed_segment())?;
    }

    #[test]
    fn any_bytes_behind_a_good_start_are_cut(
        keep in 0_usize..3000, tail in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let original = sealed_segment();
        let keep = keep.min(original.len());
        let bytes = [&original[..keep], &tail].concat();
        check(&bytes, &original)?;
    }

    /// A forged but well-formed frame cannot make a reader allocate or repeat.
    #[test]
    fn frames_out_of_order_are_cut(order in prop::collection::vec(0_usize..8, 0..20)) {
        let original = sealed_segment();
        let (header, start, _) = segment::Header::decode(&original).unwrap();
        let mut at = start;
        let mut frames = Vec::new();
        while let Some(len) = original.get(at..at + 4) {
            let len = u32::from_le_bytes(len.try_into().unwrap()) as usize + segment::FRAME_BYTES;
            frames.push(&original[at..at + len]);
            at += len;
        }
        let mut bytes = original[..start].to_vec();
        order.iter().for_each(|i| bytes.extend_from_slice(frames[*i]));
        let mut seqs = Vec::new();
        let scan = segment::scan(&bytes, |f| if f.flags == 0 { seqs.push(f.seq) }).unwrap();
        prop_assert_eq!(&seqs, &(header.first_seq..=scan.last_seq).collect::<Vec<_>>());
    }
}
