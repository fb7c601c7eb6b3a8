//! Doors as instances see them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{PATIENCE, on_a_host, populate, run, within};
use net::dns::{Door, Zone, Zones, publish};
use net::doors::Server;
use net::{Network, Networks};

const PORT: u16 = 5432;
/// Long enough to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(300);

fn doors(networks: &Networks, key: &str, whose: &[&str]) -> BTreeMap<String, Ipv4Addr> {
    let wanted = whose.iter().map(|one| ((*one).to_owned(), PORT)).collect();
    networks.ensure_doors(key, &wanted).unwrap()
}

fn tell(dir: &Path, network: &Network, doors: &BTreeMap<String, Ipv4Addr>, target: Option<Ipv4Addr>) {
    let mut zone = Zone::of(network);
    zone.doors = doors
        .iter()
        .map(|(key, ip)| Door {
            key: key.clone(),
            ip: *ip,
            port: PORT,
            target: target.map(|ip| SocketAddrV4::new(ip, PORT)),
        })
        .collect();
    let zones = Zones { networks: vec![zone] };
    publish(&dir.join("zones.json"), &zones).unwrap();
}

fn start(dir: &Path) -> Server {
    std::fs::create_dir_all(dir.join("used")).unwrap();
    Server::start(dir.join("zones.json"), dir.join("used")).unwrap()
}

fn knock(netns: &Path, at: Ipv4Addr) -> std::io::Result<TcpStream> {
    within(netns, || {
        let begin = Instant::now();
        loop {
            match TcpStream::connect_timeout(&(at, PORT).into(), PATIENCE) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    return Ok(stream);
                }
                // The door is about to open.
                Err(error) if begin.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    })
}

#[test]
fn who_knocks_waits_for_the_server_and_is_joined_to_it() {
    on_a_host(|host| {
        let dir = host.dir.path();
        let networks = host.networks("doors");
        let (network, instances) = populate(&networks, "one", &["client", "server"]);
        let (client, server) = (&instances[0], &instances[1]);
        let doors = doors(&networks, "one", &["db-1", "db-2"]);
        let _kept = start(dir);
        tell(dir, &network, &doors, None);
        let used = dir.join("used/db-1");

        let mut waiting = knock(&client.netns_path, doors["db-1"]).unwrap();
        waiting.write_all(b"early").unwrap();
        let begin = Instant::now();
        while !used.exists() {
            assert!(begin.elapsed() < PATIENCE, "nobody was told");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!dir.join("used/db-2").exists(), "the other one sleeps on");
        waiting.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(waiting.read(&mut [0; 1]).is_err(), "nobody is there to answer");
        waiting.set_read_timeout(Some(PATIENCE)).unwrap();

        // A server that echoes one connection, and says when that ended.
        let (say, said) = mpsc::channel();
        let path = server.netns_path.clone();
        let ip = server.ip;
        let echo = std::thread::spawn(move || {
            within(&path, || {
                let listener = TcpListener::bind((ip, PORT)).unwrap();
                say.send("listens").unwrap();
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 64];
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(length) => stream.write_all(&buffer[..length]).unwrap(),
                    }
                }
                say.send("over").unwrap();
            });
        });
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), "listens");
        tell(dir, &network, &doors, Some(server.ip));
        let mut back = [0; 5];
        waiting.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"early");

        // Told again and again while somebody is inside, whatever becomes of the target.
        tell(dir, &network, &doors, None);
        let before = std::fs::metadata(&used).unwrap().modified().unwrap();
        let begin = Instant::now();
        while std::fs::metadata(&used).unwrap().modified().unwrap() == before {
            assert!(begin.elapsed() < PATIENCE, "an open connection was not told");
            std::thread::sleep(Duration::from_millis(50));
        }
        waiting.write_all(b"still").unwrap();
        waiting.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"still");
        drop(waiting);
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), "over");
        echo.join().unwrap();
    });
}

#[test]
fn a_door_is_reached_from_its_network_only_and_goes_with_its_address() {
    on_a_host(|host| {
        let dir = host.dir.path();
        let networks = host.networks("doors");
        let (network, inside) = populate(&networks, "one", &["a"]);
        let (_, outside) = populate(&networks, "two", &["b"]);
        let both = doors(&networks, "one", &["db-1", "db-2"]);
        let _kept = start(dir);
        tell(dir, &network, &both, None);
        let at = both["db-1"];
        drop(knock(&inside[0].netns_path, at).unwrap());
        within(&outside[0].netns_path, || {
            assert!(TcpStream::connect_timeout(&(at, PORT).into(), SILENCE).is_err());
        });
        within(&inside[0].netns_path, || {
            let other = (at, PORT + 1).into();
            assert!(TcpStream::connect_timeout(&other, SILENCE).is_err());
        });

        let left = doors(&networks, "one", &["db-2"]);
        assert_eq!(left["db-2"], both["db-2"]);
        tell(dir, &network, &left, None);
        within(&inside[0].netns_path, || {
            assert!(TcpStream::connect_timeout(&(at, PORT).into(), SILENCE).is_err());
        });
        let shown = run(&["ip", "-4", "addr", "show", "dev", &network.bridge]);
        assert!(!shown.contains(&at.to_string()), "{shown}");
        assert!(shown.contains(&left["db-2"].to_string()), "{shown}");

        // What somebody removed by hand comes back.
        let address = format!("{}/32", left["db-2"]);
        run(&["ip", "addr", "del", &address, "dev", &network.bridge]);
        networks.reapply().unwrap();
        drop(knock(&inside[0].netns_path, left["db-2"]).unwrap());
    });
}

#[test]
fn what_listens_on_all_addresses_of_the_host_is_not_behind_a_door() {
    on_a_host(|host| {
        let dir = host.dir.path();
        let networks = host.networks("doors");
        let (network, inside) = populate(&networks, "one", &["a"]);
        let doors = doors(&networks, "one", &["db-1"]);
        let at = doors["db-1"];
        // A server of the host's own, before anybody keeps the door and while somebody does.
        let _servers = [
            common::greeter(Ipv4Addr::UNSPECIFIED, PORT),
            common::greeter(Ipv4Addr::UNSPECIFIED, 15_432),
        ];
        let is_met = || {
            within(&inside[0].netns_path, || {
                let Ok(mut stream) = TcpStream::connect_timeout(&(at, PORT).into(), SILENCE) else {
                    return false;
                };
                stream.set_read_timeout(Some(SILENCE)).unwrap();
                stream.read(&mut [0; 1]).is_ok_and(|length| length > 0)
            })
        };
        assert!(!is_met());
        let _kept = start(dir);
        tell(dir, &network, &doors, None);
        std::thread::sleep(SILENCE);
        assert!(!is_met());
    });
}

#[test]
fn the_one_that_began_last_keeps_the_doors_and_who_is_inside_stays() {
    on_a_host(|host| {
        let dir = host.dir.path();
        let networks = host.networks("doors");
        let (network, instances) = populate(&networks, "one", &["client", "server"]);
        let (client, server) = (&instances[0], &instances[1]);
        let doors = doors(&networks, "one", &["db-1"]);
        let (at, ip) = (doors["db-1"], server.ip);
        let (say, said) = mpsc::channel();
        let path = server.netns_path.clone();
        // Answers each connection with its number, keeps the first until it is told, and ends the others.
        let serving = std::thread::spawn(move || {
            within(&path, || {
                let listener = TcpListener::bind((ip, PORT)).unwrap();
                say.send(()).unwrap();
                let mut first = None;
                for number in 0..3_u8 {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.write_all(&[number]).unwrap();
                    first.get_or_insert(stream);
                }
                let mut first = first.unwrap();
                first.read_exact(&mut [0; 1]).unwrap();
                first.write_all(&[9]).unwrap();
            });
        });
        said.recv_timeout(PATIENCE).unwrap();
        let old = start(dir);
        tell(dir, &network, &doors, Some(ip));
        let mut byte = [0; 1];
        let mut first = knock(&client.netns_path, at).unwrap();
        first.read_exact(&mut byte).unwrap();
        let _new = start(dir);
        let begin = Instant::now();
        let listeners = || run(&["ss", "-Htln"]).matches(&format!("{at}:")).count();
        while listeners() != 1 {
            assert!(begin.elapsed() < PATIENCE, "both listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        // What the server ended is over, though the client says nothing.
        for number in 1..3 {
            let mut other = knock(&client.netns_path, at).unwrap();
            other.read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], number);
            assert_eq!(other.read(&mut byte).unwrap(), 0);
            let inside = || run(&["ss", "-Htn", "state", "close-wait"]).lines().count();
            while inside() > 0 {
                assert!(begin.elapsed() < PATIENCE, "a connection that is over is held");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        first.write_all(&[1]).unwrap();
        first.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], 9);
        drop(old);
        serving.join().unwrap();
    });
}
