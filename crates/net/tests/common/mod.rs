//! A private host for each test: a thread in a network namespace of its own, with an "internet" beyond its uplink.
//!
//! Everything the crate makes is made inside, so nothing of the real host is touched, and tests run side by side.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use net::{Attachment, Network, NetworkRules, Networks, Options};

/// Address of the host on its uplink.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// A machine on the internet.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The cloud's metadata service, routed beyond the uplink as clouds do.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Long enough for a loaded machine; only failures wait that long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The namespace of a test, as its host.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub outside: PathBuf,
}

/// Run a test on a host of its own.
pub fn on_a_host(test: impl FnOnce(&Host) + Send) {
    thread::scope(|scope| {
        let result = scope
            .spawn(|| {
                leave();
                let dir = tempfile::tempdir().unwrap();
                let outside = dir.path().join("outside");
                run(&["ip", "link", "set", "lo", "up"]);
                make_outside(&outside);
                let host = Host { dir, outside };
                let _unmount = Unmount(host.dir.path().to_path_buf());
                test(&host);
            })
            .join();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Whatever is mounted below, also what a panic left.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let paths = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(Path::new);
        for path in paths.filter(|path| path.starts_with(&self.0)) {
            let _unmounted_already = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[allow(unsafe_code)]
fn leave() {
    // SAFETY: no file descriptor table is unshared; the thread belongs to this test.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
}

fn make_outside(path: &Path) {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                leave();
                File::create(path).unwrap();
                rustix::mount::mount_bind("/proc/thread-self/ns/net", path).unwrap();
            })
            .join()
            .unwrap();
    });
    run(&[
        "ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0",
    ]);
    move_link("down0", path);
    run(&["ip", "addr", "add", &format!("{HOST}/24"), "dev", "up0"]);
    run(&["ip", "link", "set", "up0", "up"]);
    within(path, || {
        run(&["ip", "link", "set", "lo", "up"]);
        run(&["ip", "addr", "add", &format!("{INTERNET}/24"), "dev", "down0"]);
        run(&["ip", "addr", "add", &format!("{METADATA}/32"), "dev", "lo"]);
        run(&["ip", "link", "set", "down0", "up"]);
    });
    run(&["ip", "route", "add", "default", "via", &INTERNET.to_string()]);
}

/// `ip link set NAME netns` wants a pid: a child that waits inside.
fn move_link(name: &str, netns: &Path) {
    let mut child = within(netns, || {
        Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    });
    run(&["ip", "link", "set", name, "netns", &child.id().to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
}

impl Host {
    pub fn networks(&self, mark: &str) -> Guard {
        let options = Options::new(self.dir.path().join(mark), mark.parse().unwrap());
        Guard(Networks::open(options).unwrap())
    }
}

/// Removes everything at the end, also after a panic.
pub struct Guard(pub Networks);

impl std::ops::Deref for Guard {
    type Target = Networks;

    fn deref(&self) -> &Networks {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let gone = self.0.destroy_all();
        if !thread::panicking() {
            gone.unwrap();
        }
    }
}

/// A network with one instance or more.
pub fn populate(networks: &Networks, key: &str, instances: &[&str]) -> (Network, Vec<Attachment>) {
    let network = networks.ensure_network(key, &NetworkRules::default()).unwrap();
    let attached = instances
        .iter()
        .map(|i| networks.attach(key, i, None).unwrap())
        .collect();
    (network, attached)
}

/// Run in a namespace, in a thread of its own.
pub fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let file = File::open(netns).unwrap();
            rustix::thread::move_into_link_name_space(
                file.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        });
        match worker.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Run a program that must succeed; what it printed.
pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A listener that greets everybody, for as long as the value lives.
pub struct Greeter {
    pub at: SocketAddr,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Listen on this address in the calling thread's namespace.
pub fn greeter(ip: impl Into<IpAddr>, port: u16) -> Greeter {
    let listener = TcpListener::bind((ip.into(), port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, peer)) => {
                    stream.set_nonblocking(false).unwrap();
                    // The peer may be gone already.
                    let _sent = stream.write_all(peer.ip().to_string().as_bytes());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(2)),
                Err(e) => panic!("{e}"),
            }
        }
    });
    Greeter {
        at,
        stop,
        thread: Some(thread),
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(self.thread.take().map(thread::JoinHandle::join));
    }
}

/// What a greeter said (our address as it saw it), or why not. A refusal by our firewall answers at once; a silent
/// drop takes the whole time given.
pub fn greet(to: impl Into<IpAddr>, port: u16, patience: Duration) -> Result<String, ErrorKind> {
    let address = SocketAddr::new(to.into(), port);
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(|e| e.kind())?;
    Ok(said)
}

/// A UDP echo on this address, for as long as the value lives.
pub fn echo(ip: impl Into<IpAddr>, port: u16) -> Greeter {
    let socket = UdpSocket::bind((ip.into(), port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let at = socket.local_addr().unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 64];
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                // A peer that cannot be reached is what some tests are about.
                let _sent = socket.send_to(&buffer[..length], peer);
            }
        }
    });
    Greeter {
        at,
        stop,
        thread: Some(thread),
    }
}

/// Does the echo answer somebody who sends from this address? Sends again until it does or patience ends.
pub fn echoes(from: impl Into<IpAddr>, to: SocketAddr, patience: Duration) -> bool {
    let socket = UdpSocket::bind((from.into(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let start = std::time::Instant::now();
    let mut buffer = [0; 64];
    while start.elapsed() < patience {
        // An error here is an ICMP refusal of an earlier try.
        let _sent = socket.send_to(b"hello", to);
        if socket.recv_from(&mut buffer).is_ok_and(|(_, peer)| peer == to) {
            return true;
        }
    }
    false
}
