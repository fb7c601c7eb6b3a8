//! The documents of the OCI image format, as far as we read and write them.
//!
//! Lives here: descriptors, manifests, indexes, configuration files, and the bounds on reading them.
//! Does not live here: where they are stored (`store`) or fetched from (`registry`).
//! Invariant: everything read here is data from outside; nothing in it names a path or command of the host.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::error::{ImageError, Result};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Manifests above this are refused by every registry we know.
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// A configuration holds environment and history; a million variables still fit.
pub(crate) const CONFIG_LIMIT: u64 = 64 << 20;
/// Overlay takes some hundred lower directories; no honest image has more.
pub(crate) const LAYERS_LIMIT: usize = 127;

/// Names content by type, digest and length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub(crate) urls: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    pub(crate) fn is_index(&self) -> bool {
        self.media_type == INDEX || self.media_type == DOCKER_LIST
    }
}

/// What a machine must be to run an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// The machine we run on.
    pub(crate) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: None,
        }
    }

    pub(crate) fn runs_here(&self) -> bool {
        let here = Self::here();
        self.os == here.os && self.architecture == here.architecture
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// What an image is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest and refuses what we will not follow.
    pub(crate) fn read(what: &str, bytes: &[u8]) -> Result<Self> {
        let manifest: Self = read(what, bytes)?;
        if manifest.schema_version != 2 {
            return Err(ImageError::Unsupported {
                what: what.into(),
                why: "only image manifests of schema 2 are read".into(),
            });
        }
        if manifest.layers.len() > LAYERS_LIMIT {
            return Err(ImageError::Quota {
                what: what.into(),
                limit: LAYERS_LIMIT as u64,
                unit: "layers",
            });
        }
        for layer in manifest.layers.iter().chain([&manifest.config]) {
            // A layer that lies elsewhere would make us fetch whatever address the image's author chose.
            let is_foreign =
                layer.media_type.contains("foreign") || layer.media_type.contains("nondistributable");
            if is_foreign || !layer.urls.is_empty() {
                return Err(ImageError::refused(
                    what,
                    "a layer is to be fetched from a foreign address",
                ));
            }
        }
        Ok(manifest)
    }
}

/// A list of manifests: one per platform in an image, one per image in a layout.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

impl Index {
    /// The one manifest for this machine; never another index.
    pub(crate) fn choose(&self, reference: &str) -> Result<Descriptor> {
        let here = self
            .manifests
            .iter()
            .find(|entry| entry.platform.as_ref().is_some_and(Platform::runs_here));
        let only = || match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        let Some(chosen) = here.or_else(only) else {
            let offered: Vec<String> = self
                .manifests
                .iter()
                .take(16)
                .filter_map(|m| m.platform.as_ref().map(ToString::to_string))
                .collect();
            return Err(ImageError::NoPlatform {
                reference: reference.into(),
                wanted: Platform::here().to_string(),
                offered: if offered.is_empty() {
                    "nothing".into()
                } else {
                    offered.join(", ")
                },
            });
        };
        if chosen.is_index() {
            return Err(ImageError::refused(reference, "its index lists another index"));
        }
        Ok(chosen.clone())
    }
}

/// The configuration file of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootFs,
}

impl ConfigFile {
    pub(crate) fn new(config: ImageConfig, diff_ids: Vec<Digest>) -> Self {
        let here = Platform::here();
        Self {
            created: None,
            architecture: here.architecture,
            os: here.os,
            variant: None,
            config,
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids,
            },
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// How an image wants to be run. Everything in it is data chosen by the image's author.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// User, as `name`, `uid`, `uid:gid`; empty means root.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub user: String,
    /// Environment, each `KEY=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// Program and fixed arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the whole command when there is no entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    /// Directory to start in; empty means `/`.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub working_dir: String,
    /// Ports, as `8080/tcp`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "keys_of_objects")]
    pub exposed_ports: BTreeSet<String>,
    /// Directories the image expects to be volumes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "keys_of_objects")]
    pub volumes: BTreeSet<String>,
    /// Labels.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the program to stop; empty means SIGTERM.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub stop_signal: String,
}

/// Reads one of our documents or somebody's, with the reason when it cannot be read.
pub(crate) fn read<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|cause| ImageError::refused(what, format!("cannot be read: {cause}")))
}

/// Writes a document the same way every time: its digest depends on it.
pub(crate) fn write<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("our documents have string keys and no failing serialisers")
}

/// Docker writes `null` where it means "none".
fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The format writes sets as `{"8080/tcp": {}}`.
mod keys_of_objects {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Serializer};
    use serde::ser::SerializeMap;

    pub(super) fn serialize<S: Serializer>(set: &BTreeSet<String>, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(set.len()))?;
        for key in set {
            map.serialize_entry(key, &serde_json::Map::new())?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<String>, D::Error> {
        let map: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(from)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}
