//! The per-instance parent: a tiny static program, and the messages it speaks
