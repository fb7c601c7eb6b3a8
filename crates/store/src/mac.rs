//! The seal on every row: corruption or a swap of two rows is noticed before anything is served.
//!
//! Lives here: the keyed hash over a row's fields, and the sum over a collection.
//! Does not live here: which fields a table seals (each table's module), encryption (`secret`).
//! Invariant: fields are length-prefixed, so no two different rows can hash the same bytes.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::ring::MasterKey;

/// 16 of HMAC-SHA256's 32 bytes: a forgery or an unnoticed flip has a chance of 2^-128.
pub(crate) const MAC_BYTES: usize = 16;
pub(crate) type Tag = [u8; MAC_BYTES];

/// The keyed hashes of one store. Derived from the founding master key, so that adding a newer key rewrites no row.
#[derive(Clone)]
pub(crate) struct Integrity {
    row: Hmac<Sha256>,
    chain: Hmac<Sha256>,
}

impl Integrity {
    pub(crate) fn new(master: &MasterKey) -> Self {
        Self {
            row: keyed(master.row_key()),
            chain: keyed(master.chain_key()),
        }
    }

    /// Begins the seal of a record of one table.
    pub(crate) fn seal(&self, table: &str) -> Fields {
        Fields(self.row.clone()).text(table)
    }

    /// The next link of the audit chain.
    pub(crate) fn link(&self, previous: &[u8; 32], seq: u64, record: &str) -> [u8; 32] {
        let mut hash = self.chain.clone();
        hash.update(previous);
        hash.update(&seq.to_be_bytes());
        hash.update(record.as_bytes());
        hash.finalize().into_bytes().into()
    }
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The fields of a record on their way into its seal.
pub(crate) struct Fields(Hmac<Sha256>);

impl Fields {
    pub(crate) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.update(&(value.len() as u64).to_be_bytes());
        self.0.update(value);
        self
    }

    pub(crate) fn number(mut self, value: u64) -> Self {
        self.0.update(&value.to_be_bytes());
        self
    }

    pub(crate) fn tag(self) -> Tag {
        let full: [u8; 32] = self.0.finalize().into_bytes().into();
        let mut tag = [0; MAC_BYTES];
        tag.copy_from_slice(&full[..MAC_BYTES]);
        tag
    }

    /// Constant time, so that a guesser with access to the file learns nothing from how long a refusal takes.
    pub(crate) fn is(self, tag: &[u8]) -> bool {
        tag.len() == MAC_BYTES && self.0.verify_truncated_left(tag).is_ok()
    }
}

/// Folds a row's tag into, or out of, the sum of its collection. Order does not matter, absence does.
pub(crate) fn fold(sum: &mut Tag, tag: &Tag) {
    for (into, byte) in sum.iter_mut().zip(tag) {
        *into ^= byte;
    }
}
