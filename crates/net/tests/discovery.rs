//! Discovery DNS as instances see it.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{INTERNET, PATIENCE, on_a_host, populate, run, within};
use net::dns::{Server, Service, Zone, Zones, publish};
use net::{Egress, Network, NetworkRules};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

const SILENCE: Duration = Duration::from_millis(300);

fn question(name: &str, kind: QTYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(4242);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(
        Name::new_unchecked(name),
        kind,
        CLASS::IN.into(),
        false,
    ));
    packet.build_bytes_vec().unwrap()
}

type Answer = (RCODE, Vec<Ipv4Addr>);

fn read(bytes: &[u8]) -> Answer {
    let packet = Packet::parse(bytes).unwrap();
    assert_eq!(packet.id(), 4242);
    let ips = packet.answers.iter().filter_map(|record| match &record.rdata {
        RData::A(a) => Some(Ipv4Addr::from(a.address)),
        _ => None,
    });
    (packet.rcode(), ips.collect())
}

/// Ask by UDP; nothing when nobody answers in time.
fn ask(server: Ipv4Addr, name: &str, kind: TYPE, patience: Duration) -> Option<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((server, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let start = Instant::now();
    let mut buffer = [0; 2048];
    while start.elapsed() < patience {
        // Refused while the server is starting.
        let _refused = socket.send(&question(name, kind.into()));
        if let Ok(length) = socket.recv(&mut buffer) {
            return Some(read(&buffer[..length]));
        }
    }
    None
}

fn ask_by_tcp(server: Ipv4Addr, name: &str, kind: QTYPE) -> Answer {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((server, 53)), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let query = question(name, kind);
    stream.write_all(&(query.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(&query).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    read(&answer)
}

fn zone(network: &Network, web: &[Ipv4Addr]) -> Zone {
    let mut zone = Zone::of(network);
    zone.services.push(Service {
        app: "shop".into(),
        service: "web".into(),
        ips: web.to_vec(),
    });
    zone.aliases = BTreeMap::from([("main".into(), vec![network.subnet.nth(77).unwrap()])]);
    zone
}

fn start(dir: &Path) -> Server {
    let resolv = dir.join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {INTERNET}\n")).unwrap();
    Server::start_with(dir.join("zones.json"), resolv).unwrap()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn instances_find_services_of_their_own_network_only() {
    on_a_host(|host| {
        let networks = host.networks("dns");
        let (one, first) = populate(&networks, "one", &["a", "b"]);
        let (two, second) = populate(&networks, "two", &["c"]);
        let (a, c) = (&first[0], &second[0]);
        let server = start(host.dir.path());
        let zones = Zones {
            networks: vec![zone(&one, &[a.ip, first[1].ip]), zone(&two, &[c.ip])],
        };
        publish(&host.dir.path().join("zones.json"), &zones).unwrap();
        wait_for("both gates", || server.status().serving.len() == 2);

        within(&a.netns_path, || {
            let (code, mut ips) = ask(one.gateway, "web.shop.internal", TYPE::A, PATIENCE).unwrap();
            ips.sort();
            assert_eq!((code, ips), (RCODE::NoError, vec![a.ip, first[1].ip]));
            let a_type = QTYPE::TYPE(TYPE::A);
            assert_eq!(ask_by_tcp(one.gateway, "WEB.Shop.internal", a_type).1.len(), 2);
            assert_eq!(
                ask(one.gateway, "main", TYPE::A, PATIENCE).unwrap().1,
                [one.subnet.nth(77).unwrap()]
            );
            let nodata = (RCODE::NoError, vec![]);
            assert_eq!(
                ask(one.gateway, "web.shop.internal", TYPE::AAAA, PATIENCE),
                Some(nodata)
            );
            let absent = (RCODE::NameError, vec![]);
            assert_eq!(
                ask(one.gateway, "none.shop.internal", TYPE::A, PATIENCE),
                Some(absent)
            );
            assert_eq!(ask_by_tcp(one.gateway, "internal", QTYPE::AXFR).0, RCODE::Refused);
            // The other network's server: the firewall refuses, and without it the server says nothing.
            assert_eq!(ask(two.gateway, "web.shop.internal", TYPE::A, SILENCE), None);
        });
        run(&["nft", "delete", "table", "inet", "stoa_dns"]);
        within(&a.netns_path, || {
            assert_eq!(ask(two.gateway, "web.shop.internal", TYPE::A, SILENCE), None);
            let mut stream = TcpStream::connect((two.gateway, 53)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "closed without a word");
        });
        within(&c.netns_path, || {
            assert_eq!(
                ask(two.gateway, "web.shop.internal", TYPE::A, PATIENCE)
                    .unwrap()
                    .1,
                [c.ip],
                "control"
            );
        });
        within(&host.outside, || {
            run(&[
                "ip",
                "route",
                "add",
                &one.subnet.to_string(),
                "via",
                &common::HOST.to_string(),
            ]);
            assert_eq!(ask(one.gateway, "web.shop.internal", TYPE::A, SILENCE), None);
        });
    });
}

#[test]
fn a_published_change_is_seen_and_a_damaged_file_changes_nothing() {
    on_a_host(|host| {
        let networks = host.networks("dnsc");
        let (one, first) = populate(&networks, "one", &["a"]);
        let a = &first[0];
        let path = host.dir.path().join("zones.json");
        publish(
            &path,
            &Zones {
                networks: vec![zone(&one, &[])],
            },
        )
        .unwrap();
        let server = start(host.dir.path());
        let ips = || {
            within(&a.netns_path, || {
                ask(one.gateway, "web.shop.internal", TYPE::A, PATIENCE)
            })
            .unwrap()
            .1
        };
        assert_eq!(ips(), Vec::<Ipv4Addr>::new());
        for n in 2..20 {
            let ip = one.subnet.nth(n).unwrap();
            let start = Instant::now();
            publish(
                &path,
                &Zones {
                    networks: vec![zone(&one, &[ip])],
                },
            )
            .unwrap();
            wait_for("the new address", || ips() == [ip]);
            println!("seen after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        }
        std::fs::write(&path, "{ damaged").unwrap();
        assert_eq!(ips(), [one.subnet.nth(19).unwrap()]);
        publish(&path, &Zones::default()).unwrap();
        wait_for("no gate", || server.status().serving.is_empty());
        assert_eq!(
            within(&a.netns_path, || ask(one.gateway, "main", TYPE::A, SILENCE)),
            None
        );
    });
}

/// A resolver on the internet that answers every question, or none.
struct Resolver {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn resolver(outside: &Path, is_answering: Arc<AtomicBool>) -> Resolver {
    let socket = within(outside, || UdpSocket::bind((INTERNET, 53)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stopped.load(Ordering::Relaxed) {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            if !is_answering.load(Ordering::Relaxed) {
                continue;
            }
            let query = Packet::parse(&buffer[..length]).unwrap();
            let mut reply = Packet::new_reply(query.id());
            let question = query.questions[0].clone();
            let address = RData::A(A::from(Ipv4Addr::new(203, 0, 113, 9)));
            reply.answers.push(ResourceRecord::new(
                question.qname.clone(),
                CLASS::IN,
                60,
                address,
            ));
            reply.questions.push(question);
            // A forged answer with a wrong number comes first and must not count.
            let mut forged = reply.build_bytes_vec().unwrap();
            forged[0] ^= 0xff;
            socket.send_to(&forged, peer).unwrap();
            socket.send_to(&reply.build_bytes_vec().unwrap(), peer).unwrap();
        }
    });
    Resolver {
        stop,
        thread: Some(thread),
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

#[test]
fn other_names_are_asked_of_the_hosts_resolvers_with_an_end() {
    on_a_host(|host| {
        let networks = host.networks("dnsu");
        let (one, first) = populate(&networks, "one", &["a"]);
        let denied = NetworkRules {
            egress: Egress::Denied,
            ..NetworkRules::default()
        };
        let two = networks.ensure_network("two", &denied).unwrap();
        let c = networks.attach("two", "c", None).unwrap();
        let a = &first[0];
        let is_answering = Arc::new(AtomicBool::new(true));
        let resolver = resolver(&host.outside, is_answering.clone());
        let server = start(host.dir.path());
        let zones = Zones {
            networks: vec![zone(&one, &[a.ip]), zone(&two, &[])],
        };
        publish(&host.dir.path().join("zones.json"), &zones).unwrap();
        wait_for("both gates", || server.status().serving.len() == 2);
        within(&a.netns_path, || {
            let found = ask(one.gateway, "example.com", TYPE::A, PATIENCE).unwrap();
            assert_eq!(found, (RCODE::NoError, vec![Ipv4Addr::new(203, 0, 113, 9)]));
        });
        within(&c.netns_path, || {
            assert_eq!(
                ask(two.gateway, "example.com", TYPE::A, PATIENCE).unwrap().0,
                RCODE::Refused
            );
        });
        // Resolvers silent: an error in bounded time, and names of our own as before, also while many wait.
        is_answering.store(false, Ordering::Relaxed);
        within(&a.netns_path, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect((one.gateway, 53)).unwrap();
            for n in 0..200 {
                socket
                    .send(&question(&format!("n{n}.example.com"), QTYPE::TYPE(TYPE::A)))
                    .unwrap();
            }
            assert_eq!(
                ask(one.gateway, "web.shop.internal", TYPE::A, PATIENCE)
                    .unwrap()
                    .1,
                [a.ip]
            );
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(read(&buffer[..length]).0, RCODE::ServerFailure);
        });
        is_answering.store(true, Ordering::Relaxed);
        within(&a.netns_path, || {
            wait_for("recovery", || {
                ask(one.gateway, "example.com", TYPE::A, PATIENCE)
                    .is_some_and(|found| found.0 == RCODE::NoError)
            });
        });
        drop(resolver);
    });
}

#[test]
fn the_systems_own_resolver_library_finds_names() {
    on_a_host(|host| {
        let networks = host.networks("dnsl");
        let (one, first) = populate(&networks, "one", &["a"]);
        let a = &first[0];
        let server = start(host.dir.path());
        publish(
            &host.dir.path().join("zones.json"),
            &Zones {
                networks: vec![zone(&one, &[a.ip])],
            },
        )
        .unwrap();
        wait_for("the gate", || server.status().serving.len() == 1);
        // As inside an instance: its own resolv.conf with the app as search domain.
        let resolv = host.dir.path().join("inside.conf");
        std::fs::write(
            &resolv,
            format!(
                "nameserver {}\nsearch shop.internal\noptions ndots:1\n",
                one.gateway
            ),
        )
        .unwrap();
        let netns = a.netns_path.to_str().unwrap();
        for name in ["web.shop.internal", "web"] {
            let found = run(&[
                "unshare",
                "--mount",
                "nsenter",
                &format!("--net={netns}"),
                "--",
                "env",
                "--",
                "python3",
                "-c",
                "import ctypes, socket, sys\n\
                 libc = ctypes.CDLL(None, use_errno=True)\n\
                 assert libc.mount(sys.argv[1].encode(), b'/etc/resolv.conf', None, 4096, None) == 0\n\
                 print(socket.getaddrinfo(sys.argv[2], 80, type=socket.SOCK_STREAM)[0][4][0])",
                resolv.to_str().unwrap(),
                name,
            ]);
            assert_eq!(found.trim(), a.ip.to_string(), "{name}");
        }
    });
}

#[test]
fn a_taken_address_is_reported_and_taken_over_when_free() {
    on_a_host(|host| {
        let networks = host.networks("dnst");
        let (one, _) = populate(&networks, "one", &[]);
        let squatter = std::net::TcpListener::bind((one.gateway, 53)).unwrap();
        let server = start(host.dir.path());
        publish(
            &host.dir.path().join("zones.json"),
            &Zones {
                networks: vec![zone(&one, &[])],
            },
        )
        .unwrap();
        wait_for("the failure to be told", || {
            server.status().failing.contains_key(&one.gateway)
        });
        drop(squatter);
        wait_for("the gate", || server.status().serving.contains(&one.gateway));
    });
}

/// One question, asked once: nobody may be between two servers.
fn ask_once(server: Ipv4Addr, name: &str) -> Option<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((server, 53)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&question(name, TYPE::A.into())).ok()?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    Some(read(&buffer[..length]))
}

#[test]
fn a_server_is_replaced_without_an_unanswered_question() {
    const REPLACEMENTS: usize = 20;
    on_a_host(|host| {
        let networks = host.networks("dnsr");
        let (one, first) = populate(&networks, "one", &["a"]);
        let zones = Zones {
            networks: vec![zone(&one, &[first[0].ip])],
        };
        publish(&host.dir.path().join("zones.json"), &zones).unwrap();
        let mut server = start(host.dir.path());
        wait_for("the gate", || server.status().serving.contains(&one.gateway));
        let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                within(&first[0].netns_path, || {
                    while !stop.load(Ordering::SeqCst) {
                        let found = ask_once(one.gateway, "web.shop.internal");
                        assert_eq!(found, Some((RCODE::NoError, vec![first[0].ip])));
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                });
            });
            let goes_on = |more: usize| {
                let goal = answered.load(Ordering::SeqCst) + more;
                wait_for("more answers", || {
                    answered.load(Ordering::SeqCst) >= goal || asking.is_finished()
                });
            };
            for _ in 0..REPLACEMENTS {
                goes_on(20);
                let next = start(host.dir.path());
                // It listens while the one before it does.
                wait_for("the next gate", || next.status().serving.contains(&one.gateway));
                goes_on(20);
                server = next;
            }
            goes_on(20);
            stop.store(true, Ordering::SeqCst);
            asking.join().unwrap();
        });
        drop(server);
    });
}

#[test]
fn it_may_listen_before_the_address_exists() {
    on_a_host(|host| {
        let networks = host.networks("dnsf");
        let (one, first) = populate(&networks, "one", &["a"]);
        run(&["ip", "link", "delete", &one.bridge]);
        let server = start(host.dir.path());
        publish(
            &host.dir.path().join("zones.json"),
            &Zones {
                networks: vec![zone(&one, &[first[0].ip])],
            },
        )
        .unwrap();
        wait_for("the gate", || server.status().serving.contains(&one.gateway));
        networks.reapply().unwrap();
        within(&first[0].netns_path, || {
            let found = ask(one.gateway, "web.shop.internal", TYPE::A, PATIENCE).unwrap();
            assert_eq!(found.1, [first[0].ip]);
        });
    });
}
