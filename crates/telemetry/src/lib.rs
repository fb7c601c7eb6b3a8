//! Keep and query logs and metrics
