//! What strangers send on purpose, by the numbers of `docs/hostile.md`: each is refused, and with its guard taken away
//! (`server::planted`, `control::planted`) the same test sees that it is not.

mod identity;
mod names;
mod requests;
mod world;
