//! Pushing: an image to a registry, as it lies in the store.
//!
//! Lives here: uploading blobs that are missing there, then the manifest.
//! Does not live here: HTTP and its rules (`registry`).
//! Invariant: the manifest goes last, so that a registry never has an image without its layers.

use ureq::SendBody;

use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, Result};
use crate::import::short;
use crate::oci;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::{Access, Ask, Method, PullPolicy, Registry, escaped};
use crate::store::Images;

impl Images {
    /// Pushes an image under a tag. Signing in, encryption and reach follow the same policy as pulling.
    pub fn push(
        &self,
        id: ImageId,
        reference: &Reference,
        policy: &PullPolicy,
        progress: &dyn Fn(Progress),
    ) -> Result<()> {
        let Some(tag) = reference.tag() else {
            return Err(ImageError::BadReference {
                text: reference.to_string(),
                why: "a push needs a tag",
            });
        };
        self.store.known(id)?;
        let _pin = self.store.pin(id.0);
        let registry = Registry::new(reference, Access::Push, policy)?;
        let (manifest, _) = self.store.image(id)?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            progress(Progress::Step(format!("pushing {}", short(blob.digest))));
            self.push_blob(&registry, blob.digest)?;
        }
        let bytes = self.store.read_blob(id.0, oci::MANIFEST_LIMIT)?;
        let kind = if manifest.media_type.is_empty() {
            oci::MANIFEST
        } else {
            &manifest.media_type
        };
        let url = registry.within(&format!("manifests/{tag}"))?;
        let answer = registry.send(Method::Put, &url, kind, &|| {
            let bytes = bytes.clone();
            Ok(SendBody::from_owned_reader(std::io::Cursor::new(bytes)))
        })?;
        registry.expect(answer, "manifests", tag).map(drop)
    }

    fn push_blob(&self, registry: &Registry<'_>, digest: Digest) -> Result<()> {
        let path = format!("blobs/{digest}");
        // The head of the answer says whether it is there; its body is not read.
        let there = registry.get(Ask {
            path: &path,
            accept: None,
            from_byte: 0,
        })?;
        if there.status().is_success() {
            return Ok(());
        }
        drop(there);
        const KIND: &str = "application/octet-stream";
        let url = registry.within("blobs/uploads/")?;
        let answer = registry.send(Method::Post, &url, KIND, &|| Ok(SendBody::none()))?;
        let answer = registry.expect(answer, "blobs/uploads", &digest.to_string())?;
        let place = registry.upload_place(&url, &answer)?;
        let joint = if place.query().is_some() { '&' } else { '?' };
        let url = format!("{place}{joint}digest={}", escaped(&digest.to_string())).parse();
        let url = url.map_err(|_| registry.unreachable("it names a place that cannot be written"))?;
        let answer = registry.send(Method::Put, &url, KIND, &|| {
            Ok(SendBody::from_owned_reader(self.store.open_blob(digest)?))
        })?;
        registry
            .expect(answer, "blobs/uploads", &digest.to_string())
            .map(drop)
    }
}
