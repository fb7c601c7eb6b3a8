//! A small web server for static sites: what the edge does not do, because it only forwards.
//!
//! Why our own: `python3 -m http.server` knows neither parts, nor tags, nor a site's own 404 page, and asks for Python in the
//! base; busybox is not in every image; either would tie a directory of files to a base. This one is a static file of 1.4 MB
//! that needs nothing of its image, and 1.2 MB of memory.
//!
//! Lives here: connections, and how many. Does not live here: TLS, HTTP/2, limits against strangers (the edge stands before
//! it), what a request means (`answer`).
//! Invariants: nothing outside the site is ever read; memory per connection is bounded; standard library only, as `build.rs`
//! compiles this module a second time as a program of its own (which is why it is a `mod.rs`: it has two parents).

mod answer;
mod kinds;
mod request;
mod tag;
#[cfg(test)]
mod tests;

use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use answer::Site;

use answer::{Answer, Body};
use request::{Head, Request};

/// Threads, each with a small stack; below the usual limit on processes of an instance.
const CONNECTIONS: usize = 384;
/// From here on idle connections are closed quickly, so that new ones find a thread.
const CROWDED: usize = CONNECTIONS * 3 / 4;
const STACK_BYTES: usize = 128 << 10;
/// Longer than proxies keep idle connections, so that the other side closes first.
const IDLE: Duration = Duration::from_secs(90);
const IDLE_CROWDED: Duration = Duration::from_secs(1);
/// How often an idle thread looks whether it became crowded.
const TICK: Duration = Duration::from_secs(1);
/// A reader that takes nothing for so long is gone.
const SLOW_READER: Duration = Duration::from_secs(60);
/// Requests have at most this many bytes before their body.
const HEAD_BYTES: usize = 16 << 10;

/// Answers on the listener until the process ends.
pub fn serve(listener: &TcpListener, site: &Site) -> ! {
    let open = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                // Out of descriptors or the like: it passes.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            while open.load(Ordering::Relaxed) >= CONNECTIONS {
                std::thread::sleep(Duration::from_millis(10));
            }
            open.fetch_add(1, Ordering::Relaxed);
            let open = &open;
            let work = move || {
                // A broken connection concerns nobody but its other side.
                drop(converse(&stream, site, open));
                open.fetch_sub(1, Ordering::Relaxed);
            };
            if std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(threads, work)
                .is_err()
            {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
}

/// Requests of one connection, one after the other.
fn converse(mut stream: &TcpStream, site: &Site, open: &AtomicUsize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(SLOW_READER))?;
    stream.set_read_timeout(Some(TICK))?;
    let mut buffer = Vec::new();
    loop {
        let Some(end) = read_head(stream, &mut buffer, open)? else {
            return Ok(());
        };
        let head = request::read(&buffer[..end]);
        let (answer, is_last) = match &head {
            Head::Good(request) => (site.answer(request), request.closes),
            Head::Bad(status) => (Answer::plain(*status), true),
        };
        let request = match &head {
            Head::Good(request) => Some(request),
            Head::Bad(_) => None,
        };
        send(&mut stream, answer, request, is_last)?;
        if is_last {
            return stream.shutdown(std::net::Shutdown::Write);
        }
        buffer.drain(..end);
    }
}

/// Reads until the end of a request's head; answers with its length, or with nothing when the connection is over.
fn read_head(mut stream: &TcpStream, buffer: &mut Vec<u8>, open: &AtomicUsize) -> io::Result<Option<usize>> {
    let since = Instant::now();
    let mut chunk = [0; 4096];
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if buffer.len() > HEAD_BYTES {
            return Ok(Some(buffer.len()));
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let is_crowded = open.load(Ordering::Relaxed) >= CROWDED;
                if since.elapsed() >= if is_crowded { IDLE_CROWDED } else { IDLE } {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn send(stream: &mut &TcpStream, answer: Answer, request: Option<&Request>, is_last: bool) -> io::Result<()> {
    let is_head = request.is_some_and(|request| request.is_head);
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, answer::reason(answer.status));
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.status != 304 {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.length()));
    }
    if is_last {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    match answer.body {
        Body::Text(text) if !is_head => {
            head.push_str(&text);
            stream.write_all(head.as_bytes())
        }
        Body::File {
            mut file,
            first,
            length,
        } if !is_head => {
            stream.write_all(head.as_bytes())?;
            file.seek(io::SeekFrom::Start(first))?;
            // The kernel moves the bytes from the file to the socket.
            let sent = io::copy(&mut file.take(length), stream)?;
            // A file that shrank meanwhile leaves an answer that cannot be completed.
            if sent == length {
                Ok(())
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        Body::Text(_) | Body::File { .. } => stream.write_all(head.as_bytes()),
    }
}
