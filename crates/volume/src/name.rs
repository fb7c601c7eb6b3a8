//! Names of volumes.
//!
//! Invariant: a name that passed is one path component that stays inside its directory.

use crate::VolumeError;

/// Longest name; leaves room for what the pool adds to names in its own directories.
const LONGEST: usize = 128;

/// The same name, if it can be a volume's.
pub(crate) fn check(name: &str) -> Result<&str, VolumeError> {
    let fits = (1..=LONGEST).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fits {
        Ok(name)
    } else {
        Err(VolumeError::BadName(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_single_harmless_components_pass() {
        for good in ["a", "db_main-1.2", "A", "0"] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "../a",
            "a\0b",
            "a b",
            "é",
            "a\n",
            "$(id)",
            long.as_str(),
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
