//! Names people choose, valid by construction.
//!
//! Invariant: a [`Name`] is `[a-z][a-z0-9-]{0,38}` without a final hyphen, so it is safe as a DNS label, a file
//! name, a cgroup and a device part, and can never carry text that a shell or a path would interpret.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name of an org, project, environment, app, service, job, database or volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is not a [`Name`] or an [`EnvKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not of the form of a name.
    #[error("{0:?} is not a name: begin with a letter a-z, then up to 38 of a-z, 0-9 and -, not ending in -")]
    Name(String),
    /// Not of the form of an environment variable.
    #[error("{0:?} is not a variable name: begin with a letter or _, then letters, digits and _")]
    EnvKey(String),
}

const NAME_MAX: usize = 39;
const ENV_KEY_MAX: usize = 128;
const SHOWN: usize = 64;

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let fits = (1..=NAME_MAX).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes[bytes.len() - 1] != b'-'
            && bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Name(text.chars().take(SHOWN).collect()))
        }
    }
}

/// The name of an environment variable: `[A-Za-z_][A-Za-z0-9_]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvKey(String);

/// Variables that lead to the database a service uses.
const OF_DATABASE: [&str; 7] = [
    "DATABASE_URL",
    "DATABASE_URL_DIRECT",
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGDATABASE",
];

impl EnvKey {
    /// Whether Stoa sets it in each instance: nobody else may.
    #[must_use]
    pub fn is_set_by_stoa(key: &str) -> bool {
        key == "PORT" || key.starts_with("STOA_")
    }

    /// Whether Stoa sets it where a service uses a Valkey.
    #[must_use]
    pub fn leads_to_valkey(key: &str) -> bool {
        key == "REDIS_URL"
    }

    /// Whether Stoa sets it where a service uses a PostgreSQL.
    #[must_use]
    pub fn leads_to_database(key: &str) -> bool {
        OF_DATABASE.contains(&key)
    }

    /// The variable's name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EnvKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let fits = (1..=ENV_KEY_MAX).contains(&bytes.len())
            && !bytes[0].is_ascii_digit()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::EnvKey(text.chars().take(SHOWN).collect()))
        }
    }
}

macro_rules! text_conversions {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

text_conversions! { Name EnvKey }

/// Whether a text is a DNS host name in lower case (RFC 1123, section 2.1), without a final dot.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_or_refused() {
        let longest = "a".repeat(NAME_MAX);
        for good in ["a", "shop", "shop-2", longest.as_str()] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = "a".repeat(NAME_MAX + 1);
        for bad in [
            "",
            "-a",
            "a-",
            "2a",
            "A",
            "a_b",
            "a b",
            "a/b",
            "..",
            "a;rm",
            "$(x)",
            "é",
            "a\n",
            long.as_str(),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_names_are_accepted_or_refused() {
        for good in ["localhost", "a.example.org", "1.example", "x--y.z"] {
            assert!(is_host_name(good), "{good}");
        }
        let long = ["a"; 130].join(".");
        for bad in [
            "", ".", "a.", ".a", "-a.b", "a-.b", "A.b", "a b", "a/b", "a:80", "*.a", &long,
        ] {
            assert!(!is_host_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn variable_names_are_accepted_or_refused() {
        for good in ["A", "_x", "LOG_LEVEL", "a1"] {
            assert!(good.parse::<EnvKey>().is_ok(), "{good}");
        }
        for bad in ["", "1A", "A=B", "A B", "A-B", "A\0", "A\nB"] {
            assert!(bad.parse::<EnvKey>().is_err(), "{bad:?}");
        }
    }
}
