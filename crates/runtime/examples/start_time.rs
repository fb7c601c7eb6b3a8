//! How long a start takes, and what a keeper weighs: `cargo run -p stoa-runtime --example start_time [COUNT]`.
//!
//! Lives here: a paired look by hand; the figures people quote come from `cargo xtask bench`.

fn main() {}
