//! A program inside an instance, its streams carried by frames.

use std::sync::mpsc;
use std::time::Duration;

use api::Endpoint;
use api::exec::{Decoder, Frame, PROTOCOL};
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::Error;
use crate::wire::{Client, Outgoing, whole};

/// The instance must be found and the program started in this time.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What goes in.
#[derive(Debug)]
pub enum Input {
    /// Bytes for standard input.
    Bytes(Vec<u8>),
    /// Standard input ended.
    End,
    /// The terminal has another size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
}

/// What comes out.
#[derive(Debug)]
pub enum Output<'b> {
    /// From standard output.
    Stdout(&'b [u8]),
    /// From standard error.
    Stderr(&'b [u8]),
}

/// A running program, or a connection to a server.
pub struct Session<'c> {
    client: &'c Client,
    stream: TokioIo<Upgraded>,
}

impl Client {
    /// Starts a program and connects to its streams.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn exec(&self, endpoint: &Endpoint, path: &[&str], exec: &api::Exec) -> Result<Session<'_>, Error> {
        let request = self
            .upgrade(endpoint, path)
            .header(CONTENT_TYPE, "application/json")
            .body(whole(serde_json::to_vec(exec).unwrap_or_default()));
        self.open(self.complete(request)?)
    }

    /// Connects to a server behind the API: what goes in goes there, what it says comes out, and its end is exit code 0.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn tunnel(&self, endpoint: &Endpoint, path: &[&str]) -> Result<Session<'_>, Error> {
        let request = self.upgrade(endpoint, path).body(whole(Vec::new()));
        self.open(self.complete(request)?)
    }

    fn upgrade(&self, endpoint: &Endpoint, path: &[&str]) -> http::request::Builder {
        self.request(endpoint.method.as_str(), &endpoint.at(path))
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, PROTOCOL)
    }

    fn open(&self, request: http::Request<Outgoing>) -> Result<Session<'_>, Error> {
        let stream = self.runtime.block_on(async {
            let response = self.send(request, START_TIMEOUT).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return hyper::upgrade::on(response)
                    .await
                    .map_err(|why| self.broken(&why));
            }
            let answer = self.refuse_problem(self.read_whole(response).await?)?;
            Err(self.not_stoa(format!("status {} instead of an upgrade", answer.status)))
        })?;
        Ok(Session {
            client: self,
            stream: TokioIo::new(stream),
        })
    }
}

impl Session<'_> {
    /// Carries bytes until the program ends; its exit code. Input comes from another thread (a terminal is read
    /// blockingly); dropping its sender ends the program's standard input.
    ///
    /// # Errors
    /// When the connection broke, or the server could not go on.
    pub fn carry(
        self,
        input: mpsc::Receiver<Input>,
        mut output: impl FnMut(Output<'_>) -> std::io::Result<()>,
    ) -> Result<i32, Error> {
        let client = self.client;
        let (to_wire, mut from_caller) = tokio::sync::mpsc::channel::<Frame>(8);
        std::thread::spawn(move || forward(&input, &to_wire));
        client.runtime.block_on(async {
            let (mut reader, mut writer) = tokio::io::split(self.stream);
            // Each on its own: a program that writes before it has read everything must find us reading while we write.
            let send = async {
                while let Some(frame) = from_caller.recv().await {
                    writer.write_all(&frame.encode()).await?;
                }
                // The end of our input does not end the session.
                std::future::pending::<std::io::Result<()>>().await
            };
            let receive = async {
                let mut decoder = Decoder::default();
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let count = reader
                        .read(&mut buffer)
                        .await
                        .map_err(|why| client.broken(&why))?;
                    if count == 0 {
                        return Err(client.broken(&std::io::Error::other("it ended without an exit code")));
                    }
                    decoder.push(&buffer[..count]);
                    while let Some(frame) = decoder.take().map_err(|why| client.not_stoa(why.to_string()))? {
                        if let Some(code) = deliver(frame, &mut output, client)? {
                            return Ok(code);
                        }
                    }
                }
            };
            tokio::pin!(receive);
            tokio::select! {
                ended = &mut receive => ended,
                // The server took no more; what it said before, an exit code perhaps, is still to be read.
                _closed = send => receive.await,
            }
        })
    }
}

/// Gives a frame to the caller; the exit code when it was the last one.
fn deliver(
    frame: Frame,
    output: &mut impl FnMut(Output<'_>) -> std::io::Result<()>,
    client: &Client,
) -> Result<Option<i32>, Error> {
    let local = |cause| Error::Local {
        what: "could not write the output".to_owned(),
        cause,
    };
    match frame {
        Frame::Stdout(bytes) => output(Output::Stdout(&bytes)).map_err(local)?,
        Frame::Stderr(bytes) => output(Output::Stderr(&bytes)).map_err(local)?,
        Frame::Exit(code) => return Ok(Some(code)),
        Frame::Failed(why) => return Err(client.broken(&std::io::Error::other(why))),
        Frame::Stdin(_) | Frame::Resize { .. } => {
            return Err(client.not_stoa("a frame of the wrong direction".to_owned()));
        }
    }
    Ok(None)
}

fn forward(input: &mpsc::Receiver<Input>, to_wire: &tokio::sync::mpsc::Sender<Frame>) {
    while let Ok(next) = input.recv() {
        let frames = match next {
            Input::Bytes(bytes) => bytes
                .chunks(api::exec::FRAME_MAX)
                .map(|chunk| Frame::Stdin(chunk.to_vec()))
                .collect(),
            Input::End => vec![Frame::Stdin(Vec::new())],
            Input::Resize { rows, columns } => vec![Frame::Resize { rows, columns }],
        };
        for frame in frames {
            if to_wire.blocking_send(frame).is_err() {
                return;
            }
        }
    }
    // The sender was dropped without a word: what it fed has ended. When the session is over, nobody takes this.
    let _ = to_wire.blocking_send(Frame::Stdin(Vec::new()));
}
