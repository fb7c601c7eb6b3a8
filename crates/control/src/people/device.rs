//! Signing a machine in that has no browser: it shows a code, and somebody who is signed in elsewhere approves it
//! (RFC 8628).
//!
//! ```text
//! begin --> waits --approve--> approved --poll--> a token, gone
//!             |---deny-------> denied ---poll--> access_denied, gone
//!             '---10 minutes-> gone (expired_token)
//! ```
//! Invariant: both codes are kept as hashes, in memory and bounded in number, so that strangers who ask for codes write
//! nothing; the token is made when it is fetched, with the rights its approver has then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{Action, Actor, Millis, Role, Token};
use store::secret::Secret;

use super::tokens::{self, Wish};
use super::{Source, hash, random_text};
use crate::planted::{self, Defect};
use crate::{Control, ControlError, authorize, rehearsal};

/// How long a code can be approved: RFC 8628's own example has half an hour; people need a minute.
const LIFE: Millis = Millis::seconds(600);
/// How often the machine may ask at first, and what is added when it asks too often (RFC 8628, 3.5).
const INTERVAL: Millis = Millis::seconds(5);
/// Codes that wait, of everybody and of one source.
const WAITING_MAX: usize = 500;
const WAITING_OF_SOURCE: usize = 10;
/// Wrong codes of one user in ten minutes: with all that may wait, the chance to meet one is below 1 in 5 million.
const WRONG_MAX: u32 = 10;
/// RFC 8628, 6.1: no vowels, so no words, and nothing that looks like something else.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LETTERS: usize = 8;
const DEVICE_PREFIX: &str = "stoa_dev_";

/// What a machine shows and keeps.
#[derive(Debug)]
pub struct Begun {
    /// For the machine, to ask with.
    pub device_code: Secret,
    /// For people, `BCDF-GHJK`.
    pub user_code: String,
    /// How long the code can be approved.
    pub life: Millis,
    /// How often to ask at most.
    pub interval: Millis,
}

/// What waits for approval, for who is to approve it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What the token would be.
    pub wish: Wish,
    /// From where the machine asked.
    pub source: Source,
    /// How long it can still be approved.
    left: u64,
    is_decided: bool,
}

impl Asked {
    /// How long it can still be approved.
    #[must_use]
    pub fn life(&self) -> Millis {
        Millis::new(self.left)
    }

    /// For the audit log: who looks for a machine that should not be in finds it by these.
    fn describe(&self) -> String {
        format!("{} from {}", self.wish.name, self.source.as_str())
    }
}

/// Why a machine gets no token (yet). The names are those of RFC 8628.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Nobody has approved it yet.
    #[error("nobody has approved it yet")]
    Pending,
    /// It asks too often.
    #[error("asked too often: from now on every {seconds} s")]
    SlowDown {
        /// How often from now on.
        seconds: u64,
    },
    /// It is not known (any more).
    #[error("this code is not known, was used, or is older than ten minutes")]
    Expired,
    /// Somebody said no.
    #[error("it was refused")]
    Denied,
}

impl NotYet {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Pending => "authorization_pending",
            Self::SlowDown { .. } => "slow_down",
            Self::Expired => "expired_token",
            Self::Denied => "access_denied",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn next(self) -> String {
        match self {
            Self::Pending => "where you are signed in: stoa login approve CODE".to_owned(),
            Self::SlowDown { seconds } => format!("ask again after {seconds} s"),
            Self::Expired | Self::Denied => "begin again: stoa login".to_owned(),
        }
    }
}

/// What waits.
#[derive(Default)]
pub struct Devices(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// By the hash of the device code.
    all: BTreeMap<String, Device>,
    /// Wrong codes by user: how many, since when.
    wrong: BTreeMap<model::UserId, (u32, u64)>,
}

struct Device {
    user_code: String,
    wish: Wish,
    source: Source,
    until_ms: u64,
    interval: Millis,
    asked_ms: Option<u64>,
    verdict: Verdict,
}

enum Verdict {
    None,
    Denied,
    Approved(Actor),
}

impl Devices {
    fn lock(&self, now_ms: u64) -> MutexGuard<'_, Waiting> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.all.retain(|_, device| device.until_ms > now_ms);
        waiting
            .wrong
            .retain(|_, (_, since)| since.saturating_add(LIFE.as_ms()) > now_ms);
        waiting
    }
}

impl Devices {
    /// What waits, and how it stands: for tests that nothing of it was touched.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn census(&self) -> String {
        let waiting = self.lock(0);
        let told = waiting.all.values().map(|device| {
            let verdict = match device.verdict {
                Verdict::None => "waits",
                Verdict::Denied => "denied",
                Verdict::Approved(_) => "approved",
            };
            format!("{verdict} {:?}", device.asked_ms)
        });
        told.collect::<Vec<_>>().join(", ")
    }
}

impl Waiting {
    fn of(&self, source: &Source) -> impl Iterator<Item = &Device> {
        self.all.values().filter(move |device| device.source == *source)
    }

    /// A code that nothing else that waits has.
    fn unused_code(&self) -> Result<String, ControlError> {
        loop {
            let code = user_code()?;
            let kept = hash(&code);
            if !self.all.values().any(|device| device.user_code == kept) {
                return Ok(code);
            }
        }
    }

    /// When too many wait, the oldest of the source with the most goes: whoever floods is in his own way first.
    fn make_room(&mut self) {
        if self.all.len() < WAITING_MAX {
            return;
        }
        let mut of_source: BTreeMap<&Source, usize> = BTreeMap::new();
        for device in self.all.values() {
            *of_source.entry(&device.source).or_default() += 1;
        }
        let undecided = self
            .all
            .iter()
            .filter(|(_, device)| matches!(device.verdict, Verdict::None));
        let goes = undecided
            .max_by_key(|(_, device)| (of_source[&device.source], std::cmp::Reverse(device.until_ms)))
            .map(|(key, _)| key.clone());
        if let Some(key) = goes {
            self.all.remove(&key);
        }
    }

    /// What has this code, guessed by this user.
    fn find(&mut self, user: model::UserId, code: &str, now_ms: u64) -> Result<&mut Device, ControlError> {
        let wrong = self.wrong.entry(user).or_insert((0, now_ms));
        if wrong.0 >= WRONG_MAX {
            return Err(ControlError::Guessed {
                wait: Millis::new(wrong.1.saturating_add(LIFE.as_ms()).saturating_sub(now_ms)),
            });
        }
        let wanted = hash(&plain(code));
        match self.all.values_mut().find(|device| device.user_code == wanted) {
            Some(found) => Ok(found),
            None => {
                wrong.0 += 1;
                Err(authorize::missing("code", code))
            }
        }
    }
}

/// A code as people may type it.
fn plain(code: &str) -> String {
    let letters = code.chars().filter(|letter| !matches!(letter, '-' | ' '));
    letters
        .map(|letter| letter.to_ascii_uppercase())
        .take(64)
        .collect()
}

fn user_code() -> Result<String, ControlError> {
    let mut code = String::new();
    while code.len() < CODE_LETTERS {
        let mut byte = [0];
        super::fill_randomly(&mut byte)?;
        // 240 is a multiple of 20: every letter is as likely.
        if byte[0] < 240 {
            code.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
        }
    }
    Ok(code)
}

/// A machine asks to be signed in.
///
/// # Errors
/// `State` where there are no users; `Crowded` when too many of its source wait; `Invalid` for values that cannot be.
pub fn begin(control: &Control, wish: &Wish, source: &Source) -> Result<Begun, ControlError> {
    tokens::check(wish)?;
    if control.read(|tx| Ok(tx.count::<model::User>("")?))? == 0 {
        return Err(ControlError::State {
            message: "there are no users here who could approve it".to_owned(),
            next_step: "stoa login --claim TOKEN, or as root on the machine: stoa login --local".to_owned(),
        });
    }
    let now_ms = control.clock.now().mono_ms;
    let device_code = random_text(DEVICE_PREFIX)?;
    let mut waiting = control.door.devices.lock(now_ms);
    let of_source: Vec<u64> = waiting.of(source).map(|device| device.until_ms).collect();
    if let Some(first) = of_source.iter().min()
        && of_source.len() >= WAITING_OF_SOURCE
    {
        return Err(ControlError::Crowded {
            what: "machines that wait to be signed in",
            wait: Millis::new(first.saturating_sub(now_ms)),
        });
    }
    let code = waiting.unused_code()?;
    if rehearsal::is_on() {
        rehearsal::note("device", &wish.name, "insert");
    } else {
        waiting.make_room();
        let device = Device {
            user_code: hash(&code),
            wish: wish.clone(),
            source: source.clone(),
            until_ms: now_ms + LIFE.as_ms(),
            interval: INTERVAL,
            asked_ms: None,
            verdict: Verdict::None,
        };
        waiting.all.insert(hash(&device_code), device);
    }
    let (first, last) = code.split_at(CODE_LETTERS / 2);
    Ok(Begun {
        device_code: Secret::new(device_code.into_bytes()),
        user_code: format!("{first}-{last}"),
        life: LIFE,
        interval: INTERVAL,
    })
}

fn approver(actor: &Actor) -> Result<model::UserId, ControlError> {
    actor.user().ok_or(ControlError::Denied {
        action: Action::Administer,
    })
}

/// What would be approved with this code.
///
/// # Errors
/// `NotFound` for a wrong code; `Guessed` after too many; `Denied` for who is no user.
pub fn asked(control: &Control, actor: &Actor, code: &str) -> Result<Asked, ControlError> {
    let now_ms = control.clock.now().mono_ms;
    let mut waiting = control.door.devices.lock(now_ms);
    let device = waiting.find(approver(actor)?, code, now_ms)?;
    Ok(Asked {
        wish: device.wish.clone(),
        source: device.source.clone(),
        left: device.until_ms.saturating_sub(now_ms),
        is_decided: !matches!(device.verdict, Verdict::None),
    })
}

/// Lets the machine with this code in, as the actor, with what it asked for at most.
///
/// # Errors
/// As [`asked`]; `Denied` when the actor's own token lets less pass; `State` when it was decided already.
pub fn approve(control: &Control, actor: &Actor, code: &str) -> Result<(), ControlError> {
    let found = undecided(control, actor, code).and_then(|asked| {
        control.read(|tx| tokens::refuse_making(tx, actor, &asked.wish))?;
        Ok(asked)
    });
    let asked = control.audited(actor, "device.approve", "a code", found)?;
    control.mutate(actor, "device.approve", &asked.describe(), |_| Ok(()))?;
    decide(control, actor, code, Verdict::Approved(actor.clone()))
}

/// Keeps the machine with this code out.
///
/// # Errors
/// As [`asked`]; `State` when it was decided already.
pub fn deny(control: &Control, actor: &Actor, code: &str) -> Result<(), ControlError> {
    let found = undecided(control, actor, code);
    let asked = control.audited(actor, "device.deny", "a code", found)?;
    // Before the record: a full disk must not let it in.
    decide(control, actor, code, Verdict::Denied)?;
    control.mutate(actor, "device.deny", &asked.describe(), |_| Ok(()))
}

/// What has this code, when nobody has decided about it.
fn undecided(control: &Control, actor: &Actor, code: &str) -> Result<Asked, ControlError> {
    let found = asked(control, actor, code)?;
    if found.is_decided {
        return Err(decided());
    }
    Ok(found)
}

fn decided() -> ControlError {
    ControlError::State {
        message: "this code was approved or refused already".to_owned(),
        next_step: "begin again on the other machine: stoa login".to_owned(),
    }
}

fn decide(control: &Control, actor: &Actor, code: &str, verdict: Verdict) -> Result<(), ControlError> {
    let now_ms = control.clock.now().mono_ms;
    let mut waiting = control.door.devices.lock(now_ms);
    let device = waiting.find(approver(actor)?, code, now_ms)?;
    // Somebody may have been quicker: whoever decided first has decided.
    if !matches!(device.verdict, Verdict::None) {
        return Err(decided());
    }
    if rehearsal::is_on() {
        rehearsal::note("device", &device.wish.name, "update");
    } else {
        device.verdict = verdict;
    }
    Ok(())
}

/// The machine asks for its token.
///
/// # Errors
/// `Device` with why not, or why not yet.
pub fn poll(control: &Control, device_code: &str) -> Result<(Token, Secret), ControlError> {
    let key = hash(device_code);
    let now_ms = control.clock.now().mono_ms;
    let (actor, wish) = {
        let mut waiting = control.door.devices.lock(now_ms);
        let device = waiting.all.get_mut(&key).ok_or(NotYet::Expired)?;
        let last = device.asked_ms;
        if !rehearsal::is_on() {
            device.asked_ms = Some(now_ms);
        }
        let is_early = last.is_some_and(|last| now_ms.saturating_sub(last) < device.interval.as_ms());
        if is_early && !planted::is(Defect::NeverSlowsDown) {
            let slower = Millis::new(device.interval.as_ms() + INTERVAL.as_ms());
            if !rehearsal::is_on() {
                device.interval = slower;
            }
            return Err(NotYet::SlowDown {
                seconds: slower.as_ms() / 1000,
            }
            .into());
        }
        match &device.verdict {
            Verdict::None => return Err(NotYet::Pending.into()),
            Verdict::Denied => {
                if !rehearsal::is_on() {
                    waiting.all.remove(&key);
                }
                return Err(NotYet::Denied.into());
            }
            // Taken out before the token is made: two who ask at once do not get two.
            Verdict::Approved(actor) => {
                let found = (actor.clone(), device.wish.clone());
                if !rehearsal::is_on() {
                    waiting.all.remove(&key);
                }
                found
            }
        }
    };
    // His rights, and whether he is still signed in, are looked at now.
    tokens::create_token(control, &actor, &wish, None).map_err(|refused| match refused {
        ControlError::SignIn | ControlError::Denied { .. } => NotYet::Expired.into(),
        other => other,
    })
}

/// What a machine gets that asks for nothing special: what its user may do.
#[must_use]
pub fn wish(name: &str, role: Option<Role>, scopes: Option<BTreeSet<Action>>) -> Wish {
    Wish {
        scopes,
        ..Wish::of(name, role.unwrap_or(Role::Owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_end_and_have_one_form() {
        let devices = Devices::default();
        let device = Device {
            user_code: hash("BCDFGHJK"),
            wish: Wish::of("laptop", Role::Owner),
            source: Source::host(),
            until_ms: 1000,
            interval: INTERVAL,
            asked_ms: None,
            verdict: Verdict::None,
        };
        devices.lock(0).all.insert("key".to_owned(), device);
        let user = model::UserId::fresh();
        for typed in ["BCDFGHJK", "bcdf-ghjk", "BCDF GHJK"] {
            assert!(devices.lock(999).find(user, typed, 999).is_ok(), "{typed}");
        }
        assert!(devices.lock(999).find(user, "BCDFGHJL", 999).is_err());
        assert!(
            devices.lock(1000).find(user, "BCDFGHJK", 1000).is_err(),
            "it has ended"
        );
    }

    /// Strangers with many addresses cannot keep everybody else from being signed in.
    #[test]
    fn who_floods_makes_room_for_others() {
        let source = |last: usize| {
            let last = u8::try_from(last).expect("a byte");
            Source::of(std::net::IpAddr::from([192, 0, 2, last]))
        };
        let device = |source: Source, until_ms: usize| Device {
            user_code: String::new(),
            wish: Wish::of("laptop", Role::Owner),
            source,
            until_ms: until_ms as u64,
            interval: INTERVAL,
            asked_ms: None,
            verdict: Verdict::None,
        };
        let mut waiting = Waiting::default();
        waiting.all.insert("honest".to_owned(), device(source(200), 1));
        for number in 0..2 * WAITING_MAX {
            waiting.make_room();
            let flood = device(source(number % 50), 2 + number);
            waiting.all.insert(format!("flood {number}"), flood);
        }
        assert_eq!(waiting.all.len(), WAITING_MAX);
        assert!(waiting.all.contains_key("honest"));
        assert!(!waiting.all.contains_key("flood 0"), "the oldest went");
    }

    #[test]
    fn codes_are_letters_that_nobody_mistakes() {
        for _ in 0..200 {
            let code = user_code().expect("a code");
            assert!(
                code.len() == CODE_LETTERS && code.bytes().all(|letter| LETTERS.contains(&letter)),
                "{code}"
            );
        }
    }
}
