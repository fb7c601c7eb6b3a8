//! The edge as a process: killed, replaced, stalled, short of descriptors.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edge::control::Client;
use rustix::fs::FlockOperation;
use rustix::io::FdFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::publishing::Load;
use crate::support::{Backend, Wire, route, status, table, wait_for};

/// Plays the warden: holds a listening socket and starts edges on it.
pub struct Warden {
    dir: tempfile::TempDir,
    socket: TcpListener,
    pub address: SocketAddr,
}

/// An edge in a process of its own, killed at the end of the test.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Warden {
    pub fn new() -> Warden {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        Warden {
            dir: tempfile::tempdir().unwrap(),
            socket,
            address,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn start(&self, env: &[(&str, &str)]) -> Process {
        spawn(self.path(), &self.socket, env)
    }

    /// A client of the edge with that process.
    pub fn client(&self, edge: &Process) -> Client {
        wait_for("the edge's control socket", || {
            let mut client = Client::connect(&self.path().join("edge.sock")).ok()?;
            (client.status().ok()?.pid == edge.0.id()).then_some(client)
        })
    }
}

fn spawn(dir: &Path, socket: &impl AsFd, env: &[(&str, &str)]) -> Process {
    // Other children of this test process may inherit it for a moment; they do not use it.
    let inherited = rustix::io::fcntl_dupfd_cloexec(socket, 100).unwrap();
    rustix::io::fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-test-process"));
    command
        .arg(dir)
        .arg(format!("http0:{}", inherited.as_raw_fd()))
        .envs(env.iter().copied());
    Process(command.spawn().unwrap())
}

fn pid(process: &Process) -> Pid {
    Pid::from_child(&process.0)
}

/// The thread of that name.
fn thread_of(process: &Process, name: &str) -> Option<i32> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.0.id())).unwrap();
    let named =
        |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    threads
        .map(|thread| thread.unwrap().path())
        .find(|path| named(path))
        .map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

#[test]
fn a_killed_edge_serves_its_last_table_and_no_connection_is_refused() {
    let (warden, backend) = (Warden::new(), Backend::start("b"));
    let mut edge = warden.start(&[]);
    warden
        .client(&edge)
        .publish(&table(3, &[("a", &[&backend])]))
        .unwrap();
    for _ in 0..3 {
        assert_eq!(status(&Wire::to(warden.address).get("a", "/").0), 200);
        edge.0.kill().unwrap();
        edge.0.wait().unwrap();
        // Nobody accepts, but the socket listens: the connection waits for the next edge.
        let mut waiting = Wire::to(warden.address);
        waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        edge = warden.start(&[]);
        assert_eq!(status(&waiting.answer().0), 200);
        assert_eq!(warden.client(&edge).status().unwrap().generation, 3);
    }
}

#[test]
fn a_broken_last_table_is_set_aside() {
    let (warden, backend) = (Warden::new(), Backend::start("b"));
    std::fs::create_dir_all(warden.path().join("edge")).unwrap();
    std::fs::write(
        warden.path().join("edge/routes.json"),
        r#"{"version":1,"generation":9,"routes":[{"host":"a"}]}"#,
    )
    .unwrap();
    let edge = warden.start(&[]);
    let mut client = warden.client(&edge);
    assert_eq!(client.status().unwrap().generation, 0);
    assert_eq!(status(&Wire::to(warden.address).get("a", "/").0), 404);
    assert!(warden.path().join("edge/routes.refused.json").exists());
    client.publish(&table(1, &[("a", &[&backend])])).unwrap();
    assert_eq!(status(&Wire::to(warden.address).get("a", "/").0), 200);
}

#[test]
fn an_edge_is_replaced_under_load_without_a_failed_request() {
    replaced_under_load(&[]);
}

/// An edge looks after itself each 250 ms.
const SEVERAL_LOOKS: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

pub fn replaced_under_load(env: &[(&str, &str)]) {
    let (mut warden, backend) = (Warden::new(), Backend::start("b"));
    let mut old = warden.start(env);
    let mut published = table(1, &[("a", &[&backend])]);
    published.routes.push(route("ws", "/", "a"));
    warden.client(&old).publish(&published).unwrap();
    let load = Load::start(warden.address, 4, 2, 0);
    let mut slow = Wire::to(warden.address);
    slow.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut websocket = Wire::to(warden.address);
    websocket.send("GET /ws HTTP/1.1\r\nHost: ws\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(status(&websocket.answer().0), 101);
    let first = old.0.id();
    let mut retired = Vec::new();
    for _ in 0..4 {
        load.go_on(200);
        // The warden died and took its handle of the socket with it: the next one gets it from the edge.
        let mut sockets: Vec<(String, OwnedFd)> = warden.client(&old).handover().unwrap();
        assert_eq!(sockets.len(), 1);
        let (name, socket) = sockets.pop().unwrap();
        assert_eq!(name, "http0");
        warden.socket = TcpListener::from(socket);
        let new = warden.start(env);
        let mut client = warden.client(&new);
        // The first one has the WebSocket. On a slow machine a later one may be done before it is asked for.
        let before = client.status().unwrap().predecessors;
        assert!(before.contains(&first), "{before:?}");
        if !before.contains(&old.0.id()) {
            wait_for("the end of an edge that is no longer known", || {
                old.0.try_wait().unwrap()
            });
        }
        // What the edges before still do counts, however many there were.
        assert_eq!(client.in_flight(&["b"]).unwrap()["b"].upgrades, 1);
        retired.push(std::mem::replace(&mut old, new));
        load.go_on(200);
    }
    load.finish();
    backend.gate.open();
    assert_eq!(status(&slow.answer().0), 200);
    // The WebSocket lives on in the first edge for as long as it likes, and ends with it: an edge that would not wait
    // for it looks after itself, and exits, several times in this while.
    let since = Instant::now();
    while since.elapsed() < SEVERAL_LOOKS {
        websocket.send("ping");
        let mut pong = [0; 4];
        let read = std::io::Read::read_exact(&mut websocket.reader, &mut pong);
        assert!(read.is_ok(), "the WebSocket of the first edge was cut: {read:?}");
        std::thread::sleep(PAUSE);
    }
    assert_eq!(retired[0].0.id(), first);
    drop((websocket, slow));
    for mut edge in retired {
        let exit = wait_for("the old edge's exit", || edge.0.try_wait().unwrap());
        assert!(exit.success(), "{exit}");
    }
}

#[test]
fn a_stop_signal_lets_requests_finish() {
    let (warden, backend) = (Warden::new(), Backend::start("b"));
    let mut edge = warden.start(&[]);
    let mut client = warden.client(&edge);
    client.publish(&table(1, &[("a", &[&backend])])).unwrap();
    let mut slow = Wire::to(warden.address);
    slow.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut idle = Wire::to(warden.address);
    assert_eq!(status(&idle.get("a", "/").0), 200);
    wait_for("the slow request", || {
        (client.in_flight(&["b"]).unwrap()["b"].requests == 1).then_some(())
    });
    // A WebSocket would last for hours: it does not delay the stop.
    let mut websocket = Wire::to(warden.address);
    websocket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(status(&websocket.answer().0), 101);
    kill_process(pid(&edge), Signal::TERM).unwrap();
    assert_eq!(idle.rest(), "");
    backend.gate.open();
    assert_eq!(status(&slow.answer().0), 200);
    let exit = edge.0.wait().unwrap();
    assert!(exit.success(), "{exit}");
}

#[test]
fn what_is_left_of_a_body_never_becomes_a_request() {
    let (warden, backend) = (Warden::new(), Backend::start("b"));
    let edge = warden.start(&[("STALLED_MS", "60000")]);
    let mut client = warden.client(&edge);
    client.publish(&table(1, &[("a", &[&backend])])).unwrap();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let mut wire = Wire::to(warden.address);
    wire.send(&format!(
        "PUT /reset HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\nbegin",
        5 + smuggled.len()
    ));
    wait_for("the head", || {
        (backend.gate.waiting.load(Ordering::SeqCst) == 1).then_some(())
    });
    // The edge learns in one moment that the instance has died, and what the rest of the body is.
    kill_process(pid(&edge), Signal::STOP).unwrap();
    backend.gate.open();
    wait_for("the reset", || {
        (backend.open.load(Ordering::SeqCst) == 0).then_some(())
    });
    wire.send(smuggled);
    kill_process(pid(&edge), Signal::CONT).unwrap();
    assert_eq!(status(&wire.answer().0), 502);
    // Neither to the instance nor as the client's next request.
    assert_eq!(wire.rest(), "");
    let seen = backend.seen.lock().unwrap();
    assert!(seen.iter().all(|head| !head.contains("smuggled")), "{seen:?}");
}

/// A WebSocket that has been answered.
fn websocket(address: SocketAddr) -> Wire {
    let mut wire = Wire::to(address);
    wire.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(status(&wire.answer().0), 101);
    wire
}

#[test]
fn an_edge_that_was_replaced_lets_go_of_the_ports_and_ends_with_its_successor() {
    let (warden, backend) = (Warden::new(), Backend::start("b"));
    let mut first = warden.start(&[]);
    warden
        .client(&first)
        .publish(&table(1, &[("a", &[&backend])]))
        .unwrap();
    let websocket = websocket(warden.address);
    let mut second = warden.start(&[]);
    assert_eq!(
        warden.client(&second).status().unwrap().predecessors,
        [first.0.id()]
    );
    // The handle of the one who plays the warden goes too: who still listens?
    let address = warden.address;
    drop(warden.socket);
    kill_process(pid(&second), Signal::TERM).unwrap();
    // A second edge that stops does not leave the first behind, however long its WebSocket would last.
    let exits = [&mut second, &mut first].map(|edge| {
        wait_for("the exit", || {
            edge.0.try_wait().unwrap().map(|exit| exit.success())
        })
    });
    assert_eq!(exits, [true, true]);
    drop(websocket);
    assert!(TcpListener::bind(address).is_ok());
}

#[test]
fn a_draining_edge_does_not_keep_the_port() {
    let (warden, backend) = (Warden::new(), Backend::start("b"));
    let mut first = warden.start(&[]);
    warden
        .client(&first)
        .publish(&table(1, &[("a", &[&backend])]))
        .unwrap();
    let websocket = websocket(warden.address);
    let mut second = warden.start(&[]);
    drop(warden.client(&second));
    let Warden { dir, socket, address } = warden;
    drop(socket);
    second.0.kill().unwrap();
    second.0.wait().unwrap();
    // The first lives on for its WebSocket; connections are refused instead of never being answered.
    wait_for("a free port", || TcpListener::bind(address).ok());
    assert!(first.0.try_wait().unwrap().is_none());
    drop((websocket, dir));
}

#[test]
fn an_edge_that_was_replaced_learns_new_tables() {
    let (warden, old, new) = (Warden::new(), Backend::start("old"), Backend::start("new"));
    let first = warden.start(&[]);
    warden
        .client(&first)
        .publish(&table(1, &[("a", &[&old])]))
        .unwrap();
    let mut client_of_first = Wire::to(warden.address);
    assert_eq!(client_of_first.get("a", "/").1.lines().next(), Some("old"));
    let second = warden.start(&[]);
    let mut control = warden.client(&second);
    assert_eq!(control.status().unwrap().predecessors, [first.0.id()]);
    control.publish(&table(2, &[("a", &[&new])])).unwrap();
    // Its last request comes to where somebody is.
    assert_eq!(client_of_first.get("a", "/").1.lines().next(), Some("new"));
}

/// Its successor was killed, so that nobody leads from the one that serves to it but its own name.
#[test]
fn an_edge_whose_successor_was_killed_learns_new_tables() {
    let (warden, old, new) = (Warden::new(), Backend::start("old"), Backend::start("new"));
    let first = warden.start(&[]);
    warden
        .client(&first)
        .publish(&table(1, &[("a", &[&old])]))
        .unwrap();
    let mut kept: Vec<Wire> = (0..3).map(|_| Wire::to(warden.address)).collect();
    for wire in &mut kept {
        assert_eq!(wire.get("a", "/").1.lines().next(), Some("old"));
    }
    let mut second = warden.start(&[]);
    drop(warden.client(&second));
    second.0.kill().unwrap();
    second.0.wait().unwrap();
    let third = warden.start(&[]);
    let mut control = warden.client(&third);
    assert_eq!(control.status().unwrap().predecessors, [first.0.id()]);
    control.publish(&table(2, &[("a", &[&new])])).unwrap();
    for wire in &mut kept {
        assert_eq!(wire.get("a", "/").1.lines().next(), Some("new"));
    }
}

/// Control and the next edge start together: what the old edge acknowledges until it is replaced must not be forgotten.
#[test]
fn a_table_acknowledged_while_the_next_edge_starts_is_served_by_it() {
    let (warden, old, new) = (Warden::new(), Backend::start("old"), Backend::start("new"));
    let first = warden.start(&[]);
    let mut control = warden.client(&first);
    control.publish(&table(1, &[("a", &[&old])])).unwrap();
    let turn = std::fs::File::open(warden.path().join("edge.sock.lock")).unwrap();
    rustix::fs::flock(&turn, FlockOperation::LockExclusive).unwrap();
    let second = warden.start(&[]);
    // Its threads are there, so it has read the table; now it waits for its turn.
    wait_for("its threads", || thread_of(&second, "edge-1"));
    control.publish(&table(2, &[("a", &[&new])])).unwrap();
    drop(turn);
    assert_eq!(warden.client(&second).status().unwrap().generation, 2);
    assert_eq!(
        Wire::to(warden.address).get("a", "/").1.lines().next(),
        Some("new")
    );
}

/// What it acknowledged would be unknown to the edge that serves.
#[test]
fn an_edge_that_was_replaced_obeys_its_successor_only() {
    let (warden, old, new) = (Warden::new(), Backend::start("old"), Backend::start("new"));
    let first = warden.start(&[]);
    let mut control = warden.client(&first);
    control.publish(&table(1, &[("a", &[&old])])).unwrap();
    let mut kept = Wire::to(warden.address);
    assert_eq!(kept.get("a", "/").1.lines().next(), Some("old"));
    let second = warden.start(&[]);
    drop(warden.client(&second));
    let refused = [
        control.publish(&table(2, &[("a", &[&new])])).unwrap_err(),
        control.in_flight(&["old"]).unwrap_err(),
        control
            .wait_idle(&["old"], std::time::Duration::ZERO)
            .unwrap_err(),
    ];
    for cause in refused {
        assert!(cause.to_string().contains("another edge"), "{cause}");
    }
    assert_eq!(kept.get("a", "/").1.lines().next(), Some("old"));
    assert_eq!(warden.client(&second).status().unwrap().generation, 1);
}

/// A thread of our own child that does not run while this lives.
struct Frozen(i32);

impl Frozen {
    #[allow(unsafe_code)]
    fn new(tid: i32) -> Frozen {
        // SAFETY: stops one thread of our own child; nothing of this process is touched.
        unsafe {
            let none = std::ptr::null_mut::<libc::c_void>();
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, tid, none, none), 0);
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, tid, none, none), 0);
        }
        Frozen(tid)
    }

    /// A traced thread is dead only when its tracer has seen it die; before that its process cannot be reaped.
    #[allow(unsafe_code)]
    fn see(&self) {
        // SAFETY: asks about our own tracee, without waiting.
        unsafe {
            libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG);
        }
    }
}

impl Drop for Frozen {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: as above; a thread that is gone has left nothing to see and nothing to let go.
        unsafe {
            libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG);
            libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0);
        }
    }
}

#[test]
fn a_stalled_thread_ends_the_process_and_leaves_a_dump() {
    let warden = Warden::new();
    let mut edge = warden.start(&[("STALLED_MS", "3000")]);
    drop(warden.client(&edge));
    let worker = thread_of(&edge, "edge-1").unwrap();
    let frozen = Frozen::new(worker);
    let exit = wait_for("the exit", || {
        frozen.see();
        edge.0.try_wait().unwrap()
    });
    if exit.signal() == Some(libc::SIGALRM) {
        // The frozen thread held a lock that the dump needed; the kernel ended the process all the same.
        return;
    }
    assert_eq!(exit.signal(), Some(libc::SIGABRT), "{exit}");
    let dump = std::fs::read_to_string(warden.path().join("edge/stalled.txt")).unwrap();
    assert!(
        dump.contains(&format!("thread {worker}: stalled")) && dump.contains(": moving"),
        "{dump}"
    );
}

#[test]
fn without_descriptors_the_edge_waits_and_recovers() {
    let (warden, backend) = (Warden::new(), Backend::start("b"));
    let edge = warden.start(&[]);
    warden
        .client(&edge)
        .publish(&table(1, &[("a", &[&backend])]))
        .unwrap();
    let mut early = Wire::to(warden.address);
    assert_eq!(status(&early.get("a", "/").0), 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", edge.0.id()))
        .unwrap()
        .count() as u64;
    // Only the soft limit: raising the hard one again would need a capability.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let scarce = Rlimit {
        current: Some(open + 2),
        maximum,
    };
    let plenty = prlimit(Some(pid(&edge)), Resource::Nofile, scarce).unwrap();
    let waiting: Vec<Wire> = (0..20)
        .map(|_| {
            let mut wire = Wire::to(warden.address);
            wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            wire
        })
        .collect();
    early.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    prlimit(Some(pid(&edge)), Resource::Nofile, plenty).unwrap();
    // All waited, in the queue of the socket or for a connection to the instance; none was refused.
    for mut wire in waiting.into_iter().chain([early]) {
        assert_eq!(status(&wire.answer().0), 200);
    }
}
