//! What a request for a path of the site gets.
//!
//! In this order: a file; `index.html` of a directory (which ends in `/`, else a redirect there); the file with `.html`
//! added; `200.html`, which sites that route in the browser provide; `404.html`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::kinds;
use super::request::Request;
use super::tag::Tags;

/// A directory that is served.
pub struct Site {
    root: PathBuf,
    tags: Tags,
}

/// Status, headers and body.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

/// What follows the headers.
pub enum Body {
    Text(String),
    File { file: File, first: u64, length: u64 },
}

impl Body {
    pub fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File { length, .. } => *length,
        }
    }
}

impl Answer {
    /// A page that only says its status.
    pub fn plain(status: u16) -> Self {
        let mut headers = vec![("Content-Type", "text/plain; charset=utf-8".to_owned())];
        if status == 405 {
            headers.push(("Allow", "GET, HEAD".to_owned()));
        }
        Self {
            status,
            headers,
            body: Body::Text(format!("{status} {}\n", reason(status))),
        }
    }
}

/// A file of the site.
struct Found {
    file: File,
    path: PathBuf,
    length: u64,
    changed: Option<SystemTime>,
}

impl Site {
    /// # Errors
    /// When the directory is not there.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: root.canonicalize()?,
            tags: Tags::default(),
        })
    }

    /// Answers a request.
    pub fn answer(&self, request: &Request) -> Answer {
        // What begins with a dot is not meant for visitors, but for one place that standards give to everybody.
        let is_hidden = request
            .path
            .split('/')
            .any(|part| part.starts_with('.') && part != ".well-known");
        let relative = request.path.trim_start_matches('/');
        if is_hidden {
            return self.missing(request);
        }
        let plain = self.root.join(relative);
        if plain.is_dir() {
            if !request.path.ends_with('/') {
                return redirect(relative, &request.query);
            }
            return match self.find(&plain.join("index.html")) {
                Some(found) => self.file(found, request, 200),
                None => self.missing(request),
            };
        }
        let page = || self.find(&self.root.join(format!("{relative}.html")));
        match self.find(&plain).or_else(page) {
            Some(found) if !request.path.ends_with('/') => self.file(found, request, 200),
            Some(_) | None => self.missing(request),
        }
    }

    fn missing(&self, request: &Request) -> Answer {
        let page = |name: &str| self.find(&self.root.join(name));
        if let Some(found) = page("200.html") {
            return self.file(found, request, 200);
        }
        page("404.html").map_or_else(|| Answer::plain(404), |found| self.file(found, request, 404))
    }

    /// A plain file inside the site; a link may lead to one, but not out.
    fn find(&self, path: &Path) -> Option<Found> {
        let path = path
            .canonicalize()
            .ok()
            .filter(|path| path.starts_with(&self.root))?;
        let file = File::open(&path).ok()?;
        let facts = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(Found {
            file,
            path,
            length: facts.len(),
            changed: facts.modified().ok(),
        })
    }

    fn file(&self, found: Found, request: &Request, status: u16) -> Answer {
        let kind = kinds::of(&found.path);
        let (found, encoding) = self.encoded(found, request);
        let mut headers = vec![
            ("Content-Type", kind.to_owned()),
            // Kept, but asked about each time: a release must be seen at once, and an answer "unchanged" is small.
            ("Cache-Control", "no-cache".to_owned()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
        ];
        if let Some(encoding) = encoding {
            headers.push(("Content-Encoding", encoding.to_owned()));
            headers.push(("Vary", "Accept-Encoding".to_owned()));
        }
        let whole = Body::File {
            file: found.file,
            first: 0,
            length: found.length,
        };
        if status != 200 {
            return Answer {
                status,
                headers,
                body: whole,
            };
        }
        let Body::File { mut file, .. } = whole else {
            return Answer::plain(500);
        };
        let tag = self.tags.of(&found.path, found.length, found.changed, &mut file);
        headers.push(("Accept-Ranges", "bytes".to_owned()));
        headers.extend(tag.clone().map(|tag| ("ETag", tag)));
        let has =
            |tags: &String| tags == "*" || tags.split(',').any(|known| Some(bare(known)) == tag.as_deref());
        if request.has_tags.as_ref().is_some_and(has) {
            return Answer {
                status: 304,
                headers,
                body: Body::Text(String::new()),
            };
        }
        let is_same = request
            .range_tag
            .as_ref()
            .is_none_or(|wanted| Some(wanted) == tag.as_ref());
        match request
            .range
            .as_deref()
            .filter(|_| is_same)
            .map_or(Part::Whole, |range| part(range, found.length))
        {
            Part::Whole => {
                let body = Body::File {
                    file,
                    first: 0,
                    length: found.length,
                };
                Answer {
                    status: 200,
                    headers,
                    body,
                }
            }
            Part::Span { first, last } => {
                headers.push(("Content-Range", format!("bytes {first}-{last}/{}", found.length)));
                Answer {
                    status: 206,
                    headers,
                    body: Body::File {
                        file,
                        first,
                        length: last - first + 1,
                    },
                }
            }
            Part::Beyond => {
                let mut answer = Answer::plain(416);
                answer
                    .headers
                    .push(("Content-Range", format!("bytes */{}", found.length)));
                answer
            }
        }
    }

    /// The file as it lies beside, compressed, when the client can read it.
    fn encoded(&self, found: Found, request: &Request) -> (Found, Option<&'static str>) {
        for (encoding, suffix) in [("br", "br"), ("gzip", "gz")] {
            let accepts = request.encodings.split(',').any(|word| {
                let mut parts = word.split(';').map(str::trim);
                let is_meant = parts
                    .next()
                    .is_some_and(|name| name.eq_ignore_ascii_case(encoding));
                is_meant && parts.next() != Some("q=0")
            });
            let mut name = found.path.clone().into_os_string();
            name.push(".");
            name.push(suffix);
            if let Some(other) = accepts.then(|| self.find(Path::new(&name))).flatten() {
                return (other, Some(encoding));
            }
        }
        (found, None)
    }
}

/// A tag without the mark that it is a weak one.
fn bare(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn redirect(relative: &str, query: &str) -> Answer {
    // Begins with exactly one slash, so it can not lead to another host; spaces and the like are escaped again.
    let mut path = String::from("/");
    for byte in relative.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte));
            }
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    let mut answer = Answer::plain(301);
    answer.headers.push(("Location", format!("{path}/{query}")));
    answer
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Span { first: u64, last: u64 },
    Beyond,
}

/// One span of bytes. Several at once, and other units, are answered with the whole, as the standard allows.
fn part(range: &str, length: u64) -> Part {
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|span| span.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    let number = |text: &str| {
        text.parse::<u64>()
            .ok()
            .filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
    };
    let (first, last) = match (first, last) {
        ("", count) => match number(count) {
            Some(count) => (
                length.saturating_sub(count),
                if count == 0 { None } else { Some(u64::MAX) },
            ),
            None => return Part::Whole,
        },
        (first, "") => match number(first) {
            Some(first) => (first, Some(u64::MAX)),
            None => return Part::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => (first, Some(last)),
            (Some(_) | None, Some(_) | None) => return Part::Whole,
        },
    };
    match last {
        Some(last) if first < length => Part::Span {
            first,
            last: last.min(length - 1),
        },
        Some(_) | None => Part::Beyond,
    }
}

/// The words that belong to a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
