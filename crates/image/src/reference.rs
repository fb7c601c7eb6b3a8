//! Image references: `[REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST]`.
//!
//! Lives here: reading them, with the defaults everybody expects of Docker.
//! Does not live here: local names, which are freer (`names`).
//! Invariant: a parsed reference holds only characters that are safe in a URL path and on a terminal.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::ImageError;

/// Where Docker's short names lead.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The host that really serves it.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and perhaps port, as in the reference.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Host and perhaps port to connect to.
    pub fn registry_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY {
            DEFAULT_REGISTRY_HOST
        } else {
            &self.registry
        }
    }

    /// Repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when neither tag nor digest is given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask the registry for: the digest wins over the tag.
    pub(crate) fn wanted(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let bad = |why| ImageError::BadReference {
            text: text.chars().take(255).collect(),
            why,
        };
        if text.len() > 512 {
            return Err(bad("it is too long"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (
                name,
                Some(digest.parse().map_err(|_| bad("the digest is not sha256"))?),
            ),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad(
                "a tag has 1 to 128 letters, digits, underscores, dots and dashes",
            ));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.to_owned(), rest.to_owned())
            }
            Some(_) => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
            None => (DEFAULT_REGISTRY.to_owned(), format!("library/{name}")),
        };
        if !is_registry(&registry) {
            return Err(bad("the registry is not a host name with perhaps a port"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_repository_part) {
            return Err(bad(
                "a name has lower-case letters and digits, with single separators between",
            ));
        }
        let tag = tag
            .map(str::to_owned)
            .or_else(|| digest.is_none().then(|| "latest".into()));
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && is_word(tag.as_bytes()[0])
        && tag
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            return rest.is_empty()
                || rest
                    .strip_prefix(':')
                    .is_some_and(|port| port.parse::<u16>().is_ok());
        }
        None => registry
            .split_once(':')
            .map_or((registry, None), |(host, port)| (host, Some(port))),
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port = |port: &str| !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0);
    host.len() <= 253 && host.split('.').all(is_label) && port.is_none_or(is_port)
}

/// Lower-case words with `.`, `_`, `__` or dashes between them.
fn is_repository_part(part: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(first), Some(last)) = (part.as_bytes().first(), part.as_bytes().last()) else {
        return false;
    };
    let separators = part
        .as_bytes()
        .split(is_word)
        .filter(|separator| !separator.is_empty());
    let is_separator = |separator: &[u8]| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    };
    is_word(first) && is_word(last) && separators.into_iter().all(is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_get_the_defaults_everybody_expects() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full, host) in [
            (
                "debian",
                "docker.io/library/debian:latest",
                "registry-1.docker.io",
            ),
            ("debian:12", "docker.io/library/debian:12", "registry-1.docker.io"),
            ("a/b", "docker.io/a/b:latest", "registry-1.docker.io"),
            ("localhost/a", "localhost/a:latest", "localhost"),
            (
                "127.0.0.1:5000/a/b_c:v1.0",
                "127.0.0.1:5000/a/b_c:v1.0",
                "127.0.0.1:5000",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000"),
            ("ghcr.io/x/y--z", "ghcr.io/x/y--z:latest", "ghcr.io"),
        ] {
            let parsed: Reference = text.parse().unwrap();
            assert_eq!(parsed.to_string(), full);
            assert_eq!(parsed.registry_host(), host);
            assert_eq!(full.parse::<Reference>().unwrap(), parsed);
        }
        let pinned: Reference = format!("debian:12@{digest}").parse().unwrap();
        assert_eq!(pinned.wanted(), digest);
        assert_eq!(
            format!("debian@{digest}").parse::<Reference>().unwrap().tag(),
            None
        );
    }

    #[test]
    fn what_could_mean_something_elsewhere_is_refused() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "A",
            "a b",
            "a\n",
            "a/../b",
            "a/./b",
            "a:",
            "a:-x",
            "a@",
            "a@sha512:00",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "http://x.y/z",
            "x.y:0/z",
            "x.y:99999/z",
            "x.y:+1/z",
            "u:p@x.y/z",
            "x.y?z/a",
            "x.y#/a",
            "$(id)",
            "[::1/a",
            "[x]:1/a",
            "x..y/a",
            "-x.y/a",
            "a%2e/b",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
