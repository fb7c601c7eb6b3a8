//! What every test of this crate starts from: a small root file system of its own, a runtime with its own mark, and a
//! census that fails the test when something is left on the machine.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime::logs::{Query, Reader, Record};
use runtime::{ContainerSpec, Exit, Limits, LogSpec, Runtime, State, Tier, User};

/// Generous: these tests run beside others on a loaded machine.
pub const LONG: Duration = Duration::from_secs(120);
/// The opening of a store that is not there.
pub const EPOCH: u64 = 1;
/// Far from what Stoa itself hands out.
pub const UID_BASE: u32 = 1_900_000_000;
const BUSYBOX: &str = "/bin/busybox";

/// A machine of one test's own.
pub struct Bed {
    pub runtime: Runtime,
    pub dir: tempfile::TempDir,
    pub mark: String,
}

impl Bed {
    pub fn new(name: &str) -> Bed {
        assert!(
            Path::new(BUSYBOX).exists(),
            "these tests need Debian's busybox-static: apt-get install busybox-static"
        );
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("t{}-{number}-{name}", std::process::id());
        // Not below /tmp when that is a tmpfs without room; the build directory is on a real disk.
        let dir = tempfile::Builder::new()
            .prefix("stoa-runtime-")
            .tempdir()
            .unwrap();
        let runtime = Runtime::open(&dir.path().join("instances"), &mark, EPOCH).unwrap();
        make_root(&dir.path().join("layer"));
        Bed { runtime, dir, mark }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A busybox instance running `script`.
    pub fn spec(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            hostname: id.to_owned(),
            layers: vec![self.path("layer")],
            writable: self.path(&format!("writable-{id}")),
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            cwd: "/".into(),
            user: User::default(),
            uid_base: UID_BASE,
            limits: Limits {
                memory_bytes: 128 << 20,
                cpu_millis: 2000,
                cpu_weight: 100,
                pids: 100,
            },
            netns: None,
            mounts: Vec::new(),
            secrets: Vec::new(),
            files: Vec::new(),
            stop_signal: 15,
            log: LogSpec {
                dir: self.path("log"),
                segment_bytes: 16 << 20,
                max_bytes: 64 << 20,
                label: id.to_owned(),
                rate_bytes_per_s: 0,
            },
            init: true,
            tier: Tier::Standard,
            nofile: 1024,
            shm_bytes: 16 << 20,
            tmp_bytes: None,
        }
    }

    pub fn wait(&self, id: &str) -> Exit {
        self.runtime
            .wait_exit(id, LONG)
            .unwrap()
            .unwrap_or_else(|| panic!("{id} did not end; log: {:?}", self.lines(id)))
    }

    /// Starts, waits for the end, removes; the exit and its output lines.
    pub fn run(&self, spec: &ContainerSpec) -> (Exit, Vec<String>) {
        self.runtime.start(spec).unwrap_or_else(|error| panic!("{error}"));
        let exit = self.wait(&spec.id);
        self.runtime.remove(&spec.id).unwrap();
        (exit, self.lines(&spec.id))
    }

    pub fn records(&self, id: &str) -> Vec<Record> {
        let query = Query {
            labels: [id.to_owned()].into(),
            ..Query::default()
        };
        let mut reader = Reader::open(&self.path("log"), query).unwrap();
        let mut all = Vec::new();
        loop {
            let batch = reader.read(10_000).unwrap();
            if batch.is_empty() {
                return all;
            }
            all.extend(batch);
        }
    }

    pub fn lines(&self, id: &str) -> Vec<String> {
        self.records(id)
            .iter()
            .map(|r| String::from_utf8_lossy(&r.text).into_owned())
            .collect()
    }

    /// Waits until the instance has printed a line with `text`.
    pub fn wait_line(&self, id: &str, text: &str) {
        wait_for(&format!("{id} to print {text:?}"), || {
            self.lines(id).iter().any(|line| line.contains(text))
        });
    }

    pub fn state(&self, id: &str) -> State {
        self.runtime
            .get(id)
            .unwrap()
            .unwrap_or_else(|| panic!("no {id}"))
            .state
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for container in self.runtime.list().unwrap_or_default() {
            let _ = self.runtime.remove(&container.id);
        }
        self.runtime.tidy();
        if !std::thread::panicking() {
            census(&self.mark, self.dir.path());
        }
    }
}

/// Fails when a cgroup, mount or process of this test is left.
pub fn census(mark: &str, dir: &Path) {
    let text = dir.to_string_lossy().into_owned();
    wait_for("nothing to be left behind", || leftovers(mark, &text).is_empty());
}

pub fn leftovers(mark: &str, dir: &str) -> Vec<String> {
    let mut left = Vec::new();
    for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let path = entry.path().join(format!("stoa-{mark}"));
        if path.exists() {
            left.push(path.display().to_string());
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(dir))
            .map(str::to_owned),
    );
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let link = fs::read_link(entry.path().join("cwd"));
        // A keeper's working directory is its instance's.
        if link.is_ok_and(|cwd| cwd.to_string_lossy().starts_with(dir)) && entry.file_name() != "self" {
            left.push(format!("process {}", entry.path().display()));
        }
    }
    left
}

pub fn wait_for(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !fact() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A busybox root, owned by container root.
pub fn make_root(root: &Path) {
    for dir in [
        "bin", "etc", "tmp", "proc", "dev", "sys", "run", "root", "home/app",
    ] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let applets = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .unwrap();
    for applet in String::from_utf8(applets.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
    std::os::unix::fs::chown(root.join("home/app"), Some(1000), Some(1000)).unwrap();
}
