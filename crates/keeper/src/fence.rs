//! Who may give orders: the newest opening of the store, and nobody before it.
//!
//! Lives here: the number that says so, in a file beside the instances' directories, and the comparison with it.
//! Does not live here: where the number comes from (`store`), the orders (`message`).
//! Invariant: the number never falls. Whoever raised it is obeyed, and what was asked in the name of a smaller one is
//! refused from that moment on: by every keeper, without a word to each.

use std::fs;
use std::io;
use std::path::Path;

use crate::durable::replace_durably;

/// The file's name in the directory that holds the instances'; no id looks like it.
const NAME: &str = "epoch";

/// Claims the instances below `root` for this epoch. A claim older than what is known comes from a store that was put
/// back: the lock on it says that its owner is the only one, so it goes on above. Returns the epoch to show from now on.
pub fn claim(root: &Path, epoch: u64) -> io::Result<u64> {
    let claimed = match newest(root) {
        Some(known) if known > epoch => known + 1,
        Some(known) if known == epoch => return Ok(epoch),
        Some(_) | None => epoch,
    };
    replace_durably(&root.join(NAME), claimed.to_string().as_bytes())?;
    Ok(claimed)
}

/// The newest epoch, when it is newer than the one shown. Who shows none is of a build before this: it is believed, and so
/// is everybody while the file cannot be read, else nothing could be stopped any more.
pub fn newer_than(root: &Path, shown: Option<u64>) -> Option<u64> {
    let shown = shown?;
    newest(root).filter(|newest| *newest > shown)
}

fn newest(root: &Path) -> Option<u64> {
    fs::read_to_string(root.join(NAME)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_claim_is_obeyed_and_the_number_never_falls() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(newer_than(root, Some(0)), None);
        assert_eq!(claim(root, 4).unwrap(), 4);
        assert_eq!(claim(root, 4).unwrap(), 4);
        assert_eq!(
            (newer_than(root, Some(3)), newer_than(root, Some(4))),
            (Some(4), None)
        );
        assert_eq!(newer_than(root, None), None);
        // A store from a backup counts from where it was.
        assert_eq!(claim(root, 2).unwrap(), 5);
        assert_eq!(newer_than(root, Some(4)), Some(5));
        fs::write(root.join(NAME), "").unwrap();
        assert_eq!(newer_than(root, Some(1)), None);
        assert_eq!(claim(root, 6).unwrap(), 6);
    }
}
