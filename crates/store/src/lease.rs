//! Leases with fencing numbers, and numbers that are never given twice.
//!
//! Lives here: who may work on something now, and counters.
//! Does not live here: operations and their deadlines (`control`).
//! Invariant: a fence grows with every change of hands and is never given twice. A lease of an earlier epoch is
//! free at once: only one process has the store, so its holder is dead. Within an epoch leases end by the clock
//! that never jumps.

use rusqlite::{Row as SqlRow, params};

use crate::error::StoreError;
use crate::tx::{ReadTx, WriteTx, corrupt, number, to_db};

/// The fencing number of a lease: whoever acts on the world shows it, and an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub u64);

struct Lease {
    holder: String,
    fence: u64,
    epoch: u64,
    until_mono_ms: u64,
    until_wall_ms: u64,
}

impl Lease {
    fn is_live(&self, tx: &WriteTx) -> bool {
        !self.holder.is_empty() && self.epoch == tx.epoch && tx.now.mono_ms < self.until_mono_ms
    }

    fn seal(&self, tx: &ReadTx, name: &str) -> crate::mac::Fields {
        (tx.keys
            .integrity
            .seal("lease")
            .text(name)
            .text(&self.holder)
            .number(self.fence)
            .number(self.epoch))
        .number(self.until_mono_ms)
        .number(self.until_wall_ms)
    }
}

impl ReadTx {
    /// Who was last given a lease, and with which fence; none if it was released or never given.
    pub fn lease_holder(&self, name: &str) -> Result<Option<(String, Fence)>, StoreError> {
        let lease = self
            .lease_row(name)?
            .filter(|lease| !lease.holder.is_empty() && lease.epoch == self.epoch);
        Ok(lease.map(|lease| (lease.holder, Fence(lease.fence))))
    }

    fn lease_row(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        let sql = "SELECT holder, fence, epoch, until_mono_ms, until_wall_ms, mac FROM lease WHERE name = ?1";
        let read = |row: &SqlRow<'_>| {
            let lease = Lease {
                holder: row.get(0)?,
                fence: number(row, 1)?,
                epoch: number(row, 2)?,
                until_mono_ms: number(row, 3)?,
                until_wall_ms: number(row, 4)?,
            };
            Ok((lease, row.get::<_, Vec<u8>>(5)?))
        };
        let Some((lease, mac)) = self.first(sql, [name], read, || format!("reading the lease {name}"))?
        else {
            return Ok(None);
        };
        if lease.seal(self, name).is(&mac) {
            Ok(Some(lease))
        } else {
            Err(corrupt("lease", name, "its seal does not fit what it says"))
        }
    }
}

impl WriteTx {
    /// Takes the lease for `ttl_ms`, or says who holds it. The same holder taking it again gets a new fence.
    pub fn lease(&self, name: &str, holder: &str, ttl_ms: u64) -> Result<Fence, StoreError> {
        self.guard(self.lease_inner(name, holder, ttl_ms))
    }

    /// Prolongs a lease that is still held with this fence.
    pub fn renew(&self, name: &str, fence: Fence, ttl_ms: u64) -> Result<(), StoreError> {
        let mut lease = self.fenced_lease(name, fence)?;
        lease.until_mono_ms = self.now.mono_ms.saturating_add(ttl_ms);
        lease.until_wall_ms = self.now.wall_ms.saturating_add(ttl_ms);
        self.guard(self.set_lease(name, &lease))
    }

    /// Gives the lease back. Somebody else's is left alone.
    pub fn release(&self, name: &str, fence: Fence) -> Result<(), StoreError> {
        let mut lease = match self.fenced_lease(name, fence) {
            Ok(lease) => lease,
            Err(StoreError::LeaseLost { .. }) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        lease.holder.clear();
        self.guard(self.set_lease(name, &lease))
    }

    /// Refuses unless the lease is still held with this fence: the first line of every step of leased work.
    pub fn fenced(&self, name: &str, fence: Fence) -> Result<(), StoreError> {
        self.fenced_lease(name, fence).map(|_| ())
    }

    /// The next number of a sequence: 1, 2, 3, ... Given once only, even if what it was for is deleted.
    pub fn next_number(&self, name: &str) -> Result<u64, StoreError> {
        self.guard(self.next_number_inner(name))
    }

    fn lease_inner(&self, name: &str, holder: &str, ttl_ms: u64) -> Result<Fence, StoreError> {
        let old = self.lease_row(name)?;
        if let Some(lease) = old
            .as_ref()
            .filter(|lease| lease.is_live(self) && lease.holder != holder)
        {
            let (by, until_ms) = (lease.holder.clone(), lease.until_wall_ms);
            return Err(StoreError::Held {
                name: name.into(),
                by,
                until_ms,
            });
        }
        // One counter for all leases: deleting a lease's row could never bring an old fence back.
        let fence = self.next_number_inner("lease fence")?;
        let lease = Lease {
            holder: holder.into(),
            fence,
            epoch: self.epoch,
            until_mono_ms: self.now.mono_ms.saturating_add(ttl_ms),
            until_wall_ms: self.now.wall_ms.saturating_add(ttl_ms),
        };
        self.set_lease(name, &lease)?;
        Ok(Fence(fence))
    }

    fn fenced_lease(&self, name: &str, fence: Fence) -> Result<Lease, StoreError> {
        self.guard(self.lease_row(name))?
            .filter(|lease| lease.is_live(self) && lease.fence == fence.0)
            .ok_or_else(|| StoreError::LeaseLost {
                name: name.into(),
                fence: fence.0,
            })
    }

    fn set_lease(&self, name: &str, lease: &Lease) -> Result<(), StoreError> {
        let doing = || format!("writing the lease {name}");
        if lease.holder.is_empty() {
            return self
                .run("DELETE FROM lease WHERE name = ?1", [name], doing)
                .map(|_| ());
        }
        let sql = "INSERT INTO lease (name, holder, fence, epoch, until_mono_ms, until_wall_ms, mac)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                   ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = excluded.fence,
                   epoch = excluded.epoch, until_mono_ms = excluded.until_mono_ms,
                   until_wall_ms = excluded.until_wall_ms, mac = excluded.mac";
        let values = params![
            name,
            lease.holder,
            to_db(lease.fence),
            to_db(lease.epoch),
            to_db(lease.until_mono_ms),
            to_db(lease.until_wall_ms),
            lease.seal(self, name).tag(),
        ];
        self.run(sql, values, doing).map(|_| ())
    }

    fn next_number_inner(&self, name: &str) -> Result<u64, StoreError> {
        let seal = |last: u64| self.keys.integrity.seal("sequence").text(name).number(last);
        let read = |row: &SqlRow<'_>| Ok((number(row, 0)?, row.get::<_, Vec<u8>>(1)?));
        let doing = || format!("counting {name}");
        let last = match self.first(
            "SELECT last, mac FROM sequence WHERE name = ?1",
            [name],
            read,
            doing,
        )? {
            None => 0,
            Some((last, mac)) if seal(last).is(&mac) => last,
            Some(_) => return Err(corrupt("sequence", name, "its seal does not fit what it says")),
        };
        let next = last + 1;
        let sql = "INSERT INTO sequence (name, last, mac) VALUES (?1, ?2, ?3)
                   ON CONFLICT (name) DO UPDATE SET last = excluded.last, mac = excluded.mac";
        self.run(sql, params![name, to_db(next), seal(next).tag()], doing)?;
        Ok(next)
    }
}
