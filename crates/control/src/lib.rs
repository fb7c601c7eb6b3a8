//! Use cases and reconcilers: the only room that sees store and engine
