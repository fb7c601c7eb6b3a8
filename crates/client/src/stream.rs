//! Event streams, read one frame at a time.

use std::time::Duration;

use api::Endpoint;
use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::error::Error;
use crate::wire::{Client, media_type, whole, with_query};

/// How long the head of the answer may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Heartbeats come every 15 s: a stream silent for this long is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest frame: a log line is cut far below it.
const FRAME_MAX: usize = 4 << 20;

/// An open event stream.
pub struct Events<'c> {
    client: &'c Client,
    body: Incoming,
    parser: Parser,
    silent: Duration,
}

/// What came of waiting for a frame.
#[derive(Debug)]
pub enum Next {
    /// A frame.
    Frame(api::Frame),
    /// Nothing in that time; the stream is still open.
    Nothing,
    /// The server ended the stream.
    End,
}

impl Client {
    /// Opens an event stream.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn events(
        &self,
        endpoint: &Endpoint,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Events<'_>, Error> {
        let request = self
            .request(endpoint.method.as_str(), &with_query(endpoint.at(path), query))
            .body(whole(Vec::new()));
        let mut request = self.complete(request)?;
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let body = self.runtime.block_on(async {
            let response = self.send(request, HEAD_TIMEOUT).await?;
            if response.status().is_success() && media_type(&response) == "text/event-stream" {
                return Ok(response.into_body());
            }
            let answer = self.refuse_problem(self.read_whole(response).await?)?;
            Err(self.not_stoa(format!("{} instead of an event stream", answer.media_type)))
        })?;
        Ok(Events {
            client: self,
            body,
            parser: Parser::default(),
            silent: Duration::ZERO,
        })
    }
}

impl Events<'_> {
    /// The id to go on from after a break. The server also moves it without a frame, past what is not for this reader.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.parser.position.as_deref()
    }

    /// Waits for the next frame, for at most that long.
    ///
    /// # Errors
    /// When the connection broke or fell silent, or what came are no frames.
    pub fn next(&mut self, within: Duration) -> Result<Next, Error> {
        let deadline = std::time::Instant::now() + within;
        loop {
            if let Some(frame) = self.parser.take() {
                return Ok(Next::Frame(frame));
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let read = self
                .client
                .runtime
                .block_on(async { tokio::time::timeout(left, self.body.frame()).await });
            match read {
                Err(_) => {
                    self.silent += within;
                    return if self.silent > SILENCE {
                        Err(self
                            .client
                            .broken(&std::io::Error::other("no heartbeat for a minute")))
                    } else {
                        Ok(Next::Nothing)
                    };
                }
                Ok(None) => return Ok(Next::End),
                Ok(Some(Err(why))) => return Err(self.client.broken(&why)),
                Ok(Some(Ok(frame))) => {
                    self.silent = Duration::ZERO;
                    if !self
                        .parser
                        .push(&frame.into_data().unwrap_or_else(|_| Bytes::new()))
                    {
                        return Err(self.client.not_stoa("an endless event".to_owned()));
                    }
                }
            }
        }
    }
}

/// The parser of `text/event-stream`, of the part servers of ours send: lines end with LF or CR LF.
#[derive(Debug, Default)]
struct Parser {
    held: Vec<u8>,
    id: Option<String>,
    /// The id as of the last complete frame, also of one without data: a half-read frame must not count.
    position: Option<String>,
    event: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// Adds what was read; false when a frame grew beyond all measure.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.held.extend_from_slice(bytes);
        self.held.len() + self.data.as_ref().map_or(0, String::len) <= FRAME_MAX
    }

    fn take(&mut self) -> Option<api::Frame> {
        while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.held.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let event = self.event.take();
                self.position.clone_from(&self.id);
                if let Some(data) = self.data.take() {
                    return Some(api::Frame {
                        id: self.id.clone(),
                        event,
                        data,
                    });
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.id = Some(value.to_owned()),
                "event" => self.event = Some(value.to_owned()),
                "data" => {
                    let data = self.data.get_or_insert_default();
                    if !data.is_empty() {
                        data.push('\n');
                    }
                    data.push_str(value);
                }
                // A comment (the heartbeat) or a field of a newer server.
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_at_any_byte() {
        let text = ": hello\n\nid: 7\nevent: line\ndata: {\"a\":1}\n\nevent: end\r\ndata: x\r\ndata: y\r\n\r\nid: 8\n\n";
        let mut parser = Parser::default();
        let mut seen = Vec::new();
        for (at, byte) in text.bytes().enumerate() {
            let before = parser.position.clone();
            assert!(parser.push(&[byte]));
            seen.extend(parser.take());
            let is_whole = text[..=at].ends_with("\n\n") || text[..=at].ends_with("\n\r\n");
            assert!(is_whole || parser.position == before, "half a frame is none");
        }
        assert_eq!(parser.position.as_deref(), Some("8"), "told without a frame");
        let frame = |event: &str, data: &str| api::Frame {
            id: Some("7".to_owned()),
            event: Some(event.to_owned()),
            data: data.to_owned(),
        };
        assert_eq!(seen, [frame("line", "{\"a\":1}"), frame("end", "x\ny")]);
    }
}
