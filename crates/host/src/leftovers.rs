//! Attachments and writable layers that no instance has (any more).
//!
//! A removal that was cut short leaves them: the instance goes first, and nothing else names them.
//! Lives here: finding and removing them.
//! Does not live here: instances without a row (`control`), steps of builds (`builds`).

use std::collections::BTreeSet;
use std::fs;

use crate::{Host, error, instances};

/// Removes what no instance has and `is_sure` says of; the names of the rest.
pub(crate) fn sweep(host: &Host, is_sure: impl Fn(&str) -> bool) -> BTreeSet<String> {
    match found(host) {
        Ok(found) => found
            .into_iter()
            .filter(|name| !is_sure(name) || !is_removed(host, name))
            .collect(),
        Err(why) => {
            tracing::warn!(why, "could not look for leftovers");
            BTreeSet::new()
        }
    }
}

fn found(host: &Host) -> Result<BTreeSet<String>, String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    // These first: an instance that comes meanwhile is then not taken for absent.
    let attached = host.networks.list().map_err(|cause| error::chain(&cause))?;
    names.extend(attached.attachments.into_iter().map(|place| place.instance));
    match fs::read_dir(host.options.data_dir.join("writable")) {
        Ok(entries) => names.extend(
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok()),
        ),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(cause.to_string()),
    }
    for there in host.runtime.list().map_err(|cause| error::chain(&cause))? {
        names.remove(&there.id);
    }
    Ok(names)
}

fn is_removed(host: &Host, name: &str) -> bool {
    let writable = instances::writable_of(host, name);
    let detached = host.networks.detach(name).map_err(|cause| error::chain(&cause));
    let removed = detached.and_then(|()| match writable.exists() {
        true => image::remove_tree(&writable).map_err(|cause| error::chain(&cause)),
        false => Ok(()),
    });
    match &removed {
        Ok(()) => tracing::info!(instance = name, "removed what was left of an instance"),
        Err(why) => tracing::warn!(
            instance = name,
            why,
            "what is left of an instance could not be removed"
        ),
    }
    removed.is_ok()
}
