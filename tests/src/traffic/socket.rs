//! A WebSocket that sends numbered texts at their times, whatever the echoes do.
//!
//! Invariant: echoes come in order, each once; every text sent before the close is echoed before it.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::http1::Connection;
use super::{Exchange, Fault, Wrong};

/// How long one stays open; shorter than the bound a draining instance has.
const LIFE: Duration = Duration::from_secs(4);
const TEXTS: u32 = 40;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
/// Fixed: masking guards caches on the way, and there are none here.
const MASK: [u8; 4] = [0x21, 0x42, 0x63, 0x84];
/// Longest text that fits a frame without an extended length.
const SHORT: usize = 125;

pub(super) async fn life(exchange: &Exchange) -> Result<(), Wrong> {
    let stream = open(exchange).await?;
    let begin = Instant::now();
    let pause = LIFE / TEXTS;
    let due = move |number: u32| begin + pause * number;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        for number in 0..TEXTS {
            tokio::time::sleep_until(due(number).into()).await;
            let text = format!("{} {number}", exchange.id);
            send(&mut writer, TEXT, text.as_bytes()).await?;
        }
        send(&mut writer, CLOSE, &1000_u16.to_be_bytes()).await
    };
    let receiving = async {
        let mut expected = 0;
        loop {
            let (kind, body) = receive(&mut reader, expected).await?;
            if kind == CLOSE {
                if expected == TEXTS {
                    return Ok(());
                }
                return Err(Wrong::truncated(format!(
                    "closed after {expected} of {TEXTS} texts"
                )));
            }
            check(exchange, kind, &body, expected)?;
            let latency = due(expected).elapsed();
            exchange.shared.report().answered(exchange.kind, latency);
            expected += 1;
        }
    };
    // What could not be sent shows in what is not received, with a better reason.
    let (sent, received) = tokio::join!(sending, receiving);
    received.and(sent)
}

async fn open(
    exchange: &Exchange,
) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, Wrong> {
    let mut connection = Connection::open(exchange.shared.address).await?;
    let (host, id) = (&exchange.shared.host, &exchange.id);
    // The key and its answer are those of RFC 6455 section 1.3.
    let head = format!(
        "GET /echo HTTP/1.1\r\nHost: {host}\r\nX-Exchange: {id}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    connection.send(head.as_bytes()).await?;
    let head = connection.head().await?;
    if head.status != 101 || head.field("sec-websocket-accept") != Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
        return Err(Wrong::failed(format!("no WebSocket: status {}", head.status)));
    }
    exchange.check_origin(
        head.field("x-release"),
        head.field("x-exchange"),
        head.field("x-seen"),
    )?;
    Ok(connection.into_stream())
}

fn check(exchange: &Exchange, kind: u8, body: &[u8], expected: u32) -> Result<(), Wrong> {
    let text = String::from_utf8_lossy(body);
    let number = text
        .strip_prefix(&*exchange.id)
        .and_then(|rest| rest.trim_start().parse::<u32>().ok());
    match number {
        Some(number) if kind == TEXT && number == expected => Ok(()),
        Some(number) if number < expected => Err(Wrong {
            fault: Fault::Duplicated,
            why: format!("text {number} again"),
        }),
        Some(number) => Err(Wrong::truncated(format!(
            "text {number} although {expected} was missing"
        ))),
        None => Err(Wrong {
            fault: Fault::Misrouted,
            why: format!("a text that was not sent here: {text:?}"),
        }),
    }
}

async fn send(writer: &mut (impl tokio::io::AsyncWrite + Unpin), kind: u8, body: &[u8]) -> Result<(), Wrong> {
    let length = u8::try_from(body.len().min(SHORT)).unwrap_or_default();
    let mut frame = vec![kind, MASKED | length];
    frame.extend(MASK);
    frame.extend(
        body.iter()
            .enumerate()
            .map(|(index, byte)| byte ^ MASK[index % 4]),
    );
    let sent = writer.write_all(&frame).await;
    sent.map_err(|cause| Wrong::truncated(format!("the WebSocket broke while sending: {cause}")))
}

async fn receive(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    expected: u32,
) -> Result<(u8, Vec<u8>), Wrong> {
    let cut = |cause: std::io::Error| {
        Wrong::truncated(format!(
            "the WebSocket ended after {expected} of {TEXTS} texts: {cause}"
        ))
    };
    let mut head = [0; 2];
    reader.read_exact(&mut head).await.map_err(cut)?;
    let length = usize::from(head[1]);
    if length > SHORT {
        return Err(Wrong::truncated("a longer frame than sent"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.map_err(cut)?;
    Ok((head[0], body))
}
