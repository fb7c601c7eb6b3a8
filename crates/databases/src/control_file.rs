//! A clone's own system identifier, written into `global/pg_control`.
//!
//! Archives and replicas know a cluster by that number, so two with one number can destroy each other's history.
//! The method is that of PostgreSQL's own `pg_createsubscriber`: write the number, recompute the checksum,
//! then `pg_resetwal`, because WAL pages carry the number too.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::DatabaseError;

/// The checked part of the file lies within the first sector, so that it is written in one piece.
const CHECKED: usize = 512;

/// Gives the cluster below `pgdata` another identifier.
pub(crate) fn set_identifier(pgdata: &Path, identifier: u64) -> Result<(), DatabaseError> {
    let path = pgdata.join("global/pg_control");
    let fail = |why: String| DatabaseError::File {
        file: "global/pg_control".to_owned(),
        why,
    };
    let io = |cause: std::io::Error| fail(cause.to_string());
    let mut file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io)?;
    let mut head = vec![0_u8; CHECKED];
    file.read_exact(&mut head).map_err(io)?;
    let at = checksum_at(&head)
        .ok_or_else(|| fail("its checksum does not fit; the template is damaged".to_owned()))?;
    head[..8].copy_from_slice(&identifier.to_le_bytes());
    let sum = crc32c(&head[..at]);
    head[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.write_all(&head).map_err(io)?;
    file.sync_all().map_err(io)
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
