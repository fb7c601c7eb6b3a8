//! Containers on this machine: create, adopt, stop, exec, limits
