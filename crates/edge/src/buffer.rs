//! Buffers that are there only while something is in them.
//!
//! Lives here: the read buffer, and each thread's stock of spare ones.
//! Does not live here: reading (`stream`).
//! Invariant: an idle connection owns no buffer; the stock is bounded.

use std::cell::RefCell;

/// Large enough for nearly every head, small enough to have one per busy connection.
pub(crate) const SMALL_BYTES: usize = 16 << 10;

/// For bodies: a large read costs fewer system calls per byte (measured: decisive above 1 MiB).
pub(crate) const LARGE_BYTES: usize = 256 << 10;

/// Spare buffers kept per thread.
const SPARE_SMALL: usize = 256;
const SPARE_LARGE: usize = 8;

/// Bytes received and not yet used.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    store: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn filled(&self) -> &[u8] {
        &self.store[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn capacity(&self) -> usize {
        self.store.len()
    }

    /// Whether the filled part fills the whole store: it must grow before more can be read.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start == self.store.len()
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room to read into; what is there moves to the front first.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 && self.end == self.store.len() {
            self.store.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.store[self.end..]
    }

    pub(crate) fn commit(&mut self, n: usize) {
        self.end += n;
    }

    /// Moves what is there into a store of another size (at least what is there).
    pub(crate) fn replace(&mut self, mut store: Box<[u8]>) -> Box<[u8]> {
        let length = self.end - self.start;
        store[..length].copy_from_slice(&self.store[self.start..self.end]);
        (self.start, self.end) = (0, length);
        std::mem::replace(&mut self.store, store)
    }
}

/// A thread's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    texts: RefCell<Vec<Vec<u8>>>,
}

impl Stock {
    /// Gives the buffer a store if it has none.
    pub(crate) fn supply(&self, buffer: &mut Buffer) {
        if buffer.capacity() == 0 {
            let spare = self.small.borrow_mut().pop();
            buffer.replace(spare.unwrap_or_else(|| vec![0; SMALL_BYTES].into_boxed_slice()));
        }
    }

    /// Gives the buffer a large store.
    pub(crate) fn enlarge(&self, buffer: &mut Buffer) {
        if buffer.capacity() < LARGE_BYTES {
            let spare = self.large.borrow_mut().pop();
            let old = buffer.replace(spare.unwrap_or_else(|| vec![0; LARGE_BYTES].into_boxed_slice()));
            self.keep(old);
        }
    }

    /// Takes the store back when nothing is in it, or exchanges a large one when little is.
    pub(crate) fn reclaim(&self, buffer: &mut Buffer) {
        if buffer.is_empty() {
            self.keep(std::mem::take(buffer).store);
        } else if buffer.capacity() > SMALL_BYTES && buffer.filled().len() <= SMALL_BYTES {
            let spare = self.small.borrow_mut().pop();
            let old = buffer.replace(spare.unwrap_or_else(|| vec![0; SMALL_BYTES].into_boxed_slice()));
            self.keep(old);
        }
    }

    /// An empty text to write a message into.
    pub(crate) fn text(&self) -> Vec<u8> {
        self.texts
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES / 4))
    }

    pub(crate) fn keep_text(&self, mut text: Vec<u8>) {
        let mut texts = self.texts.borrow_mut();
        if text.capacity() <= 2 * LARGE_BYTES && texts.len() < SPARE_SMALL {
            text.clear();
            text.shrink_to(SMALL_BYTES);
            texts.push(text);
        }
    }

    fn keep(&self, store: Box<[u8]>) {
        let (stock, most) = match store.len() {
            SMALL_BYTES => (&self.small, SPARE_SMALL),
            LARGE_BYTES => (&self.large, SPARE_LARGE),
            _ => return,
        };
        let mut stock = stock.borrow_mut();
        if stock.len() < most {
            stock.push(store);
        }
    }
}
