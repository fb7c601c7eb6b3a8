//! HTTP/1.1 on one connection, without waiting threads.
//!
//! Lives here: heads, bodies with a length or in chunks, kept connections.
//! Does not live here: what an answer must contain (`exchange`).
//! Invariant: a connection is kept only when nothing came after its last answer.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::{Fault, Wrong};

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    reader: BufReader<TcpStream>,
}

/// A connection that waits for its next request.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) connection: Connection,
    pub(super) since: Instant,
}

/// Status and fields of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.field("transfer-encoding")
            .is_some_and(|value| value.contains("chunked"))
    }
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Wrong> {
        Self::of(TcpSocket::new_v4(), address).await
    }

    /// One that takes little at once, so that a slow reader is felt at the other end.
    pub(super) async fn open_narrow(address: SocketAddr) -> Result<Self, Wrong> {
        const NARROW_BYTES: u32 = 16 << 10;
        let socket = TcpSocket::new_v4().and_then(|socket| {
            socket.set_recv_buffer_size(NARROW_BYTES)?;
            Ok(socket)
        });
        Self::of(socket, address).await
    }

    async fn of(socket: std::io::Result<TcpSocket>, address: SocketAddr) -> Result<Self, Wrong> {
        let broken = |cause| Wrong::failed(format!("could not connect: {cause}"));
        let stream = socket.map_err(broken)?.connect(address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// Whether the other side has said nothing since the last answer and is still there.
    pub(super) fn is_quiet(&self) -> Result<bool, Wrong> {
        let unasked = |bytes: usize| Wrong {
            fault: Fault::Duplicated,
            why: format!("{bytes} bytes came without a request"),
        };
        let early = self.reader.buffer().len();
        if early > 0 {
            return Err(unasked(early));
        }
        let mut byte = [0; 1];
        match self.reader.get_ref().try_read(&mut byte) {
            Ok(0) => Ok(false),
            Ok(bytes) => Err(unasked(bytes)),
            Err(cause) => Ok(cause.kind() == std::io::ErrorKind::WouldBlock),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let sent = self.reader.get_mut().write_all(bytes).await;
        sent.map_err(|cause| Wrong::failed(format!("the connection broke while sending: {cause}")))
    }

    pub(super) async fn head(&mut self) -> Result<Head, Wrong> {
        let none = |why: String| Wrong::failed(format!("no answer: {why}"));
        let first = self.line().await.map_err(none)?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| Wrong::failed(format!("no status in {first:?}")))?;
        let mut fields = Vec::new();
        loop {
            let line = self
                .line()
                .await
                .map_err(|why| Wrong::truncated(format!("a head without end: {why}")))?;
            if line.is_empty() {
                return Ok(Head { status, fields });
            }
            let field = line.split_once(':');
            let (name, value) = field.ok_or_else(|| Wrong::failed(format!("no header: {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The whole body of an answer.
    pub(super) async fn body(&mut self, head: &Head) -> Result<Vec<u8>, Wrong> {
        if head.is_chunked() {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk().await? {
                body.extend(chunk);
            }
            return Ok(body);
        }
        let length = head.field("content-length").and_then(|text| text.parse().ok());
        let length = length.ok_or_else(|| Wrong::failed("an answer without a length"))?;
        self.exactly(length).await
    }

    /// The next chunk; none at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Wrong> {
        let cut = |why: String| Wrong::truncated(format!("chunks without end: {why}"));
        let line = self.line().await.map_err(cut)?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| Wrong::truncated(format!("no chunk size: {line:?}")))?;
        if size == 0 {
            while !self.line().await.map_err(cut)?.is_empty() {}
            return Ok(None);
        }
        let chunk = self.exactly(size).await?;
        let end = self.line().await.map_err(cut)?;
        if end.is_empty() {
            Ok(Some(chunk))
        } else {
            Err(Wrong::truncated("a chunk longer than it says"))
        }
    }

    pub(super) async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Wrong> {
        let mut body = vec![0; length];
        let read = self.reader.read_exact(&mut body).await;
        read.map_err(|cause| Wrong::truncated(format!("the connection ended inside a body: {cause}")))?;
        Ok(body)
    }

    /// Splits it, so that sending does not wait for receiving.
    pub(super) fn into_stream(self) -> BufReader<TcpStream> {
        self.reader
    }

    async fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line).await {
            Ok(0) => Err("the connection ended".to_owned()),
            Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
            Err(cause) => Err(cause.to_string()),
        }
    }
}
