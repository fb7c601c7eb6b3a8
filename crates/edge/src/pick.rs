//! Which instance gets the request.
//!
//! Lives here: a thread's view of services and their instances, and the choice among them.
//! Does not live here: connecting (`upstream`), deciding that an instance is healthy (control).
//! Invariant: a request is counted on its instance from the moment it is chosen (no wait in between) until its answer is
//! through, so "nothing in flight" after an acknowledged table means that nothing will come any more.
//!
//! Two candidates are drawn by weight and the one with fewer requests per weight wins: at low load the shares follow the
//! weights exactly (a canary's 5 % are 5 %), at high load the slow instance gets less.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::record::Series;
use crate::table::Service;
use crate::upstream::Upstream;

/// An instance that refused a connection is passed over for this long, doubling up to the cap.
const PASSED_OVER_MS: u64 = 500;
const PASSED_OVER_MAX_MS: u64 = 8_000;

/// One instance as this thread knows it. Outlives tables for as long as anything is in flight to it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: Box<str>,
    pub(crate) addr: SocketAddr,
    pub(crate) requests: Cell<u64>,
    pub(crate) upgrades: Cell<u64>,
    /// Set when a table drains or removes it: upgraded connections end then (thread clock); 0: not.
    pub(crate) upgrades_end_ms: Cell<u64>,
    pub(crate) idle: RefCell<Vec<Upstream>>,
    pub(crate) total: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    refusals: Cell<u32>,
    passed_over_until_ms: Cell<u64>,
}

impl Target {
    pub(crate) fn new(id: &str, addr: SocketAddr) -> Rc<Target> {
        Rc::new(Target {
            id: id.into(),
            addr,
            requests: Cell::new(0),
            upgrades: Cell::new(0),
            upgrades_end_ms: Cell::new(0),
            idle: RefCell::default(),
            total: Cell::new(0),
            failed: Cell::new(0),
            refusals: Cell::new(0),
            passed_over_until_ms: Cell::new(0),
        })
    }

    /// It refused a connection.
    pub(crate) fn refused(&self, now_ms: u64) {
        let refusals = self.refusals.get();
        let pause = PASSED_OVER_MS
            .saturating_mul(1 << refusals.min(8))
            .min(PASSED_OVER_MAX_MS);
        self.refusals.set(refusals.saturating_add(1));
        self.passed_over_until_ms.set(now_ms + pause);
        self.failed.set(self.failed.get() + 1);
        self.idle.borrow_mut().clear();
    }

    /// It accepted one.
    pub(crate) fn accepted(&self) {
        self.refusals.set(0);
        self.passed_over_until_ms.set(0);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.requests.get() + self.upgrades.get() > 0
    }
}

/// Counts a request on its instance while it lives.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) target: Rc<Target>,
    pub(crate) series: Rc<Series>,
    upgraded: Cell<bool>,
    /// Of a request that was held: others wait for it until the answer begins.
    pub(crate) turn: RefCell<Option<OwnedSemaphorePermit>>,
}

impl Lease {
    fn new(choice: &Choice) -> Lease {
        let target = choice.target.clone();
        target.requests.set(target.requests.get() + 1);
        target.total.set(target.total.get() + 1);
        Lease {
            target,
            series: choice.series.clone(),
            upgraded: Cell::new(false),
            turn: RefCell::default(),
        }
    }

    /// From here on it counts as an upgraded connection: it may last for hours and has its own limit.
    pub(crate) fn upgrade(&self) {
        if !self.upgraded.replace(true) {
            self.target.requests.set(self.target.requests.get() - 1);
            self.target.upgrades.set(self.target.upgrades.get() + 1);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let count = if self.upgraded.get() {
            &self.target.upgrades
        } else {
            &self.target.requests
        };
        count.set(count.get() - 1);
    }
}

/// A service as this thread knows it, for one table.
#[derive(Debug)]
pub(crate) struct LocalService {
    pub(crate) service: Service,
    pub(crate) choices: Vec<Choice>,
    /// For answers of the edge itself, when no instance was chosen.
    pub(crate) series: Rc<Series>,
    pub(crate) held: Rc<Cell<usize>>,
    /// Turns of held requests.
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) budget: Rc<Budget>,
    weight: u64,
}

/// An instance that may be chosen.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) target: Rc<Target>,
    pub(crate) series: Rc<Series>,
    pub(crate) weight: u64,
}

impl LocalService {
    /// `choices` without draining instances.
    pub(crate) fn new(
        service: Service,
        choices: Vec<Choice>,
        series: Rc<Series>,
        held: Rc<Cell<usize>>,
        turns: Arc<Semaphore>,
        budget: Rc<Budget>,
    ) -> LocalService {
        let weight = choices.iter().map(|c| c.weight).sum();
        LocalService {
            service,
            choices,
            series,
            held,
            turns,
            budget,
            weight,
        }
    }

    /// Chooses an instance not in `tried`; `None` when there is none left.
    pub(crate) fn pick(&self, now_ms: u64, tried: &[SocketAddr], random: &Random) -> Option<Lease> {
        if let [only] = self.choices.as_slice() {
            return (!tried.contains(&only.target.addr)).then(|| Lease::new(only));
        }
        let untried = |c: &Choice| !tried.contains(&c.target.addr);
        let ready = |c: &Choice| untried(c) && c.target.passed_over_until_ms.get() <= now_ms;
        // When every instance is failing, one of them is still a better bet than none (F30).
        let chosen = self
            .draw(&ready, random)
            .or_else(|| self.draw(&untried, random))?;
        Some(Lease::new(chosen))
    }

    fn draw(&self, fits: &impl Fn(&Choice) -> bool, random: &Random) -> Option<&Choice> {
        let all_fit = self.choices.iter().all(fits);
        let weight = if all_fit {
            self.weight
        } else {
            self.choices.iter().filter(|c| fits(c)).map(|c| c.weight).sum()
        };
        if weight == 0 {
            // Only instances of weight 0 are left.
            let count = self.choices.iter().filter(|c| fits(c)).count();
            return self
                .choices
                .iter()
                .filter(|c| fits(c))
                .nth(random.below(count as u64)? as usize);
        }
        let nth = |mut ticket: u64| {
            self.choices.iter().filter(|c| fits(c)).find(|c| {
                let hit = ticket < c.weight;
                ticket = ticket.saturating_sub(c.weight);
                hit
            })
        };
        let (a, b) = (nth(random.below(weight)?)?, nth(random.below(weight)?)?);
        let load = |c: &Choice| (c.target.requests.get() + 1, c.weight.max(1));
        let ((load_a, weight_a), (load_b, weight_b)) = (load(a), load(b));
        Some(
            if load_b * weight_a < load_a * weight_b && a.target.requests.get() > 0 {
                b
            } else {
                a
            },
        )
    }
}

/// Cheap random numbers; nothing here is a secret.
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(Cell::new(seed | 1))
    }

    /// xorshift64*.
    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&self, limit: u64) -> Option<u64> {
        (limit > 0).then(|| ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64)
    }
}

/// How many requests may be sent a second time: a share of all, plus a few, so that retries cannot double the load on a
/// service that is already failing.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In hundredths of a retry.
    tokens: Cell<u64>,
    filled_at_ms: Cell<u64>,
    /// Hundredths of a retry per second for this thread.
    per_second: u64,
}

/// 20 % of the requests.
const PER_REQUEST: u64 = 20;
/// 10 a second over all threads.
const PER_SECOND: u64 = 1_000;
/// A burst of at most this many.
const TOKENS_MAX: u64 = 10_000;
const RETRY: u64 = 100;

impl Budget {
    pub(crate) fn new(threads: usize) -> Budget {
        let per_second = PER_SECOND / threads.max(1) as u64;
        Budget {
            tokens: Cell::new(per_second),
            filled_at_ms: Cell::new(0),
            per_second,
        }
    }

    /// A request came in.
    pub(crate) fn deposit(&self) {
        self.tokens.set((self.tokens.get() + PER_REQUEST).min(TOKENS_MAX));
    }

    /// Whether one may be sent again.
    pub(crate) fn withdraw(&self, now_ms: u64) -> bool {
        let since = now_ms.saturating_sub(self.filled_at_ms.replace(now_ms));
        let filled = self.tokens.get() + since.saturating_mul(self.per_second) / 1000;
        let tokens = filled.min(TOKENS_MAX);
        let allowed = tokens >= RETRY;
        self.tokens.set(if allowed { tokens - RETRY } else { tokens });
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Policy, RouteTable};

    fn service(weights: &[u64]) -> LocalService {
        let document = r#"{"version":1,"generation":1,"services":[{"id":"s","app":"a","release":"v1"}]}"#;
        let table = RouteTable::parse(document.as_bytes(), &Policy::default()).unwrap();
        let series = Rc::new(Series::default());
        let choices = weights.iter().enumerate().map(|(n, &weight)| Choice {
            target: Target::new(
                &n.to_string(),
                SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).unwrap() + 1)),
            ),
            series: series.clone(),
            weight,
        });
        let choices = choices.collect();
        let budget = Rc::new(Budget::new(1));
        LocalService::new(
            table.table().services[0].clone(),
            choices,
            series,
            Rc::default(),
            Arc::new(Semaphore::new(1)),
            budget,
        )
    }

    fn shares(service: &LocalService, rounds: usize) -> Vec<u64> {
        let random = Random::new(7);
        (0..rounds).for_each(|_| drop(service.pick(0, &[], &random)));
        service
            .choices
            .iter()
            .map(|c| c.target.total.get() * 100 / rounds as u64)
            .collect()
    }

    #[test]
    fn idle_instances_share_by_weight() {
        assert_eq!(shares(&service(&[1]), 100), [100]);
        assert_eq!(shares(&service(&[0, 0]), 100).iter().sum::<u64>(), 100);
        let canary = shares(&service(&[95, 5, 0]), 100_000);
        assert!(
            (94..=95).contains(&canary[0]) && (4..=5).contains(&canary[1]) && canary[2] == 0,
            "{canary:?}"
        );
    }

    #[test]
    fn a_busy_instance_gets_less() {
        let service = service(&[1, 1]);
        service.choices[0].target.requests.set(100);
        assert!(shares(&service, 1000)[0] < 30);
    }

    #[test]
    fn failing_instances_are_passed_over_but_never_all_of_them() {
        let service = service(&[1, 1]);
        let random = Random::new(1);
        let (first, second) = (&service.choices[0].target, &service.choices[1].target);
        first.refused(0);
        for _ in 0..20 {
            assert_eq!(service.pick(0, &[], &random).unwrap().target.id, second.id);
        }
        assert!(service.pick(0, &[second.addr], &random).is_some());
        second.refused(0);
        assert!(service.pick(0, &[], &random).is_some());
        assert!(service.pick(0, &[first.addr, second.addr], &random).is_none());
    }

    #[test]
    fn leases_count_requests_and_upgrades_apart() {
        let service = service(&[1]);
        let target = &service.choices[0].target;
        let lease = service.pick(0, &[], &Random::new(1)).unwrap();
        assert_eq!((target.requests.get(), target.upgrades.get()), (1, 0));
        lease.upgrade();
        lease.upgrade();
        assert_eq!((target.requests.get(), target.upgrades.get()), (0, 1));
        drop(lease);
        assert!(!target.is_busy());
    }

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_a_few() {
        let budget = Budget::new(1);
        let spend = |now| (0..).take_while(|_| budget.withdraw(now)).count();
        assert_eq!(spend(0), 10);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(spend(0), 20);
        assert_eq!(spend(1000), 10);
        assert_eq!(spend(3_600_000), 100);
    }
}
