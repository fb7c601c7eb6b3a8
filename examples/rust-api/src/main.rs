//! A small HTTP API with nothing but the standard library: a counter per name, kept in memory.
//!
//! It follows the usual run contract: listens on `PORT`, logs to standard output, and on SIGTERM (which ends a
//! program that does not handle it) simply ends; it keeps no request open for longer than it takes to answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const BODY_MAX: u64 = 64 * 1024;
const IDLE: Duration = Duration::from_secs(75);

type Counters = Arc<Mutex<BTreeMap<String, u64>>>;

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening on port {port}");
    let counters = Counters::default();
    for stream in listener.incoming() {
        let (stream, counters) = (stream?, Arc::clone(&counters));
        thread::spawn(move || {
            if let Err(error) = serve(&stream, &counters) {
                println!("connection: {error}");
            }
        });
    }
    Ok(())
}

/// Answers the requests of one connection until the other side closes it.
fn serve(stream: &TcpStream, counters: &Counters) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut words = line.split_ascii_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let length = skip_head(&mut reader)?;
        std::io::copy(&mut (&mut reader).take(length.min(BODY_MAX)), &mut std::io::sink())?;
        let (status, body) = answer(&method, &path, counters);
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut out = stream;
        out.write_all(head.as_bytes())?;
        if method != "HEAD" {
            out.write_all(body.as_bytes())?;
        }
        println!("{method} {path} {status}");
    }
}

/// Reads to the end of the head; returns the length of the body.
fn skip_head(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(length);
        }
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
    }
}

fn answer(method: &str, path: &str, counters: &Counters) -> (&'static str, String) {
    let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
    match (method, path.strip_prefix("/counters/").filter(|name| is_name(name))) {
        ("GET" | "HEAD", None) if path == "/healthz" => ("200 OK", "{\"ok\":true}\n".to_owned()),
        ("GET" | "HEAD", None) if path == "/" => {
            let shown = std::env::var("GREETING").unwrap_or_else(|_| "hello".to_owned());
            ("200 OK", format!("{{\"greeting\":{shown:?},\"counters\":{}}}\n", counters.len()))
        }
        ("GET" | "HEAD", Some(name)) => match counters.get(name) {
            Some(count) => ("200 OK", format!("{{\"name\":{name:?},\"count\":{count}}}\n")),
            None => ("404 Not Found", "{\"error\":\"no such counter\"}\n".to_owned()),
        },
        ("POST", Some(name)) => {
            let count = counters.entry(name.to_owned()).or_default();
            *count += 1;
            ("200 OK", format!("{{\"name\":{name:?},\"count\":{count}}}\n"))
        }
        _ => ("404 Not Found", "{\"error\":\"nothing here\"}\n".to_owned()),
    }
}

fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_counts() {
        let counters = Counters::default();
        assert_eq!(answer("GET", "/counters/a", &counters).0, "404 Not Found");
        answer("POST", "/counters/a", &counters);
        assert_eq!(answer("POST", "/counters/a", &counters).1, "{\"name\":\"a\",\"count\":2}\n");
        assert_eq!(answer("GET", "/counters/a/b", &counters).0, "404 Not Found");
    }
}
