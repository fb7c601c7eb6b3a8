//! Guards of the door that tests take away on purpose: what a test proves, it must see broken too.
//!
//! Lives here: their names, and the switch. Does not live here: the guards, which stand beside what they guard.
//! Invariant: without debug assertions there is no switch and the answer is a constant.

/// What can be wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Defect {
    /// The handler of `caller_view` panics with what it was sent.
    PanicsInAHandler = 1,
    /// A member named twice in a body counts as its last one.
    TakesTwins,
    /// A query parameter that nobody knows is passed over.
    TakesAnyQuery,
    /// Members of a body that its schema does not know are passed over.
    TakesAnyMember,
    /// What the path leads to is not asked about before the request's content.
    ForgetsTheGate,
}

#[cfg(debug_assertions)]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants one, or none, in the whole process.
#[cfg(debug_assertions)]
pub fn plant(defect: Option<Defect>) {
    let number = defect.map_or(0, |defect| defect as u8);
    PLANTED.store(number, std::sync::atomic::Ordering::SeqCst);
}

#[cfg(debug_assertions)]
pub(crate) fn is(defect: Defect) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == defect as u8
}

#[cfg(not(debug_assertions))]
pub(crate) const fn is(_: Defect) -> bool {
    false
}
