//! A safeguard switched off on purpose, so that a test can show that it notices.
//!
//! Lives here: the switch. Does not live here: the safeguard (`keeper::fence`).
//! Invariant: without debug assertions there is no switch, and the answer is a constant.

#[cfg(debug_assertions)]
static UNFENCED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Makes every order of this process count as the newest owner's.
#[cfg(debug_assertions)]
pub fn unfence() {
    UNFENCED.store(true, std::sync::atomic::Ordering::SeqCst);
}

#[cfg(debug_assertions)]
pub(crate) fn is_unfenced() -> bool {
    UNFENCED.load(std::sync::atomic::Ordering::Relaxed)
}

#[cfg(not(debug_assertions))]
pub(crate) const fn is_unfenced() -> bool {
    false
}
