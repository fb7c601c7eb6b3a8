//! What copies take of a disk, as the file system has it, whatever Stoa says of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::damage::objects;

/// What the files below a directory hold that no other file shares, in bytes.
pub(super) fn private_bytes(folder: &Path) -> Result<u64> {
    // Synced first: what is not on the disk yet has no extents. A file that has gone meanwhile holds nothing.
    let listed = Command::new("filefrag")
        .args(["-s", "-v"])
        .args(objects(folder)?)
        .output()?;
    Ok(unshared_bytes(&String::from_utf8_lossy(&listed.stdout)))
}

/// An extent is `0: 0.. 4095: 81920.. 86015: 4096: last,shared,eof`, in blocks of 4096 bytes.
fn unshared_bytes(listed: &str) -> u64 {
    const BLOCK_BYTES: u64 = 4096;
    let blocks = |line: &str| {
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        let [number, _, _, length, flags @ ..] = fields.as_slice() else {
            return None;
        };
        number.parse::<u64>().ok()?;
        match flags.iter().any(|flags| flags.contains("shared")) {
            true => None,
            false => length.parse::<u64>().ok(),
        }
    };
    listed.lines().filter_map(blocks).sum::<u64>() * BLOCK_BYTES
}

/// What is in the files of a cluster but its log, in bytes: without room that is set aside behind them.
pub(super) fn cluster_bytes(volume: &Path) -> Result<u64> {
    let said = Command::new("du")
        .args(["--summarize", "--bytes", "--exclude=pg_wal"])
        .arg(volume)
        .output()?;
    ensure!(
        said.status.success(),
        "du: {}",
        String::from_utf8_lossy(&said.stderr)
    );
    let text = String::from_utf8(said.stdout)?;
    let bytes = text.split_whitespace().next().context("du says nothing")?;
    Ok(bytes.parse()?)
}

#[cfg(test)]
mod tests {
    use super::unshared_bytes;

    #[test]
    fn shared_extents_are_not_counted() {
        let listed = "File size of a is 16793600 (4100 blocks of 4096 bytes)\n \
            ext:     logical_offset:        physical_offset: length:   expected: flags:\n   \
            0:        0..    4095:      81920..     86015:   4096:             shared\n   \
            1:     4096..    4099:      90000..     90003:      4:      86016: last,unwritten,eof\n\
            a: 2 extents found\n";
        assert_eq!(unshared_bytes(listed), 4 * 4096);
    }
}
