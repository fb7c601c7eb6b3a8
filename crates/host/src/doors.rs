//! When doors were last used: a file for each, whose time of last change tells.
//!
//! Invariant: whoever keeps the doors writes here while control may be dead, so what happened meanwhile is not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use engine::EngineError;
use model::Timestamp;
use rustix::fs::inotify;

use crate::error::host;
use crate::watch::Bump;

/// What happens within that after a ring rings once.
const TOGETHER: Duration = Duration::from_millis(50);

/// Rings whenever a door is used, from now on for as long as this process lives. Makes the directory.
pub(crate) fn watch(dir: &Path, bump: Bump) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let used = inotify::WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&watch, dir, used)?;
    std::thread::Builder::new()
        .name("doors".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || {
            let mut events = [0_u8; 4096];
            // What cannot be read any more is seen by the next look.
            while rustix::io::retry_on_intr(|| rustix::io::read(&watch, &mut events[..])).is_ok() {
                bump.ring();
                std::thread::sleep(TOGETHER);
            }
        })?;
    Ok(())
}

pub(crate) fn last_used(dir: &Path) -> Result<BTreeMap<String, Timestamp>, EngineError> {
    let mut all = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // Somebody removed it: nobody knocked since.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(all),
        Err(cause) => return Err(host("read when doors were used")(cause)),
    };
    for entry in entries {
        let entry = entry.map_err(host("read when doors were used"))?;
        let time = match entry.metadata().and_then(|facts| facts.modified()) {
            Ok(time) => time,
            // Forgotten meanwhile.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(host("read when a door was used")(cause)),
        };
        let ms = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let at = Timestamp::from_ms(u64::try_from(ms).unwrap_or(u64::MAX));
        if let Ok(key) = entry.file_name().into_string() {
            all.insert(key, at);
        }
    }
    Ok(all)
}

pub(crate) fn tell(dir: &Path, key: &str) -> Result<(), EngineError> {
    net::doors::tell(&dir.join(key)).map_err(host("tell that a door is used"))
}

/// Forgets doors that are no more.
pub(crate) fn forget(dir: &Path, kept: &BTreeSet<&str>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_none_or(|key| !kept.contains(key)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Watch;

    #[test]
    fn a_used_door_rings_and_its_time_is_told_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let doors = dir.path().join("doors");
        let watched = Watch::start().expect("a watch");
        watch(&doors, watched.bump()).expect("watched");
        assert_eq!(last_used(&doors).expect("none"), BTreeMap::new());
        let before = Timestamp::now();
        tell(&doors, "db_1").expect("told");
        tell(&doors, "db_2").expect("told");
        assert!(watched.wait(0, Duration::from_secs(20)) > 0);
        let used = last_used(&doors).expect("both");
        assert_eq!(used.len(), 2);
        // Clocks of files are a little behind.
        assert!(used["db_1"].plus(model::Millis::seconds(1)) >= before);
        forget(&doors, &BTreeSet::from(["db_2"])).expect("forgotten");
        assert_eq!(
            last_used(&doors).expect("one").into_keys().collect::<Vec<_>>(),
            ["db_2"]
        );
    }
}
