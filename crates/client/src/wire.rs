//! One request, one answer.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use api::sessions::SESSION_COOKIE;
use api::{Endpoint, Page, Problem};
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, SET_COOKIE, USER_AGENT,
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::{Address, connect};
use crate::error::Error;

/// How long an answer may take to begin, over what the request itself asks to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server may go without taking more of an upload, or without answering after it.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(1800);
/// The largest answer read whole: a page of 500 items is far below it.
const ANSWER_MAX: usize = 64 << 20;
const CHUNK: usize = 64 << 10;

/// What the text of a session begins with.
const SESSION_PREFIX: &str = "stoa_ses_";

pub(crate) type Outgoing = UnsyncBoxBody<Bytes, Error>;

/// A client of one server, acting for one credential.
pub struct Client {
    pub(crate) address: Address,
    pub(crate) runtime: tokio::runtime::Runtime,
    token: Option<String>,
    ca_file: Option<PathBuf>,
}

/// An answer as it came. Body and session may hold what lets somebody in, so neither is shown.
pub struct RawAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The media type.
    pub media_type: String,
    /// The body.
    pub body: Vec<u8>,
    /// The session that it gave us to keep.
    pub session: Option<String>,
}

impl std::fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawAnswer")
            .field("status", &self.status)
            .field("media_type", &self.media_type)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at that address. Nothing is sent yet.
    ///
    /// # Errors
    /// When the system gives no event loop.
    pub fn new(address: Address, token: Option<String>, ca_file: Option<PathBuf>) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| Error::Local {
                what: "could not start an event loop".to_owned(),
                cause,
            })?;
        Ok(Self {
            address,
            runtime,
            token,
            ca_file,
        })
    }

    /// Another client of the same server for the same credential: for another thread, which must not wait for this one's.
    ///
    /// # Errors
    /// When the system gives no event loop.
    pub fn another(&self) -> Result<Self, Error> {
        Self::new(self.address.clone(), self.token.clone(), self.ca_file.clone())
    }

    /// Where the server is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// One call with a JSON answer.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn call<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let answer = self.answer(endpoint, path, query, body)?;
        self.decode(&answer.body)
    }

    /// One call that begins a session: its answer, and the session's text, with which another client can be made.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn begin_session<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        body: &impl Serialize,
    ) -> Result<(T, String), Error> {
        let answer = self.answer(endpoint, &[], &[], Some(body))?;
        let session = answer.session.clone();
        let session = session.ok_or_else(|| self.not_stoa("it gave no session".to_owned()))?;
        Ok((self.decode(&answer.body)?, session))
    }

    /// One call whose answer has no body.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn call_empty(&self, endpoint: &Endpoint, path: &[&str]) -> Result<(), Error> {
        self.answer(endpoint, path, &[], None::<&()>).map(drop)
    }

    /// The same with a body of ours.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn send_empty(&self, endpoint: &Endpoint, path: &[&str], body: &impl Serialize) -> Result<(), Error> {
        self.answer(endpoint, path, &[], Some(body)).map(drop)
    }

    /// All items of a list, page after page.
    ///
    /// # Errors
    /// The server's problem, or why it could not be asked.
    pub fn all<P: Page + DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        path: &[&str],
    ) -> Result<Vec<P::Item>, Error> {
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let mut query = vec![("limit", "500")];
            if !token.is_empty() {
                query.push(("page_token", &token));
            }
            let (page, next) = self.call::<P>(endpoint, path, &query, None::<&()>)?.into_parts();
            items.extend(page);
            if next.is_empty() {
                return Ok(items);
            }
            token = next;
        }
    }

    /// Sends a file as the body.
    ///
    /// # Errors
    /// The server's problem, why it could not be asked, or why the file could not be read.
    pub fn send_file<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        path: &[&str],
        media_type: &str,
        file: File,
    ) -> Result<T, Error> {
        let local = |cause| Error::Local {
            what: "could not read the archive".to_owned(),
            cause,
        };
        let length = file.metadata().map_err(local)?.len();
        let request = self
            .request(endpoint.method.as_str(), &endpoint.at(path))
            .header(CONTENT_TYPE, media_type)
            .header(CONTENT_LENGTH, length)
            .body(FileBody { file, left: length }.boxed_unsync());
        let answer = self.runtime.block_on(async {
            let response = self.send(self.complete(request)?, UPLOAD_TIMEOUT).await?;
            self.read_whole(response).await
        })?;
        self.decode(&self.refuse_problem(answer)?.body)
    }

    /// Any request, for `stoa api`: the answer as it came, whatever its status.
    ///
    /// # Errors
    /// Why it could not be asked.
    pub fn raw(&self, method: &str, address: &str, body: Option<Vec<u8>>) -> Result<RawAnswer, Error> {
        let mut request = self.request(method, address);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(whole(body.unwrap_or_default()));
        self.runtime.block_on(async {
            let response = self.send(self.complete(request)?, ANSWER_TIMEOUT).await?;
            self.read_whole(response).await
        })
    }

    pub(crate) fn answer(
        &self,
        endpoint: &Endpoint,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<RawAnswer, Error> {
        let mut request = self.request(endpoint.method.as_str(), &with_query(endpoint.at(path), query));
        if endpoint.method == api::Method::Post && api::document::is_repeatable(endpoint) {
            request = request.header("idempotency-key", uuid::Uuid::now_v7().to_string());
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).unwrap_or_default()
            }
            None => Vec::new(),
        };
        let request = request.body(whole(bytes));
        let answer = self.runtime.block_on(async {
            let response = self.send(self.complete(request)?, ANSWER_TIMEOUT).await?;
            self.read_whole(response).await
        })?;
        self.refuse_problem(answer)
    }

    pub(crate) fn request(&self, method: &str, address: &str) -> http::request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(address)
            .header(HOST, self.address.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("stoa/", env!("CARGO_PKG_VERSION")));
        match &self.token {
            Some(session) if session.starts_with(SESSION_PREFIX) => {
                // The server takes a change with a session only from its own pages, or from who is no page at all.
                request = request
                    .header(COOKIE, format!("{SESSION_COOKIE}={session}"))
                    .header("sec-fetch-site", "none");
            }
            Some(token) => request = request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => {}
        }
        request
    }

    pub(crate) fn complete(
        &self,
        request: Result<Request<Outgoing>, http::Error>,
    ) -> Result<Request<Outgoing>, Error> {
        request.map_err(|why| self.broken(&why))
    }

    /// Connects, sends, and waits for the head of the answer.
    pub(crate) async fn send(
        &self,
        request: Request<Outgoing>,
        within: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let stream = connect(&self.address, self.ca_file.as_deref())
            .await
            .map_err(|cause| Error::Connect {
                address: self.address.to_string(),
                cause,
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|why| self.broken(&why))?;
        // The connection lives as long as its answer is read; its error reaches the reader through the body.
        tokio::spawn(connection.with_upgrades());
        tokio::time::timeout(within, sender.send_request(request))
            .await
            .map_err(|_| Error::Late {
                address: self.address.to_string(),
                after: within,
            })?
            .map_err(|why| self.broken(&why))
    }

    pub(crate) async fn read_whole(&self, response: Response<Incoming>) -> Result<RawAnswer, Error> {
        let status = response.status().as_u16();
        let media_type = media_type(&response);
        let session = session(&response);
        let body = tokio::time::timeout(
            ANSWER_TIMEOUT,
            Limited::new(response.into_body(), ANSWER_MAX).collect(),
        )
        .await
        .map_err(|_| Error::Late {
            address: self.address.to_string(),
            after: ANSWER_TIMEOUT,
        })?
        .map_err(|why| self.broken(why.as_ref()))?
        .to_bytes()
        .to_vec();
        Ok(RawAnswer {
            status,
            media_type,
            body,
            session,
        })
    }

    /// Turns an answer of failure into its problem.
    pub(crate) fn refuse_problem(&self, answer: RawAnswer) -> Result<RawAnswer, Error> {
        // 303 sends browsers on: to others it says that it would.
        if (200..300).contains(&answer.status) || matches!(answer.status, 101 | 303) {
            return Ok(answer);
        }
        match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => Err(Error::Problem(Box::new(problem))),
            Err(_) => Err(self.not_stoa(format!("status {}, {}", answer.status, answer.media_type))),
        }
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|why| self.not_stoa(why.to_string()))
    }

    pub(crate) fn not_stoa(&self, why: String) -> Error {
        Error::NotStoa {
            address: self.address.to_string(),
            why,
        }
    }

    pub(crate) fn broken(&self, why: &(dyn std::error::Error + 'static)) -> Error {
        Error::Broken {
            address: self.address.to_string(),
            why: with_causes(why),
        }
    }
}

/// An error's text with its causes: hyper's own texts ("error reading a body") say too little alone.
fn with_causes(why: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(why), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn session(response: &Response<Incoming>) -> Option<String> {
    let mut cookies = response.headers().get_all(SET_COOKIE).iter();
    let text = cookies.find_map(|value| {
        value
            .to_str()
            .ok()?
            .strip_prefix(SESSION_COOKIE)?
            .strip_prefix('=')
    })?;
    text.split(';')
        .next()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

pub(crate) fn media_type(response: &Response<Incoming>) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    value
        .and_then(|v| v.split(';').next())
        .unwrap_or("no media type")
        .trim()
        .to_owned()
}

pub(crate) fn with_query(mut address: String, query: &[(&str, &str)]) -> String {
    for (index, (name, value)) in query.iter().enumerate() {
        address.push(if index == 0 { '?' } else { '&' });
        address.push_str(name);
        address.push('=');
        api::endpoint::escape_into(&mut address, value);
    }
    address
}

pub(crate) fn whole(bytes: Vec<u8>) -> Outgoing {
    Full::new(Bytes::from(bytes))
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A file as a body. Reading blocks the event loop, on which nothing else runs.
struct FileBody {
    file: File,
    left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; want];
        match self.file.read_exact(&mut chunk) {
            Ok(()) => {
                self.left -= want as u64;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(chunk)))))
            }
            Err(cause) => {
                self.left = 0;
                Poll::Ready(Some(Err(Error::Local {
                    what: "could not read the archive".to_owned(),
                    cause,
                })))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_lets_somebody_in_is_not_shown() {
        let answer = RawAnswer {
            status: 201,
            media_type: "application/json".to_owned(),
            body: b"stoa_pat_text".to_vec(),
            session: Some("stoa_ses_text".to_owned()),
        };
        let shown = format!("{answer:?}");
        let bytes = format!("{:?}", answer.body);
        assert!(shown.contains("201"), "{shown}");
        assert!(!shown.contains("_text") && !shown.contains(&bytes), "{shown}");
    }
}
