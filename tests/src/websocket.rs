//! A WebSocket client that sends texts and expects them back.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};

use crate::http::Connection;

/// One open WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    connection: Connection,
}

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
/// Fixed: masking guards caches on the way, and there are none here.
const MASK: [u8; 4] = [0x21, 0x42, 0x63, 0x84];
/// Longest text that fits a frame without an extended length.
const SHORT: usize = 125;

impl WebSocket {
    /// Opens one; the key and its answer are those of RFC 6455 section 1.3.
    ///
    /// # Errors
    /// When the other side does not switch protocols.
    pub fn open(address: SocketAddr, host: &str, path: &str) -> Result<Self> {
        let mut connection = Connection::open(address)?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        connection.send(head.as_bytes())?;
        let (status, headers) = connection.head()?;
        ensure!(status == 101, "expected 101, got {status}");
        let accept = headers
            .iter()
            .find(|(name, _)| name == "sec-websocket-accept")
            .map(|(_, value)| value.as_str());
        ensure!(
            accept == Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "the handshake is not answered: {accept:?}"
        );
        Ok(Self { connection })
    }

    /// Sends a short text and expects the same back.
    ///
    /// # Errors
    /// When it does not come.
    pub fn echo(&mut self, text: &str) -> Result<()> {
        self.send(TEXT, text.as_bytes())?;
        let (kind, body) = self.receive().context("no echo")?;
        ensure!(
            kind == TEXT && body == text.as_bytes(),
            "another frame than sent: {kind:#x} {body:?}"
        );
        Ok(())
    }

    /// Ends it as the protocol says.
    ///
    /// # Errors
    /// When the other side does not answer the close.
    pub fn close(mut self) -> Result<()> {
        self.send(CLOSE, &1000_u16.to_be_bytes())?;
        let (kind, _) = self.receive().context("no answer to close")?;
        ensure!(kind == CLOSE, "expected a close, got {kind:#x}");
        Ok(())
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        ensure!(body.len() <= SHORT, "only short frames");
        let mut frame = vec![kind, MASKED | u8::try_from(body.len())?];
        frame.extend(MASK);
        frame.extend(
            body.iter()
                .enumerate()
                .map(|(index, byte)| byte ^ MASK[index % 4]),
        );
        self.connection.send(&frame)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let head = self.connection.exactly(2)?;
        let length = usize::from(head[1]);
        if length > SHORT {
            bail!("a longer frame than sent");
        }
        Ok((head[0], self.connection.exactly(length)?))
    }
}
