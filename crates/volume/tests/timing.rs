//! How long clones take; printed, never asserted.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Instant;

use common::{Disk, Kind, pattern};

/// The shape of a fresh PostgreSQL cluster: 965 files in 26 directories, 39 MB.
#[test]
fn prints_how_long_the_clone_of_a_database_template_takes() {
    for kind in Kind::ALL {
        let disk = Disk::sized(kind, 900);
        let pool = disk.pool();
        let template = pool.create("template").unwrap();
        for n in 0..965 {
            let dir = template.join(format!("dir{}", n % 26));
            fs::create_dir_all(&dir).unwrap();
            let size = if n == 0 { 16 << 20 } else { 24 << 10 };
            fs::write(dir.join(format!("file{n}")), pattern(size)).unwrap();
        }
        common::run(&["sync", "-f", template.to_str().unwrap()]);
        let mut times: Vec<f64> = (0..9)
            .map(|n| {
                let start = Instant::now();
                pool.clone("template", &format!("clone{n}")).unwrap();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let start = Instant::now();
        pool.remove("clone0").unwrap();
        let removed = start.elapsed().as_secs_f64() * 1e3;
        println!(
            "{kind:?}: clone p50 {:.1} ms, max {:.1} ms; remove {removed:.1} ms",
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
}
