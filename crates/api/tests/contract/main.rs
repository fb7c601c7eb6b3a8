//! The contract against its frozen form: whatever would break a client of `openapi/frozen-v1.json` fails here.
//!
//! Lives here: the comparison of the two documents, and writing the frozen one. Does not live here: what counts as a
//! break (`breaks`), the proof that each is found (`planted`).
//! Invariant: the frozen document only grows, unless somebody says that a break is meant.

mod breaks;
mod planted;

use serde_json::Value;

const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/frozen-v1.json");
/// `1` takes additions into the frozen document, `break` takes breaks too: the way to say that one is meant.
const FREEZE: &str = "STOA_FREEZE_OPENAPI";

fn frozen() -> Value {
    let text = std::fs::read_to_string(FROZEN).expect("openapi/frozen-v1.json");
    serde_json::from_str(&text).expect("openapi/frozen-v1.json is JSON")
}

#[test]
fn nothing_of_the_frozen_contract_is_broken() {
    let wish = std::env::var(FREEZE).unwrap_or_default();
    if wish != "break" {
        let found = breaks::between(&frozen(), api::document::document());
        assert!(
            found.is_empty(),
            "this breaks clients of openapi/frozen-v1.json:\n  {}\nadd beside it instead of changing it. Before the first \
             release a break may be meant: {FREEZE}=break cargo test -p stoa-api --test contract",
            found.join("\n  ")
        );
    }
    if !wish.is_empty() {
        std::fs::write(FROZEN, api::document::text()).expect("openapi/frozen-v1.json");
    }
}
