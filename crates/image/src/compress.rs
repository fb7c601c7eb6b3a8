//! Compression of layers and uploads: found by looking at the first bytes, never by what the label says.
//!
//! Lives here: gzip, zstd and plain, to read; zstd, to write.
//! Does not live here: how much may come out (`unpack` counts).
//! Invariant: memory is bounded whatever the stream asks for.

use std::io::{self, Chain, Cursor, Read, Write};

use crate::error::{Doing, ImageError, Result};

/// The largest window a zstd stream may ask for: 128 MiB, what the zstd program itself allows by default.
const WINDOW_LOG_LIMIT: u32 = 27;
/// Layers are read often and written once; level 1 keeps commits near disk speed.
const LEVEL: i32 = 1;

type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// A stream read plainly, whatever it was compressed with.
pub(crate) enum Plain<R: Read> {
    Tar(Whole<R>),
    Gzip(Box<flate2::read::MultiGzDecoder<io::BufReader<Whole<R>>>>),
    Zstd(Box<zstd::Decoder<'static, io::BufReader<Whole<R>>>>),
}

impl<R: Read> Plain<R> {
    pub(crate) fn new(what: &str, mut input: R) -> Result<Self> {
        let mut first = Vec::with_capacity(6);
        (&mut input).take(6).read_to_end(&mut first).doing("read", what)?;
        let whole = |first: Vec<u8>| Cursor::new(first).chain(input);
        let unsupported = |name: &str| ImageError::Unsupported {
            what: format!("{what} ({name})"),
            why: "send a tar archive, plain or compressed with gzip or zstd".into(),
        };
        match first.as_slice() {
            [0x1f, 0x8b, ..] => {
                let buffered = io::BufReader::with_capacity(1 << 16, whole(first));
                Ok(Self::Gzip(Box::new(flate2::read::MultiGzDecoder::new(buffered))))
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let buffered = io::BufReader::with_capacity(1 << 16, whole(first));
                let mut decoder = zstd::Decoder::with_buffer(buffered).doing("read", what)?;
                decoder.window_log_max(WINDOW_LOG_LIMIT).doing("read", what)?;
                Ok(Self::Zstd(Box::new(decoder)))
            }
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(unsupported("xz")),
            [b'B', b'Z', b'h', ..] => Err(unsupported("bzip2")),
            [b'P', b'K', 3, 4, ..] => Err(unsupported("zip")),
            _plain => Ok(Self::Tar(whole(first))),
        }
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tar(plain) => plain.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// A zstd stream to write into.
pub(crate) fn zstd_writer<W: Write>(out: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}
