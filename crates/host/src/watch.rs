//! Notices the end of instances, and counts every change that somebody may want to look at.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Counts changes; cheap to hand around.
#[derive(Clone, Default)]
pub(crate) struct Bump(Arc<(Mutex<u64>, Condvar)>);

impl Bump {
    pub(crate) fn ring(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.1.notify_all();
    }

    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) = self
            .0
            .1
            .wait_timeout_while(count, timeout, |count| *count == seen)
            .unwrap_or_else(PoisonError::into_inner);
        *count
    }
}

/// A thread that waits on the keepers of all running instances.
pub(crate) struct Watch {
    bump: Bump,
    watched: Arc<Mutex<BTreeMap<String, Arc<OwnedFd>>>>,
    wake: Arc<OwnedFd>,
}

impl Watch {
    pub(crate) fn start() -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let watch = Self {
            bump: Bump::default(),
            watched: Arc::default(),
            wake: Arc::clone(&wake),
        };
        let (bump, watched) = (watch.bump.clone(), Arc::clone(&watch.watched));
        std::thread::Builder::new()
            .name("watch".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                loop {
                    look(&wake, &watched, &bump);
                }
            })?;
        Ok(watch)
    }

    pub(crate) fn bump(&self) -> Bump {
        self.bump.clone()
    }

    /// Notices the end of the process behind `keeper`.
    pub(crate) fn add(&self, id: &str, keeper: OwnedFd) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(id.to_owned(), Arc::new(keeper));
        drop(watched);
        // A full counter wakes as well.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    pub(crate) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.bump.wait(seen, timeout)
    }
}

fn look(wake: &OwnedFd, watched: &Mutex<BTreeMap<String, Arc<OwnedFd>>>, bump: &Bump) {
    let current: Vec<(String, Arc<OwnedFd>)> = watched
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .map(|(id, fd)| (id.clone(), Arc::clone(fd)))
        .collect();
    let mut polled: Vec<PollFd<'_>> = vec![PollFd::new(wake, PollFlags::IN)];
    polled.extend(
        current
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
    );
    if poll(&mut polled, None).is_err() {
        return;
    }
    if !polled[0].revents().is_empty() {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(wake, &mut count[..]);
    }
    let ended = polled[1..]
        .iter()
        .zip(&current)
        .filter(|(fd, _)| !fd.revents().is_empty());
    let ended: Vec<&(String, Arc<OwnedFd>)> = ended.map(|(_, one)| one).collect();
    if ended.is_empty() {
        return;
    }
    let mut known = watched.lock().unwrap_or_else(PoisonError::into_inner);
    for (id, fd) in ended {
        if known.get(id).is_some_and(|now| Arc::ptr_eq(now, fd)) {
            known.remove(id);
        }
    }
    drop(known);
    bump.ring();
}
