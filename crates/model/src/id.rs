//! Typed ids: a `ReleaseId` cannot be passed where an `InstanceId` is meant.
//!
//! Invariant: the text form is `prefix_` + 26 letters of Crockford base 32 over a UUIDv7, so ids sort by creation.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The kind of thing an [`Id`] names.
pub trait Kind {
    /// What stands before the underscore, for example `app`.
    const PREFIX: &'static str;
}

/// The id of one kind of thing. Ids are made by the caller of a decision, never inside one.
pub struct Id<K> {
    raw: Uuid,
    kind: PhantomData<fn() -> K>,
}

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id that begins with {prefix}_")]
pub struct IdError {
    prefix: &'static str,
    text: String,
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LETTERS: usize = 26;

impl<K: Kind> Id<K> {
    /// A fresh id from the clock and the operating system's randomness.
    #[must_use]
    pub fn fresh() -> Self {
        Self::from_uuid(Uuid::now_v7())
    }

    /// The id over a given UUID, for replayable tests and deterministic names.
    #[must_use]
    pub fn from_uuid(raw: Uuid) -> Self {
        Self {
            raw,
            kind: PhantomData,
        }
    }

    /// The last `n` letters: random enough to tell neighbours apart, short enough for a host name.
    #[must_use]
    pub fn short(&self, n: usize) -> String {
        let text = self.to_string();
        text[text.len().saturating_sub(n)..].to_owned()
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = [0_u8; LETTERS];
        let mut rest = self.raw.as_u128();
        for slot in letters.iter_mut().rev() {
            *slot = ALPHABET[usize::try_from(rest & 31).unwrap_or_default()];
            rest >>= 5;
        }
        write!(
            f,
            "{}_{}",
            K::PREFIX,
            std::str::from_utf8(&letters).unwrap_or_default()
        )
    }
}

impl<K: Kind> FromStr for Id<K> {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let refuse = || IdError {
            prefix: K::PREFIX,
            text: text.chars().take(64).collect(),
        };
        let letters = text
            .strip_prefix(K::PREFIX)
            .and_then(|rest| rest.strip_prefix('_'))
            .ok_or_else(refuse)?;
        if letters.len() != LETTERS || letters.as_bytes()[0] > b'7' {
            return Err(refuse());
        }
        let mut raw = 0_u128;
        for letter in letters.bytes() {
            let value = ALPHABET
                .iter()
                .position(|known| *known == letter)
                .ok_or_else(refuse)?;
            raw = (raw << 5) | value as u128;
        }
        Ok(Self::from_uuid(Uuid::from_u128(raw)))
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.raw.cmp(&other.raw)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}
impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

macro_rules! kinds {
    ($($kind:ident $alias:ident $prefix:literal $doc:literal;)*) => {$(
        #[doc = concat!("Marks ids of ", $doc, ".")]
        #[derive(Debug)]
        pub enum $kind {}
        impl Kind for $kind {
            const PREFIX: &'static str = $prefix;
        }
        #[doc = concat!("Id of ", $doc, ".")]
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    OrgKind OrgId "org" "an organisation";
    ProjectKind ProjectId "prj" "a project";
    EnvironmentKind EnvironmentId "env" "an environment";
    AppKind AppId "app" "an app";
    ReleaseKind ReleaseId "rel" "a release";
    InstanceKind InstanceId "ins" "an instance";
    OperationKind OperationId "op" "an operation";
    DatabaseKind DatabaseId "db" "a database";
    DrillKind DrillId "dri" "a drill of a backup";
    SecretKind SecretId "sec" "a secret of an app";
    UploadKind UploadId "upl" "an uploaded source";
    TokenKind TokenId "tok" "an access token";
    UserKind UserId "usr" "a user";
    MembershipKind MembershipId "mem" "what a user is somewhere";
    InvitationKind InvitationId "inv" "an invitation";
    ProviderKind ProviderId "idp" "an identity provider";
    IdentityKind IdentityId "idn" "a user as a provider knows them";
    SessionKind SessionId "ses" "a session of a user";
    RequestKind RequestId "req" "one API request";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts_by_creation() {
        let first = AppId::fresh();
        let second = AppId::fresh();
        assert_eq!(first.to_string().parse::<AppId>(), Ok(first));
        assert!(first.to_string() < second.to_string() && first < second);
    }

    #[test]
    fn other_kinds_and_rubbish_are_refused() {
        let release = ReleaseId::fresh().to_string();
        for text in [
            release.as_str(),
            "",
            "app_",
            "app_zz",
            "app_81j00000000000000000000000",
            "app_il",
        ] {
            assert!(text.parse::<AppId>().is_err(), "{text}");
        }
    }
}
