//! Following a file that is replaced whole.
//!
//! Invariant: only a hint: whoever follows looks by himself every now and then.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

/// Told of every change in the directory of the file: it is replaced by a rename.
pub(crate) fn watch(file: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let flags =
        inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, dir, flags)?;
    register(watch)
}

#[allow(unsafe_code)]
fn register(watch: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(watch) }?)
}

/// Wait until something changed; for ever where nothing can be watched.
pub(crate) async fn changed(watch: Option<&AsyncFd<OwnedFd>>) {
    let Some(watch) = watch else {
        return std::future::pending().await;
    };
    let mut buffer = [0; 4096];
    loop {
        let Ok(mut ready) = watch.readable().await else {
            return std::future::pending().await;
        };
        let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?));
        if matches!(read, Ok(Ok(_))) {
            return;
        }
    }
}
