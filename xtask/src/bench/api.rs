//! How fast the API is with 1,000 apps and 10,000 releases in its store, beside etcd with as many keys; and how little a
//! page of a list costs more when there is a hundred times as much.

use std::path::PathBuf;

use anyhow::Result;
use journeys::speed::{Amount, Etcd, Filled, Page, Speed, WRITERS};

use super::{Figure, Pairs, Rounds, noise};
use crate::repository;
use crate::step::Step;

const APPS: usize = 1000;
/// Of the first app, whose pages are asked for, and of each other one.
const RELEASES: (usize, usize) = (1000, 9);
/// The same by a hundred, but for the page itself: it is always full.
const SMALL_APPS: usize = 10;
const SMALL_RELEASES: (usize, usize) = (10, 9);

const AMOUNT: Amount = Amount {
    writes: 250,
    reads: 2000,
    pages: 200,
    watched: 100,
};
/// Enough to show that it still measures.
const FEW: Amount = Amount {
    writes: 10,
    reads: 100,
    pages: 10,
    watched: 5,
};
const PAGES: usize = 400;

/// What is told of a round: its name, its unit's share of a microsecond, where it stands, and the ratio to reach.
type Told = (&'static str, fn(&Speed) -> f64, f64);

/// A write of ours is a change with its place in history, its audit record and its idempotency beside it; etcd's is a key.
const TOLD: [Told; 5] = [
    (
        "durable write, 8 clients at once: time of all by their number",
        |speed| speed.write,
        2.0,
    ),
    (
        "durable write, 8 clients at once: p99 of one",
        |speed| speed.write_p99,
        2.0,
    ),
    ("read of one app, p99", |speed| speed.read_p99, 2.0),
    ("page of 100 apps", |speed| speed.page, 4.0),
    ("begin of a write until a watcher knows", |speed| speed.watch, 2.0),
];
/// A page that costs more than this with a hundred times as much would grow with it.
const GROWTH: f64 = 1.5;

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    assert_eq!(WRITERS, 8, "the texts above say 8");
    let amount = if rounds.noise_counts { FEW } else { AMOUNT };
    let fill = fill(rounds)?;
    let large = Filled::start("bench-api", &fill, APPS, RELEASES)?;
    let small = Filled::start("bench-api-small", &fill, SMALL_APPS, SMALL_RELEASES)?;
    let etcd = Etcd::start(&std::env::temp_dir(), APPS, APPS * 10)?;
    let mut pairs: Vec<Pairs> = TOLD.iter().map(|_| Pairs::default()).collect();
    let lists = [
        (Page::Apps, "10 of 1,000 apps", "10 of 10"),
        (Page::Releases, "10 of 1,000 releases", "10 of 10"),
    ];
    let mut growth: Vec<Pairs> = lists.iter().map(|_| Pairs::default()).collect();
    noise::quiet_rounds(
        rounds,
        |round| {
            let both = if round % 2 == 0 {
                let ours = large.measure(amount)?;
                (ours, etcd.measure(amount)?)
            } else {
                let peer = etcd.measure(amount)?;
                (large.measure(amount)?, peer)
            };
            let mut pages = Vec::new();
            for (page, ..) in lists {
                let few = small.page(page, PAGES)?;
                pages.push((large.page(page, PAGES)?, few));
            }
            Ok((both, pages))
        },
        |((ours, peer), pages)| {
            for (pairs, (_, of, _)) in pairs.iter_mut().zip(TOLD) {
                pairs.add(of(&ours), of(&peer));
            }
            for (pairs, (many, few)) in growth.iter_mut().zip(pages) {
                pairs.add(many, few);
            }
        },
    )?;
    drop(etcd);
    small.finish()?;
    large.finish()?;
    let beside = TOLD
        .into_iter()
        .zip(pairs)
        .map(|((what, _, goal), pairs)| Figure {
            what: what.into(),
            peer: "etcd".into(),
            unit: "us",
            pairs,
            goal,
        });
    let grown = lists
        .into_iter()
        .zip(growth)
        .map(|((_, what, few), pairs)| Figure {
            what: format!("page of {what}, store 100 times as full"),
            peer: few.into(),
            unit: "us",
            pairs,
            goal: GROWTH,
        });
    Ok(beside.chain(grown).collect())
}

/// Builds what fills a store, by the profile that is measured.
fn fill(rounds: Rounds) -> Result<PathBuf> {
    let (step, folder) = match rounds.noise_counts {
        true => (Step::cargo("build-fill").args(["build"]), "debug"),
        false => (Step::cargo("build-fill").args(["build", "--release"]), "release"),
    };
    step.args(["--package", "stoa-store", "--example", "fill", "--quiet"])
        .run()?;
    Ok(repository::target().join(folder).join("examples/fill"))
}
