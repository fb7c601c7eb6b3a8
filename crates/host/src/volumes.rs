//! Volumes of this machine's pool.

use std::path::Path;

use engine::{Capabilities, EngineError, VolumeFacts};
use model::Bytes;
use volume::{Backing, Capability, Options, Pool, PoolFile};

use crate::Host;
use crate::error;

/// Opens the pool on its directory where that can clone, else on a pool file.
pub(crate) fn open(root: &Path) -> Result<Pool, EngineError> {
    let pool = Pool::open(root, &Options::default()).map_err(error::host("open the volumes"))?;
    match pool.capability() {
        Capability::Reflink | Capability::Snapshot => Ok(pool),
        // Volumes that are there already stay where they are.
        Capability::Copy if pool.list().is_ok_and(|volumes| !volumes.is_empty()) => Ok(pool),
        Capability::Copy => {
            drop(pool);
            let file = Options {
                backing: Backing::File(PoolFile::default()),
            };
            Pool::open(root, &file).or_else(|cause| {
                tracing::warn!(
                    cause = error::chain(&cause),
                    "no pool file could be made; clones will be copies"
                );
                Pool::open(root, &Options::default()).map_err(error::host("open the volumes"))
            })
        }
    }
}

pub(crate) fn capabilities(host: &Host) -> Capabilities {
    Capabilities {
        engine: "host",
        clone: host.pool.capability().as_str().to_owned(),
        pool: host.pool.explain(),
        limits: "cgroups".to_owned(),
    }
}

/// What a volume holds, counted no further than to where it is more than `enough`.
pub(crate) fn bytes(host: &Host, name: &str, enough: Bytes) -> Result<Bytes, EngineError> {
    let path = host.pool.path(name).map_err(error::volume(name))?;
    let taken = volume::allocated(&path, enough.get()).map_err(error::host("measure the volume"))?;
    Ok(Bytes::new(taken))
}

/// What the pool can still give; it grows before there is little.
pub(crate) fn free(host: &Host) -> Result<Bytes, EngineError> {
    let available = host.pool.available().map_err(error::host("measure the pool"))?;
    Ok(Bytes::new(available))
}

/// How many more files can be made in it.
pub(crate) fn free_inodes(host: &Host) -> Result<Option<u64>, EngineError> {
    let capacity = host.pool.capacity().map_err(error::host("measure the pool"))?;
    Ok(capacity.free_inodes)
}

/// How many files and directories a volume has.
pub(crate) fn inodes(host: &Host, name: &str) -> Result<u64, EngineError> {
    let path = host.pool.path(name).map_err(error::volume(name))?;
    volume::inodes(&path).map_err(error::host("count the files of the volume"))
}

pub(crate) fn create(host: &Host, name: &str) -> Result<(), EngineError> {
    if let Err(cause) = host.pool.maintain() {
        tracing::warn!(cause = error::chain(&cause), "the pool could not grow");
    }
    if host.pool.contains(name).map_err(error::volume(name))? {
        return Ok(());
    }
    host.pool.create(name).map(drop).map_err(error::volume(name))
}

pub(crate) fn list(host: &Host) -> Result<Vec<VolumeFacts>, EngineError> {
    let names = host.pool.list().map_err(error::host("list the volumes"))?;
    Ok(names.into_iter().map(|name| VolumeFacts { name }).collect())
}
