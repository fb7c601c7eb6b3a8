//! Images that are not in the store yet: where they are got from, and how long that takes.

use model::{ImageDigest, Millis};

use super::{Behaviour, Simulated};

impl Simulated {
    /// Puts an image into a registry from which getting it takes that long.
    pub fn add_remote_image(&self, name: &str, digest: &ImageDigest, takes: Millis, behaviour: Behaviour) {
        let mut world = self.world();
        world.away.insert(name.to_owned(), (digest.clone(), takes));
        world.behaviours.insert(digest.clone(), behaviour);
    }

    /// How many calls wait for an image, and will until the time is moved.
    #[must_use]
    pub fn fetching(&self) -> usize {
        let world = self.world();
        let waiting = world.fetches.iter().filter(|until| **until > world.now).count();
        if world.is_cut_off { 0 } else { waiting }
    }

    /// While cut off, nothing can be got from a registry, and whoever waits for it is told so.
    pub fn cut_off(&self, is_cut_off: bool) {
        self.world().is_cut_off = is_cut_off;
        self.ring();
    }
}
