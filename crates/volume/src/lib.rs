//! Volumes and their copy-on-write clones in a storage pool
