//! Reading a request's head. The edge has checked and rewritten it; what is odd all the same is refused.

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Decoded path, beginning with `/`.
    pub path: String,
    /// The query with its `?`, or nothing.
    pub query: String,
    /// Only the head is wanted.
    pub is_head: bool,
    /// The connection ends after the answer.
    pub closes: bool,
    /// Tags the client has (`If-None-Match`).
    pub has_tags: Option<String>,
    /// The part that is wanted (`Range`).
    pub range: Option<String>,
    /// The tag under which the part is wanted (`If-Range`).
    pub range_tag: Option<String>,
    /// `Accept-Encoding`.
    pub encodings: String,
}

/// A request, or the status that refuses it.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// A request.
    Good(Request),
    /// Refused.
    Bad(u16),
}

/// Reads a head up to its empty line.
pub fn read(bytes: &[u8]) -> Head {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Head::Bad(400);
    };
    let Some(text) = text.strip_suffix("\r\n\r\n") else {
        return Head::Bad(431);
    };
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next()) else {
        return Head::Bad(400);
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Head::Bad(505);
    }
    if !matches!(method, "GET" | "HEAD") {
        return Head::Bad(405);
    }
    let (path, query) = target.find('?').map_or((target, ""), |at| target.split_at(at));
    let Some(path) = decode(path) else {
        return Head::Bad(400);
    };
    let mut request = Request {
        path,
        query: query.to_owned(),
        is_head: method == "HEAD",
        closes: version == "HTTP/1.0",
        has_tags: None,
        range: None,
        range_tag: None,
        encodings: String::new(),
    };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Head::Bad(400);
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" => {
                let wants = |what: &str| {
                    value
                        .split(',')
                        .any(|word| word.trim().eq_ignore_ascii_case(what))
                };
                request.closes = wants("close") || request.closes && !wants("keep-alive");
            }
            // A body is never read, so nothing after it could be understood.
            "content-length" => request.closes |= value != "0",
            "transfer-encoding" => request.closes = true,
            "if-none-match" => request.has_tags = Some(value.to_owned()),
            "range" => request.range = Some(value.to_owned()),
            "if-range" => request.range_tag = Some(value.to_owned()),
            "accept-encoding" => value.clone_into(&mut request.encodings),
            _ => {}
        }
    }
    Head::Good(request)
}

/// A path without escapes. Refused: what is not one, or would mean another path to somebody else.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?
        } else {
            byte
        };
        bytes.push(byte);
    }
    let path = String::from_utf8(bytes).ok()?;
    let is_plain = path.starts_with('/')
        && !path.contains(['\0', '\\'])
        && !path.chars().any(char::is_control)
        && !path.split('/').any(|part| part == ".." || part == ".");
    is_plain.then_some(path)
}
