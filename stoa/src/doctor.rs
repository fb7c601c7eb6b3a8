//! `stoa doctor`: what this machine offers, and how to mend what is missing.
//!
//! Lives here: the checks, and the few that `stoa up` refuses to start without.
//! Does not live here: mending anything.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cli::DoctorArgs;

use crate::places::Places;
use crate::{Failure, print, store_care};

/// Less free space than this is asking for trouble: one image and its build.
const FREE_LEAST: u64 = 2 << 30;
/// Kernel features used without a fallback arrived up to this version (idmapped overlay layers).
const KERNEL_LEAST: (u32, u32) = (5, 19);

/// One thing that was looked at.
pub(crate) struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    fix: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Warning,
    Missing,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
        }
    }
}

impl Check {
    pub(crate) fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Good,
            detail: detail.into(),
            fix: None,
        }
    }
    pub(crate) fn bad(
        name: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

pub(crate) fn run(args: &DoctorArgs, json: bool) -> Result<ExitCode, Failure> {
    let data = args.data_dir.as_path();
    if args.repair {
        return store_care::repair(data, json);
    }
    let mut checks = vec![
        root(),
        kernel(),
        user_namespaces(),
        overlay(),
        cgroups(),
        tool("nft", "nftables"),
    ];
    checks.push(optional_tool(
        "mmdebstrap",
        "mmdebstrap",
        "bases from Debian packages",
    ));
    checks.push(optional_tool(
        "mkfs.xfs",
        "xfsprogs",
        "copy-on-write clones of volumes",
    ));
    checks.push(loop_devices());
    checks.push(connection_tracking());
    checks.push(disk(data));
    checks.push(clones(data));
    checks.extend(ports());
    checks.extend(store_care::check(data));
    let is_missing = checks.iter().any(|check| check.verdict == Verdict::Missing);
    if json {
        let list: Vec<serde_json::Value> = checks
            .iter()
            .map(|c| {
                serde_json::json!({ "name": c.name, "verdict": c.verdict.word(), "detail": c.detail, "fix": c.fix })
            })
            .collect();
        print(&format!("{}\n", serde_json::json!({ "checks": list })))?;
    } else {
        let lines = checks.iter().map(|check| {
            let (word, name) = (check.verdict.word(), check.name);
            let fix = check
                .fix
                .iter()
                .map(|fix| format!("{:<8} {:<18} fix: {fix}\n", "", ""));
            format!("{word:<8} {name:<18} {}\n", check.detail) + &fix.collect::<String>()
        });
        print(&lines.collect::<String>())?;
        match is_missing {
            true => eprintln!("\nnext: mend what is missing, then: stoa doctor"),
            false => eprintln!("\nnext: stoa up"),
        }
    }
    Ok(if is_missing {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

/// What `stoa up` cannot work without; the first one that is missing is told.
pub(crate) fn refuse_what_cannot_work(places: &Places) -> Result<(), Failure> {
    for check in [
        kernel(),
        user_namespaces(),
        overlay(),
        cgroups(),
        tool("nft", "nftables"),
        disk(&places.data),
    ] {
        if check.verdict == Verdict::Missing {
            return Err(Failure::new(
                format!("{}: {}", check.name, check.detail),
                check.fix.unwrap_or_default(),
            ));
        }
    }
    Ok(())
}

fn root() -> Check {
    match rustix::process::geteuid().is_root() {
        true => Check::good("root", "you are root"),
        false => Check::bad(
            "root",
            Verdict::Missing,
            "you are not root, which stoa up has to be",
            "sudo stoa up",
        ),
    }
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= KERNEL_LEAST {
        true => Check::good("kernel", format!("Linux {release}")),
        false => Check::bad(
            "kernel",
            Verdict::Missing,
            format!("Linux {release} is too old for idmapped layers"),
            format!(
                "install Linux {}.{} or newer (Debian 12 has 6.1)",
                KERNEL_LEAST.0, KERNEL_LEAST.1
            ),
        ),
    }
}

fn user_namespaces() -> Check {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match limit.trim().parse::<u64>() {
        Ok(limit) if limit > 0 => Check::good("user namespaces", format!("up to {limit}")),
        Ok(_) | Err(_) => Check::bad(
            "user namespaces",
            Verdict::Missing,
            "the kernel allows none, so instances cannot have private user ids",
            "sysctl -w user.max_user_namespaces=65536",
        ),
    }
}

fn overlay() -> Check {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match known.lines().any(|line| line.trim_end().ends_with("overlay")) {
        true => Check::good("overlay", "layers can be stacked"),
        false => Check::bad(
            "overlay",
            Verdict::Missing,
            "the kernel does not know overlay",
            "modprobe overlay",
        ),
    }
}

fn cgroups() -> Check {
    let base = Path::new("/sys/fs/cgroup");
    let unified = base.join("cgroup.controllers");
    if unified.exists() {
        let controllers = fs::read_to_string(unified).unwrap_or_default();
        let lacks: Vec<&str> = ["memory", "cpu", "pids"]
            .into_iter()
            .filter(|c| !controllers.split_whitespace().any(|k| k == *c))
            .collect();
        return match lacks.is_empty() {
            true => Check::good("cgroups", "version 2"),
            false => Check::bad(
                "cgroups",
                Verdict::Missing,
                format!("version 2, but without {}", lacks.join(", ")),
                "boot without cgroup_disable= in the kernel's command line",
            ),
        };
    }
    let lacks: Vec<&str> = ["memory", "cpu", "pids"]
        .into_iter()
        .filter(|c| !base.join(c).is_dir())
        .collect();
    let hybrid = if base.join("unified").is_dir() {
        " (hybrid)"
    } else {
        ""
    };
    match lacks.is_empty() {
        true => Check::good("cgroups", format!("version 1{hybrid}")),
        false => Check::bad(
            "cgroups",
            Verdict::Missing,
            format!(
                "version 1{hybrid}, but {} not mounted: limits could not be enforced",
                lacks.join(", ")
            ),
            "mount them below /sys/fs/cgroup (package cgroupfs-mount), or boot with systemd",
        ),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn tool(program: &'static str, package: &str) -> Check {
    match find(program) {
        Some(path) => Check::good(program, path.display().to_string()),
        None => Check::bad(
            program,
            Verdict::Missing,
            "not found; instances could not be kept apart on the network",
            format!("apt-get install {package}"),
        ),
    }
}

fn optional_tool(program: &'static str, package: &str, purpose: &str) -> Check {
    match find(program) {
        Some(path) => Check::good(program, path.display().to_string()),
        None => Check::bad(
            program,
            Verdict::Warning,
            format!("not found; without it there are no {purpose}"),
            format!("apt-get install {package}"),
        ),
    }
}

fn loop_devices() -> Check {
    match Path::new("/dev/loop-control").exists() {
        true => Check::good("loop devices", "there"),
        false => Check::bad(
            "loop devices",
            Verdict::Warning,
            "none; where the data directory cannot clone, clones of volumes are full copies",
            "modprobe loop",
        ),
    }
}

/// Masquerading and the rules between networks make the kernel remember every connection of the machine, two minutes
/// past its end; when the table is full, new connections are dropped and time out.
fn connection_tracking() -> Check {
    const NAME: &str = "connection table";
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
        text.ok().and_then(|text| text.trim().parse::<u64>().ok())
    };
    match (read("count"), read("max")) {
        (Some(count), Some(max)) if count > max / 2 => Check::bad(
            NAME,
            Verdict::Warning,
            format!("{count} of {max} entries are in use; when it is full, new connections time out"),
            format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}",
                max.saturating_mul(4)
            ),
        ),
        (Some(count), Some(max)) => Check::good(NAME, format!("{count} of {max} entries in use")),
        _ => Check::good(NAME, "not in use yet"),
    }
}

/// The nearest directory that exists: the data directory may be still to be made.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|dir| dir.is_dir())
        .unwrap_or(Path::new("/"))
}

fn disk(data: &Path) -> Check {
    let Ok(facts) = rustix::fs::statvfs(existing(data)) else {
        return Check::bad(
            "disk",
            Verdict::Warning,
            "its free space cannot be read",
            "look at it: df -h",
        );
    };
    let free = facts.f_bavail * facts.f_frsize;
    let text = format!("{} MiB free for {}", free >> 20, data.display());
    let fix = "free some room, or choose another disk: stoa up --data-dir DIR";
    match free {
        0 => Check::bad("disk", Verdict::Missing, text, fix),
        free if free < FREE_LEAST => Check::bad("disk", Verdict::Warning, text, fix),
        _ => Check::good("disk", text),
    }
}

fn clones(data: &Path) -> Check {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = existing(data);
    let file_system = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(mount, _)| dir.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len())
        .map_or("unknown", |(_, kind)| kind);
    match file_system {
        "xfs" | "btrfs" => Check::good("volumes", format!("{file_system} can clone")),
        other => Check::bad(
            "volumes",
            Verdict::Warning,
            format!(
                "{other} cannot clone; stoa up makes a pool file with XFS, which costs databases about 30 % of their speed"
            ),
            "for production put the data directory on a partition with XFS",
        ),
    }
}

fn ports() -> Vec<Check> {
    let look = |name, port: u16| {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        match (TcpListener::bind(address), warden::holder_of_port(port)) {
            (Ok(_), _) => Check::good(name, format!("port {port} is free")),
            (Err(_), Some(holder)) => Check::bad(
                name,
                Verdict::Warning,
                format!("port {port} is held by {holder}"),
                format!(
                    "end it, or choose another: stoa up --{} ADDRESS:PORT",
                    &name[..name.len() - 5]
                ),
            ),
            (Err(cause), None) => Check::bad(
                name,
                Verdict::Warning,
                format!("port {port} cannot be had: {cause}"),
                format!(
                    "choose another: stoa up --{} ADDRESS:PORT",
                    &name[..name.len() - 5]
                ),
            ),
        }
    };
    vec![
        look("http port", 80),
        look("https port", 443),
        look("api port", 7070),
    ]
}
