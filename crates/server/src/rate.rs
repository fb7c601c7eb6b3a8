//! How often a credential may ask: a bucket of tokens for each, filled at a steady pace.
//!
//! Lives here: the buckets, and what the answers say of them. Does not live here: bounds of what is expensive
//! (`listen::Limits`).
//! Invariants: who shows no credential, or a wrong one, never takes from the bucket of one who shows a right one, whatever
//! address both have, nor from that of another address; memory is bounded, whoever asks.
//!
//! The headers are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy: "NAME";q=QUOTA;w=SECONDS` and
//! `RateLimit: "NAME";r=LEFT;t=SECONDS`, where `t` tells when the bucket is full again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control::people::Source;
use model::Actor;

use crate::refusal::Refusal;

/// What a bucket holds is what comes into it in that time.
const WINDOW: Duration = Duration::from_secs(60);
/// Buckets at once. Beyond it the one that was not used for longest goes, which is full again or nearly so.
const BUCKETS: usize = 4096;
/// Event streams that one user may keep open, out of those of all, with all his sessions and tokens together.
const STREAMS_EACH: u32 = 64;

/// Whose bucket it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// A credential that counts.
    Known(String),
    /// All who need none at that endpoint, from one address: a flood at one, or from one, must not close another.
    Anybody(&'static str, Source),
    /// All who showed none where one is needed, or one that does not count, from one address.
    Refused(Source),
}

impl Who {
    /// Whose bucket an actor's requests take from; nothing for root on the host, who must always get in.
    pub(crate) fn of(actor: &Actor) -> Option<Self> {
        match actor {
            Actor::HostRoot { .. } | Actor::System => None,
            known @ (Actor::Token { .. } | Actor::User { .. }) => Some(Self::Known(known.describe())),
        }
    }

    /// Whose streams an actor's count among: whoever has many tokens is one all the same.
    pub(crate) fn of_streams(actor: &Actor) -> Option<Self> {
        match actor.user() {
            Some(user) => Some(Self::Known(format!("streams of {user}"))),
            None => Self::of(actor),
        }
    }

    fn policy(&self) -> &'static str {
        match self {
            Self::Known(_) => "credential",
            Self::Anybody(..) => "anybody",
            Self::Refused(_) => "refused",
        }
    }
}

struct Bucket {
    left: f64,
    at: Instant,
    streams: u32,
}

/// All buckets.
pub(crate) struct Rates {
    /// Requests in a window; 0: no bound.
    quota: u32,
    buckets: Mutex<HashMap<Who, Bucket>>,
}

/// How a bucket stands after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    policy: &'static str,
    quota: u32,
    left: u32,
    full_in_s: u64,
}

impl Standing {
    /// Names and values of the headers that tell it.
    pub(crate) fn headers(&self) -> [(&'static str, String); 2] {
        let Self {
            policy,
            quota,
            left,
            full_in_s,
        } = self;
        let window = WINDOW.as_secs();
        [
            ("ratelimit-policy", format!("\"{policy}\";q={quota};w={window}")),
            ("ratelimit", format!("\"{policy}\";r={left};t={full_in_s}")),
        ]
    }
}

impl Rates {
    pub(crate) fn new(quota: u32) -> Self {
        Self {
            quota,
            buckets: Mutex::default(),
        }
    }

    /// Takes for one request. Nothing is told where nothing is bounded.
    pub(crate) fn take(&self, who: &Who, now: Instant) -> (Option<Standing>, Result<(), Refusal>) {
        if self.quota == 0 {
            return (None, Ok(()));
        }
        let quota = f64::from(self.quota);
        let pace = quota / WINDOW.as_secs_f64();
        let mut buckets = self.lock();
        let bucket = found(&mut buckets, who, quota, now);
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = passed.mul_add(pace, bucket.left).min(quota);
        bucket.at = now;
        let verdict = if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            Ok(())
        } else {
            Err(Refusal::too_often(whole((1.0 - bucket.left) / pace).max(1)))
        };
        let standing = Standing {
            policy: who.policy(),
            quota: self.quota,
            left: u32::try_from(whole(bucket.left.floor())).unwrap_or(self.quota),
            full_in_s: whole((quota - bucket.left) / pace),
        };
        (Some(standing), verdict)
    }

    /// A place for an event stream among those of that user, given back when dropped.
    pub(crate) fn stream(self: &Arc<Self>, who: Option<Who>) -> Result<Place, Refusal> {
        if let Some(who) = &who {
            let mut buckets = self.lock();
            let bucket = found(&mut buckets, who, f64::from(self.quota), Instant::now());
            if bucket.streams >= STREAMS_EACH {
                return Err(Refusal::too_many_streams(STREAMS_EACH));
            }
            bucket.streams += 1;
        }
        Ok(Place {
            rates: Arc::clone(self),
            who,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Who, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event stream's place.
pub(crate) struct Place {
    rates: Arc<Rates>,
    who: Option<Who>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(who) = &self.who
            && let Some(bucket) = self.rates.lock().get_mut(who)
        {
            bucket.streams = bucket.streams.saturating_sub(1);
        }
    }
}

fn found<'b>(buckets: &'b mut HashMap<Who, Bucket>, who: &Who, quota: f64, now: Instant) -> &'b mut Bucket {
    if buckets.len() >= BUCKETS && !buckets.contains_key(who) {
        // One that has streams open is in use, and those are few.
        let idle = buckets.iter().filter(|(_, bucket)| bucket.streams == 0);
        let longest = idle
            .min_by_key(|(_, bucket)| bucket.at)
            .map(|(who, _)| who.clone());
        longest.map(|who| buckets.remove(&who));
    }
    buckets.entry(who.clone()).or_insert(Bucket {
        left: quota,
        at: now,
        streams: 0,
    })
}

/// Seconds or requests, up to the next whole one.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and bounded by a quota of 32 bits"
)]
fn whole(number: f64) -> u64 {
    number.max(0.0).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(last: u8) -> Who {
        Who::Refused(Source::of(std::net::IpAddr::from([192, 0, 2, last])))
    }

    fn known(name: &str) -> Who {
        Who::Known(name.to_owned())
    }

    #[test]
    fn a_bucket_empties_fills_and_is_its_own() {
        let (rates, begin) = (Rates::new(60), Instant::now());
        let (alice, bob) = (known("alice"), known("bob"));
        for taken in 1..=60_u32 {
            let (standing, verdict) = rates.take(&alice, begin);
            let standing = standing.expect("bounded");
            assert!(verdict.is_ok() && standing.left == 60 - taken, "{standing:?}");
            assert_eq!(standing.full_in_s, u64::from(taken));
        }
        let (standing, verdict) = rates.take(&alice, begin);
        let refusal = verdict.expect_err("empty");
        assert_eq!(refusal.header(), Some(&("retry-after", "1".to_owned())));
        assert_eq!(
            standing.expect("bounded").headers(),
            [
                ("ratelimit-policy", "\"credential\";q=60;w=60".to_owned()),
                ("ratelimit", "\"credential\";r=0;t=60".to_owned())
            ]
        );
        assert!(rates.take(&bob, begin).1.is_ok() && rates.take(&refused(1), begin).1.is_ok());
        let later = begin + Duration::from_secs(2);
        assert!(rates.take(&alice, later).1.is_ok() && rates.take(&alice, later).1.is_ok());
        assert!(rates.take(&alice, later).1.is_err(), "two came in two seconds");
        assert!(
            Rates::new(0).take(&alice, begin).0.is_none(),
            "no bound, no header"
        );
    }

    #[test]
    fn memory_is_bounded_and_floods_close_nobody_out() {
        let (rates, begin) = (Rates::new(2), Instant::now());
        let alice = known("alice");
        assert!(rates.take(&alice, begin).1.is_ok());
        for number in 0..3 * BUCKETS {
            // Each at a later moment, so that which is the oldest is told apart.
            let now = begin + Duration::from_micros(number as u64);
            assert!(rates.take(&known(&number.to_string()), now).1.is_ok());
            drop(rates.take(&refused(1), now));
        }
        assert_eq!(rates.lock().len(), BUCKETS);
        assert!(rates.take(&refused(1), begin).1.is_err());
        assert!(rates.take(&refused(2), begin).1.is_ok(), "another address");
        assert!(rates.take(&alice, begin + Duration::from_secs(1)).1.is_ok());
    }

    #[test]
    fn a_user_is_one_whatever_he_shows() {
        let user = model::UserId::fresh();
        let token = |user| Actor::Token {
            token: model::TokenId::fresh(),
            name: "t".to_owned(),
            user,
        };
        let session = Actor::User {
            user,
            session: model::SessionId::fresh(),
        };
        let own = Who::of_streams(&session);
        assert_eq!(own, Who::of_streams(&token(Some(user))));
        assert_ne!(own, Who::of_streams(&token(Some(model::UserId::fresh()))));
        assert_ne!(Who::of_streams(&token(None)), Who::of_streams(&token(None)));
        assert_eq!(Who::of_streams(&Actor::HostRoot { pid: 1 }), None);
    }

    #[test]
    fn streams_are_counted_and_given_back() {
        let rates = Arc::new(Rates::new(10));
        let open = |name: &str| rates.stream(Some(known(name)));
        let mut places: Vec<Place> = (0..STREAMS_EACH).map(|_| open("a").expect("a place")).collect();
        assert_eq!(open("a").err().expect("no place").status(), 429);
        assert!(open("b").is_ok() && rates.stream(None).is_ok());
        places.pop();
        assert!(open("a").is_ok());
    }
}
