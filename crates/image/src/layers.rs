//! Unpacked layers: directories that overlay can use as they are.
//!
//! Lives here: making sure that a layer is unpacked, once, and what is known of it.
//! Does not live here: how an archive is unpacked (`unpack`), how a layer is made (`commit`).
//! Invariant: `layers/HEX` exists only when the archive it came from had that diff-id and every file is on disk.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::allowance::Allowance;
use crate::compress::Plain;
use crate::digest::{Digest, Hashing};
use crate::disk;
use crate::error::{Doing, ImageError, Result};
use crate::oci;
use crate::store::Store;
use crate::unpack::{self, Policy, Unpacked};

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

    /// Unpacks a layer from its blob unless it is there already; counts it either way. Callers at the same time wait for
    /// the first.
    pub(crate) fn ensure_layer(
        &self,
        diff_id: Digest,
        blob: Digest,
        allowance: &Allowance<'_>,
    ) -> Result<()> {
        let _alone = self.alone_with(format!("layer {diff_id}"));
        if self.has_layer(diff_id) {
            let known = self.layer_facts(diff_id)?.unpacked;
            allowance.take_entries(known.entries)?;
            return allowance.take_bytes(known.bytes);
        }
        let tree = self.temporary_directory()?;
        set_open_mode(&tree.path)?;
        let plain = Plain::new("the layer", self.open_blob(blob)?)?;
        let (unpacked, rest) = unpack::unpack(Hashing::new(plain), &tree.path, allowance, Policy::Layer)?;
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

    pub(crate) fn has_layer(&self, diff_id: Digest) -> bool {
        self.layer_path(diff_id).exists()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Images;
    use crate::unpack::Quota;

    /// A plain layer of one file of zeros.
    fn layer(name: &str, bytes: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let content = vec![0_u8; bytes];
        builder
            .append_data(&mut header, name, content.as_slice())
            .unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_quota_is_one_for_all_layers_those_already_there_too() {
        let home = tempfile::tempdir().unwrap();
        let images = Images::open(home.path()).unwrap();
        let store = &images.store;
        let [one, two] = ["one", "two"].map(|name| layer(name, 100_000));
        let pins = [&one, &two].map(|bytes| store.put_blob(bytes).unwrap());
        let quota = Quota {
            bytes: 150_000,
            ..Quota::default()
        };
        for round in ["unpacked now", "the first there already"] {
            let allowance = Allowance::new("the image", &quota);
            let [first, second] =
                [0, 1].map(|n| store.ensure_layer(pins[n].digest, pins[n].digest, &allowance));
            assert!(first.is_ok(), "{round}: {first:?}");
            assert!(
                matches!(
                    second,
                    Err(ImageError::Quota {
                        unit: "bytes",
                        limit: 150_000,
                        ..
                    })
                ),
                "{round}: {second:?}"
            );
        }
        let alone = Allowance::new("the image", &quota);
        store
            .ensure_layer(pins[1].digest, pins[1].digest, &alone)
            .unwrap();
    }
}
