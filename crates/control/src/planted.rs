//! Defects planted on purpose: the simulation must find every one of them (`tests/simulation`), and
//! the tests of the gate those of the gate.
//!
//! Lives here: their names, and the switch. Does not live here: the wrong code, which stands beside the right one.
//! Invariant: without debug assertions there is no switch, the answer is a constant, and the wrong code is not compiled in.

/// What can be wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Defect {
    /// An instance is told to end before the store knows that it is to.
    ActsBeforeIntent = 1,
    /// What starts gets requests.
    PublishesBeforeReady,
    /// A release counts as serving whether or not the edge took its routes.
    PromotesWithoutPublishing,
    /// Facts that were brought up to date are added to the old ones.
    AddsInsteadOfSets,
    /// Operations that wait have no deadline.
    ForgetsDeadline,
    /// A rollout ends in one transaction, its operation in another.
    SettlesInTwo,
    /// What nobody owns is removed at first sight.
    SweepsAtOnce,
    /// A worker makes its release although its operation was given up meanwhile.
    ForgetsToFence,
    /// Draining instances count as idle without asking the edge.
    NeverAsksWhoIsBusy,
    /// An instance is asked to end once, whatever becomes of the request.
    StopsOnce,
    /// A release job that has ended is run again.
    RunsJobsAgain,
    /// A release job that failed keeps no release back.
    IgnoresFailedJobs,
    /// Operations of an app do not wait for each other.
    ForgetsTurns,
    /// An operation that was under way when control died is not taken up again.
    ForgetsAfterCrash,
    /// What gets requests is told to end without being let go of by the edge.
    NeverDrains,
    /// A rollout takes the epoch of what serves, so that nobody can tell its instances from the old ones.
    ReusesEpoch,
    /// A change is made whatever generation its author has read.
    IgnoresGeneration,
    /// That a canary's step began is not remembered.
    ForgetsSteps,
    /// An operation that goes back is settled while what it gives up may still answer.
    SettlesBeforeBack,
    /// The gate does not look where a right counts.
    ForgetsRealm,
    /// The gate does not look at the role.
    ForgetsRole,
    /// The gate does not look at the scopes of a token.
    ForgetsScopes,
    /// A token counts for itself, whatever became of it or its maker.
    TrustsTokens,
    /// Passwords are hashed by as many threads as ask.
    HashesWithoutBound,
    /// An account that is not there is told at once.
    AnswersStrangersAtOnce,
    /// Guessing is never slowed down.
    NeverSlowsDown,
    /// Who guesses an account's password keeps its owner out too.
    LocksOwnersOut,
    /// Roles are given by who does not have them.
    GivesMoreThanItHas,
    /// The last owner may go.
    ForgetsLastOwner,
    /// Invitations have no end.
    InvitesForEver,
    /// Sessions have no end.
    KeepsSessions,
    /// A cookie counts whatever page it comes from.
    ForgetsSites,
}

/// Those of the gate, which its own tests find and no simulation of a fleet could.
pub const GATE: [Defect; 13] = [
    Defect::ForgetsRealm,
    Defect::ForgetsRole,
    Defect::ForgetsScopes,
    Defect::TrustsTokens,
    Defect::HashesWithoutBound,
    Defect::AnswersStrangersAtOnce,
    Defect::NeverSlowsDown,
    Defect::LocksOwnersOut,
    Defect::GivesMoreThanItHas,
    Defect::ForgetsLastOwner,
    Defect::InvitesForEver,
    Defect::KeepsSessions,
    Defect::ForgetsSites,
];

/// All that the simulation must find.
pub const ALL: [Defect; 19] = [
    Defect::ActsBeforeIntent,
    Defect::PublishesBeforeReady,
    Defect::PromotesWithoutPublishing,
    Defect::AddsInsteadOfSets,
    Defect::ForgetsDeadline,
    Defect::SettlesInTwo,
    Defect::SweepsAtOnce,
    Defect::ForgetsToFence,
    Defect::NeverAsksWhoIsBusy,
    Defect::StopsOnce,
    Defect::RunsJobsAgain,
    Defect::IgnoresFailedJobs,
    Defect::ForgetsTurns,
    Defect::ForgetsAfterCrash,
    Defect::NeverDrains,
    Defect::ReusesEpoch,
    Defect::IgnoresGeneration,
    Defect::ForgetsSteps,
    Defect::SettlesBeforeBack,
];

#[cfg(debug_assertions)]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants one, or none, in the whole process.
#[cfg(debug_assertions)]
pub fn plant(defect: Option<Defect>) {
    let number = defect.map_or(0, |defect| defect as u8);
    PLANTED.store(number, std::sync::atomic::Ordering::SeqCst);
}

/// A test's turn in its process: what is planted is the whole process's, so whoever plants something is there alone.
#[cfg(debug_assertions)]
#[derive(Debug)]
pub struct Turn {
    is_alone: bool,
}

/// How many tests are there, and whether one is there alone. No lock of the library's: a test may have several turns, which
/// a lock that lets nobody in while somebody waits to be alone would never give it.
#[cfg(debug_assertions)]
static TURNS: std::sync::Mutex<(usize, bool)> = std::sync::Mutex::new((0, false));
#[cfg(debug_assertions)]
static OVER: std::sync::Condvar = std::sync::Condvar::new();

#[cfg(debug_assertions)]
impl Turn {
    /// Beside others that plant nothing.
    #[must_use]
    pub fn beside_others() -> Self {
        Self::when(false, |(_, is_taken)| !is_taken)
    }

    /// Alone.
    #[must_use]
    pub fn alone() -> Self {
        Self::when(true, |(there, _)| *there == 0)
    }

    fn when(is_alone: bool, is_free: impl Fn(&(usize, bool)) -> bool) -> Self {
        let turns = TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut turns = OVER
            .wait_while(turns, |turns| !is_free(turns))
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *turns = (turns.0 + 1, is_alone);
        Self { is_alone }
    }
}

#[cfg(debug_assertions)]
impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_alone {
            // Also when its test failed while something was planted.
            plant(None);
        }
        let mut turns = TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *turns = (turns.0 - 1, false);
        OVER.notify_all();
    }
}

#[cfg(debug_assertions)]
pub(crate) fn is(defect: Defect) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == defect as u8
}

#[cfg(not(debug_assertions))]
pub(crate) const fn is(_: Defect) -> bool {
    false
}

/// Whether the door must not look where a cookie comes from: the one guard of these that lives there.
#[must_use]
pub fn forgets_sites() -> bool {
    is(Defect::ForgetsSites)
}
