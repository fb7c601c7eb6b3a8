//! How much room there is, as a test says, and what asking about that is like.

use std::sync::Arc;

use model::Bytes;

use super::Simulated;
use crate::Capacity;

/// What the machine has and what is left, whatever a test does.
pub(super) const MACHINE: Capacity = Capacity {
    memory: 1 << 33,
    memory_available: 1 << 32,
    disk: 1 << 40,
    disk_available: 1 << 39,
};

/// What happens whenever something is asked about, by its name.
pub(super) type Asking = Arc<dyn Fn(&str) + Send + Sync>;

impl Simulated {
    /// Lets a volume (by name) hold, or an instance (by id) have written so many bytes.
    pub fn set_bytes(&self, of: &str, bytes: Bytes) {
        self.world().bytes.insert(of.to_owned(), bytes);
    }

    /// Has this happen whenever a volume (by name) or an instance (by id) is measured, and `pool` for the pool, or an image
    /// looked for: it may take its time or panic.
    pub fn on_asked(&self, happens: impl Fn(&str) + Send + Sync + 'static) {
        self.world().asking = Some(Arc::new(happens));
    }

    /// Not with the world locked: it may wait for what a test does to the world.
    pub(super) fn asking(&self, name: &str) {
        let happens = self.world().asking.clone();
        if let Some(happens) = happens {
            happens(name);
        }
    }

    /// Leaves so much in the pool.
    pub fn set_pool_free(&self, free: Bytes) {
        self.world().pool_free = Some(free);
    }

    /// Leaves so many inodes in the pool; `None` has it know no number of them, as it does from the start.
    pub fn set_pool_inodes(&self, free: Option<u64>) {
        self.world().pool_inodes = free;
    }
}
