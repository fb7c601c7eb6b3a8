//! What is sent: one request (or a few in one write) from a sequence of chance.
//!
//! Lives here: the kinds of hostility. Does not live here: what an answer must be like (`super`).
//! Invariant: nothing is sent that, understood, would do much to the installation: what changes things gets a wrong name,
//! a wrong body or the token of a viewer.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::super::Chance;

/// What the client does when it has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Reads the answers.
    Read,
    /// Goes away.
    Leave,
}

/// What goes over the wire.
#[derive(Debug)]
pub struct Request {
    /// The kind of hostility.
    pub kind: &'static str,
    /// As sent.
    pub bytes: Vec<u8>,
    /// How many answers are asked for.
    pub answers: usize,
    /// Whether the server may end the connection instead: what is no HTTP has no request to answer.
    pub may_be_cut: bool,
    /// Whether a refusal may be a page for people: it was asked for.
    pub may_be_page: bool,
    /// Whether the answer has no body.
    pub is_head: bool,
    /// Between its two halves.
    pub pause: Duration,
    /// Then.
    pub after: After,
}

/// What requests are made from.
#[derive(Debug)]
pub struct Targets {
    endpoints: Vec<Endpoint>,
    ids: Vec<String>,
    owner: String,
    viewer: String,
}

#[derive(Debug)]
struct Endpoint {
    method: String,
    path: String,
    takes_body: bool,
    changes: bool,
}

/// One request in the making.
struct Draft {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

impl Draft {
    fn header(&mut self, name: &str, value: impl Into<Vec<u8>>) -> &mut Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn json(&mut self, body: impl Into<Vec<u8>>) -> &mut Self {
        self.body = Some(body.into());
        self.header("Content-Type", "application/json")
    }

    fn without(&mut self, name: &str) -> &mut Self {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(body);
        } else {
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

const SHELL: [&str; 14] = [
    "$(reboot)",
    "`id`",
    "; rm -rf /",
    "|cat",
    "&& true",
    "a\nb",
    "-rf",
    "--help",
    "'\"",
    "${PATH}",
    "{{7*7}}",
    "%s%n",
    "<script>alert(1)</script>",
    "' OR 1=1 --",
];
const ODD_NAMES: [&str; 12] = [
    "..",
    ".",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a%00b",
    "%c0%ae%c0%ae",
    "%ff",
    "pro%62e",
    "PROBE",
    "probe.",
    "\u{440}robe",
];

impl Targets {
    /// From the document and the ids there are.
    ///
    /// # Errors
    /// When the document has no paths.
    pub fn new(document: &Value, ids: Vec<String>, owner: String, viewer: String) -> Result<Self> {
        let mut endpoints = Vec::new();
        for (path, operations) in document["paths"].as_object().context("no paths")? {
            for (method, operation) in operations.as_object().context("no operations")? {
                endpoints.push(Endpoint {
                    method: method.to_ascii_uppercase(),
                    path: path.clone(),
                    takes_body: operation["requestBody"].is_object(),
                    changes: method != "get",
                });
            }
        }
        Ok(Self {
            endpoints,
            ids,
            owner,
            viewer,
        })
    }

    /// One request.
    pub(super) fn request(&self, chance: &mut Chance) -> Request {
        match chance.below(100) {
            0..10 => Self::malformed(chance),
            10..16 => self.wrong_method(chance),
            16..28 => self.odd_path(chance),
            28..48 => self.odd_json(chance),
            48..58 => self.odd_headers(chance),
            58..66 => self.odd_query(chance),
            66..76 => self.foreign_ids(chance),
            76..82 => self.idempotency(chance),
            82..87 => self.conditions(chance),
            87..93 => self.credentials(chance),
            93..97 => self.pipelined(chance),
            97..99 => self.fuzzed(chance),
            _ => self.slow(chance),
        }
    }

    fn endpoint(&self, chance: &mut Chance) -> &Endpoint {
        chance.one(&self.endpoints).expect("the document has endpoints")
    }

    /// A path with real names; one that changes things leads to what is not there.
    fn filled(&self, endpoint: &Endpoint, chance: &mut Chance) -> String {
        let mut path = String::new();
        let parts: Vec<&str> = endpoint.path.split('/').skip(1).collect();
        let last = parts.iter().rposition(|part| part.starts_with('{'));
        for (at, part) in parts.iter().enumerate() {
            path.push('/');
            let name = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let value = match name {
                None => (*part).to_owned(),
                Some(_) if endpoint.changes && Some(at) == last => format!("nothing-{}", chance.below(50)),
                Some("org" | "project") => "default".to_owned(),
                Some("environment") => "production".to_owned(),
                Some("app") => "probe".to_owned(),
                Some(_) => chance.one(&self.ids).cloned().unwrap_or_default(),
            };
            path.push_str(&value);
        }
        path
    }

    /// A well-formed request as the owner; what it is about does not exist when it changes things.
    fn draft(&self, endpoint: &Endpoint, chance: &mut Chance) -> Draft {
        let mut draft = Draft {
            method: endpoint.method.clone(),
            target: self.filled(endpoint, chance),
            headers: Vec::new(),
            body: None,
        };
        // What has no name in its path would be done: a viewer may not.
        let is_harmless =
            !endpoint.changes || endpoint.path.contains("{app}") || endpoint.path.contains("{database}");
        let token = if is_harmless { &self.owner } else { &self.viewer };
        draft
            .header("Host", "localhost")
            .header("Authorization", format!("Bearer {token}"))
            .header("Connection", "close");
        draft
    }

    fn one(kind: &'static str, draft: &Draft) -> Request {
        Request {
            kind,
            bytes: draft.bytes(),
            answers: 1,
            may_be_cut: false,
            may_be_page: false,
            is_head: draft.method == "HEAD",
            pause: Duration::ZERO,
            after: After::Read,
        }
    }

    /// No HTTP, or HTTP that two readers would read differently.
    fn malformed(chance: &mut Chance) -> Request {
        let line = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
        let post = "POST /v1/claim HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
        let long = "a".repeat(usize::try_from(chance.below(200_000)).unwrap_or(1));
        let bytes: Vec<u8> = match chance.below(26) {
            0 => b"\r\n\r\n\r\n\r\n".to_vec(),
            1 => b"GET\r\n\r\n".to_vec(),
            2 => b"GET /healthz\r\n\r\n".to_vec(),
            3 => b"GET /healthz HTTP/9.9\r\n\r\n".to_vec(),
            4 => b"GET  /healthz  HTTP/1.1\r\n\r\n".to_vec(),
            5 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            6 => vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            7 => format!("{line}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello").into_bytes(),
            8 => format!("{post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{{}}")
                .into_bytes(),
            9 => format!("{post}Content-Length: -1\r\n\r\n").into_bytes(),
            10 => format!("{post}Content-Length: 99999999999999999999999\r\n\r\n").into_bytes(),
            11 => format!("{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n").into_bytes(),
            12 => format!("{post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n").into_bytes(),
            13 => format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").into_bytes(),
            14 => format!("{line}X: a\r\n b\r\n\r\n").into_bytes(),
            15 => format!("{line}X : a\r\n\r\n").into_bytes(),
            16 => format!("{line}X: a\0b\r\n\r\n").into_bytes(),
            17 => format!("{line}: empty\r\n\r\n").into_bytes(),
            18 => line
                .replace("\r\n", "\n")
                .into_bytes()
                .into_iter()
                .chain(*b"\n")
                .collect(),
            19 => format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
            20 => format!("{line}X: {long}\r\n\r\n").into_bytes(),
            21 => format!("{long} / HTTP/1.1\r\n\r\n").into_bytes(),
            22 => {
                let many: String = (0..300).map(|n| format!("X-{n}: {n}\r\n")).collect();
                format!("{line}{many}\r\n").into_bytes()
            }
            23 => b"GET /healthz HTTP/1.1\r\n\r\n".to_vec(),
            24 => format!("{line}Host: y\r\n\r\n").into_bytes(),
            _ => (0..chance.below(400))
                .map(|_| chance.below(256).to_le_bytes()[0])
                .collect(),
        };
        let mut bytes = bytes;
        // So that the server does not wait for the rest of a head that never comes.
        bytes.extend_from_slice(b"\r\n\r\n");
        Request {
            kind: "malformed",
            bytes,
            answers: 1,
            may_be_cut: true,
            may_be_page: false,
            is_head: false,
            pause: Duration::ZERO,
            after: if chance.below(4) == 0 {
                After::Leave
            } else {
                After::Read
            },
        }
        .hurried()
    }

    fn wrong_method(&self, chance: &mut Chance) -> Request {
        const METHODS: [&str; 16] = [
            "TRACE", "OPTIONS", "HEAD", "CONNECT", "get", "Post", "PROPFIND", "PURGE", "M-SEARCH", "X",
            "PATCH", "PUT", "DELETE", "POST", "GET", "BREW",
        ];
        let mut draft = self.draft(self.endpoint(chance), chance);
        draft.method = (*chance.one(&METHODS).expect("methods")).to_owned();
        // A right one by chance must find nothing to change.
        draft
            .without("Authorization")
            .header("Authorization", format!("Bearer {}", self.viewer));
        let mut request = Self::one("method", &draft);
        request.may_be_cut = draft.method == "CONNECT";
        request
    }

    fn odd_path(&self, chance: &mut Chance) -> Request {
        let mut draft = self.draft(self.endpoint(chance), chance);
        let path = draft.target.clone();
        let cut = path.len() * usize::try_from(chance.below(100)).unwrap_or(0) / 100;
        let (head, tail) = path.split_at(path.floor_char_boundary(cut));
        let odd = *chance.one(&ODD_NAMES).expect("names");
        draft.target = match chance.below(14) {
            0 => format!("{path}/"),
            1 => format!("/{path}"),
            2 => path.replace('/', "//"),
            3 => path.to_ascii_uppercase(),
            4 => format!("{head}/../{tail}"),
            5 => format!("{head}%2f{tail}"),
            6 => path.replace("default", odd),
            7 => path.replace("probe", odd),
            8 => format!("http://evil.example{path}"),
            9 => format!("{path};a=b"),
            10 => format!("{path}%zz"),
            11 => format!("{head}{}{tail}", "%61".repeat(400)),
            12 => format!("{path}#fragment"),
            _ => path.replace("production", odd),
        };
        let mut request = Self::one("path", &draft);
        // Letters outside ASCII are no HTTP, nor is a target that is neither a path nor an address.
        let is_target = draft.target.starts_with(['/', '*']) || draft.target.starts_with("http://");
        request.may_be_cut = !is_target || !draft.target.is_ascii() || draft.target.contains(['#', '<']);
        request.hurried()
    }

    fn odd_json(&self, chance: &mut Chance) -> Request {
        let bodies: Vec<&Endpoint> = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.takes_body)
            .collect();
        let endpoint = chance.one(&bodies).copied().expect("endpoints with bodies");
        let mut draft = self.draft(endpoint, chance);
        let deep = usize::try_from(chance.below(30_000)).unwrap_or(1);
        let shell = *chance.one(&SHELL).expect("strings");
        let text = serde_json::to_string(shell).unwrap_or_default();
        let body: Vec<u8> = match chance.below(24) {
            0 => [b"[".repeat(deep), b"]".repeat(deep)].concat(),
            1 => [b"{\"a\":".repeat(deep), b"1".to_vec(), b"}".repeat(deep)].concat(),
            2 => b"[".repeat(deep),
            3 => format!("{{\"name\":\"{}\"}}", "a".repeat(deep * 40)).into_bytes(),
            4 => format!("[{}1]", "1,".repeat(deep)).into_bytes(),
            5 => b"{\"name\":\"a\",\"name\":\"b\"}".to_vec(),
            6 => b"{\"name\":\"\xff\xfe\"}".to_vec(),
            7 => b"\xef\xbb\xbf{\"name\":\"a\"}".to_vec(),
            8 => b"{\"name\":\"\\ud800\"}".to_vec(),
            9 => b"{\"name\":\"a\\u0000b\"}".to_vec(),
            10 => b"{\"name\":\"a\"} trailing".to_vec(),
            11 => b"{\"counts\":{\"web\":1.5},\"ttl_ms\":1e400}".to_vec(),
            12 => b"{\"counts\":{\"web\":-1e2},\"size_bytes\":1e30}".to_vec(),
            13 => b"{\"name\":NaN}".to_vec(),
            14 => b"[null,null]".to_vec(),
            15 => b"null".to_vec(),
            16 => b"\"\"".to_vec(),
            17 => Vec::new(),
            18 => format!("{{\"name\":{text}}}").into_bytes(),
            19 => {
                format!("{{\"name\":\"a\",\"role\":{text},\"owner\":true,\"__proto__\":{{}}}}").into_bytes()
            }
            20 => format!("{{\"set\":{{{text}:{text},\"A\":null}},\"unset\":[{text}]}}").into_bytes(),
            21 => format!("{{\"command\":[{text},{text}],\"key\":{text},\"value\":{text}}}").into_bytes(),
            22 => format!("{{\"manifest\":{text},\"source\":{{\"image\":{text}}}}}").into_bytes(),
            _ => format!("{{\"token\":{text},\"name\":{text},\"source\":{{\"kind\":{text}}}}}").into_bytes(),
        };
        draft.json(body);
        let mut request = Self::one("json", &draft);
        // Beyond the limit the answer comes before the body is read, and the rest may meet a closed door.
        request.may_be_cut = draft.body.as_ref().is_some_and(|body| body.len() > 1 << 19);
        request
    }

    fn odd_headers(&self, chance: &mut Chance) -> Request {
        let mut draft = self.draft(self.endpoint(chance), chance);
        let long = "b".repeat(usize::try_from(chance.below(50_000)).unwrap_or(1));
        let (mut may_be_cut, mut may_be_page) = (false, false);
        match chance.below(16) {
            0 => draft.header("X-Long", long),
            1 => draft.header("Authorization", "Bearer another"),
            2 => draft.header("X-Bytes", vec![0xff, 0xfe, 0x80]),
            3 => {
                may_be_page = true;
                draft.header("Accept", format!("text/html, {long}"))
            }
            4 => draft.header("Accept-Encoding", "gzip;q=1e9, *;q=-1"),
            5 => draft.header("Expect", "100-continue"),
            6 => draft.header("Expect", "the unexpected"),
            7 => draft.header("Range", "bytes=0-18446744073709551615"),
            8 => draft
                .header("Content-Encoding", "gzip")
                .json(vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
            9 => draft
                .without("Connection")
                .header("Connection", "Upgrade")
                .header("Upgrade", "websocket"),
            10 => draft
                .without("Connection")
                .header("Connection", "Upgrade, HTTP2-Settings")
                .header("Upgrade", "h2c"),
            11 => draft
                .header("X-Forwarded-For", "127.0.0.1, root")
                .header("X-Request-Id", "req_mine\u{7f}"),
            12 => draft
                .header("Content-Type", "application/json; charset=utf-7")
                .json("{}"),
            13 => draft
                .json("a: yaml")
                .without("Content-Type")
                .header("Content-Type", "text/yaml"),
            14 => draft
                .header("Last-Event-ID", "99999999999999999999")
                .header("Accept", "text/event-stream"),
            _ => draft.header("Cookie", format!("__Host-stoa={long}")),
        };
        if draft.headers.iter().any(|(_, value)| value.contains(&0x7f)) {
            may_be_cut = true;
        }
        let mut request = Self::one("headers", &draft);
        request.may_be_cut = may_be_cut || request.bytes.len() > 60_000;
        request.may_be_page = may_be_page;
        request
    }

    fn odd_query(&self, chance: &mut Chance) -> Request {
        let endpoint = self.endpoint(chance);
        let mut draft = self.draft(endpoint, chance);
        let many = usize::try_from(chance.below(3000)).unwrap_or(1);
        let query = match chance.below(18) {
            0 => "limit=0".to_owned(),
            1 => "limit=1e9&limit=2".to_owned(),
            2 => "limit=18446744073709551616".to_owned(),
            3 => "limit=-1".to_owned(),
            4 => format!("page_token={}", "9".repeat(many)),
            5 => "page_token=1.%00".to_owned(),
            6 => "page_token=999999999999999.v9".to_owned(),
            7 => "since=99999999999999999999999d".to_owned(),
            8 => "since=-1h&tail=99999999".to_owned(),
            9 => format!("token={}", self.viewer),
            10 => "a=1&".repeat(many),
            11 => format!("grep={}", "%41".repeat(many)),
            12 => "%zz=%".to_owned(),
            13 => "limit".to_owned(),
            14 => "dry_run=maybe&follow=2".to_owned(),
            15 => "wait=99999999999d".to_owned(),
            16 => "instance=ins_../../x&release=v0&service=%F0%9F%92%A9".to_owned(),
            _ => "since=0001-01-01T00:00:00Z&grep=%5B%28%2A".to_owned(),
        };
        draft.target = format!("{}?{query}", draft.target);
        let mut request = Self::one("query", &draft);
        request.may_be_cut = draft.target.len() > 8000;
        request
    }

    fn foreign_ids(&self, chance: &mut Chance) -> Request {
        let endpoint = self.endpoint(chance);
        let mut draft = self.draft(endpoint, chance);
        let mut path = String::new();
        for part in endpoint.path.split('/').skip(1) {
            path.push('/');
            if part.starts_with('{') && chance.below(2) == 0 {
                let id = chance.one(&self.ids).cloned().unwrap_or_default();
                path.push_str(&match chance.below(5) {
                    0 => id.to_ascii_uppercase(),
                    1 => id.replace('_', "%5f"),
                    2 => format!("{id}0"),
                    3 => format!("app_{:026}", chance.below(1 << 40)),
                    _ => id,
                });
            } else if part.starts_with('{') {
                path.push_str("default");
            } else {
                path.push_str(part);
            }
        }
        draft.target = path;
        // By chance the ids may fit.
        draft
            .without("Authorization")
            .header("Authorization", format!("Bearer {}", self.viewer));
        if endpoint.takes_body {
            draft.json("{}");
        }
        Self::one("ids", &draft)
    }

    fn idempotency(&self, chance: &mut Chance) -> Request {
        let posts: Vec<&Endpoint> = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.method == "POST")
            .collect();
        let mut draft = self.draft(chance.one(&posts).copied().expect("endpoints"), chance);
        let key: Vec<u8> = match chance.below(7) {
            0 => Vec::new(),
            1 => b"k".repeat(10_000),
            2 => vec![0xc3, 0xa9],
            3 => b"with space".to_vec(),
            // Few keys, many bodies: reused, running and replayed ones.
            _ => format!("key-{}", chance.below(20)).into_bytes(),
        };
        draft.header("Idempotency-Key", key);
        draft.json(format!("{{\"name\":\"n-{}\"}}", chance.below(5)));
        Self::one("idempotency", &draft)
    }

    fn conditions(&self, chance: &mut Chance) -> Request {
        let mut draft = self.draft(self.endpoint(chance), chance);
        let value = match chance.below(8) {
            0 => "*",
            1 => "\"99999999999999999999999\"",
            2 => "W/\"1\"",
            3 => "\"1\", \"2\"",
            4 => "1",
            5 => "\"-1\"",
            6 => "",
            _ => "\"1",
        };
        let name = *chance
            .one(&["If-Match", "If-None-Match", "If-Modified-Since", "If-Range"])
            .expect("names");
        draft.header(name, value);
        draft.json("{}");
        Self::one("conditions", &draft)
    }

    fn credentials(&self, chance: &mut Chance) -> Request {
        let mut draft = self.draft(self.endpoint(chance), chance);
        draft.without("Authorization");
        let cut = self.owner.len() - 1;
        match chance.below(10) {
            0 => draft.header("Authorization", ""),
            1 => draft.header("Authorization", "Bearer"),
            2 => draft.header("Authorization", "Bearer  "),
            3 => draft.header("Authorization", "Basic cm9vdDpyb290"),
            4 => draft.header("Authorization", format!("Bearer {}", &self.owner[..cut])),
            5 => draft.header("Authorization", format!("Bearer {}x", self.owner)),
            6 => draft.header("Authorization", format!("Bearer {}", "A".repeat(20_000))),
            7 => draft.header("Authorization", [b"Bearer ".to_vec(), vec![0xff]].concat()),
            8 => draft.header("authorization", format!("Token {}", self.owner)),
            _ => draft.header("X-Token", self.owner.as_str()),
        };
        Self::one("credentials", &draft)
    }

    fn pipelined(&self, chance: &mut Chance) -> Request {
        let count = 2 + usize::try_from(chance.below(12)).unwrap_or(0);
        let mut bytes = Vec::new();
        for _ in 0..count {
            let mut draft = self.draft(self.endpoint(chance), chance);
            if draft.target.starts_with("/v1/events") {
                "/healthz".clone_into(&mut draft.target);
            }
            draft.without("Connection");
            bytes.extend(draft.bytes());
        }
        Request {
            kind: "pipelined",
            bytes,
            answers: count,
            // An answer that refuses before the body is read ends the connection.
            may_be_cut: false,
            may_be_page: false,
            is_head: false,
            pause: Duration::ZERO,
            after: After::Read,
        }
    }

    /// A good request with a few bytes of it bent.
    fn fuzzed(&self, chance: &mut Chance) -> Request {
        let endpoint = self.endpoint(chance);
        let mut draft = self.draft(endpoint, chance);
        draft
            .without("Authorization")
            .header("Authorization", format!("Bearer {}", self.viewer));
        if endpoint.takes_body {
            draft.json("{\"name\":\"a\",\"set\":{\"A\":\"b\"}}");
        }
        let mut bytes = draft.bytes();
        for _ in 0..1 + chance.below(4) {
            let at = usize::try_from(chance.below(bytes.len() as u64)).unwrap_or(0);
            bytes[at] = chance.below(256).to_le_bytes()[0];
        }
        bytes.extend_from_slice(b"\r\n\r\n");
        Request {
            kind: "fuzzed",
            bytes,
            answers: 1,
            may_be_cut: true,
            may_be_page: false,
            is_head: false,
            pause: Duration::ZERO,
            after: After::Read,
        }
        .hurried()
    }

    fn slow(&self, chance: &mut Chance) -> Request {
        let mut draft = self.draft(self.endpoint(chance), chance);
        draft.json(format!("{{\"name\":\"{}\"}}", "s".repeat(2000)));
        let mut request = Self::one("slow", &draft);
        request.pause = Duration::from_millis(chance.below(400));
        request.may_be_cut = true;
        if chance.below(2) == 0 {
            let half = request.bytes.len() / 2;
            request.bytes.truncate(half);
            request.after = After::Leave;
        }
        request
    }
}

impl Request {
    /// What may announce a body that never comes is not waited for to the end of the server's patience.
    fn hurried(mut self) -> Self {
        let text = String::from_utf8_lossy(&self.bytes).to_ascii_lowercase();
        let waits = text.trim().is_empty()
            || text.contains("content-length: 99")
            || text.contains("chunked")
            || self.kind == "fuzzed";
        if waits {
            self.after = After::Leave;
        }
        self
    }
}
