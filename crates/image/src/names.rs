//! Which images there are and what they are called: `index.json`.
//!
//! Lives here: reading and writing the index, names, origins.
//! Does not live here: what an image holds (`inspect`), who may be collected (`gc`).
//! Invariant: binds of host directories are believed only from this file, which only we write;
//! nothing inside an image can name a path of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::ImageId;
use crate::error::{ImageError, Result};
use crate::oci::{self, Descriptor};

/// Where an image came from, which decides whether it may be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Imported by a person from a file: cannot be had again, so it is kept while it has a name.
    Imported,
    /// Pulled from a registry.
    Pulled,
    /// A Debian base made from packages.
    Debian,
    /// The toolchains of this host.
    Host,
    /// Built here.
    Built,
}

/// A directory of the host that the runtime mounts read-only over the layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Directory on the host.
    pub source: PathBuf,
    /// Where it appears.
    pub target: PathBuf,
}

/// One image in the index.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) size: u64,
    pub(crate) names: BTreeSet<String>,
    pub(crate) origin: Origin,
    pub(crate) binds: Vec<Bind>,
    /// Facts for people, such as the packages of a base.
    pub(crate) notes: BTreeMap<String, String>,
}

/// All images, in memory; the file is replaced whole at each change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) images: BTreeMap<ImageId, Known>,
}

const ORIGIN: &str = "dev.stoa.origin";
const BINDS: &str = "dev.stoa.binds";
const NOTE: &str = "dev.stoa.note.";

impl Names {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(cause) => return Err(ImageError::io("read", path, cause)),
        };
        Self::parse(&bytes).map_err(|why| ImageError::Damaged {
            path: path.into(),
            why,
        })
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let index: oci::Index = serde_json::from_slice(bytes).map_err(|cause| cause.to_string())?;
        let mut names = Self::default();
        for mut entry in index.manifests {
            let origin = entry
                .annotations
                .remove(ORIGIN)
                .ok_or("an image without origin")?;
            let origin = serde_json::from_value(origin.into()).map_err(|cause| cause.to_string())?;
            let binds = match entry.annotations.remove(BINDS) {
                Some(binds) => serde_json::from_str(&binds).map_err(|cause| cause.to_string())?,
                None => Vec::new(),
            };
            let name = entry.annotations.remove(oci::REF_NAME);
            let notes = entry
                .annotations
                .into_iter()
                .filter_map(|(key, value)| Some((key.strip_prefix(NOTE)?.to_owned(), value)))
                .collect();
            let known = names.images.entry(ImageId(entry.digest)).or_insert(Known {
                size: entry.size,
                names: BTreeSet::new(),
                origin,
                binds,
                notes,
            });
            known.names.extend(name);
        }
        Ok(names)
    }

    /// The file: one entry per name, and one for an image without any.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut manifests = Vec::new();
        for (id, known) in &self.images {
            let mut entry = Descriptor::new(oci::MANIFEST, id.0, known.size);
            let origin = serde_json::to_value(known.origin).unwrap_or_default();
            entry
                .annotations
                .insert(ORIGIN.into(), origin.as_str().unwrap_or_default().into());
            if !known.binds.is_empty() {
                let binds = oci::write(&known.binds);
                entry
                    .annotations
                    .insert(BINDS.into(), String::from_utf8_lossy(&binds).into_owned());
            }
            for (key, value) in &known.notes {
                entry.annotations.insert(format!("{NOTE}{key}"), value.clone());
            }
            if known.names.is_empty() {
                manifests.push(entry.clone());
            }
            for name in &known.names {
                let mut named = entry.clone();
                named.annotations.insert(oci::REF_NAME.into(), name.clone());
                manifests.push(named);
            }
        }
        oci::write(&oci::Index {
            schema_version: 2,
            media_type: oci::INDEX.into(),
            manifests,
        })
    }

    /// The image of exactly this name.
    pub(crate) fn find(&self, name: &str) -> Option<ImageId> {
        self.images
            .iter()
            .find(|(_, known)| known.names.contains(name))
            .map(|(id, _)| *id)
    }

    /// Gives an image a name, taking it from whichever had it.
    pub(crate) fn name(&mut self, name: &str, id: ImageId) {
        for known in self.images.values_mut() {
            known.names.remove(name);
        }
        if let Some(known) = self.images.get_mut(&id) {
            known.names.insert(name.to_owned());
        }
    }
}

/// A name people may give: printable, no spaces, no dash in front (it would read as a flag), no path steps.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let why = if name.is_empty() || name.len() > 255 {
        "a name has 1 to 255 characters"
    } else if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte))
    {
        "a name has letters, digits and . _ - / : @ only"
    } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
        "a name begins with a letter or digit"
    } else if name
        .split('/')
        .any(|part| part == ".." || part == "." || part.is_empty())
    {
        "a name has no empty parts or dots alone"
    } else if name.starts_with("sha256:") {
        "a digest is not a name"
    } else {
        return Ok(());
    };
    Err(ImageError::BadReference {
        text: name.into(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn the_index_reads_back_as_it_was_written() {
        let mut names = Names::default();
        for (text, origin) in [("a", Origin::Host), ("b", Origin::Imported)] {
            names.images.insert(
                ImageId(Digest::of(text.as_bytes())),
                Known {
                    size: 7,
                    names: BTreeSet::new(),
                    origin,
                    binds: vec![Bind {
                        source: "/usr".into(),
                        target: "/usr".into(),
                    }],
                    notes: BTreeMap::from([("packages".into(), "python3".into())]),
                },
            );
        }
        let first = ImageId(Digest::of(b"a"));
        names.name("one", first);
        names.name("two", first);
        names.name("two", ImageId(Digest::of(b"b")));
        let again = Names::parse(&names.to_bytes()).unwrap();
        assert_eq!(format!("{names:?}"), format!("{again:?}"));
        assert_eq!(again.find("one"), Some(first));
        assert_ne!(again.find("two"), Some(first));
    }

    #[test]
    fn only_names_that_harm_nobody_are_names() {
        for good in ["debian:12", "docker.io/library/debian:12", "a@b", "x_y.z-1"] {
            check_name(good).unwrap();
        }
        for bad in [
            "",
            "-x",
            "a b",
            "a\nb",
            "../x",
            "a//b",
            "a/./b",
            "$(x)",
            "é",
            "sha256:00",
            ".x",
            "a;b",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
