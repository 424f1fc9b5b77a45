use super::*;
use proptest::prelude::*;

fn names(archive: &[u8]) -> Result<Vec<(String, Kind, u64)>, TarError> {
    let mut reader = Reader::new(archive);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        found.push((entry.name, entry.kind, entry.size));
    }
    Ok(found)
}

fn archive(name: &str, kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len() as u64);
    header.set_entry_type(kind);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn ended(mut archive: Vec<u8>) -> Vec<u8> {
    archive.extend([0; 1024]);
    archive
}

#[test]
fn what_is_written_is_read() {
    let mut writer = Writer::new(Vec::new());
    writer.folder("blobs/").unwrap();
    writer.file("a", b"hello").unwrap();
    let bytes = writer.finish().unwrap();
    let expected = vec![("blobs".to_owned(), Kind::Folder, 0), ("a".to_owned(), Kind::File, 5)];
    assert_eq!(names(&bytes).unwrap(), expected);
    for cut in [0, 100, 512, 1030, bytes.len() - 1024] {
        assert!(matches!(names(&bytes[..cut]), Err(TarError::Truncated(_))), "{cut}");
    }
    let mut damaged = bytes.clone();
    damaged[520] ^= 1;
    assert!(matches!(names(&damaged), Err(TarError::NoHeader(512))));
}

#[test]
fn paths_that_leave_and_devices_are_refused() {
    for name in ["../x", "/etc/passwd", "a/../../b", "a\\b"] {
        assert!(matches!(names(&ended(archive(name, EntryType::Regular, b""))), Err(TarError::Refused { .. })), "{name}");
    }
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
        assert!(matches!(names(&ended(archive("x", kind, b""))), Err(TarError::Refused { .. })), "{kind:?}");
    }
}

#[test]
fn huge_headers_cost_no_memory() {
    for (kind, limit) in [(EntryType::GNULongName, 4096), (EntryType::XHeader, 64 << 10), (EntryType::XGlobalHeader, 64 << 10)] {
        let mut header = Header::new_gnu();
        header.set_size(limit + 1);
        header.set_entry_type(kind);
        header.set_cksum();
        assert!(matches!(names(header.as_bytes()), Err(TarError::Refused { .. })), "{kind:?}");
    }
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let long = format!("d/{}", "n".repeat(200));
    let mut gnu = archive("././@LongLink", EntryType::GNULongName, long.as_bytes());
    gnu.extend(ended(archive("short", EntryType::Regular, b"1")));
    let record = format!(" path={long}\n");
    let record = format!("{}{record}", record.len() + 3);
    let mut pax = archive("x", EntryType::XHeader, record.as_bytes());
    pax.extend(ended(archive("short", EntryType::Regular, b"1")));
    for bytes in [gnu, pax] {
        assert_eq!(names(&bytes).unwrap(), [(long.clone(), Kind::File, 1)]);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), text in "[0-9 a-z=\n]{0,60}") {
        let _ = names(&bytes);
        let _ = extensions(&text);
        let _ = names(&ended(archive("x", EntryType::XHeader, text.as_bytes())));
    }
}
