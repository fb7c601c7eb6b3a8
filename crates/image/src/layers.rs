//! Unpacked layers: directories that overlay can use as they are.
//!
//! Lives here: making sure that a layer is unpacked, once, and what is known of it.
//! Does not live here: how an archive is unpacked (`unpack`), how a layer is made (`commit`).
//! Invariant: `layers/HEX` exists only when the archive it came from had that diff-id and every file is on disk.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::compress::Plain;
use crate::digest::{Digest, Hashing};
use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::oci;
use crate::store::Store;
use crate::unpack::{self, Policy, Quota, Unpacked};

/// What is known of an unpacked layer; kept beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerFacts {
    pub(crate) unpacked: Unpacked,
}

impl Store {
    pub(crate) fn layer_facts(&self, diff_id: Digest) -> Result<LayerFacts> {
        let path = self.layer_facts_path(diff_id);
        let bytes = std::fs::read(&path).doing("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|cause| ImageError::Damaged {
            path,
            why: cause.to_string(),
        })
    }

    /// Unpacks a layer from its blob unless it is there already. Callers at the same time wait for the first.
    pub(crate) fn ensure_layer(&self, diff_id: Digest, blob: Digest, quota: &Quota) -> Result<()> {
        let _alone = self.alone_with(format!("layer {diff_id}"));
        if self.layer_path(diff_id).exists() {
            return Ok(());
        }
        let tree = self.temporary_directory()?;
        set_open_mode(&tree.path)?;
        let plain = Plain::new("the layer", self.open_blob(blob)?)?;
        let (unpacked, rest) = unpack::unpack(Hashing::new(plain), &tree.path, quota, Policy::Layer)?;
        let (found, _, _) = rest.finish();
        if found != diff_id {
            return Err(ImageError::DigestMismatch {
                what: format!("layer {blob}"),
                expected: diff_id,
                found,
            });
        }
        self.place_layer(&tree.path, diff_id, &LayerFacts { unpacked })
    }

    /// Gives a complete tree its place among the layers. The caller is alone with this layer.
    pub(crate) fn place_layer(&self, tree: &Path, diff_id: Digest, facts: &LayerFacts) -> Result<()> {
        disk::sync_tree(tree)?;
        self.write_durably(&self.layer_facts_path(diff_id), &oci::write(facts))?;
        disk::rename_durably(tree, &self.layer_path(diff_id))
    }
}

/// The root of a layer is the `/` an instance sees: everybody may look into it.
pub(crate) fn set_open_mode(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).doing("set the mode of", path)
}
