//! What a binary says of itself before another one goes over to it.
//!
//! Lives here: `stoa __about` and `stoa __check-store`, both run by `stoa server upgrade` of the older binary.
//! Does not live here: who asks and what follows (`upgrade`).
//! Invariant: neither touches a running installation.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use store::{MasterKey, Now, Store};

use crate::{Failure, chain, print};

const PROGRAM: &str = "stoa";

/// A binary, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) version: String,
    /// See [`warden::TAKEOVER_VERSION`].
    pub(crate) takeover: u64,
}

impl About {
    pub(crate) fn ours() -> About {
        About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            takeover: u64::from(warden::TAKEOVER_VERSION),
        }
    }

    /// `None` when the text is not of a Stoa that can take over.
    pub(crate) fn read(text: &str) -> Option<About> {
        let said: Value = serde_json::from_str(text).ok()?;
        (said["program"] == PROGRAM).then_some(())?;
        Some(About {
            version: said["version"].as_str()?.to_owned(),
            takeover: said["takeover"].as_u64()?,
        })
    }

    fn write(&self) -> String {
        json!({ "program": PROGRAM, "version": self.version, "takeover": self.takeover }).to_string()
    }
}

pub(crate) fn say() -> Result<ExitCode, Failure> {
    print(&format!("{}\n", About::ours().write()))?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a copy of the store, which migrates it.
pub(crate) fn check_store(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let [copy, key] = arguments else {
        return Err(Failure::new(
            "the copy and the key are missing",
            "stoa server upgrade --to BINARY",
        ));
    };
    let key = MasterKey::load(Path::new(key)).map_err(|cause| Failure::new(chain(&cause), cause.next()))?;
    let now = Now::at(model::Timestamp::now().as_ms());
    let store =
        Store::open(Path::new(copy), &key, now).map_err(|cause| Failure::new(chain(&cause), cause.next()))?;
    print(&format!("{}\n", json!({ "rev": store.rev() })))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stoa_is_taken_for_one() {
        assert_eq!(About::read(&About::ours().write()), Some(About::ours()));
        for other in [
            "",
            "{}",
            "stoa 0.1.0",
            r#"{"program":"other","version":"1","takeover":1}"#,
        ] {
            assert_eq!(About::read(other), None, "{other}");
        }
    }
}
