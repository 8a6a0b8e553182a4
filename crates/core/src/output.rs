//! Bytes on their way to a client: small ones in one buffer, large values between them without a copy.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// Replies in the order they go out.
#[derive(Debug, Default)]
pub struct Output {
    /// All small bytes, one after another.
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were sent.
    sent: usize,
    /// Large values, each with its place in `bytes`, in order.
    shared: VecDeque<(usize, Arc<[u8]>)>,
    /// Bytes of the first large value that were sent.
    shared_sent: usize,
    /// Bytes of all large values.
    shared_len: usize,
}

/// A place between two replies.
#[derive(Debug)]
pub struct Mark {
    bytes: usize,
    shared: usize,
}

/// Slices for one write: enough for a batch of large values, few enough for the stack.
const SLICES: usize = 32;

impl Output {
    /// The buffer that small bytes are appended to.
    #[inline]
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a large value without copying it.
    pub fn push_shared(&mut self, value: Arc<[u8]>) {
        self.shared_len += value.len();
        self.shared.push_back((self.bytes.len(), value));
    }

    /// Bytes still to send.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent + self.shared_len - self.shared_sent
    }

    /// Whether everything was sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the next reply begins.
    #[inline]
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), shared: self.shared.len() }
    }

    /// Small bytes that were appended since.
    #[inline]
    pub fn bytes_since(&self, mark: &Mark) -> usize {
        self.bytes.len() - mark.bytes
    }

    /// Takes back what was appended since; nothing of it may have been sent.
    pub fn rewind(&mut self, mark: Mark) {
        debug_assert!(self.sent <= mark.bytes, "what was sent cannot be taken back");
        self.bytes.truncate(mark.bytes);
        self.shared_len -= self.shared.drain(mark.shared..).map(|(_, value)| value.len()).sum::<usize>();
    }

    /// Forgets everything, but keeps the capacity up to `keep` bytes.
    pub fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.shared.clear();
        (self.sent, self.shared_sent, self.shared_len) = (0, 0, 0);
    }

    /// Hands the next slices to `write` until all is sent, or it fails or takes less than it was given.
    pub fn drain<E>(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> Result<usize, E>) -> Result<(), E> {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.slices(&mut slices);
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            let taken = write(&slices[..count])?;
            self.advance(taken);
            if taken < offered {
                break;
            }
        }
        Ok(())
    }

    /// Fills `slices` with what is to be sent next, in order; returns how many were used.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let (mut count, mut from, mut skip) = (0, self.sent, self.shared_sent);
        let mut add = |slice: &'a [u8]| {
            if !slice.is_empty() && count < SLICES {
                slices[count] = IoSlice::new(slice);
                count += 1;
            }
            count < SLICES
        };
        for (place, value) in &self.shared {
            if !add(&self.bytes[from..*place]) || !add(&value[skip..]) {
                return count;
            }
            (from, skip) = (*place, 0);
        }
        add(&self.bytes[from..]);
        count
    }

    fn advance(&mut self, mut taken: usize) {
        while taken > 0 {
            let until = self.shared.front().map_or(self.bytes.len(), |(place, _)| *place);
            let small = taken.min(until - self.sent);
            self.sent += small;
            taken -= small;
            if let (true, Some((_, value))) = (taken > 0, self.shared.front()) {
                let part = taken.min(value.len() - self.shared_sent);
                self.shared_sent += part;
                taken -= part;
                if self.shared_sent == value.len() {
                    self.shared_len -= value.len();
                    self.shared_sent = 0;
                    self.shared.pop_front();
                }
            }
        }
    }

    /// Everything in one piece: for callers that have no socket.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.len());
        let Ok(()) = self.drain(|slices| {
            slices.iter().for_each(|slice| whole.extend_from_slice(slice));
            Ok::<_, std::convert::Infallible>(slices.iter().map(|slice| slice.len()).sum())
        });
        self.clear(usize::MAX);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Output {
        let mut out = Output::default();
        out.bytes().extend_from_slice(b"ab");
        out.push_shared(Arc::from(&b"CDEF"[..]));
        out.push_shared(Arc::from(&b"GH"[..]));
        out.bytes().extend_from_slice(b"ij");
        out
    }

    #[test]
    fn what_is_taken_back_leaves_what_was_there_before() {
        let mut out = sample();
        out.drain(|_| Ok::<_, ()>(3)).unwrap();
        let mark = out.mark();
        out.bytes().extend_from_slice(b"kl");
        out.push_shared(Arc::from(&b"MN"[..]));
        out.bytes().extend_from_slice(b"op");
        assert_eq!(out.bytes_since(&mark), 4);
        out.rewind(mark);
        assert_eq!((out.len(), out.take_bytes()), (7, b"DEFGHij".to_vec()));
    }

    #[test]
    fn writes_of_any_size_give_the_same_bytes() {
        for step in 1..=12 {
            let (mut out, mut sent) = (sample(), Vec::new());
            while !out.is_empty() {
                let before = out.len();
                out.drain(|slices| {
                    let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    let taken = step.min(all.len());
                    sent.extend_from_slice(&all[..taken]);
                    Ok::<_, ()>(taken)
                })
                .unwrap();
                assert!(out.len() < before);
            }
            assert_eq!(sent, b"abCDEFGHij");
        }
    }
}
