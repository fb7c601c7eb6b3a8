//! The real edge among faults: bad tables, a stalled thread, a disk that is slow under control.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::platform::Platform;
use journeys::process::Process;
use journeys::traffic::{Kind, Load, Report};
use journeys::{ENVIRONMENT, Frozen, PATIENCE, holds, until};
use serde_json::{Value, json};

const BAD_TABLES: usize = 10_000;
/// One in so many is larger than any table may be (16 MiB).
const OVERSIZED_EVERY: usize = 500;
const SEED: u64 = 48;
/// How long the traffic is watched with and without the fault.
const WATCHED: Duration = Duration::from_secs(10);

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).unwrap_or_default()
    }
}

/// The edge's door for tables, in its own words.
struct Door(BufReader<UnixStream>);

impl Door {
    fn open(data: &Path) -> Result<Self> {
        let stream = UnixStream::connect(data.join("run/edge.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn say(&mut self, order: &Value, document: &[u8]) -> Result<Value> {
        let stream = self.0.get_mut();
        writeln!(stream, "{}", json!({ "v": 1, "do": order }))?;
        stream.write_all(document)?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the edge said {line:?}"))
    }

    fn publish(&mut self, document: &[u8]) -> Result<Value> {
        self.say(&json!({ "publish": { "bytes": document.len() } }), document)
    }
}

/// Tables that are newer than the good one and wrong in one way each.
fn wrong(good: &Value) -> Result<Vec<Vec<u8>>> {
    let generation = good["generation"].as_u64().context("a generation")?;
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut table = good.clone();
        table["generation"] = json!(generation + 1);
        change(&mut table);
        table.to_string().into_bytes()
    };
    let twice = |list: &mut Value| {
        let first = list[0].clone();
        if let Some(list) = list.as_array_mut() {
            list.push(first);
        }
    };
    Ok(vec![
        Vec::new(),
        b"null".to_vec(),
        "{".repeat(50_000).into_bytes(),
        b"\xff\xfe\x00".to_vec(),
        changed(&|t| t["version"] = json!(99)),
        changed(&|t| t["surprise"] = json!(1)),
        changed(&|t| twice(&mut t["routes"])),
        changed(&|t| twice(&mut t["services"])),
        changed(&|t| twice(&mut t["services"][0]["targets"])),
        changed(&|t| t["services"][0]["targets"][0]["addr"] = json!("127.0.0.1:22")),
        changed(&|t| t["routes"][0]["service"] = json!("nobody")),
        changed(&|t| t["routes"][0]["host"] = json!("*.com")),
        changed(&|t| t["routes"] = json!(vec![t["routes"][0].clone(); 20_001])),
        changed(&|t| t["generation"] = json!(generation.saturating_sub(1))),
        changed(&|t| {
            t["generation"] = json!(generation);
            t["routes"] = json!([]);
        }),
    ])
}

/// The good one with bytes cut or changed, and never newer.
fn damaged(good: &Value, generation: u64, chance: &mut Chance) -> Vec<u8> {
    let text = good.to_string().into_bytes();
    loop {
        let mut bytes = text.clone();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bytes.len());
            if chance.below(3) == 0 {
                bytes.truncate(at);
            } else if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << chance.below(8);
            }
        }
        let is_taken = |table: Value| table["generation"].as_u64() > Some(generation) || table == *good;
        if !serde_json::from_slice(&bytes).is_ok_and(is_taken) {
            return bytes;
        }
    }
}

fn without_fault(report: &Report) -> Result<()> {
    println!("{report}");
    ensure!(report.faults() == 0, "{:#?}", report.troubles);
    ensure!(report.exchanges() > 0, "there was no traffic");
    Ok(())
}

/// R19 with the real binary: refused whole, the last good one stays, nobody notices.
#[test]
fn f48_ten_thousand_bad_tables_fail_no_request() -> Result<()> {
    println!("seed {SEED}");
    let platform = Platform::start("bad-tables")?;
    let data = platform.stoa.data_dir();
    let kept = data.join("edge/routes.json");
    let good = fs::read(&kept)?;
    let table: Value = serde_json::from_slice(&good)?;
    let generation = table["generation"].as_u64().context("a generation")?;
    let (edge, documents) = (platform.stoa.part("edge")?, wrong(&table)?);
    let mut oversized = vec![b' '; 17 << 20];
    oversized.extend(&good);
    let traffic = platform.traffic(Load::usual())?;
    let (mut door, mut chance) = (Door::open(&data)?, Chance(SEED));
    let begin = Instant::now();
    for number in 0..BAD_TABLES {
        let document = if number % OVERSIZED_EVERY == 0 {
            oversized.clone()
        } else if number % 2 == 0 {
            damaged(&table, generation, &mut chance)
        } else {
            documents[number / 2 % documents.len()].clone()
        };
        let reply = door.publish(&document)?;
        let problems = reply["refused"]["problems"].as_array();
        ensure!(
            problems.is_some_and(|problems| !problems.is_empty()),
            "table {number} was answered {reply}: {}",
            String::from_utf8_lossy(&document[..document.len().min(2000)])
        );
    }
    let took = begin.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(1));
    println!("{BAD_TABLES} bad tables in {took:.1} s");
    without_fault(&traffic.stop())?;
    ensure!(fs::read(&kept)? == good, "another table is kept");
    ensure!(edge.is_alive(), "the edge is another process");
    let log = platform.stoa.log();
    ensure!(!log.contains("panicked"), "something panicked:\n{log}");
    platform.nothing_noticed()?;
    platform.deploys()?;
    platform.stoa.finish()
}

/// `strace` at work on a process; detached when it goes away.
struct Delayed {
    tracer: Child,
    seen: PathBuf,
}

impl Delayed {
    /// Holds the calls up before they are made, each for so long.
    fn start(pid: i32, calls: &str, by: Duration, seen: PathBuf) -> Result<Self> {
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-p", &pid.to_string(), "-o"])
            .arg(&seen)
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:delay_enter={}", by.as_micros())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("strace is needed")?;
        Ok(Self { tracer, seen })
    }

    fn calls(&self) -> usize {
        fs::read_to_string(&self.seen).map_or(0, |text| {
            text.lines().filter(|line| line.contains("DELAYED")).count()
        })
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        // Told to end, it lets go of what it traces; killed, the kernel does that.
        if let Some(tracer) = i32::try_from(self.tracer.id()).ok().and_then(Process::of) {
            let _gone = tracer.signal(libc::SIGTERM);
        }
        let ended = until("strace to end", Duration::from_secs(10), || {
            Ok(self.tracer.try_wait()?)
        });
        if ended.is_err() {
            let _gone = self.tracer.kill();
            let _reaped = self.tracer.wait();
        }
    }
}

/// Control writes to a disk that takes 500 ms for each sync: the API waits for it, requests do not.
#[test]
fn f17_a_slow_disk_slows_control_and_no_request() -> Result<()> {
    let platform = Platform::start("slow-disk")?;
    let traffic = platform.traffic(Load::usual())?;
    thread::sleep(WATCHED);
    let before = traffic.take();
    let control = platform.stoa.part("control")?.pid;
    let seen = platform.stoa.root().join("syncs");
    let slow = Delayed::start(control, "fsync,fdatasync", Duration::from_millis(500), seen)?;
    let api = platform.stoa.api()?;
    let (mut writes, mut slowest) = (0, Duration::ZERO);
    let begin = Instant::now();
    // Until it is known to have hit, and for as long as the traffic was watched without.
    while begin.elapsed() < WATCHED || slow.calls() < 5 {
        ensure!(begin.elapsed() < PATIENCE, "no sync of control was seen");
        let asked = Instant::now();
        let body = json!({ "name": format!("slow{writes}") });
        let made = api.call("POST", &format!("{ENVIRONMENT}/apps"), Some(&body))?;
        ensure!(made.status == 201, "{}", made.body);
        slowest = slowest.max(asked.elapsed());
        writes += 1;
    }
    let during = traffic.take();
    let syncs = slow.calls();
    drop(slow);
    without_fault(&before)?;
    without_fault(&during)?;
    for kind in [Kind::KeepAlive, Kind::NewConnection, Kind::Http2] {
        let p99_ms = |report: &Report| {
            let tally = report.tallies.get(&kind);
            tally.map_or(0.0, |tally| tally.quantile(0.99).as_secs_f64() * 1000.0)
        };
        println!(
            "{}: p99 {:.1} ms before, {:.1} ms with slow syncs",
            kind.name(),
            p99_ms(&before),
            p99_ms(&during)
        );
    }
    println!(
        "{writes} writes, {syncs} slow syncs, the slowest write took {:.1} s",
        slowest.as_secs_f64()
    );
    without_fault(&traffic.stop())?;
    platform.nothing_noticed()?;
    platform.stoa.finish()
}

/// A thread of the edge that stands still: the watchdog ends the process, keeps what it saw, and the warden replaces it.
#[test]
fn f49_a_stalled_edge_is_replaced_and_leaves_a_dump() -> Result<()> {
    let platform = Platform::start("stalled")?;
    let edge = platform.stoa.part("edge")?;
    let threads = fs::read_dir(format!("/proc/{}/task", edge.pid))?;
    let is_worker =
        |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == "edge-0");
    let worker = threads
        .filter_map(|thread| Some(thread.ok()?.path()))
        .find(is_worker)
        .context("no serving thread")?;
    let thread = worker
        .file_name()
        .and_then(|name| name.to_str())
        .context("a number")?;
    let begin = Instant::now();
    let stuck = Frozen::new(thread.parse()?)?;
    let dump = platform.stoa.data_dir().join("edge/stalled.txt");
    until("another edge", PATIENCE, || {
        stuck.see();
        Ok(platform
            .stoa
            .part("edge")
            .ok()
            .filter(|now| now.pid != edge.pid && !edge.is_alive()))
    })?;
    holds("requests to be served", || {
        Ok(platform
            .stoa
            .get(&platform.app.host(), "/")
            .is_ok_and(|answer| answer.status == 200))
    })?;
    println!(
        "served again {:.1} s after the stall began",
        begin.elapsed().as_secs_f64()
    );
    drop(stuck);
    let text = fs::read_to_string(&dump).context("no dump")?;
    ensure!(
        text.contains(&format!("thread {thread}: stalled")),
        "the dump says {text}"
    );
    platform.nothing_noticed()?;
    platform.deploys()?;
    platform.stoa.finish()
}
