//! Keep and query logs and metrics.

pub mod histogram;

pub use histogram::Histogram;
