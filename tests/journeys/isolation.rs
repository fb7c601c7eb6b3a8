//! What an instance cannot see, reach or exceed. Each probe has a control that shows it works where nothing forbids.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, Stoa, holds};

/// Long enough for a reachable address on this machine; a dropped packet is never answered.
const REACHABLE_WITHIN_S: u32 = 5;

/// Two probes in `production`, one in `staging`.
struct World {
    stoa: Stoa,
}

impl World {
    fn start(name: &str) -> Result<Self> {
        let world = Self {
            stoa: Stoa::start(name)?,
        };
        world.stoa.cli(&["environments", "create", "staging"])?.ok()?;
        world.deploy("production", "probe", "")?;
        Ok(world)
    }

    fn deploy(&self, environment: &str, app: &str, resources: &str) -> Result<()> {
        let source = Application::copy("probe", &self.stoa.root().join(format!("{environment}-{app}")))?;
        source.replace("stoa.toml", "app = \"probe\"", &format!("app = \"{app}\""))?;
        let route =
            format!("port = 8080\nroutes = [{{ host = \"{app}.{environment}.localhost\", path = \"/\" }}]");
        source.replace("stoa.toml", "port = 8080", &format!("{route}\n{resources}"))?;
        self.stoa
            .cli_in(source.folder(), &["deploy", "--env", environment], b"")?
            .ok()?;
        Ok(())
    }

    /// Runs Python inside the first instance of an app; what it printed.
    fn inside(&self, environment: &str, app: &str, code: &str) -> Result<String> {
        let words = [
            "exec",
            "--no-terminal",
            "--env",
            environment,
            "--app",
            app,
            "--",
            "python3",
            "-c",
            code,
        ];
        Ok(self.stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
    }

    fn address(&self, environment: &str, app: &str) -> Result<IpAddr> {
        let list = self
            .stoa
            .cli(&["ps", "--env", environment, "--app", app, "--json"])?
            .ok()?
            .items()?;
        let text = list[0]["address"]
            .as_str()
            .context("an instance without an address")?;
        Ok(text.parse()?)
    }
}

/// Runs Python on the host: the control.
fn outside(code: &str) -> Result<String> {
    let output = Command::new("python3").args(["-c", code]).output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Prints "reached" or why not.
fn connect(address: SocketAddr) -> String {
    format!(
        "import socket\ntry:\n    socket.create_connection((\"{}\", {}), {REACHABLE_WITHIN_S}).close(); print(\"reached\")\n\
         except OSError as error:\n    print(type(error).__name__, error)",
        address.ip(),
        address.port()
    )
}

/// A listener that accepts until it is dropped with the test.
fn listener(address: &str) -> Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _one = stream.take(1).read(&mut [0]);
        }
    });
    Ok(port)
}

#[test]
fn processes_of_others_are_not_seen() -> Result<()> {
    let world = World::start("isolate-processes")?;
    world.deploy("production", "other", "")?;
    let list = "import glob\nfor f in glob.glob('/proc/[0-9]*/cmdline'):\n    try: print(open(f,'rb').read())\n    except OSError: pass";
    let marker = format!("{}", world.stoa.data_dir().display());
    // As Python shows the bytes of its command line; the init above it has more words.
    const PROGRAM: &str = "b'python3\\x00server.py\\x00'";
    let (seen, control) = (world.inside("production", "probe", list)?, outside(list)?);
    ensure!(
        control.matches(PROGRAM).count() >= 2,
        "the control does not see both: {control}"
    );
    ensure!(
        control.contains(&marker),
        "the control does not see Stoa: {control}"
    );
    ensure!(seen.matches(PROGRAM).count() == 1, "more than its own: {seen}");
    ensure!(!seen.contains(&marker), "an instance sees Stoa: {seen}");
    world.stoa.finish()
}

#[test]
fn networks_of_others_are_not_reached() -> Result<()> {
    let world = World::start("isolate-network")?;
    world.deploy("production", "other", "")?;
    world.deploy("staging", "probe", "")?;
    let neighbour = SocketAddr::from((world.address("production", "other")?, 8080));
    let foreign = SocketAddr::from((world.address("staging", "probe")?, 8080));
    // Controls: the neighbour is reached from inside, the foreign one from the host.
    ensure!(
        world.inside("production", "probe", &connect(neighbour))? == "reached",
        "the neighbour is not reached"
    );
    ensure!(
        outside(&connect(foreign))? == "reached",
        "the host does not reach {foreign}"
    );
    let across = world.inside("production", "probe", &connect(foreign))?;
    ensure!(
        across != "reached",
        "an instance reached one of another environment"
    );

    let resolve = |name: &str| {
        format!(
            "import socket\ntry: print(socket.gethostbyname(\"{name}\"))\nexcept OSError as error: print(\"unknown\")"
        )
    };
    let named = world.inside("production", "probe", &resolve("web.other.internal"))?;
    ensure!(
        named == neighbour.ip().to_string(),
        "web.other.internal is {named}"
    );
    let plain = world.inside("production", "probe", &resolve("web"))?;
    ensure!(
        plain == world.address("production", "probe")?.to_string(),
        "web is {plain}"
    );
    let unknown = world.inside("staging", "probe", &resolve("web.other.internal"))?;
    ensure!(
        unknown == "unknown",
        "a name of another environment is answered: {unknown}"
    );
    world.stoa.finish()
}

#[test]
fn the_host_and_the_api_are_not_reached() -> Result<()> {
    let world = World::start("isolate-host")?;
    let address = world.address("production", "probe")?;
    // The host's own address on the instance's network: where packets to it leave from.
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect((address, 9))?;
    let gateway = socket.local_addr()?.ip();
    let open = listener("0.0.0.0:0")?;
    let loopback = listener("127.0.0.1:0")?;
    let api = world.stoa.listeners().api.port();
    let edge = world.stoa.listeners().http.port();
    let targets = [
        SocketAddr::from((gateway, open)),
        SocketAddr::from(([127, 0, 0, 1], loopback)),
        SocketAddr::from(([127, 0, 0, 1], api)),
        SocketAddr::from(([127, 0, 0, 1], edge)),
    ];
    for target in targets {
        ensure!(
            outside(&connect(target))? == "reached",
            "the control does not reach {target}"
        );
        let inside = world.inside("production", "probe", &connect(target))?;
        ensure!(inside != "reached", "an instance reached {target}");
    }
    let api_there = SocketAddr::from((gateway, api));
    ensure!(
        world.inside("production", "probe", &connect(api_there))? != "reached",
        "an instance reached the API"
    );
    ensure!(TcpStream::connect_timeout(&SocketAddr::from((address, 8080)), Duration::from_secs(5)).is_ok());
    world.stoa.finish()
}

#[test]
fn files_of_others_are_not_seen() -> Result<()> {
    let world = World::start("isolate-files")?;
    world.deploy("production", "other", "")?;
    let read = |path: &str| {
        format!("import os\nprint(open(\"{path}\").read() if os.path.exists(\"{path}\") else \"absent\")")
    };
    let secret = world.stoa.root().join("of-the-host");
    fs::write(&secret, "a file of the host")?;
    let secret = secret.to_string_lossy().into_owned();
    ensure!(
        outside(&read(&secret))? == "a file of the host",
        "the control does not read it"
    );
    ensure!(
        world.inside("production", "probe", &read(&secret))? == "absent",
        "a file of the host is seen"
    );
    let mut paths = ["/etc/shadow", "/etc/ssh", "/var/lib/dpkg/status", "/root/.bashrc"]
        .map(str::to_owned)
        .to_vec();
    for folder in ["/home", "/opt", "/srv", "/boot"] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        paths.extend(entries.map(|entry| entry.path().to_string_lossy().into_owned()));
    }
    for path in paths {
        let exists = format!("import os\nprint(os.path.exists(\"{path}\"))");
        ensure!(
            world.inside("production", "probe", &exists)? == "False",
            "{path} of the host is seen"
        );
    }
    world.inside(
        "production",
        "probe",
        "open(\"/tmp/mine\", \"w\").write(\"mine\")",
    )?;
    ensure!(
        world.inside("production", "probe", &read("/tmp/mine"))? == "mine",
        "it does not see its own file"
    );
    ensure!(
        world.inside("production", "other", &read("/tmp/mine"))? == "absent",
        "another instance's file is seen"
    );
    world.stoa.finish()
}

#[test]
fn privileges_are_gone() -> Result<()> {
    let world = World::start("isolate-privileges")?;
    let status =
        "print([line for line in open('/proc/self/status') if line.startswith(('Seccomp:', 'NoNewPrivs:'))])";
    let inside = world.inside("production", "probe", status)?;
    ensure!(
        inside.contains("Seccomp:\\t2") && inside.contains("NoNewPrivs:\\t1"),
        "{inside}"
    );
    ensure!(
        outside(status)?.contains("Seccomp:\\t0"),
        "the control is filtered too"
    );

    // CLONE_NEWUSER, which a filter must refuse; the host may do it (the control, in a process of its own).
    let unshare = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nr = libc.unshare(0x10000000)\nprint(r, os.strerror(ctypes.get_errno()))";
    ensure!(
        outside(unshare)?.starts_with('0'),
        "the control cannot make a user namespace"
    );
    ensure!(
        world.inside("production", "probe", unshare)?.starts_with("-1"),
        "an instance made a user namespace"
    );

    let mount = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nr = libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)\nprint(r)";
    ensure!(
        world.inside("production", "probe", mount)? == "-1",
        "an instance mounted something"
    );
    for path in [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/sys/kernel/uevent_helper",
    ] {
        let write = format!(
            "try:\n    open(\"{path}\", \"w\").write(\"x\"); print(\"written\")\nexcept OSError: print(\"refused\")"
        );
        ensure!(
            world.inside("production", "probe", &write)? == "refused",
            "an instance wrote {path}"
        );
    }
    // Root inside is nobody outside.
    let mapping = world.inside(
        "production",
        "probe",
        "print(open('/proc/self/uid_map').read().split())",
    )?;
    ensure!(
        !mapping.starts_with("['0', '0'"),
        "root inside is root outside: {mapping}"
    );
    world.stoa.finish()
}

#[test]
fn limits_hold() -> Result<()> {
    let world = World {
        stoa: Stoa::start("isolate-limits")?,
    };
    world.deploy(
        "production",
        "small",
        "resources = { cpu = 0.1, memory = \"96Mi\", pids = 40 }",
    )?;
    world.deploy(
        "production",
        "large",
        "resources = { cpu = 2, memory = \"1Gi\", pids = 500 }",
    )?;

    let fork = "import os, time\nchildren = []\ntry:\n    for _ in range(120):\n        p = os.fork()\n        if p == 0: time.sleep(60); os._exit(0)\n        children.append(p)\nexcept OSError: pass\nprint(len(children))\nfor p in children: os.kill(p, 9); os.waitpid(p, 0)";
    let few: u32 = world.inside("production", "small", fork)?.parse()?;
    let many: u32 = world.inside("production", "large", fork)?.parse()?;
    ensure!(
        few < 40 && many == 120,
        "{few} processes with a limit of 40, {many} with 500"
    );

    // A second of processor time; load only makes it longer, so the lower bound is safe.
    let burn = "import time\nt = time.monotonic()\nwhile time.process_time() < 0.6: pass\nprint(time.monotonic() - t)";
    let slow: f64 = world.inside("production", "small", burn)?.parse()?;
    let fast: f64 = world.inside("production", "large", burn)?.parse()?;
    ensure!(
        slow > 3.0,
        "0.6 s of processor time took {slow} s with a tenth of a processor"
    );
    ensure!(fast < slow, "the control took {fast} s, the limited one {slow} s");

    let eat = "b = bytearray(200 * 1024 * 1024)\nfor i in range(0, len(b), 4096): b[i] = 1\nprint(len(b))";
    let control = world.inside("production", "large", eat)?;
    ensure!(
        control == "209715200",
        "the control could not take 200 MiB: {control}"
    );
    let words = [
        "exec",
        "--no-terminal",
        "--app",
        "small",
        "--",
        "python3",
        "-c",
        eat,
    ];
    let killed = world.stoa.cli(&words)?;
    ensure!(killed.code != 0, "200 MiB fit into 96: {killed:?}");
    // The app that exceeds its limit is told so by name, and comes back.
    let hungry = Application::copy("probe", &world.stoa.root().join("hungry"))?;
    hungry.replace(
        "stoa.toml",
        "port = 8080",
        "port = 8080\nresources = { memory = \"64Mi\" }",
    )?;
    hungry.write(
        "server.py",
        "b = bytearray(200 * 1024 * 1024)\nfor i in range(0, len(b), 4096): b[i] = 1\n",
    )?;
    world
        .stoa
        .cli_in(hungry.folder(), &["deploy"], b"")?
        .exits(7)?
        .says("out of memory")?;
    holds("the small one to be ready", || {
        let instances = world.stoa.instances("small")?;
        Ok(instances.iter().any(|instance| instance["condition"] == "ready"))
    })?;
    world.stoa.finish()
}
