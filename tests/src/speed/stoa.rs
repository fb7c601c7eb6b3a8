//! Our side: a Stoa with so many apps and releases in its store.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Amount, Speed, at, each, together};
use crate::http::Connection;
use crate::{ENVIRONMENT, PATIENCE, Stoa};

/// A filled one that runs.
#[derive(Debug)]
pub struct Filled {
    stoa: Stoa,
    apps: usize,
    token: String,
}

/// A list whose page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Of apps.
    Apps,
    /// Of the releases of one app, the newest first.
    Releases,
}

impl Filled {
    /// Starts one, fills it with `fill` while it does not run, and starts it again.
    ///
    /// # Errors
    /// When it does not come up or cannot be filled.
    pub fn start(name: &str, fill: &Path, apps: usize, releases: (usize, usize)) -> Result<Self> {
        let mut stoa = Stoa::prepare(name)?;
        stoa.up_with(&["--api-rate", "0"]);
        stoa.up()?;
        stoa.sign_in()?;
        stoa.interrupt()?;
        let filled = Command::new(fill)
            .arg(stoa.data_dir())
            .args([apps, releases.0, releases.1].map(|number| number.to_string()))
            .output()
            .with_context(|| format!("could not run {}", fill.display()))?;
        ensure!(
            filled.status.success(),
            "{}",
            String::from_utf8_lossy(&filled.stderr)
        );
        print!("   {name}: {}", String::from_utf8_lossy(&filled.stdout));
        stoa.up()?;
        let token = stoa.api()?.token().to_owned();
        Ok(Self { stoa, apps, token })
    }

    fn address(&self) -> SocketAddr {
        self.stoa.listeners().api
    }

    fn client(&self) -> Result<Client> {
        Ok(Client {
            connection: Connection::open(self.address())?,
            credential: format!("Bearer {}", self.token),
        })
    }

    /// One measurement of each kind.
    ///
    /// # Errors
    /// When a request is not answered as it must be.
    pub fn measure(&self, amount: Amount) -> Result<Speed> {
        let (write, write_p99) = together(amount.writes, |writer| {
            let mut client = self.client()?;
            let mut took = Vec::with_capacity(amount.writes);
            for number in 0..amount.writes {
                let began = Instant::now();
                client.configure((writer * 7919 + number * 31) % self.apps, number)?;
                took.push(began.elapsed());
            }
            Ok(took)
        })?;
        let mut client = self.client()?;
        let reads = each(amount.reads, |number| {
            client.get(&format!("{ENVIRONMENT}/apps/app-{:05}", number * 37 % self.apps))
        })?;
        let pages = each(amount.pages, |_| {
            client.get(&format!("{ENVIRONMENT}/apps?limit=100"))
        })?;
        let watched = self.watch(&mut client, amount.watched)?;
        Ok(Speed {
            write,
            write_p99,
            read_p99: at(&reads, 0.99),
            page: at(&pages, 0.5),
            watch: at(&watched, 0.5),
        })
    }

    /// The middle time of a page of ten, in microseconds.
    ///
    /// # Errors
    /// As [`Filled::measure`].
    pub fn page(&self, page: Page, count: usize) -> Result<f64> {
        let path = match page {
            Page::Apps => format!("{ENVIRONMENT}/apps?limit=10"),
            Page::Releases => format!("{ENVIRONMENT}/apps/app-00000/releases?limit=10"),
        };
        let mut client = self.client()?;
        Ok(at(&each(count, |_| client.get(&path))?, 0.5))
    }

    fn watch(&self, client: &mut Client, count: usize) -> Result<Vec<f64>> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n\r\n",
            self.token
        );
        stream.write_all(head.as_bytes())?;
        let closer = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().context("no answer")??;
        ensure!(first.contains(" 200 "), "{first}");
        let (seen, sees) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("\"kind\":\"app\"") && seen.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        let mut took = Vec::new();
        let mut failed = Ok(());
        for number in 0..count {
            let began = Instant::now();
            failed = client.configure(number % self.apps, number + 1_000_000);
            match (&failed, sees.recv_timeout(PATIENCE)) {
                (Ok(()), Ok(at)) => took.push(at.duration_since(began)),
                (Ok(()), Err(_)) => failed = Err(anyhow::anyhow!("no event of write {number}")),
                (Err(_), _) => {}
            }
            if failed.is_err() {
                break;
            }
            // So that no event of this write is taken for the next one's.
            while sees.recv_timeout(Duration::from_millis(2)).is_ok() {}
        }
        closer.shutdown(std::net::Shutdown::Both)?;
        drop(sees);
        if reader.join().is_err() {
            bail!("the watcher panicked");
        }
        failed?;
        Ok(super::sorted(took))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When something is left.
    pub fn finish(self) -> Result<()> {
        self.stoa.finish()
    }
}

/// One connection that is kept.
struct Client {
    connection: Connection,
    credential: String,
}

impl Client {
    fn get(&mut self, path: &str) -> Result<()> {
        self.request("GET", path, b"")
    }

    /// Sets a variable of an app that serves nothing: one durable, audited change.
    fn configure(&mut self, app: usize, number: usize) -> Result<()> {
        let body = format!("{{\"set\":{{\"VALUE\":\"{number:0>512}\"}}}}");
        self.request(
            "PATCH",
            &format!("{ENVIRONMENT}/apps/app-{app:05}/env"),
            body.as_bytes(),
        )
    }

    /// In one write, as a client that cares for its speed sends it.
    fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<()> {
        let mut bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.credential,
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.connection.send(&bytes)?;
        let answer = self.connection.receive(false)?;
        ensure!(
            answer.status == 200,
            "{method} {path}: {}: {}",
            answer.status,
            answer.text()
        );
        Ok(())
    }
}
