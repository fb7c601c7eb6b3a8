//! Reads arguments, wires the rooms, holds no logic.
fn main() {}
