//! Who reaches whom, with a control for each refusal: the same probe succeeds once our rules are gone.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{
    HOST, INTERNET, METADATA, PATIENCE, echo, echoes, greet, greeter, on_a_host, populate, run, within,
};
use net::{Egress, HostPort, Neighbours, NetworkRules, Transport};

/// How long a probe waits that is expected to get no answer.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn instances_reach_their_own_network_and_the_internet_and_nothing_else() {
    on_a_host(|host| {
        let networks = host.networks("reach");
        let (one, first) = populate(&networks, "one", &["a", "b"]);
        let (two, second) = populate(&networks, "two", &["c"]);
        let (a, b, c) = (&first[0], &first[1], &second[0]);
        let in_b = within(&b.netns_path, || greeter(b.ip, 80));
        let in_c = within(&c.netns_path, || greeter(c.ip, 80));
        let on_loopback = greeter([127, 0, 0, 1], 0);
        let on_host = greeter([0, 0, 0, 0], 7070);
        let internet = within(&host.outside, || greeter(INTERNET, 80));
        let metadata = within(&host.outside, || greeter(METADATA, 80));
        let port = on_loopback.at.port();

        // The host reaches every instance: that is how the edge connects.
        assert_eq!(greet(b.ip, 80, PATIENCE).unwrap(), one.gateway.to_string());
        assert_eq!(greet(c.ip, 80, PATIENCE).unwrap(), two.gateway.to_string());

        within(&a.netns_path, || {
            assert_eq!(
                greet(b.ip, 80, PATIENCE).unwrap(),
                a.ip.to_string(),
                "same network"
            );
            assert_eq!(
                greet(INTERNET, 80, PATIENCE).unwrap(),
                HOST.to_string(),
                "egress is masqueraded"
            );
            for (ip, port, what) in [
                (c.ip, 80, "another environment"),
                (HOST, 7070, "the host by its public address"),
                (one.gateway, 7070, "the host by our gateway"),
                (two.gateway, 7070, "the host by the other gateway"),
                (METADATA, 80, "the metadata service"),
            ] {
                assert!(greet(ip, port, SILENCE).is_err(), "{what} was reached");
            }
            assert!(
                greet([127, 0, 0, 1], port, SILENCE).is_err(),
                "loopback is the instance's own"
            );
        });

        // Control: without our rules the same probes succeed, so it was the rules that refused.
        run(&["nft", "delete", "table", "inet", "stoa_reach"]);
        within(&a.netns_path, || {
            for (ip, port) in [(c.ip, 80), (HOST, 7070), (one.gateway, 7070), (two.gateway, 7070)] {
                greet(ip, port, PATIENCE).unwrap();
            }
        });
        run(&["nft", "add", "table", "ip", "control"]);
        run(&[
            "nft",
            "add chain ip control c { type nat hook postrouting priority srcnat; }",
        ]);
        run(&[
            "nft",
            "add",
            "rule",
            "ip",
            "control",
            "c",
            "oifname",
            "up0",
            "masquerade",
        ]);
        within(&a.netns_path, || greet(METADATA, 80, PATIENCE).unwrap());
        drop((in_b, in_c, on_loopback, on_host, internet, metadata));
    });
}

/// Builds of strangers share one network: each reaches the gateway, the internet, and nobody else.
#[test]
fn neighbours_can_be_kept_apart() {
    on_a_host(|host| {
        let networks = host.networks("apart");
        let rules = NetworkRules {
            neighbours: Neighbours::Apart,
            ..NetworkRules::default()
        };
        let network = networks.ensure_network("one", &rules).unwrap();
        let attached = ["a", "b"].map(|instance| networks.attach("one", instance, None).unwrap());
        let [a, b] = &attached;
        let in_b = within(&b.netns_path, || greeter(b.ip, 80));
        let internet = within(&host.outside, || greeter(INTERNET, 80));
        assert_eq!(greet(b.ip, 80, PATIENCE).unwrap(), network.gateway.to_string());
        within(&a.netns_path, || {
            greet(INTERNET, 80, PATIENCE).unwrap();
            assert!(greet(b.ip, 80, SILENCE).is_err(), "a neighbour was reached");
            // Whoever may change its routes sends by way of the gateway.
            let to_b = format!("{}/32", b.ip);
            run(&["ip", "route", "add", &to_b, "via", &network.gateway.to_string()]);
            assert!(
                greet(b.ip, 80, SILENCE).is_err(),
                "a neighbour was reached by way of the gateway"
            );
            run(&["ip", "route", "del", &to_b]);
        });
        // Control: the same probe, had they been attached without the rule.
        networks.ensure_network("one", &NetworkRules::default()).unwrap();
        for instance in ["a", "b"] {
            networks.attach("one", instance, None).unwrap();
        }
        within(&a.netns_path, || greet(b.ip, 80, PATIENCE).unwrap());
        drop((in_b, internet));
    });
}

#[test]
fn egress_can_be_denied_and_ports_of_the_gateway_opened() {
    on_a_host(|host| {
        let networks = host.networks("eg");
        let (network, attached) = populate(&networks, "one", &["a"]);
        let internet = within(&host.outside, || greeter(INTERNET, 80));
        let door = greeter(network.gateway, 9000);
        let other = greeter(network.gateway, 9001);
        let a = &attached[0];
        within(&a.netns_path, || {
            greet(INTERNET, 80, PATIENCE).unwrap();
            assert!(greet(network.gateway, 9000, SILENCE).is_err());
        });
        let rules = NetworkRules {
            egress: Egress::Denied,
            host_ports: BTreeSet::from([HostPort {
                transport: Transport::Tcp,
                port: 9000,
            }]),
            ..NetworkRules::default()
        };
        networks.ensure_network("one", &rules).unwrap();
        within(&a.netns_path, || {
            assert!(greet(INTERNET, 80, SILENCE).is_err());
            greet(network.gateway, 9000, PATIENCE).unwrap();
            assert!(greet(network.gateway, 9001, SILENCE).is_err());
        });
        drop((internet, door, other));
    });
}

#[test]
fn nobody_outside_reaches_an_instance_by_routing_through_the_host() {
    on_a_host(|host| {
        let networks = host.networks("in");
        let (network, attached) = populate(&networks, "one", &["a"]);
        let a = &attached[0];
        let inside = within(&a.netns_path, || greeter(a.ip, 80));
        within(&host.outside, || {
            run(&[
                "ip",
                "route",
                "add",
                &network.subnet.to_string(),
                "via",
                &HOST.to_string(),
            ]);
            assert!(greet(a.ip, 80, SILENCE).is_err());
        });
        run(&["nft", "delete", "table", "inet", "stoa_in"]);
        within(&host.outside, || greet(a.ip, 80, PATIENCE).unwrap());
        drop(inside);
    });
}

#[test]
fn another_address_mac_or_arp_claim_is_dropped() {
    on_a_host(|host| {
        let networks = host.networks("spoof");
        let (network, attached) = populate(&networks, "one", &["a", "b"]);
        let (a, b) = (&attached[0], &attached[1]);
        let stolen = network.subnet.nth(200).unwrap();
        let in_b = within(&b.netns_path, || echo(b.ip, 7));
        let passes = |from: std::net::Ipv4Addr| within(&a.netns_path, || echoes(from, in_b.at, PATIENCE));
        let is_dropped = |from: std::net::Ipv4Addr| !within(&a.netns_path, || echoes(from, in_b.at, SILENCE));
        within(&a.netns_path, || {
            run(&["ip", "addr", "add", &format!("{stolen}/24"), "dev", "eth0"]);
        });
        // B would answer: it knows who holds the stolen address, so no ARP stands between.
        within(&b.netns_path, || {
            run(&[
                "ip",
                "neigh",
                "replace",
                &stolen.to_string(),
                "lladdr",
                &a.mac,
                "dev",
                "eth0",
            ]);
        });
        assert!(passes(a.ip), "the probe itself works");
        assert!(is_dropped(stolen), "a stolen source address got an answer");
        run(&["nft", "delete", "table", "bridge", "stoa_spoof"]);
        assert!(passes(stolen), "control: without the rules it gets one");
        networks.reapply().unwrap();
        assert!(is_dropped(stolen), "rules are back");

        // Another MAC: even with the right address the locked port drops it.
        within(&a.netns_path, || {
            run(&["ip", "link", "set", "eth0", "address", "02:57:0a:50:00:63"]);
        });
        run(&["nft", "delete", "table", "bridge", "stoa_spoof"]);
        assert!(is_dropped(a.ip), "the port is locked to its MAC, rules or not");
        run(&[
            "bridge", "link", "set", "dev", &a.host_if, "locked", "off", "learning", "on",
        ]);
        within(&b.netns_path, || {
            let wrong = [
                "ip",
                "neigh",
                "replace",
                &a.ip.to_string(),
                "lladdr",
                "02:57:0a:50:00:63",
                "dev",
                "eth0",
            ];
            run(&wrong);
        });
        assert!(passes(a.ip), "control: unlocked it gets through");
        drop(in_b);
    });
}

#[test]
fn a_forged_arp_claim_is_dropped() {
    on_a_host(|host| {
        let networks = host.networks("arp");
        let (_, attached) = populate(&networks, "one", &["a", "b", "c"]);
        let (thief, victim, asker) = (&attached[0], &attached[1], &attached[2]);
        // The thief takes the victim's address and asks for the asker: the question itself carries the claim.
        within(&thief.netns_path, || {
            run(&["ip", "addr", "add", &format!("{}/24", victim.ip), "dev", "eth0"]);
        });
        let claim = || {
            within(&thief.netns_path, || {
                echoes(victim.ip, (asker.ip, 7).into(), SILENCE)
            })
        };
        let belief = || {
            within(&asker.netns_path, || {
                run(&["ip", "neigh", "show", &victim.ip.to_string()])
            })
        };
        let to_victim = || within(&asker.netns_path, || drop(greet(victim.ip, 1, PATIENCE)));
        to_victim();
        assert!(belief().contains(&victim.mac), "{}", belief());
        claim();
        assert!(
            belief().contains(&victim.mac),
            "the claim was believed: {}",
            belief()
        );
        run(&["nft", "delete", "table", "bridge", "stoa_arp"]);
        within(&thief.netns_path, || {
            run(&["ip", "neigh", "flush", "dev", "eth0"])
        });
        within(&asker.netns_path, || {
            run(&["ip", "neigh", "flush", "dev", "eth0"])
        });
        claim();
        assert!(
            belief().contains(&thief.mac),
            "control: without the rules it is believed: {}",
            belief()
        );
    });
}

#[test]
fn ipv6_and_router_advertisements_go_nowhere() {
    on_a_host(|host| {
        let networks = host.networks("six");
        let (network, attached) = populate(&networks, "one", &["a", "b"]);
        for attachment in &attached {
            within(&attachment.netns_path, || {
                let inside = run(&["ip", "-6", "addr", "show"]);
                assert!(inside.contains("::1/128") && !inside.contains("fe80"), "{inside}");
            });
        }
        assert!(run(&["ip", "-6", "addr", "show", "dev", &network.bridge]).is_empty());
        // Even when something inside switches IPv6 on: nothing passes the port.
        for (n, attachment) in attached.iter().enumerate() {
            within(&attachment.netns_path, || {
                std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
                run(&[
                    "ip",
                    "addr",
                    "add",
                    &format!("fd00::{}/64", n + 1),
                    "dev",
                    "eth0",
                    "nodad",
                ]);
            });
        }
        let to = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
        let from = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
        let in_b = within(&attached[1].netns_path, || echo(to, 7));
        let passes = |patience| within(&attached[0].netns_path, || echoes(from, in_b.at, patience));
        assert!(!passes(SILENCE));
        run(&["nft", "delete", "table", "bridge", "stoa_six"]);
        assert!(passes(PATIENCE), "control: without the rules IPv6 passes");
        drop(in_b);
    });
}
