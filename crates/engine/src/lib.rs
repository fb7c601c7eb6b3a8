//! The face of a place where workloads run
