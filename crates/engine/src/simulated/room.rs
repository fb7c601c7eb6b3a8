//! How much room there is, as a test says.

use model::Bytes;

use super::Simulated;

impl Simulated {
    /// Lets a volume (by name) hold, or an instance (by id) have written so many bytes.
    pub fn set_bytes(&self, of: &str, bytes: Bytes) {
        self.world().bytes.insert(of.to_owned(), bytes);
    }

    /// Leaves so much in the pool.
    pub fn set_pool_free(&self, free: Bytes) {
        self.world().pool_free = Some(free);
    }
}
