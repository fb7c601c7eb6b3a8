//! Passwords: what is kept of them, and what checking one may cost.
//!
//! Lives here: hashing, comparing, which passwords are too weak. Does not live here: how often somebody may guess
//! (`throttle`).
//! Invariant: at most [`AT_ONCE`] hashes are under way, so that many who sign in at once fill neither memory nor cores; an
//! account that is not there costs what a wrong password costs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use model::Email;
use store::Secret;
use subtle::ConstantTimeEq as _;

use crate::ControlError;
use crate::planted::{self, Defect};

/// Argon2id with 19 MiB, 2 passes and 1 lane: the first choice of OWASP's Password Storage Cheat Sheet (2023 and later),
/// and as strong as its others. RFC 9106's own second choice (64 MiB, 3 passes) would let 2 cores check 5 a second.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// Hashes under way: 38 MiB in all.
const AT_ONCE: usize = 2;
/// Those who wait for their turn, each on a thread that other requests need too.
const WAITING: usize = 16;
/// NIST SP 800-63B asks for 8, and 15 where nothing but the password protects; what is too easy to guess is refused too.
const LENGTH_MIN: usize = 12;
/// Longer ones would only cost time.
const LENGTH_MAX: usize = 256;
/// `aaaaaaaaaaaa` and `121212121212` are long and worth nothing.
const DIFFERENT_MIN: usize = 6;

/// Hashes passwords, a few at once.
#[derive(Default)]
pub struct Hasher {
    seats: Mutex<Seats>,
    free: Condvar,
}

#[derive(Default)]
struct Seats {
    taken: usize,
    waiting: usize,
}

struct Seat<'h>(&'h Hasher);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
        self.0.free.notify_one();
    }
}

impl Hasher {
    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sit(&self) -> Result<Seat<'_>, ControlError> {
        let mut seats = self.lock();
        if seats.taken >= AT_ONCE && !planted::is(Defect::HashesWithoutBound) {
            if seats.waiting >= WAITING {
                return Err(ControlError::Busy {
                    what: "people signing in",
                });
            }
            seats.waiting += 1;
            seats = self
                .free
                .wait_while(seats, |seats| seats.taken >= AT_ONCE)
                .unwrap_or_else(PoisonError::into_inner);
            seats.waiting -= 1;
        }
        seats.taken += 1;
        Ok(Seat(self))
    }

    /// As if others took and awaited every seat; for tests of what happens to who comes then.
    #[cfg(debug_assertions)]
    pub fn set_full(&self, is_full: bool) {
        *self.lock() = match is_full {
            true => Seats {
                taken: AT_ONCE,
                waiting: WAITING,
            },
            false => Seats::default(),
        };
    }

    /// How many are under way; for tests of the bound.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.lock().taken
    }

    /// What is kept of a password: algorithm, parameters, salt and hash in the PHC form.
    ///
    /// # Errors
    /// `Busy` when too many are waiting.
    pub(super) fn hash(&self, password: &Secret) -> Result<String, ControlError> {
        let mut salt = [0_u8; SALT_BYTES];
        super::fill_randomly(&mut salt)?;
        let _seat = self.sit()?;
        let hash = hash_with(MEMORY_KIB, PASSES, LANES, &salt, password)?;
        Ok(format!(
            "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${}${}",
            BASE64.encode(salt),
            BASE64.encode(hash)
        ))
    }

    /// Whether this is the password of which `kept` was kept. Without one the work is done all the same.
    ///
    /// # Errors
    /// `Busy` when too many are waiting.
    pub(super) fn check(&self, password: &Secret, kept: Option<&str>) -> Result<bool, ControlError> {
        if kept.is_none() && planted::is(Defect::AnswersStrangersAtOnce) {
            return Ok(false);
        }
        let _seat = self.sit()?;
        let Some(kept) = kept.and_then(Kept::read) else {
            hash_with(MEMORY_KIB, PASSES, LANES, &[0; SALT_BYTES], password)?;
            return Ok(false);
        };
        let found = hash_with(kept.memory_kib, kept.passes, kept.lanes, &kept.salt, password)?;
        Ok(bool::from(found[..].ct_eq(&kept.hash[..])))
    }
}

/// What was kept, read again: parameters may have been others then.
struct Kept {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Kept {
    fn read(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("$argon2id$v=19$m=")?;
        let mut parts = rest.split('$');
        let mut numbers = parts.next()?.split(',');
        Some(Self {
            memory_kib: numbers.next()?.parse().ok()?,
            passes: numbers.next()?.strip_prefix("t=")?.parse().ok()?,
            lanes: numbers.next()?.strip_prefix("p=")?.parse().ok()?,
            salt: BASE64.decode(parts.next()?).ok()?,
            hash: BASE64.decode(parts.next()?).ok()?,
        })
    }
}

fn hash_with(
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: &[u8],
    password: &Secret,
) -> Result<[u8; HASH_BYTES], ControlError> {
    let fail = |cause: argon2::Error| ControlError::File {
        what: "a password could not be hashed".to_owned(),
        cause: std::io::Error::other(cause.to_string()),
    };
    let params = Params::new(memory_kib, passes, lanes, Some(HASH_BYTES)).map_err(fail)?;
    let mut hash = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.expose(), salt, &mut hash)
        .map_err(fail)?;
    Ok(hash)
}

/// Refuses a password that is too easy to guess; `at` is where it was sent.
///
/// # Errors
/// `Invalid`, saying what a password must be.
pub(super) fn refuse_weak(password: &Secret, email: &Email, at: &str) -> Result<(), ControlError> {
    let refuse = |why: String| Err(ControlError::invalid(at, why));
    let Some(text) = password.expose_str() else {
        return refuse("must be text".to_owned());
    };
    let count = text.chars().count();
    if count < LENGTH_MIN || text.len() > LENGTH_MAX {
        return refuse(format!(
            "must have {LENGTH_MIN} characters or more, and at most {LENGTH_MAX} bytes"
        ));
    }
    let different: std::collections::BTreeSet<char> = text.chars().collect();
    if different.len() < DIFFERENT_MIN {
        return refuse(format!("must have at least {DIFFERENT_MIN} different characters"));
    }
    let lower = text.to_lowercase();
    let own = email.as_str().split('@').next().unwrap_or_default();
    if own.len() >= 4 && lower.contains(own) {
        return refuse("must not contain the name in your address".to_owned());
    }
    let is_common = COMMON.iter().any(|common| {
        // What is left without it must be a password of its own.
        lower.contains(common) && lower.replace(common, "").chars().count() < LENGTH_MIN / 2
    });
    if is_common {
        return refuse("is one of the first that anybody would try".to_owned());
    }
    Ok(())
}

/// What leads the lists of leaked passwords, as parts of longer ones.
const COMMON: [&str; 16] = [
    "password",
    "passwort",
    "123456789",
    "qwertyuiop",
    "qwerty123",
    "1q2w3e4r",
    "letmein",
    "iloveyou",
    "administrator",
    "changeme",
    "welcome",
    "trustno1",
    "abcdefgh",
    "football",
    "sunshine",
    "princess",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    #[test]
    fn only_the_same_password_fits() {
        let hasher = Hasher::default();
        let kept = hasher.hash(&secret("correct horse battery")).expect("hashed");
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(!kept.contains("horse"));
        let again = hasher.hash(&secret("correct horse battery")).expect("hashed");
        assert_ne!(kept, again, "each has a salt of its own");
        assert!(
            hasher
                .check(&secret("correct horse battery"), Some(&kept))
                .expect("checked")
        );
        for wrong in ["correct horse batterz", "", "correct horse battery "] {
            assert!(
                !hasher.check(&secret(wrong), Some(&kept)).expect("checked"),
                "{wrong}"
            );
        }
        assert!(!hasher.check(&secret("x"), None).expect("checked"));
        assert!(
            !hasher
                .check(&secret("x"), Some("$argon2id$rubbish"))
                .expect("checked")
        );
    }

    #[test]
    fn what_is_easy_to_guess_is_refused() {
        let email: Email = "ada.lovelace@example.org".parse().expect("an address");
        for (password, fits) in [
            ("correct horse battery", true),
            ("p\u{e4}ssw\u{f6}rter sind l\u{e4}stig", true),
            ("short", false),
            ("aaaaaaaaaaaaaaaa", false),
            ("121212121212121212", false),
            ("Password123!", false),
            ("Ada.Lovelace1815", false),
            ("administrator1", false),
            ("", false),
        ] {
            assert_eq!(
                refuse_weak(&secret(password), &email, "/password").is_ok(),
                fits,
                "{password}"
            );
        }
        let long = secret(&"abcdef".repeat(50));
        assert!(refuse_weak(&long, &email, "/password").is_err());
    }
}
