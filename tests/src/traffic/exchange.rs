//! The exchanges over HTTP/1.1, and what their answers must contain.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::http1::{Connection, Head, Idle};
use super::{Exchange, Wrong, numbered};

/// A connection idle for longer is given up by us: whoever kept it so long may be about to close it.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Slow exchanges: that many pieces, with a pause between them.
const PIECES: usize = 15;
const PAUSE: Duration = Duration::from_millis(100);
const UPLOAD_BYTES: usize = 60 << 10;
const DOWNLOAD_BYTES: usize = 240 << 10;

impl Exchange {
    fn request_head(&self, method: &str, path: &str, more: &str) -> Vec<u8> {
        let (host, id) = (&self.shared.host, &self.id);
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-Exchange: {id}\r\n{more}\r\n").into_bytes()
    }

    /// A head that says 200 and comes from whom it may.
    fn check_head(&self, head: &Head) -> Result<(), Wrong> {
        if head.status != 200 {
            return Err(Wrong::failed(format!("status {}", head.status)));
        }
        self.check_origin(
            head.field("x-release"),
            head.field("x-exchange"),
            head.field("x-seen"),
        )
    }

    async fn version(&self, connection: &mut Connection, more: &str) -> Result<Head, Wrong> {
        connection.send(&self.request_head("GET", "/", more)).await?;
        let head = connection.head().await?;
        let body = connection.body(&head).await;
        self.check_head(&head)?;
        if head.field("x-release").map(str::as_bytes) != Some(&body?) {
            return Err(Wrong::truncated("the body is not the release"));
        }
        Ok(head)
    }
}

pub(super) async fn keep_alive(exchange: &Exchange) -> Result<(), Wrong> {
    let mut connection = match idle(exchange)? {
        Some(connection) => connection,
        None => Connection::open(exchange.shared.address).await?,
    };
    let head = exchange.version(&mut connection, "").await?;
    if head.closes() {
        exchange.shared.report().cut(exchange.kind);
        return Ok(());
    }
    let mut waiting = exchange
        .shared
        .idle
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    waiting.push(Idle {
        connection,
        since: Instant::now(),
    });
    Ok(())
}

/// A kept connection that still lives.
fn idle(exchange: &Exchange) -> Result<Option<Connection>, Wrong> {
    let mut waiting = exchange
        .shared
        .idle
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    waiting.retain(|idle| idle.since.elapsed() < IDLE_MAX);
    while let Some(idle) = waiting.pop() {
        if idle.connection.is_quiet()? {
            return Ok(Some(idle.connection));
        }
        exchange.shared.report().cut(exchange.kind);
    }
    Ok(None)
}

pub(super) async fn new_connection(exchange: &Exchange) -> Result<(), Wrong> {
    let mut connection = Connection::open(exchange.shared.address).await?;
    exchange.version(&mut connection, "Connection: close\r\n").await?;
    Ok(())
}

/// Half of them with a length, half in chunks.
pub(super) async fn upload(exchange: &Exchange) -> Result<(), Wrong> {
    let content = numbered(UPLOAD_BYTES);
    let chunked = exchange.id.ends_with(['1', '3', '5', '7', '9']);
    let framing = if chunked {
        "Transfer-Encoding: chunked\r\n".to_owned()
    } else {
        format!("Content-Length: {}\r\n", content.len())
    };
    let mut connection = Connection::open(exchange.shared.address).await?;
    let framing = format!("{framing}Connection: close\r\n");
    connection
        .send(&exchange.request_head("POST", "/upload", &framing))
        .await?;
    for piece in content.chunks(content.len() / PIECES) {
        tokio::time::sleep(PAUSE).await;
        if chunked {
            connection
                .send(format!("{:x}\r\n", piece.len()).as_bytes())
                .await?;
        }
        connection.send(piece).await?;
        if chunked {
            connection.send(b"\r\n").await?;
        }
    }
    if chunked {
        connection.send(b"0\r\n\r\n").await?;
    }
    let head = connection.head().await?;
    exchange.check_head(&head)?;
    if connection.body(&head).await? == content {
        Ok(())
    } else {
        Err(Wrong::truncated("another body than sent came back"))
    }
}

pub(super) async fn download(exchange: &Exchange) -> Result<(), Wrong> {
    let mut connection = Connection::open_narrow(exchange.shared.address).await?;
    let path = format!("/download?bytes={DOWNLOAD_BYTES}");
    connection
        .send(&exchange.request_head("GET", &path, "Connection: close\r\n"))
        .await?;
    let head = connection.head().await?;
    exchange.check_head(&head)?;
    let content = numbered(DOWNLOAD_BYTES);
    if head.field("content-length") != Some(&content.len().to_string()) {
        return Err(Wrong::truncated("another length than asked for"));
    }
    for piece in content.chunks(content.len() / PIECES) {
        tokio::time::sleep(PAUSE).await;
        if connection.exactly(piece.len()).await? != piece {
            return Err(Wrong::truncated("another content than there is"));
        }
    }
    Ok(())
}

pub(super) async fn streaming(exchange: &Exchange) -> Result<(), Wrong> {
    let mut connection = Connection::open(exchange.shared.address).await?;
    let path = format!("/stream?pieces={PIECES}&ms={}", PAUSE.as_millis());
    connection
        .send(&exchange.request_head("GET", &path, "Connection: close\r\n"))
        .await?;
    let head = connection.head().await?;
    exchange.check_head(&head)?;
    if !head.is_chunked() {
        return Err(Wrong::failed("not in chunks"));
    }
    let mut body = Vec::new();
    while let Some(chunk) = connection.chunk().await? {
        body.extend(chunk);
    }
    let expected: String = (1..=PIECES)
        .map(|piece| format!("{piece} of {PIECES}\n"))
        .collect();
    if body == expected.as_bytes() {
        Ok(())
    } else {
        let body = String::from_utf8_lossy(&body);
        Err(Wrong::truncated(format!("the pieces are {body:?}")))
    }
}
