//! Secrets under the hands of an operator: another master key under load and through `kill -9` (N75, N76).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, ENVIRONMENT, PATIENCE, Stoa, until};
use serde_json::{Value, json};

/// Kills of control in the middle of rotations.
const KILLS: u32 = 8;
const SECRETS: usize = 60;

fn value(n: usize) -> String {
    format!("rotated-value-{n:03}")
}

/// A Stoa with an app that gets so many secrets.
fn world(name: &str) -> Result<(Stoa, Application)> {
    let stoa = Stoa::start(name)?;
    let app = Application::copy("probe", stoa.root())?;
    let keys: Vec<String> = (0..SECRETS).map(|n| format!("\"KEY_{n}\"")).collect();
    let wanted = format!("port = 8080\nsecrets = [{}]", keys.join(", "));
    app.replace("stoa.toml", "port = 8080", &wanted)?;
    let lines: Vec<String> = (0..SECRETS).map(|n| format!("KEY_{n}={}", value(n))).collect();
    stoa.cli(&["apps", "create", "probe"])?.ok()?;
    stoa.cli_in(app.folder(), &["secrets", "import"], lines.join("\n").as_bytes())?
        .ok()?;
    stoa.deploy(&app)?.ok()?;
    Ok((stoa, app))
}

/// What the instance that answers has in its environment.
fn delivered(stoa: &Stoa, app: &Application) -> Result<Value> {
    Ok(serde_json::from_str(
        &stoa.get(&app.host(), "/environment")?.text(),
    )?)
}

fn all_are_delivered(stoa: &Stoa, app: &Application) -> Result<()> {
    let seen = delivered(stoa, app)?;
    for n in 0..SECRETS {
        ensure!(
            seen[format!("KEY_{n}")] == value(n),
            "KEY_{n} is {}",
            seen[format!("KEY_{n}")]
        );
    }
    Ok(())
}

#[test]
fn the_master_key_is_rotated_under_load_and_kills() -> Result<()> {
    let (stoa, app) = world("rotate")?;
    let data = stoa.data_dir();
    let key_file = data.join("keys/master");
    let founding = fs::read_to_string(&key_file)?;
    ensure!(fs::metadata(&key_file)?.permissions().mode() & 0o7777 == 0o600);
    stoa.cli(&["apps", "create", "load"])?.ok()?;
    let (stop, set) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<()> {
            let api = stoa.api()?;
            while !stop.load(Ordering::SeqCst) {
                let n = set.load(Ordering::SeqCst);
                let path = format!("{ENVIRONMENT}/apps/load/secrets/LOAD_{n}");
                // Control may be dead right now: only what it acknowledged counts.
                match api.call("PUT", &path, Some(&json!({ "value": format!("loaded-{n}") }))) {
                    Ok(reply) if reply.status == 200 => drop(set.fetch_add(1, Ordering::SeqCst)),
                    Ok(_) | Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
            Ok(())
        });
        let result = rotate_and_kill(&stoa);
        stop.store(true, Ordering::SeqCst);
        load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        result
    })?;
    ensure!(set.load(Ordering::SeqCst) > 0, "nothing was written meanwhile");
    let now = fs::read_to_string(&key_file)?;
    ensure!(
        now.lines().count() == 2 && now.starts_with("stoa-integrity-1 "),
        "{} lines",
        now.lines().count()
    );
    ensure!(fs::metadata(&key_file)?.permissions().mode() & 0o7777 == 0o600);
    let old_key = founding.split_whitespace().nth(2).context("a key")?;
    ensure!(!now.contains(old_key), "the old key is still in the file");
    // Fresh instances get every value, old and new.
    stoa.cli(&["restart", "--app", "probe"])?.ok()?;
    all_are_delivered(&stoa, &app)?;
    let loaded = stoa
        .cli(&["secrets", "ls", "--app", "load", "--json"])?
        .ok()?
        .items()?;
    ensure!(loaded.len() as u64 >= set.load(Ordering::SeqCst));
    let health = stoa.cli(&["audit", "verify"])?;
    health.ok()?;
    stoa.finish()
}

/// Rotations, one after the other, with control killed at moments spread over the time that one takes.
fn rotate_and_kill(stoa: &Stoa) -> Result<()> {
    let data = stoa.data_dir().to_string_lossy().into_owned();
    let began = Instant::now();
    stoa.cli(&["server", "rotate-key", "--data-dir", &data])?.ok()?;
    let takes = began.elapsed();
    let mut cut = 0;
    for kill in 0..KILLS {
        let accepted = stoa
            .cli(&["server", "rotate-key", "--detach", "--data-dir", &data, "--json"])?
            .ok()?
            .json()?;
        let id = accepted["id"].as_str().context("an operation")?.to_owned();
        thread::sleep(takes * kill / KILLS);
        let lines = fs::read_to_string(stoa.data_dir().join("keys/master"))?
            .lines()
            .count();
        stoa.part("control")?.signal(libc::SIGKILL)?;
        cut += u32::from(lines > 2);
        let api = stoa.api()?;
        until("control to be back", PATIENCE, || {
            Ok(api
                .call("GET", "/readyz", None)
                .ok()
                .filter(|reply| reply.status == 200))
        })?;
        let ended = api.settled(&id)?;
        ensure!(ended["state"] == "succeeded", "{ended:#}");
        let key = api.get("/v1/server/master-key")?;
        ensure!(key["older"] == json!([]), "{key:#}");
    }
    println!("{KILLS} kills, {cut} while two keys were in the file; a rotation took {takes:?}");
    Ok(())
}
