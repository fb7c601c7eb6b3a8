//! Programs inside instances, and connections to servers there: the connection becomes their streams.
//!
//! ```text
//! connection --frames--> reader task --(channel)--> thread writing stdin / setting the size
//! threads reading stdout, stderr, waiting for the end --(channel)--> writer task --frames--> connection
//! ```
//! Invariant: a session ends within a second of the end of what it was begun with, and when nothing moves in it for long; the exit
//! code is the last frame; when the connection ends, the program's input ends (and with a terminal,
//! the terminal hangs up).

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::Endpoint;
use api::endpoints::DATABASE_TUNNEL;
use api::exec::{Decoder, FRAME_MAX, Frame, PROTOCOL};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::Shared;
use crate::answer::{Outgoing, insert};
use crate::call::Call;
use crate::refusal::Refusal;
use control::{Exec, ExecStreams};

/// Frames under way in each direction: a slow reader slows the program down.
const AHEAD: usize = 8;
/// How often a reader of a silent program looks whether somebody still listens.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// How often it is looked whether a session may go on.
const CREDENTIAL_GLANCE: Duration = Duration::from_millis(700);
/// A session in which neither side sends anything for that long ends: it holds one of few places. Longer than people
/// leave a shell for; what works in silence for longer is `stoa run`'s.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(3600);
/// After the program's end its children may hold the pipes open; what comes later than this is not waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Says whether whoever began a session may go on with it.
pub(crate) type MayGoOn = Box<dyn Fn() -> Result<(), Refusal> + Send + Sync>;

pub(crate) fn of_instance(call: &Call) -> Result<Option<ExecStreams>, Refusal> {
    let body: api::Exec = call.needed_body()?;
    let argv = if body.command.is_empty() {
        vec!["/bin/sh".to_owned()]
    } else {
        body.command
    };
    let terminal = body.terminal.map(|size| (size.rows, size.columns));
    let exec = Exec {
        argv,
        env: Vec::new(),
        user: None,
        workdir: None,
        terminal,
    };
    let (place, app, instance) = (call.place()?, call.parameter("app")?, call.parameter("instance")?);
    Ok(control::releases::enter(
        call.control(),
        call.actor()?,
        &place,
        app,
        Some(instance),
        &exec,
    )?)
}

pub(crate) fn of_database(call: &Call) -> Result<Option<ExecStreams>, Refusal> {
    let body: api::Exec = call.needed_body()?;
    let terminal = body.terminal.map(|size| (size.rows, size.columns));
    let (place, database) = (call.place()?, call.parameter("database")?);
    Ok(control::databases::enter(
        call.control(),
        call.actor()?,
        &place,
        database,
        &body.command,
        terminal,
    )?)
}

pub(crate) fn tunnel(call: &Call) -> Result<Option<ExecStreams>, Refusal> {
    let (place, database) = (call.place()?, call.parameter("database")?);
    Ok(control::databases::tunnel(
        call.control(),
        call.actor()?,
        &place,
        database,
    )?)
}

/// Whether the request asks for our protocol.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name: &http::HeaderName, wanted: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    has(&CONNECTION, "upgrade") && has(&UPGRADE, PROTOCOL)
}

pub(crate) fn permit(shared: &Shared, endpoint: &Endpoint) -> Result<OwnedSemaphorePermit, Refusal> {
    let (places, what) = if endpoint.id == DATABASE_TUNNEL.id {
        (&shared.limits.tunnels, "connections through tunnels")
    } else {
        (&shared.limits.sessions, "exec sessions")
    };
    let permit = Arc::clone(places).try_acquire_owned();
    permit.map_err(|_| Refusal::busy(what))
}

/// Answers 101 and carries frames from then on.
pub(crate) fn hand_over(
    streams: ExecStreams,
    upgrade: OnUpgrade,
    permit: OwnedSemaphorePermit,
    may_go_on: MayGoOn,
    idle_max: Duration,
) -> Response<Outgoing> {
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => carry(streams, connection, may_go_on, idle_max).await,
            Err(cause) => tracing::debug!(%cause, "a client asked for exec and left"),
        }
        drop(permit);
    });
    let mut response = Response::new(Outgoing::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    insert(&mut response, CONNECTION, "upgrade");
    insert(&mut response, UPGRADE, PROTOCOL);
    response
}

/// Returns when whoever began the session may not go on with it.
async fn watch(may_go_on: MayGoOn) {
    let may_go_on = Arc::new(may_go_on);
    loop {
        tokio::time::sleep(CREDENTIAL_GLANCE).await;
        let look = Arc::clone(&may_go_on);
        match tokio::task::spawn_blocking(move || look()).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => {
                tracing::debug!(?refusal, "an exec session was ended");
                return;
            }
            Err(cause) => {
                tracing::error!(%cause, "an exec session could not be looked after");
                return;
            }
        }
    }
}

/// When something was last sent in either direction.
#[derive(Clone)]
struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Comes when nothing was sent for that long.
    async fn stops(&self, limit: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end.into()).await;
        }
    }
}

async fn carry(streams: ExecStreams, connection: Upgraded, may_go_on: MayGoOn, idle_max: Duration) {
    let pulse = Pulse(Arc::new(Mutex::new(Instant::now())));
    let (from_peer, to_peer) = tokio::io::split(TokioIo::new(connection));
    let (input, inputs) = mpsc::channel::<Frame>(AHEAD);
    let (output, outputs) = mpsc::channel::<Frame>(AHEAD);
    let (ended, end) = tokio::sync::oneshot::channel();
    let ExecStreams {
        stdin,
        stdout,
        stderr,
        wait,
        hold,
    } = streams;
    // Threads, because terminals and pipes are read blockingly; they end with their stream.
    std::thread::spawn(move || write_input(stdin, inputs));
    let out = output.clone();
    std::thread::spawn(move || read_output(stdout, &out, Frame::Stdout));
    if let Some(stderr) = stderr {
        std::thread::spawn(move || read_output(stderr, &output, Frame::Stderr));
    } else {
        drop(output);
    }
    std::thread::spawn(move || {
        let last = match wait() {
            Ok(code) => Frame::Exit(code),
            Err(cause) => Frame::Failed(cause.to_string()),
        };
        // Nobody waits any more when the connection has ended.
        drop(ended.send(last));
    });
    // Whoever leaves first ends the session; what is dropped here ends the threads.
    tokio::select! {
        () = read_frames(from_peer, input, &pulse) => {}
        () = write_frames(to_peer, outputs, end, &pulse, idle_max) => {}
        () = watch(may_go_on) => {}
    }
    // A program that does not look at its input would go on without anybody.
    drop(hold);
}

/// From the connection to the program. Ends, and with it the program's input, when the connection does.
async fn read_frames(mut from_peer: ReadHalf<TokioIo<Upgraded>>, input: mpsc::Sender<Frame>, pulse: &Pulse) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        match from_peer.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.push(&buffer[..count]),
        }
        loop {
            match decoder.take() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    pulse.beat();
                    if input.send(frame).await.is_err() {
                        return;
                    }
                }
                Err(cause) => {
                    tracing::debug!(%cause, "an exec connection sent rubbish");
                    return;
                }
            }
        }
    }
}

/// From the program to the connection; the exit code last.
async fn write_frames(
    mut to_peer: WriteHalf<TokioIo<Upgraded>>,
    mut outputs: mpsc::Receiver<Frame>,
    mut end: tokio::sync::oneshot::Receiver<Frame>,
    pulse: &Pulse,
    idle_max: Duration,
) {
    let mut last: Option<Frame> = None;
    loop {
        let frame = match &last {
            None => tokio::select! {
                biased;
                frame = outputs.recv() => frame,
                ended = &mut end => {
                    last = Some(ended.unwrap_or_else(|_| Frame::Failed("its end was lost".to_owned())));
                    continue;
                }
                () = pulse.stops(idle_max) => {
                    let idle_s = idle_max.as_secs();
                    last = Some(Frame::Failed(format!(
                        "nothing was sent for {idle_s}s, so the session was ended; for long silent work: stoa run -- COMMAND"
                    )));
                    break;
                }
            },
            // It has ended: what is still in the pipes comes quickly or not at all.
            Some(_) => tokio::time::timeout(LAST_WORDS, outputs.recv())
                .await
                .unwrap_or(None),
        };
        match frame {
            Some(frame) => {
                pulse.beat();
                if to_peer.write_all(&frame.encode()).await.is_err() {
                    return;
                }
            }
            None => break,
        }
    }
    let last = match last {
        Some(last) => last,
        None => end
            .await
            .unwrap_or_else(|_| Frame::Failed("its end was lost".to_owned())),
    };
    // The peer may be gone: then nobody needs it.
    drop(to_peer.write_all(&last.encode()).await);
    drop(to_peer.shutdown().await);
}

fn write_input(stdin: OwnedFd, mut inputs: mpsc::Receiver<Frame>) {
    let mut stdin = Some(File::from(stdin));
    while let Some(frame) = inputs.blocking_recv() {
        match (frame, &mut stdin) {
            (Frame::Stdin(bytes), _) if bytes.is_empty() => {
                // A socket is open for reading, too: closing one of its descriptors would not tell the other end. What is
                // no socket is told by that.
                if let Some(file) = stdin.take() {
                    let _ = shutdown(&file, Shutdown::Write);
                }
            }
            (Frame::Stdin(bytes), Some(file)) => {
                if file.write_all(&bytes).is_err() {
                    stdin = None;
                }
            }
            (Frame::Resize { rows, columns }, Some(file)) => {
                let size = Winsize {
                    ws_row: rows,
                    ws_col: columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                // Without a terminal there is nothing to resize.
                let _ = tcsetwinsize(&*file, size);
            }
            (Frame::Stdin(_) | Frame::Resize { .. }, None) => {}
            // Frames of the other direction mean nothing here.
            (Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit(_) | Frame::Failed(_), _) => {}
        }
    }
}

fn read_output(from: OwnedFd, output: &mpsc::Sender<Frame>, frame: fn(Vec<u8>) -> Frame) {
    let mut from = File::from(from);
    let mut buffer = vec![0; 32 << 10];
    loop {
        // A silent program must not keep its terminal when nobody is there any more: closing it hangs up.
        let mut waiting = [PollFd::new(&from, PollFlags::IN)];
        if matches!(poll(&mut waiting, Some(&GLANCE)), Ok(0)) {
            if output.is_closed() {
                return;
            }
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if output.blocking_send(frame(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            // A terminal whose program ended answers with an error (EIO).
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::mpsc as std_mpsc;

    use client::{Client, Input, Output};
    use hyper::service::service_fn;

    /// A program of the host in place of one inside an instance.
    fn streams(program: &str, arguments: &[&str]) -> ExecStreams {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        ExecStreams {
            stdin: child.stdin.take().expect("stdin").into(),
            stdout: child.stdout.take().expect("stdout").into(),
            stderr: child.stderr.take().map(Into::into),
            wait: Box::new(move || Ok(child.wait().expect("waited").code().unwrap_or(128))),
            hold: Box::new(()),
        }
    }

    /// Serves one exec session of that program, and returns a client for it.
    fn serve(make: impl Fn() -> ExecStreams + Send + 'static) -> Client {
        serve_for(make, IDLE_MAX)
    }

    fn serve_for(make: impl Fn() -> ExecStreams + Send + 'static, idle_max: Duration) -> Client {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        listener.set_nonblocking(true).expect("nonblocking");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let (stream, _) = listener.accept().await.expect("a connection");
                let permits = Arc::new(tokio::sync::Semaphore::new(1));
                let service = service_fn(|mut request: http::Request<hyper::body::Incoming>| {
                    assert!(is_asked_for(request.headers()));
                    let permit = Arc::clone(&permits).try_acquire_owned().expect("a permit");
                    let response = hand_over(
                        make(),
                        hyper::upgrade::on(&mut request),
                        permit,
                        Box::new(|| Ok(())),
                        idle_max,
                    );
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                http.serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await
                    .expect("served");
                // The session is over when its permit is back.
                drop(permits.acquire().await);
            });
        });
        Client::new(address.parse().expect("an address"), None, None).expect("a client")
    }

    fn run(client: &Client, input: &[&[u8]]) -> (i32, Vec<u8>, Vec<u8>) {
        let exec = api::Exec {
            command: Vec::new(),
            terminal: None,
        };
        let session = client
            .exec(&api::endpoints::DATABASE_EXEC, &["a", "b", "c", "d"], &exec)
            .expect("a session");
        let (sender, receiver) = std_mpsc::channel();
        for bytes in input {
            sender.send(Input::Bytes(bytes.to_vec())).expect("sent");
        }
        drop(sender);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = session
            .carry(receiver, |output| {
                match output {
                    Output::Stdout(bytes) => out.extend_from_slice(bytes),
                    Output::Stderr(bytes) => err.extend_from_slice(bytes),
                }
                Ok(())
            })
            .expect("an exit code");
        (code, out, err)
    }

    #[test]
    fn input_comes_back_whole_and_the_code_last() {
        let large: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
        let client = serve(|| streams("cat", &[]));
        let (code, out, err) = run(&client, &[b"first\n", &large]);
        assert_eq!((code, err.len()), (0, 0));
        assert_eq!(out, [b"first\n".as_slice(), &large].concat());
    }

    #[test]
    fn errors_and_codes_come_through() {
        let (code, out, err) = run(&serve(|| streams("cat", &["/nowhere/at/all"])), &[]);
        assert_eq!((code, out.len()), (1, 0));
        assert!(String::from_utf8_lossy(&err).contains("/nowhere/at/all"));
    }
    /// What is said within the bound keeps a session; silence ends it with its program, and says why. (Leaked clients end
    /// with the test.)
    #[test]
    fn a_silent_session_ends() {
        let limit = Duration::from_secs(2);
        let exec = api::Exec {
            command: Vec::new(),
            terminal: None,
        };
        let open = |client: &'static Client| {
            client
                .exec(&api::endpoints::DATABASE_EXEC, &["a", "b", "c", "d"], &exec)
                .expect("a session")
        };
        // It says something again and again, each time when it has heard itself, for longer than the bound.
        let talking = Box::leak(Box::new(serve_for(|| streams("cat", &[]), limit)));
        let (sender, receiver) = std_mpsc::channel();
        let begun = Instant::now();
        sender.send(Input::Bytes(b"x".to_vec())).expect("sent");
        let mut sender = Some(sender);
        let ended = open(talking).carry(receiver, |output| {
            match (&sender, output) {
                (Some(more), Output::Stdout(_)) if begun.elapsed() < 2 * limit => {
                    more.send(Input::Bytes(b"x".to_vec())).expect("sent");
                }
                (_, Output::Stdout(_) | Output::Stderr(_)) => sender = None,
            }
            Ok(())
        });
        assert_eq!(ended.expect("an exit code"), 0);
        assert!(begun.elapsed() >= 2 * limit, "it ended by itself");
        let silent = Box::leak(Box::new(serve_for(|| streams("cat", &[]), limit)));
        let begun = Instant::now();
        let (sender, receiver) = std_mpsc::channel();
        let refused = open(silent)
            .carry(receiver, |_| Ok(()))
            .expect_err("it was ended");
        drop(sender);
        let said = format!("{refused:?}");
        assert!(said.contains("nothing was sent"), "{said}");
        assert!(begun.elapsed() >= limit);
    }
}
