//! Who waits for whom, and what nobody waits for.
//!
//! Lives here: one caller at a time per instance, and the thread that deletes links.
//! Does not live here: what is done meanwhile (`networks`), how a link is deleted (`world`).
//! Invariant: whatever the thread did not get to is found by its name in the next sweep.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use crate::world::World;

/// Which instances somebody is working on.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    instances: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// While it lives, nobody else works on the instance.
pub(crate) struct Alone<'a> {
    busy: &'a Busy,
    instance: String,
}

impl Busy {
    pub(crate) fn enter(&self, instance: &str) -> Alone<'_> {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        while !instances.insert(instance.into()) {
            instances = self.freed.wait(instances).unwrap_or_else(PoisonError::into_inner);
        }
        Alone {
            busy: self,
            instance: instance.into(),
        }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.busy
            .instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.instance);
        self.busy.freed.notify_all();
    }
}

/// Deletes links in the background: each takes the kernel about 20 ms.
#[derive(Debug)]
pub(crate) struct Reaper {
    work: Option<mpsc::Sender<Chore>>,
    thread: Option<JoinHandle<()>>,
}

enum Chore {
    DeletePort(u64),
    Settle(mpsc::Sender<()>),
}

impl Reaper {
    pub(crate) fn start(world: Arc<World>) -> Self {
        let (work, chores) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("stoa-net-reaper".into())
            .spawn(move || {
                for chore in chores {
                    match chore {
                        Chore::DeletePort(number) => {
                            if let Err(error) = world.delete_port(number) {
                                tracing::warn!(%error, number, "a link stays until the next sweep");
                            }
                        }
                        // Nobody waits any more when this fails.
                        Chore::Settle(done) => {
                            let _gone = done.send(());
                        }
                    }
                }
            });
        Self {
            work: Some(work),
            thread: thread.ok(),
        }
    }

    pub(crate) fn delete_port(&self, number: u64) {
        let sent = self
            .work
            .as_ref()
            .is_some_and(|work| work.send(Chore::DeletePort(number)).is_ok());
        if !sent {
            tracing::warn!(number, "no reaper runs; a link stays until the next sweep");
        }
    }

    pub(crate) fn settle(&self) {
        let (done, wait) = mpsc::channel();
        let sent = self
            .work
            .as_ref()
            .is_some_and(|work| work.send(Chore::Settle(done)).is_ok());
        if sent {
            // An error means that the reaper ended, and then nothing is pending.
            let _ended = wait.recv();
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // Without a sender the thread ends, its chores done.
        self.work = None;
        // What it leaves behind when it panicked is removed by the next sweep.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
