//! Controls: the clients, the load and the census see what they are there to see, without any Stoa.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use journeys::http::Connection;
use journeys::traffic::{Fault, Kind, Load, Report, Tally, Traffic};
use journeys::{PATIENCE, WebSocket, census, http, repository, until};

/// The probe application as a plain process of the host.
struct Probe {
    child: Child,
    address: SocketAddr,
}

impl Probe {
    fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new("python3")
            .arg(repository().join("tests/apps/probe/server.py"))
            .env("PORT", port.to_string())
            .env("VERSION", "7")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let probe = Self { child, address };
        until("the probe", PATIENCE, || {
            Ok(http::get(address, "x", "/healthz").ok())
        })?;
        Ok(probe)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn the_clients_speak_http_and_websocket() -> Result<()> {
    let probe = Probe::start(&[])?;
    let mut connection = Connection::open(probe.address)?;
    for _ in 0..3 {
        ensure!(connection.get("probe.localhost", "/")?.text() == "7");
    }
    let slow = connection.get("probe.localhost", "/slow?ms=20")?;
    ensure!(slow.text().ends_with("end\n") && slow.header("transfer-encoding") == Some("chunked"));
    ensure!(
        connection
            .get("probe.localhost", "/headers")?
            .text()
            .contains("probe.localhost")
    );
    ensure!(connection.get("probe.localhost", "/nowhere")?.status == 404);
    let mut socket = WebSocket::open(probe.address, "probe.localhost", "/echo")?;
    socket.echo("one")?;
    socket.echo("two")?;
    socket.close()
}

/// All but HTTP/2, which the probe on its own does not speak: that is the edge's part.
const OVER_HTTP1: [Kind; 6] = [
    Kind::KeepAlive,
    Kind::NewConnection,
    Kind::WebSocket,
    Kind::Upload,
    Kind::Download,
    Kind::Streaming,
];

/// Reads on until each of these kinds has had an exchange that `is_seen`.
fn watch(traffic: &Traffic, kinds: &[Kind], is_seen: impl Fn(&Tally) -> bool) -> Result<Report> {
    let mut report = Report::default();
    until("an exchange of each kind", PATIENCE, || {
        report.add(traffic.take());
        let seen = |kind| report.tallies.get(kind).is_some_and(&is_seen);
        Ok(kinds.iter().all(seen).then_some(()))
    })?;
    println!("{report}");
    Ok(report)
}

#[test]
fn the_traffic_is_quiet_on_a_sound_server_and_loud_on_a_dead_one() -> Result<()> {
    let mut probe = Probe::start(&[])?;
    let traffic = Traffic::start(probe.address, "probe.localhost", "7", Load::usual())?;
    let report = watch(&traffic, &OVER_HTTP1, |tally| tally.answered > 0)?;
    for kind in OVER_HTTP1 {
        let tally = &report.tallies[&kind];
        ensure!(
            tally.faults.is_empty() && tally.cuts == 0,
            "{:#?}",
            report.troubles
        );
    }
    probe.child.kill()?;
    probe.child.wait()?;
    watch(&traffic, &Kind::ALL, |tally| {
        tally.faults.contains_key(&Fault::Failed)
    })?;
    Ok(())
}

#[test]
fn the_traffic_notices_each_kind_of_fault() -> Result<()> {
    let cases = [
        ("truncate", "7", Fault::Truncated),
        ("double", "7", Fault::Duplicated),
        ("", "another", Fault::Misrouted),
    ];
    for (sabotage, release, fault) in cases {
        let probe = Probe::start(&[("SABOTAGE", sabotage)])?;
        let traffic = Traffic::start(probe.address, "probe.localhost", release, Load::usual())?;
        let report = watch(&traffic, &OVER_HTTP1, |tally| tally.faults.contains_key(&fault))?;
        for kind in OVER_HTTP1 {
            let faults: Vec<_> = report.tallies[&kind].faults.keys().collect();
            ensure!(faults == [&fault], "{sabotage}: {:#?}", report.troubles);
        }
    }
    Ok(())
}

#[test]
fn a_release_allowed_during_an_exchange_may_have_answered_it() -> Result<()> {
    let probe = Probe::start(&[])?;
    let traffic = Traffic::start(probe.address, "probe.localhost", "another", Load::usual())?;
    watch(&traffic, &OVER_HTTP1, |tally| {
        tally.faults.contains_key(&Fault::Misrouted)
    })?;
    traffic.may("7");
    watch(&traffic, &OVER_HTTP1, |tally| tally.answered > 0)?;
    // The slow ones are under way now; they began while it was allowed.
    traffic.only("another");
    let left = traffic.stop();
    let slow = &left.tallies[&Kind::Streaming];
    ensure!(slow.answered > 0, "{:#?}", left.troubles);
    Ok(())
}

#[test]
fn the_census_sees_what_bears_a_mark_and_nothing_else() -> Result<()> {
    let mark = format!("j{}", std::process::id() % 10_000);
    let place = std::env::temp_dir().join(format!("stoa-census-{}", std::process::id()));
    std::fs::create_dir_all(&place)?;
    let marks = [mark.clone()];
    ensure!(
        census::take(&place, &marks).is_empty(),
        "{:#?}",
        census::take(&place, &marks)
    );
    let link = format!("st{mark}-1");
    let table = format!("stoa_{mark}");
    let run = |program: &str, arguments: &[&str]| -> Result<()> {
        let status = Command::new(program)
            .args(arguments)
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "{program} {arguments:?}");
        Ok(())
    };
    let text = place.to_string_lossy().into_owned();
    run("ip", &["link", "add", &link, "type", "bridge"])?;
    run("nft", &["add", "table", "inet", &table])?;
    run("mount", &["-t", "tmpfs", "none", &text])?;
    let mut sleeper = Command::new("sleep").arg("600").env("OF", &text).spawn()?;
    // A process that begins shows its environment a moment after the one that began it goes on.
    let kinds = ["link: ", "nftables table: ", "mount: ", "process: "];
    let sees = |found: &BTreeSet<String>, kind: &str| found.iter().any(|line| line.starts_with(kind));
    let found = until("the census to see all", PATIENCE, || {
        let found = census::take(&place, &marks);
        Ok(kinds.iter().all(|kind| sees(&found, kind)).then_some(found))
    });
    sleeper.kill()?;
    sleeper.wait()?;
    run("umount", &[&text])?;
    run("nft", &["delete", "table", "inet", &table])?;
    run("ip", &["link", "delete", &link])?;
    found?;
    ensure!(
        census::take(&place, &marks).is_empty(),
        "{:#?}",
        census::take(&place, &marks)
    );
    std::fs::remove_dir_all(&place)?;
    Ok(())
}
