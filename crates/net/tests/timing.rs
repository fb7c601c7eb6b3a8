//! How long attaching takes; printed, never asserted.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use common::on_a_host;

#[test]
fn prints_how_long_attach_and_detach_take() {
    on_a_host(|host| {
        let networks = host.networks("time");
        let start = Instant::now();
        networks
            .ensure_network("env", &net::NetworkRules::default())
            .unwrap();
        println!("first network: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        networks
            .ensure_network("env", &net::NetworkRules::default())
            .unwrap();
        println!("same again: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
        let timed = |work: &dyn Fn(&str)| {
            let mut times: Vec<f64> = (0..50)
                .map(|n| {
                    let start = Instant::now();
                    work(&format!("i{n}"));
                    start.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            times.sort_by(f64::total_cmp);
            format!(
                "p50 {:.2} ms, p90 {:.2} ms, max {:.2} ms",
                times[25], times[45], times[49]
            )
        };
        println!(
            "attach: {}",
            timed(&|id| drop(networks.attach("env", id, None).unwrap()))
        );
        println!(
            "attach again: {}",
            timed(&|id| drop(networks.attach("env", id, None).unwrap()))
        );
        println!("detach: {}", timed(&|id| networks.detach(id).unwrap()));
        let start = Instant::now();
        networks.settle();
        println!(
            "background teardown of 50: {:.0} ms",
            start.elapsed().as_secs_f64() * 1e3
        );
        let start = Instant::now();
        for n in 0..100 {
            networks
                .ensure_network(&format!("more{n}"), &net::NetworkRules::default())
                .unwrap();
        }
        println!(
            "100 more networks: {:.1} ms each",
            start.elapsed().as_secs_f64() * 10.0
        );
        let start = Instant::now();
        println!("{:?}", networks.reapply().unwrap());
        println!(
            "reapply with 101 networks: {:.1} ms",
            start.elapsed().as_secs_f64() * 1e3
        );
        assert_eq!(networks.list().unwrap().attachments.len(), 0);
    });
}
