//! Safeguards switched off on purpose: for each there is a test that fails without it (`tests/edge/safeguards.rs`).
//!
//! Lives here: their names, and the switch. Does not live here: what is done without them, which stands beside the right code.
//! Invariant: without debug assertions there is no switch, the answer is a constant, and the wrong code is not compiled in.

/// What can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Safeguard {
    /// The last good table: without it, what can be read of a refused table is served.
    LastGoodTable = 1,
    /// Draining: without it, an edge that is replaced cuts its connections.
    Draining,
}

impl Safeguard {
    /// By its name, as a process is told.
    pub fn named(name: &str) -> Option<Safeguard> {
        match name {
            "last-good-table" => Some(Safeguard::LastGoodTable),
            "draining" => Some(Safeguard::Draining),
            _unknown => None,
        }
    }
}

#[cfg(debug_assertions)]
static OFF: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches one off in the whole process.
#[cfg(debug_assertions)]
pub fn switch_off(safeguard: Safeguard) {
    OFF.store(safeguard as u8, std::sync::atomic::Ordering::SeqCst);
}

#[cfg(debug_assertions)]
pub(crate) fn is_off(safeguard: Safeguard) -> bool {
    OFF.load(std::sync::atomic::Ordering::Relaxed) == safeguard as u8
}

#[cfg(not(debug_assertions))]
pub(crate) const fn is_off(_: Safeguard) -> bool {
    false
}
