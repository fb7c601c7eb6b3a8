//! Buffers that are there only while something is in them.
//!
//! Lives here: the read buffer, and each thread's stock of spare ones.
//! Does not live here: reading (`stream`).
//! Invariant: an idle connection owns no buffer; the stock is bounded, and so is what all large buffers hold: clients that do
//! not read pin what they were sent.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Large enough for nearly every head, small enough to have one per busy connection.
pub(crate) const SMALL_BYTES: usize = 16 << 10;

/// For bodies: a large read costs fewer system calls per byte (measured: decisive above 1 MiB).
pub(crate) const LARGE_BYTES: usize = 256 << 10;

/// Spare buffers kept per thread.
const SPARE_SMALL: usize = 256;
const SPARE_LARGE: usize = 8;

/// Large buffers in use at once per thread: 32 MB, and as much again in what is about to be written from them. Whoever comes
/// later moves its body through a small one.
const LARGE_MAX: usize = 128;

/// Bytes received and not yet used.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    store: Box<[u8]>,
    start: usize,
    end: usize,
    lent: Option<Lent>,
}

/// Counts a large store while a buffer has it, however the buffer ends.
#[derive(Debug)]
struct Lent(Rc<Cell<usize>>);

impl Lent {
    fn new(count: &Rc<Cell<usize>>) -> Lent {
        count.set(count.get() + 1);
        Lent(count.clone())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
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

    /// Doubles the room: for heads, which have their own limits.
    pub(crate) fn grow(&mut self) {
        self.replace(vec![0; self.store.len() * 2].into_boxed_slice());
    }

    /// Moves what is there into a store of another size (at least what is there).
    fn replace(&mut self, mut store: Box<[u8]>) -> Box<[u8]> {
        let length = self.end - self.start;
        store[..length].copy_from_slice(&self.store[self.start..self.end]);
        (self.start, self.end) = (0, length);
        self.lent = None;
        std::mem::replace(&mut self.store, store)
    }
}

/// A thread's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    large_lent: Rc<Cell<usize>>,
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

    /// Gives the buffer a large store, unless too many have one.
    pub(crate) fn enlarge(&self, buffer: &mut Buffer) {
        if buffer.capacity() < LARGE_BYTES && self.large_lent.get() < LARGE_MAX {
            let spare = self.large.borrow_mut().pop();
            let old = buffer.replace(spare.unwrap_or_else(|| vec![0; LARGE_BYTES].into_boxed_slice()));
            buffer.lent = Some(Lent::new(&self.large_lent));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_counted_however_they_end() {
        let stock = Stock::default();
        let large = || {
            let mut buffer = Buffer::default();
            stock.supply(&mut buffer);
            stock.enlarge(&mut buffer);
            buffer
        };
        let mut all: Vec<Buffer> = (0..LARGE_MAX).map(|_| large()).collect();
        assert!(all.iter().all(|buffer| buffer.capacity() == LARGE_BYTES));
        assert_eq!(large().capacity(), SMALL_BYTES);
        drop(all.pop());
        stock.reclaim(&mut all[0]);
        all[1].commit(1);
        stock.reclaim(&mut all[1]);
        assert_eq!((all[0].capacity(), all[1].capacity()), (0, SMALL_BYTES));
        all.extend((0..3).map(|_| large()));
        assert!(
            all[LARGE_MAX - 1..]
                .iter()
                .all(|buffer| buffer.capacity() == LARGE_BYTES)
        );
        assert_eq!(large().capacity(), SMALL_BYTES);
        drop(all);
        assert_eq!(stock.large_lent.get(), 0);
    }

    #[test]
    fn a_growing_buffer_keeps_what_is_in_it() {
        let stock = Stock::default();
        let mut buffer = Buffer::default();
        stock.supply(&mut buffer);
        buffer.space().fill(7);
        buffer.commit(SMALL_BYTES);
        buffer.consume(1);
        buffer.grow();
        assert_eq!(
            (buffer.capacity(), buffer.filled().len()),
            (2 * SMALL_BYTES, SMALL_BYTES - 1)
        );
        assert!(buffer.filled().iter().all(|&byte| byte == 7));
    }
}
