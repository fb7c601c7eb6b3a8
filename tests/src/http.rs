//! A plain HTTP/1.1 client over one socket: it sees exactly what a browser's connection would see.
//!
//! Lives here: requests, responses with a length, in chunks or to the end of the connection, keep-alive.
//! Does not live here: retries. A journey that counts failures must see each one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Bound of one read or write; far above anything healthy.
const STUCK: Duration = Duration::from_secs(60);

/// One answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of that name (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    open: bool,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody accepts.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, STUCK)
            .with_context(|| format!("could not connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STUCK))?;
        stream.set_write_timeout(Some(STUCK))?;
        Ok(Self {
            reader: BufReader::new(stream),
            open: true,
        })
    }

    /// Whether another request may follow; the server may have said `Connection: close`.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// `GET`.
    ///
    /// # Errors
    /// When the connection breaks or the answer is no HTTP.
    pub fn get(&mut self, host: &str, path: &str) -> Result<Response> {
        self.request("GET", host, path, &[], b"")
    }

    /// `POST` of a form.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn post_form(&mut self, host: &str, path: &str, form: &str) -> Result<Response> {
        let kind = [("Content-Type", "application/x-www-form-urlencoded")];
        self.request("POST", host, path, &kind, form.as_bytes())
    }

    /// Any request; the body goes with its length.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes())?;
        self.send(body)?;
        self.receive(method == "HEAD")
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader
            .get_mut()
            .write_all(bytes)
            .context("the connection broke while sending")
    }

    /// Reads one whole answer.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn receive(&mut self, bodiless: bool) -> Result<Response> {
        let (status, headers) = self.head()?;
        self.body(status, headers, bodiless)
    }

    /// Reads the rest of an answer whose head was read.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn body(&mut self, status: u16, headers: Vec<(String, String)>, bodiless: bool) -> Result<Response> {
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        let closes = response
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let length = response.header("content-length").map(str::parse).transpose()?;
        let chunked = response
            .header("transfer-encoding")
            .is_some_and(|value| value.contains("chunked"));
        if !(bodiless || status == 204 || status == 304 || status < 200) {
            response.body = match length {
                _ if chunked => self.chunks()?,
                Some(length) => self.exactly(length)?,
                None => self.rest()?,
            };
        }
        self.open = self.open && !closes;
        Ok(response)
    }

    /// Reads an answer's status and headers only.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("no status in {first:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("no header: {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads exactly that many bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.reader
            .read_exact(&mut body)
            .context("the connection ended inside a body")?;
        Ok(body)
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.with_context(|| format!("no chunk size: {line:?}"))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(size)?);
            ensure!(self.line()?.is_empty(), "a chunk has no end");
        }
    }

    fn rest(&mut self) -> Result<Vec<u8>> {
        self.open = false;
        let mut body = Vec::new();
        self.reader.read_to_end(&mut body)?;
        Ok(body)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self
            .reader
            .read_line(&mut line)
            .context("the connection broke while receiving")?
            == 0
        {
            self.open = false;
            bail!("the connection ended before an answer");
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// One `GET` on a connection of its own.
///
/// # Errors
/// As [`Connection::get`].
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<Response> {
    Connection::open(address)?.request("GET", host, path, &[("Connection", "close")], b"")
}
