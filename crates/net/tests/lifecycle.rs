//! Making, finding again, repairing and removing.

#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, greet, greeter, on_a_host, populate, run, within};
use net::{NetError, NetworkRules, Networks, Options, Repaired};

fn links() -> Vec<String> {
    let text = run(&["ip", "-o", "link"]);
    text.lines()
        .filter_map(|l| l.split(": ").nth(1))
        .map(|n| n.split('@').next().unwrap().to_owned())
        .collect()
}

fn mounts_under(dir: &std::path::Path) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .filter(|l| l.contains(dir.to_str().unwrap()))
        .count()
}

#[test]
fn nothing_is_left_behind() {
    on_a_host(|host| {
        let (before, mounts) = (links(), mounts_under(host.dir.path()));
        {
            let networks = host.networks("gone");
            populate(&networks, "one", &["a", "b"]);
            populate(&networks, "two", &["c"]);
            assert!(links().len() > before.len());
            networks.detach("a").unwrap();
            networks.detach("a").unwrap();
            assert!(matches!(
                networks.destroy_network("one"),
                Err(NetError::NetworkInUse { instances: 1, .. })
            ));
            networks.detach("b").unwrap();
            networks.destroy_network("one").unwrap();
            networks.destroy_network("one").unwrap();
            networks.destroy_all().unwrap();
            networks.destroy_all().unwrap();
            assert_eq!(networks.list().unwrap().strays, Vec::<String>::new());
        }
        assert_eq!(links(), before);
        assert_eq!(mounts_under(host.dir.path()), mounts);
        assert!(!run(&["nft", "list", "ruleset"]).contains("stoa_"));
        let rules = run(&["iptables", "-S"]);
        assert!(!rules.contains("stgone"), "{rules}");
    });
}

#[test]
fn the_same_call_answers_the_same_and_survives_a_new_process() {
    on_a_host(|host| {
        let options = Options::new(host.dir.path().join("again"), "again".parse().unwrap());
        let networks = Networks::open(options.clone()).unwrap();
        let network = networks.ensure_network("one", &NetworkRules::default()).unwrap();
        let attached = networks.attach("one", "a", None).unwrap();
        assert_eq!(
            networks.ensure_network("one", &NetworkRules::default()).unwrap(),
            network
        );
        assert_eq!(networks.attach("one", "a", None).unwrap(), attached);
        assert!(matches!(
            Networks::open(options.clone()),
            Err(NetError::Locked { .. })
        ));
        drop(networks);

        let networks = common::Guard(Networks::open(options).unwrap());
        assert_eq!(networks.attachment_of("a"), Some(attached.clone()));
        assert_eq!(
            networks.ensure_network("one", &NetworkRules::default()).unwrap(),
            network
        );
        assert_eq!(networks.attach("one", "a", None).unwrap(), attached);
        // Nobody changed a rule, but a new process cannot know; from then on it does.
        assert_eq!(networks.reapply().unwrap(), [Repaired::Firewall]);
        assert_eq!(networks.reapply().unwrap(), Vec::new());
        let inside = within(&attached.netns_path, || greeter(attached.ip, 80));
        greet(attached.ip, 80, PATIENCE).unwrap();
        drop(inside);
    });
}

#[test]
fn what_was_removed_by_hand_comes_back() {
    on_a_host(|host| {
        let networks = host.networks("fix");
        let (network, attached) = populate(&networks, "one", &["a", "b"]);
        let (a, b) = (&attached[0], &attached[1]);
        assert_eq!(networks.reapply().unwrap(), Vec::new());

        run(&["nft", "flush", "ruleset"]);
        assert_eq!(networks.reapply().unwrap(), [Repaired::Firewall]);
        assert!(run(&["nft", "list", "ruleset"]).contains("table bridge stoa_fix"));

        run(&["nft", "flush", "table", "inet", "stoa_fix"]);
        assert_eq!(networks.reapply().unwrap(), [Repaired::Firewall]);

        run(&["ip", "link", "delete", &network.bridge]);
        let expected = [
            Repaired::Bridge {
                network: "one".into(),
            },
            Repaired::Link { instance: "a".into() },
            Repaired::Link { instance: "b".into() },
        ];
        assert_eq!(networks.reapply().unwrap(), expected);
        let inside = within(&b.netns_path, || greeter(b.ip, 80));
        greet(b.ip, 80, PATIENCE).unwrap();
        within(&a.netns_path, || greet(b.ip, 80, PATIENCE)).unwrap();

        run(&["ip", "link", "delete", &b.host_if]);
        assert_eq!(
            networks.reapply().unwrap(),
            [Repaired::Link { instance: "b".into() }]
        );
        within(&a.netns_path, || greet(b.ip, 80, PATIENCE)).unwrap();
        drop(inside);

        run(&["umount", a.netns_path.to_str().unwrap()]);
        assert_eq!(
            networks.reapply().unwrap(),
            [Repaired::Namespace { instance: "a".into() }]
        );
        let inside = within(&a.netns_path, || greeter(a.ip, 80));
        greet(a.ip, 80, PATIENCE).unwrap();
        drop(inside);
    });
}

#[test]
fn attaching_repairs_a_lost_firewall_first() {
    on_a_host(|host| {
        let networks = host.networks("first");
        populate(&networks, "one", &["a"]);
        run(&["nft", "delete", "table", "inet", "stoa_first"]);
        networks.attach("one", "b", None).unwrap();
        assert!(run(&["nft", "list", "tables"]).contains("table inet stoa_first"));
    });
}

#[test]
fn two_marks_live_side_by_side() {
    on_a_host(|host| {
        let (first, second) = (host.networks("m"), host.networks("mm"));
        let (one, a) = populate(&first, "env", &["a"]);
        let (two, b) = populate(&second, "env", &["a"]);
        assert!(!one.subnet.overlaps(two.subnet));
        assert_ne!(one.bridge, two.bridge);
        let inside = within(&b[0].netns_path, || greeter(b[0].ip, 80));
        within(&a[0].netns_path, || {
            assert!(greet(b[0].ip, 80, std::time::Duration::from_millis(300)).is_err());
        });
        assert_eq!(
            first.reapply().unwrap().len(),
            1,
            "the other's rules made ours doubtful"
        );
        first.destroy_all().unwrap();
        greet(b[0].ip, 80, PATIENCE).unwrap();
        assert_eq!(second.list().unwrap().attachments.len(), 1);
        assert!(run(&["nft", "list", "tables"]).contains("stoa_mm"));
        drop(inside);
    });
}

#[test]
fn a_foreign_forward_drop_gets_our_accept_and_keeps_its_own_rules() {
    on_a_host(|host| {
        run(&["iptables", "-N", "DOCKER-USER"]);
        run(&["iptables", "-A", "DOCKER-USER", "-j", "RETURN"]);
        run(&["iptables", "-A", "FORWARD", "-j", "DOCKER-USER"]);
        run(&["iptables", "-P", "FORWARD", "DROP"]);
        let networks = host.networks("dock");
        let (_, attached) = populate(&networks, "one", &["a", "b"]);
        let internet = within(&host.outside, || greeter(common::INTERNET, 80));
        within(&attached[0].netns_path, || greet(common::INTERNET, 80, PATIENCE)).unwrap();
        networks.reapply().unwrap();
        assert_eq!(
            run(&["iptables", "-S", "DOCKER-USER"])
                .matches("stoa_dock")
                .count(),
            2
        );
        networks.destroy_all().unwrap();
        assert_eq!(
            run(&["iptables", "-S", "DOCKER-USER"]),
            "-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n"
        );
        drop(internet);
    });
}

#[test]
fn many_threads_attach_and_detach_at_once() {
    on_a_host(|host| {
        let networks = host.networks("many");
        populate(&networks, "one", &[]);
        let networks = &networks;
        std::thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || {
                    for n in 0..10 {
                        let id = format!("w{worker}-{n}");
                        networks.attach("one", &id, None).unwrap();
                        networks.attach("one", "shared", None).unwrap();
                        networks.detach(&id).unwrap();
                    }
                });
            }
        });
        networks.settle();
        let inventory = networks.list().unwrap();
        assert_eq!(inventory.attachments.len(), 1);
        assert_eq!(inventory.strays, Vec::<String>::new());
    });
}

#[test]
fn a_reused_address_answers_at_once() {
    on_a_host(|host| {
        let networks = host.networks("reuse");
        let (_, attached) = populate(&networks, "one", &["a"]);
        let ip = attached[0].ip;
        let inside = within(&attached[0].netns_path, || greeter(ip, 80));
        greet(ip, 80, PATIENCE).unwrap();
        drop(inside);
        networks.detach("a").unwrap();
        let again = networks.attach("one", "b", Some(ip)).unwrap();
        let inside = within(&again.netns_path, || greeter(ip, 80));
        assert_eq!(greet(ip, 80, PATIENCE).unwrap(), again.gateway.to_string());
        networks.settle();
        greet(ip, 80, PATIENCE).unwrap();
        drop(inside);
    });
}

#[test]
fn strays_of_a_crash_are_swept_and_foreign_things_stay() {
    on_a_host(|host| {
        let dir = host.dir.path().join("sweep");
        let options = Options::new(&dir, "sweep".parse().unwrap());
        let networks = Networks::open(options.clone()).unwrap();
        populate(&networks, "one", &["a"]);
        drop(networks);
        run(&["ip", "link", "add", "svsweep-zz", "type", "bridge"]);
        run(&["ip", "link", "add", "svsweepx-1", "type", "bridge"]);
        std::fs::write(dir.join("netns/leftover"), "").unwrap();
        // A crash between detaching and unmounting: the record is gone, all else is there.
        std::fs::write(dir.join("attachments.json"), "").unwrap();
        let networks = common::Guard(Networks::open(options).unwrap());
        assert_eq!(networks.list().unwrap().strays, Vec::<String>::new());
        let left = links();
        assert!(left.contains(&"svsweepx-1".to_owned()));
        assert!(!left.iter().any(|l| l.starts_with("svsweep-")), "{left:?}");
        assert!(networks.attach("one", "a", None).is_ok());
    });
}
