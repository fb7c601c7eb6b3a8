//! Addresses of people, in one form.
//!
//! Invariant: two texts that name the same mailbox for us are equal: case and surrounding space do not count, and only
//! ASCII passes, so that no look-alike stands beside another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// RFC 5321: what a path may be, without its angle brackets.
const LENGTH_MAX: usize = 254;
const LOCAL_MAX: usize = 64;

/// The address of a person, lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

/// The text is no address that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not an address such as ada@example.org (ASCII, at most 254 characters)")]
pub struct EmailError;

impl Email {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        let text = text.trim().to_ascii_lowercase();
        let (local, domain) = text.rsplit_once('@').ok_or(EmailError)?;
        let is_local = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
        let fits_local = (1..=LOCAL_MAX).contains(&local.len())
            && local.bytes().all(is_local)
            && local.split('.').all(|part| !part.is_empty());
        let fits_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= LENGTH_MAX && fits_local && domain.split('.').all(fits_label) {
            Ok(Self(text))
        } else {
            Err(EmailError)
        }
    }
}

impl TryFrom<String> for Email {
    type Error = EmailError;
    fn try_from(text: String) -> Result<Self, EmailError> {
        text.parse()
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mailbox_has_one_form() {
        let email = |text: &str| text.parse::<Email>();
        assert_eq!(email(" Ada@Example.ORG\n"), email("ada@example.org"));
        for good in ["a@b", "a.b+c@x-y.example", "o'hara@example.org"] {
            assert!(email(good).is_ok(), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "a..b@x",
            ".a@x",
            "a@x..y",
            "a@-x",
            "a b@x",
            "a@b@c",
            "\u{430}da@x",
            "a@x\r\nbcc:y",
            "a\0@x",
            "<a@x>",
            "a@x.",
            &long,
        ] {
            assert!(email(bad).is_err(), "{bad:?}");
        }
    }
}
