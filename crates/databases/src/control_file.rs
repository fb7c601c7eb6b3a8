//! A clone's own system identifier, written into `global/pg_control` and the WAL.
//!
//! Archives and replicas know a cluster by that number, so two with one number can destroy each other's history.
//! PostgreSQL's own `pg_createsubscriber` writes the number, recomputes the checksum, and then runs `pg_resetwal`,
//! because the first page of each WAL segment carries the number too (`XLogLongPageHeaderData` of
//! `access/xlog_internal.h`, the same in all supported versions; its header is under no checksum). Of a cluster that was
//! shut down cleanly nothing else of the WAL has to change, so the number is written there as well, without a program.

use std::io::{Read, Seek, SeekFrom, Write};

use crate::DatabaseError;
use crate::inside::Inside;

/// The checked part of the file lies within the first sector, so that it is written in one piece.
const CHECKED: usize = 512;

/// `xlp_info` says that this page begins a segment.
const LONG_HEADER: u16 = 2;
/// The long header up to its last field.
const WAL_HEADER: usize = 40;
/// Where in it the identifier is, and after it the size of the segment.
const WAL_IDENTIFIER: usize = 24;

/// Gives the cluster, which was shut down cleanly, another identifier.
pub(crate) fn set_identifier(cluster: &Inside, identifier: u64) -> Result<(), DatabaseError> {
    let wal = cluster.below("pg_wal").map_err(DatabaseError::file("pg_wal"))?;
    let former = in_control(cluster, identifier)?;
    in_wal(&wal, former, identifier)
}

/// In every segment that carries the former one. A segment made ahead, still without a page, carries none.
fn in_wal(dir: &Inside, former: u64, identifier: u64) -> Result<(), DatabaseError> {
    let fail = |why: String| DatabaseError::File {
        file: "pg_wal".to_owned(),
        why,
    };
    let io = |cause: std::io::Error| fail(cause.to_string());
    let mut changed = 0;
    for (name, _) in dir.list().map_err(io)? {
        if !is_segment(&name) {
            continue;
        }
        let mut file = dir.change(&name).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut header = [0_u8; WAL_HEADER];
        file.read_exact(&mut header).map_err(io)?;
        if is_header(&header, former, size) {
            file.seek(SeekFrom::Start(WAL_IDENTIFIER as u64)).map_err(io)?;
            file.write_all(&identifier.to_le_bytes()).map_err(io)?;
            file.sync_all().map_err(io)?;
            changed += 1;
        }
    }
    match changed {
        0 => Err(fail(
            "no segment carries the cluster's identifier; the template is damaged".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Whether a file of `pg_wal` is a segment, by its name: timeline, and number in two parts.
pub(crate) fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_header(header: &[u8; WAL_HEADER], identifier: u64, segment: u64) -> bool {
    let info = u16::from_le_bytes([header[2], header[3]]);
    let [a, b, c, d] = [32, 33, 34, 35].map(|at| header[at]);
    info & LONG_HEADER != 0
        && header[WAL_IDENTIFIER..WAL_IDENTIFIER + 8] == identifier.to_le_bytes()
        && u64::from(u32::from_le_bytes([a, b, c, d])) == segment
}

/// In the control file; the former one.
fn in_control(cluster: &Inside, identifier: u64) -> Result<u64, DatabaseError> {
    let fail = |why: String| DatabaseError::File {
        file: "global/pg_control".to_owned(),
        why,
    };
    let io = |cause: std::io::Error| fail(cause.to_string());
    let mut file = cluster.change("global/pg_control").map_err(io)?;
    let mut head = vec![0_u8; CHECKED];
    file.read_exact(&mut head).map_err(io)?;
    let at = checksum_at(&head)
        .ok_or_else(|| fail("its checksum does not fit; the template is damaged".to_owned()))?;
    let mut former = [0_u8; 8];
    former.copy_from_slice(&head[..8]);
    head[..8].copy_from_slice(&identifier.to_le_bytes());
    let sum = crc32c(&head[..at]);
    head[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.write_all(&head).map_err(io)?;
    file.sync_all().map_err(io)?;
    Ok(u64::from_le_bytes(former))
}

/// Where the checksum is: its place differs between major versions, but only there does it fit what lies before it.
fn checksum_at(head: &[u8]) -> Option<usize> {
    (64..head.len() - 4).step_by(4).find(|at| {
        let stored = u32::from_le_bytes([head[*at], head[at + 1], head[at + 2], head[at + 3]]);
        crc32c(&head[..*at]) == stored
    })
}

/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as PostgreSQL's `pg_crc32c`; a few hundred bytes only.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82F6_3B78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        // RFC 3720, appendix B.4: 32 bytes of zeroes, and of ones.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn segments_of_the_cluster_get_the_number_and_nothing_else_does() {
        const SIZE: u32 = 1 << 16;
        let home = tempfile::tempdir().expect("a directory");
        let wal = home.path().join("pgdata/pg_wal");
        std::fs::create_dir_all(&wal).expect("made");
        let segment = |info: u16, identifier: u64, size: u32| {
            let mut bytes = vec![7_u8; SIZE as usize];
            bytes[2..4].copy_from_slice(&info.to_le_bytes());
            bytes[24..32].copy_from_slice(&identifier.to_le_bytes());
            bytes[32..36].copy_from_slice(&size.to_le_bytes());
            bytes
        };
        let name = |n: u32| format!("0000000100000000{n:08X}");
        let whole = [segment(2, 5, SIZE), segment(2, 5, SIZE)];
        let others = [
            segment(0, 5, SIZE),
            segment(2, 6, SIZE),
            segment(2, 5, 1),
            vec![0; SIZE as usize],
        ];
        for (n, bytes) in (1..).zip(whole.iter().chain(&others)) {
            std::fs::write(wal.join(name(n)), bytes).expect("written");
        }
        std::fs::write(wal.join("00000002.history"), "1").expect("written");
        std::fs::create_dir(wal.join("archive_status")).expect("made");
        let dir = Inside::cluster(home.path()).and_then(|at| at.below("pg_wal"));
        let dir = dir.expect("opened");
        in_wal(&dir, 5, 9).expect("changed");
        for (n, before) in (1..).zip(whole.iter().chain(&others)) {
            let after = std::fs::read(wal.join(name(n))).expect("read");
            let expected = if n <= 2 {
                segment(2, 9, SIZE)
            } else {
                before.clone()
            };
            assert!(after == expected, "segment {n}");
        }
        in_wal(&dir, 5, 9).expect_err("none is left");
    }

    #[test]
    fn the_place_of_the_checksum_is_found_and_damage_is_not_blessed() {
        let mut head: Vec<u8> = (0..CHECKED)
            .map(|i| u8::try_from(i * 7 % 251).unwrap_or_default())
            .collect();
        let sum = crc32c(&head[..288]);
        head[288..292].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(checksum_at(&head), Some(288));
        head[3] ^= 1;
        assert_eq!(checksum_at(&head), None);
    }
}
