//! Images in the store.

use std::collections::BTreeMap;

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;

/// An image in the content-addressed store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Digest of its manifest.
    pub digest: String,
    /// Names that point to it.
    pub names: Vec<String>,
    /// Bytes it occupies; layers shared with other images count for each.
    pub bytes: u64,
    /// When it came into the store.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What an image says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDetail {
    /// Digest of its manifest.
    pub digest: String,
    /// Entry point and command together.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// User, as spelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// TCP ports it exposes.
    pub ports: Vec<u16>,
    /// Labels and annotations.
    pub labels: BTreeMap<String, String>,
}

/// Get an image into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateImage {
    /// The name it gets, for example `debian:12`.
    #[schema(pattern = "^[!-,.-~][!-~]*$", min_length = 1, max_length = 200)]
    pub name: String,
    /// Where it comes from.
    pub source: ImageSource,
    /// The org it is for, by name or id; all when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSource {
    /// A registry.
    #[schema(title = "PullSource")]
    Pull {
        /// `registry/repository:tag` or `registry/repository@sha256:...`.
        reference: String,
        /// Allow plain HTTP to that registry.
        #[serde(default)]
        insecure: bool,
    },
    /// An uploaded OCI or `docker save` archive.
    #[schema(title = "ArchiveSource")]
    Archive {
        /// Id of the upload.
        upload: String,
    },
    /// An uploaded directory (a tar archive, plain or compressed), laid over another image. The image is run as that one.
    #[schema(title = "DirectorySource")]
    Directory {
        /// Id of the upload.
        upload: String,
        /// The image below, by name or digest.
        #[schema(pattern = "^[!-,.-~][!-~]*$", min_length = 1, max_length = 256)]
        over: String,
        /// Where in the image the directory appears.
        #[serde(default = "root_directory")]
        #[schema(pattern = "^/", max_length = 256, default = "/")]
        at: String,
    },
    /// Debian packages.
    #[schema(title = "DebianSource")]
    Debian {
        /// For example `bookworm`.
        #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9+.:-]*$")]
        suite: String,
        /// Package names.
        #[schema(max_items = 500)]
        packages: Vec<String>,
    },
    /// The toolchains of the host: its `/usr`, read-only.
    #[schema(title = "HostSource")]
    Host {},
}

fn root_directory() -> String {
    "/".to_owned()
}

pages! {
    ImagePage of Image, "images";
}
