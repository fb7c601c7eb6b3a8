//! One process has the store open.
//!
//! Lives here: the lock file beside the store.
//! Does not live here: the lock on the whole data directory (`warden`).
//! Invariant: the lock ends with the process that took it, however it ends; nobody has to clean up.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::schema::beside;

/// A killed process keeps its lock until its last sync returns, and a child it was just forking until that one
/// runs its program: both end by themselves, so a start that follows a kill waits for them.
const WAIT: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) struct Lock(File);

impl Lock {
    pub(crate) fn take(store: &Path) -> Result<Self, StoreError> {
        let name = beside(store, ".lock");
        let fail = |cause| StoreError::io(format!("locking {}", name.display()), cause);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(&name).map_err(fail)?;
        let deadline = Instant::now() + WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    // Who holds it is only for the message.
                    let _unknown = (&mut file).take(20).read_to_string(&mut pid);
                    return Err(StoreError::InUse {
                        path: store.into(),
                        pid: pid.trim().into(),
                    });
                }
                Err(TryLockError::Error(cause)) => return Err(fail(cause)),
            }
        }
        // The pid too is only for the message: a full disk must not keep the store from opening.
        let _unknown = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Said, not left to closing: a child being forked on another thread still has a copy of the descriptor.
        let _closed_anyway = self.0.unlock();
    }
}
