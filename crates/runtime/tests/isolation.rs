//! What an instance cannot do, each attempt with a control on the host that shows the attempt itself works.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use common::Bed;
use runtime::{ContainerSpec, Mount, SmallFile};

const PYTHON: &str = "/usr/bin/python3";
/// Allowed to be absent from a kernel, so their control may fail; everything else must work on the host.
const MAY_BE_ABSENT: [&str; 16] = [
    "bpf",
    "keyctl",
    "add_key",
    "io_uring",
    "userfaultfd",
    "perf_event",
    "kexec",
    "load_module",
    "vsock",
    "kernel_crypto",
    "read_timer_list",
    "read_kcore",
    "set_dumb_terminal_input",
    "open_host_disk",
    "io_ports",
    "sysrq",
];

/// The host's `/usr`, read-only, over a root of our own: what a `host` image looks like.
fn host_spec(bed: &Bed, id: &str, argv: &[&str]) -> ContainerSpec {
    let root = bed.path("host-root");
    for dir in ["etc", "tmp", "proc", "dev", "sys", "run", "usr"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        let _ = symlink(format!("usr/{link}"), root.join(link));
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n",
    )
    .unwrap();
    let usr = Mount {
        source: "/usr".into(),
        target: "/usr".into(),
        read_only: true,
        owner: runtime::Owner::Host,
    };
    ContainerSpec {
        layers: vec![root],
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        mounts: vec![usr],
        files: vec![SmallFile {
            path: "/etc/hosts".into(),
            contents: b"127.0.0.1 localhost\n".to_vec(),
            mode: 0o644,
        }],
        tmp_bytes: Some(256 << 20),
        ..bed.spec(id, "")
    }
}

fn parse(lines: &[String]) -> BTreeMap<String, String> {
    assert!(lines.iter().any(|l| l == "finished"), "{lines:?}");
    lines
        .iter()
        .filter_map(|l| l.split_once(' '))
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect()
}

#[test]
fn no_way_out_and_no_view_out() {
    assert!(
        std::path::Path::new(PYTHON).exists(),
        "this test needs Debian's python3"
    );
    let bed = Bed::new("probes");
    let marker = format!("stoa-victim-{}", std::process::id());
    let victim = bed.spec("victim", &format!("echo up; sleep 100000; : {marker}"));
    let victim = bed.runtime.start(&victim).unwrap();
    bed.wait_line("victim", "up");
    let abstract_name = format!("stoa-probe-{}", std::process::id());
    let address = <SocketAddr as SocketAddrExt>::from_abstract_name(&abstract_name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let loopback = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shm_key = 0x5354_0000 | (std::process::id() & 0xffff);
    let segment = SharedMemory::new(shm_key);
    let host_file = bed.path("host-only");
    fs::write(&host_file, "x").unwrap();
    let facts = |control: bool| {
        serde_json::json!({
            "control": control,
            "scratch": if control { bed.path("scratch") } else { "/tmp".into() },
            "victim": victim.pid,
            "marker": marker,
            "host_file": host_file,
            "abstract": abstract_name,
            "port": loopback.local_addr().unwrap().port(),
            "shm_key": shm_key,
        })
        .to_string()
    };
    fs::create_dir(bed.path("scratch")).unwrap();
    fs::set_permissions(
        bed.dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let script = include_str!("probes.py");
    let control = Command::new(PYTHON)
        .args(["-c", script, &facts(true)])
        .output()
        .unwrap();
    let control = String::from_utf8(control.stdout).unwrap();
    let control = parse(&control.lines().map(str::to_owned).collect::<Vec<_>>());
    let spec = host_spec(&bed, "prober", &[PYTHON, "-c", script, &facts(false)]);
    let (exit, lines) = bed.run(&spec);
    drop(segment);
    assert_eq!(exit.code, 0, "{lines:?}");
    let inside = parse(&lines);
    assert!(inside.len() >= 50, "{}", inside.len());
    let mut wrong = Vec::new();
    for (name, text) in &inside {
        let control = control.get(name).map_or("missing", String::as_str);
        println!("{name:28} inside: {text:50} control: {control}");
        let control_works = control == "possible"
            || (MAY_BE_ABSENT.contains(&name.as_str()) && !control.starts_with("broken"));
        if !text.starts_with("refused") || !control_works {
            wrong.push(format!("{name}: inside {text}; control {control}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn real_programs_run() {
    let bed = Bed::new("programs");
    let python = "import threading, subprocess, multiprocessing, socket, ssl, sqlite3, asyncio, ctypes, tempfile\n\
        t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()\n\
        print(subprocess.run(['/usr/bin/env', 'true']).returncode)\n\
        print(multiprocessing.Pool(2).map(abs, [-1, -2]))\n\
        s = socket.create_server(('127.0.0.1', 80)); c = socket.create_connection(('127.0.0.1', 80)); print('port 80')\n\
        print(asyncio.run(asyncio.sleep(0, 'async')))\n\
        print(sqlite3.connect(tempfile.mktemp()).execute('select 1').fetchone())";
    let (exit, lines) = bed.run(&host_spec(&bed, "python", &[PYTHON, "-c", python]));
    assert_eq!(
        (exit.code, lines),
        (
            0,
            ["thread", "0", "[1, 2]", "port 80", "async", "(1,)"]
                .map(str::to_owned)
                .to_vec()
        )
    );
    let node = "const {Worker,isMainThread}=require('worker_threads');const cp=require('child_process');\
        require('http').createServer((q,r)=>r.end('ok')).listen(8080,()=>require('http').get('http://127.0.0.1:8080',r=>{\
        r.on('data',d=>{console.log(String(d));new Worker('require(\"fs\").readdirSync(\"/\");console.log(\"worker\")',{eval:true}).on('exit',()=>{\
        console.log(cp.execFileSync('/usr/bin/env',['echo','child']).toString().trim());process.exit(3)})})}))";
    if std::path::Path::new("/usr/bin/node").exists() {
        let mut spec = host_spec(&bed, "node", &["/usr/bin/node", "-e", node]);
        spec.limits.memory_bytes = 512 << 20;
        let (exit, mut lines) = bed.run(&spec);
        lines.sort();
        assert_eq!(
            (exit.code, lines),
            (3, ["child", "ok", "worker"].map(str::to_owned).to_vec())
        );
    } else {
        println!("SKIPPED: node is not installed");
    }
}

#[test]
fn postgres_runs_as_its_own_user() {
    let bin = "/usr/lib/postgresql/15/bin";
    if !std::path::Path::new(bin).exists() {
        println!("SKIPPED: postgresql-15 is not installed");
        return;
    }
    let bed = Bed::new("postgres");
    let data = bed.path("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(1000), Some(1000)).unwrap();
    let script = format!(
        "set -e; cd /data; {bin}/initdb -D /data/pg -U app --no-sync >/dev/null 2>&1; \
         {bin}/pg_ctl -D /data/pg -o '-k /tmp' -w -l /tmp/log start >/dev/null; \
         {bin}/psql -h /tmp -U app -d postgres -tAc 'select sum(n) from generate_series(1,1000) n'; \
         {bin}/pg_ctl -D /data/pg -m fast -w stop >/dev/null; exit 4"
    );
    let mut spec = host_spec(&bed, "pg", &["/bin/sh", "-c", &script]);
    spec.user = runtime::User {
        uid: 1000,
        gid: 1000,
        groups: vec![],
    };
    spec.limits.memory_bytes = 512 << 20;
    spec.shm_bytes = 128 << 20;
    spec.mounts.push(Mount {
        source: data.clone(),
        target: "/data".into(),
        read_only: false,
        owner: runtime::Owner::Instance,
    });
    spec.mounts.push(Mount {
        source: "/etc/postgresql-common".into(),
        target: "/etc/postgresql-common".into(),
        read_only: true,
        owner: runtime::Owner::Instance,
    });
    if !std::path::Path::new("/etc/postgresql-common").exists() {
        spec.mounts.pop();
    }
    let (exit, lines) = bed.run(&spec);
    assert_eq!((exit.code, lines), (4, vec!["500500".to_owned()]));
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(data.join("pg/PG_VERSION")).unwrap()),
        1000
    );
}

/// Removes its segment whatever happens.
struct SharedMemory(String);

impl SharedMemory {
    fn new(key: u32) -> SharedMemory {
        let script = format!("import ctypes; print(ctypes.CDLL(None).shmget({key}, 4096, 0o1666))");
        let made = Command::new(PYTHON).args(["-c", &script]).output().unwrap();
        let id = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        assert_ne!(id, "-1");
        SharedMemory(id)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let _ = Command::new("/usr/bin/ipcrm").args(["-m", &self.0]).status();
    }
}
