//! Reading tar streams strictly: what two readers could understand differently is refused.
//!
//! Lives here: the sequence of headers, their extensions, and the bounds on both.
//! Does not live here: what an entry may do to a file system (`unpack`), compression (`compress`).
//! Invariant: memory is bounded by `EXTENSION_LIMIT`, however long a name claims to be.
//!
//! The `tar` crate decodes header fields. Its own iterator is not used: it keeps a member's name in memory
//! whatever its length, and it takes the first of two contradicting records where GNU tar takes the last.

use std::io::{self, Read};

use crate::error::{ImageError, Result};

const BLOCK: usize = 512;
/// Names, links and attributes of one entry together; a name of 64 KiB still gets its proper refusal.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Device,
    Fifo,
}

/// One member of the archive, its name and facts as the archive gives them: nothing here is safe to use as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) link: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime_s: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar stream being read. After `next` returns a file, `read` gives its content.
pub(crate) struct Tarball<R> {
    input: R,
    /// Content of the present member not read yet, and the padding after it.
    left: u64,
    padding: u64,
    seen_end: bool,
}

/// What extension headers say about the member after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    has_pax: bool,
    is_any: bool,
}

fn refused(why: impl Into<String>) -> ImageError {
    ImageError::refused("the archive", why)
}

impl<R: Read> Tarball<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
            seen_end: false,
        }
    }

    /// Whether the archive ended with its mark, rather than by the stream running out.
    pub(crate) fn has_end_mark(&self) -> bool {
        self.seen_end
    }

    /// The stream below, positioned after the end mark.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next member, skipping what is left of the present one.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                return if extensions.is_any {
                    Err(refused("it ends after an extension header"))
                } else {
                    Ok(None)
                };
            };
            let size = header
                .entry_size()
                .map_err(|_| refused("a header has an unreadable size"))?;
            match header.as_bytes()[156] {
                b'L' => {
                    let name = self.extension(size)?;
                    set_once(&mut extensions.path, until_nul(name), "two names for one entry")?;
                }
                b'K' => {
                    let link = self.extension(size)?;
                    set_once(
                        &mut extensions.link,
                        until_nul(link),
                        "two link targets for one entry",
                    )?;
                }
                b'x' => {
                    if std::mem::replace(&mut extensions.has_pax, true) {
                        return Err(refused("two extended headers for one entry"));
                    }
                    let records = self.extension(size)?;
                    extensions.read_records(&records)?;
                }
                b'g' => self.global_header(size)?,
                kind => return self.member(&header, kind, extensions).map(Some),
            }
            extensions.is_any = true;
        }
    }

    /// Git puts a commit id into a global header; anything else there would change all entries after it.
    fn global_header(&mut self, size: u64) -> Result<()> {
        let records = self.extension(size)?;
        for (key, _) in pax_records(&records)? {
            if key != b"comment" {
                return Err(refused("a global extended header changes the entries after it"));
            }
        }
        Ok(())
    }

    fn member(&mut self, header: &tar::Header, kind: u8, extensions: Extensions) -> Result<Member> {
        let path = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let header_size = header
            .entry_size()
            .map_err(|_| refused("a header has an unreadable size"))?;
        let size = extensions.size.unwrap_or(header_size);
        // GNU tar and others disagree on these; a writer that needs the record puts zero into the field.
        if header_size != 0 && header_size != size {
            return Err(refused("an entry has two different sizes"));
        }
        let kind = match kind {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(refused("it has sparse entries")),
            other => {
                return Err(refused(format!(
                    "it has entries of the unknown kind {:?}",
                    char::from(other)
                )));
            }
        };
        if kind != Kind::File && size != 0 {
            return Err(refused("an entry that is no file claims to have content"));
        }
        if kind == Kind::File {
            self.left = size;
            self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        }
        let link = match extensions.link {
            Some(link) => link,
            None => header
                .link_name_bytes()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default(),
        };
        if path.is_empty() || path.contains(&0) || link.contains(&0) {
            return Err(refused("an entry has no usable name"));
        }
        let unreadable = |_| refused("a header has an unreadable number");
        let (mtime_s, mtime_ns) = match extensions.mtime {
            Some(mtime) => mtime,
            None => (i64::try_from(header.mtime().map_err(unreadable)?).unwrap_or(0), 0),
        };
        let uid = extensions
            .uid
            .map_or_else(|| header.uid().map_err(unreadable), Ok)?;
        let gid = extensions
            .gid
            .map_or_else(|| header.gid().map_err(unreadable), Ok)?;
        let mode = header.mode().map_err(unreadable)? & 0o7777;
        Ok(Member {
            path,
            kind,
            link,
            size,
            mode,
            uid,
            gid,
            mtime_s,
            mtime_ns,
            xattrs: extensions.xattrs,
        })
    }

    /// The next header block that is not the end mark.
    fn header(&mut self) -> Result<Option<tar::Header>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(refused("it ends within a header")),
                Ok(count) => filled += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(ImageError::stream("the archive", cause)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            self.seen_end = true;
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let field: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
        if header.cksum().ok() != Some(sum - field + 8 * u32::from(b' ')) {
            return Err(refused("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_LIMIT {
            return Err(ImageError::Quota {
                what: "the archive".into(),
                limit: EXTENSION_LIMIT,
                unit: "bytes of name and attributes in one entry",
            });
        }
        let mut content = vec![0; size as usize];
        self.input
            .read_exact(&mut content)
            .map_err(|cause| ImageError::stream("the archive", cause))?;
        self.skip((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64)?;
        Ok(content)
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        let skipped = io::copy(&mut (&mut self.input).take(count), &mut io::sink())
            .map_err(|cause| ImageError::stream("the archive", cause))?;
        if skipped < count {
            return Err(refused("it ends within an entry"));
        }
        Ok(())
    }
}

/// The content of the present member.
impl<R: Read> Read for Tarball<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(refused("it ends within an entry").into_io());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

impl Extensions {
    fn read_records(&mut self, records: &[u8]) -> Result<()> {
        let records = pax_records(records)?;
        for (at, (key, value)) in records.iter().enumerate() {
            if records[..at].iter().any(|(earlier, _)| earlier == key) {
                return Err(refused("an extended header says the same thing twice"));
            }
            match *key {
                b"path" => set_once(&mut self.path, value.to_vec(), "two names for one entry")?,
                b"linkpath" => set_once(&mut self.link, value.to_vec(), "two link targets for one entry")?,
                b"size" => self.size = Some(number(value)?),
                b"uid" => self.uid = Some(number(value)?),
                b"gid" => self.gid = Some(number(value)?),
                b"mtime" => self.mtime = Some(time(value)?),
                key if key.starts_with(b"GNU.sparse.") => return Err(refused("it has sparse entries")),
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn set_once(slot: &mut Option<Vec<u8>>, value: Vec<u8>, twice: &'static str) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(refused(twice)),
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

/// Splits `LENGTH KEY=VALUE\n` records.
fn pax_records(mut rest: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let malformed = || refused("an extended header is malformed");
    let mut records = Vec::new();
    while !rest.is_empty() {
        let space = rest
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or_else(malformed)?;
        let length = usize::try_from(number(&rest[..space])?).map_err(|_| malformed())?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(malformed());
        }
        let record = &rest[space + 1..length - 1];
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(malformed)?;
        records.push((&record[..equals], &record[equals + 1..]));
        rest = &rest[length..];
    }
    Ok(records)
}

fn number(text: &[u8]) -> Result<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let value = std::str::from_utf8(text)
        .ok()
        .filter(|_| is_plain)
        .and_then(|text| text.parse().ok());
    value.ok_or_else(|| refused("an extended header has an unreadable number"))
}

/// `[-]SECONDS[.FRACTION]`
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let (sign, text) = text.strip_prefix(b"-").map_or((1, text), |rest| (-1, rest));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next().unwrap_or_default())?)
        .map_err(|_| refused("an extended header has an unreadable number"))?;
    let fraction: u32 = match parts.next() {
        None | Some([]) => 0,
        Some(digits) => {
            let nine: Vec<u8> = digits.iter().copied().chain(*b"000000000").take(9).collect();
            number(&nine)? as u32
        }
    };
    Ok(if sign < 0 && fraction > 0 {
        (-seconds - 1, 1_000_000_000 - fraction)
    } else {
        (sign * seconds, fraction)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_epoch() {
        for (text, expected) in [
            ("0", (0, 0)),
            ("12.5", (12, 500_000_000)),
            ("12.", (12, 0)),
            ("-1.25", (-2, 750_000_000)),
            ("-3", (-3, 0)),
            ("7.1234567899", (7, 123_456_789)),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for bad in ["", "x", "1.x", "--1", "+1", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        assert_eq!(pax_records(b"8 a=b=c\n").unwrap(), [(&b"a"[..], &b"b=c"[..])]);
        for bad in [
            "8 a=b=c",
            "9 a=b=c\n",
            "0 \n",
            "4 a\n",
            "-8 a=b=c\n",
            "99999999999999999999999 a=b\n",
            "a=b\n",
        ] {
            assert!(pax_records(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
