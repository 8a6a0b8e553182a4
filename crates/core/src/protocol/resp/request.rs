//! Requests as arrays of bulk strings.
//!
//! A request is read without allocating: its arguments are spans of the input. Reading goes on where it stopped, so
//! a request that arrives in many pieces is looked at once. Lengths in headers are numbers to compare with, never
//! sizes to allocate. After a protocol error nothing that follows can be trusted: the connection closes.
//!
//! An argument longer than a value may be is no such error, since its length tells where it ends: the request is given
//! up as soon as that length is read ([`Reader::too_long`]), and the rest of it is skipped as it arrives.

use super::inline::{broken, inline};
use crate::limits::Limits;
use crate::protocol::Next;
use crate::vocabulary::{Error, Kind, Span};

/// Reads requests. Spans count from the beginning of the request they belong to.
#[derive(Debug, Default)]
pub struct Reader {
    /// How far the request was read.
    at: usize,
    /// Arguments that are still to come; None before the header was read.
    left: Option<usize>,
    /// Bytes of the argument that is being read, once its header was.
    length: Option<usize>,
    /// Bytes of all arguments so far.
    total: usize,
    /// Length of the argument for which the request was given up.
    too_long: Option<usize>,
    /// The rest of such a request is skipped.
    skipping: bool,
}

const UNTERMINATED: Next = broken("ERR Protocol error: expected '\\r\\n' after a bulk string");

/// A number in a header: digits only, no leading zero, at most ten of them; -1 where it may stand.
fn header_number(text: &[u8]) -> Option<i64> {
    match text {
        b"-1" => Some(-1),
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] if text.len() <= 10 => text
            .iter()
            .try_fold(0i64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))),
        _ => None,
    }
}

/// The line that begins at `at`, without its end, and where the next one begins.
#[inline]
fn header_line(input: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Next> {
    let rest = &input[at..];
    // Headers are a few bytes long: looking byte by byte beats a search that sets itself up first.
    match rest.iter().take(MAX_HEADER).position(|&byte| byte == b'\r') {
        Some(end) if rest.len() == end + 1 => Ok(None),
        Some(end) if rest[end + 1] == b'\n' => Ok(Some((&rest[..end], at + end + 2))),
        Some(_) => Err(broken("ERR Protocol error: expected '\\n' after '\\r'")),
        None if rest.len() >= MAX_HEADER => Err(broken("ERR Protocol error: too big count string")),
        None => Ok(None),
    }
}

/// The number of the header line that begins at `at` with `mark`, and where the next line begins; None unless the line is
/// there and plain: one to eight digits without a leading zero.
#[inline(always)]
fn plain_header(input: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let line = input.get(at..)?;
    let (&[first, digit @ b'1'..=b'9'], rest) = line.split_first_chunk()? else { return None };
    if first != mark {
        return None;
    }
    let mut number = usize::from(digit - b'0');
    for (count, &byte) in rest.iter().take(8).enumerate() {
        match byte {
            b'0'..=b'9' => number = number * 10 + usize::from(byte - b'0'),
            b'\r' if rest.get(count + 1) == Some(&b'\n') => return Some((number, at + count + 4)),
            _ => return None,
        }
    }
    None
}

/// Reads a request that arrived whole and is what clients send: the most of them. Whatever it does not take, the reader
/// looks at with care.
#[inline]
pub fn whole(input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Option<usize> {
    let before = spans.len();
    let (count, mut at) = plain_header(input, 0, b'*').filter(|(count, _)| *count <= limits.max_args)?;
    let mut total = 0;
    for _ in 0..count {
        let (length, start) = plain_header(input, at, b'$').unwrap_or((usize::MAX, at));
        total += length.min(limits.max_request + 1);
        let end = start.saturating_add(length);
        let closed = input.get(end..).and_then(|rest| rest.first_chunk()) == Some(b"\r\n");
        if length > limits.max_value || total > limits.max_request || !closed {
            spans.truncate(before);
            return None;
        }
        spans.push(Span { start: start as u32, end: end as u32 });
        at = end + 2;
    }
    Some(at)
}

/// Longest header line worth looking at: a sign, ten digits and room for padding that is refused later.
const MAX_HEADER: usize = 32;

impl Reader {
    /// Reads the request at the beginning of `input`, which is what it was at the last call and whatever arrived
    /// since. Spans of its arguments are appended to `spans`.
    #[inline]
    pub fn next(&mut self, input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Next {
        // Between two requests there is no state to be reset.
        if self.left.is_none()
            && let Some(length) = whole(input, spans, limits)
        {
            return Next::Request(length);
        }
        self.next_part(input, spans, limits)
    }

    #[inline(never)]
    fn next_part(&mut self, input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Next {
        if self.skipping {
            return self.skip(input, limits);
        }
        match self.advance(input, spans, limits) {
            Ok(Some(length)) if self.skipping => {
                self.at = 0;
                Next::Request(length)
            }
            Ok(Some(length)) => {
                *self = Reader::default();
                Next::Request(length)
            }
            Ok(None) => {
                let wanted = self.length.map_or(0, |length| length + 2);
                Next::More((self.at + wanted).max(input.len() + 1))
            }
            Err(end) => end,
        }
    }

    /// Length of the argument that is too long for a value, if the request that was returned last ends before one. The
    /// spans of that request are the arguments before it.
    pub fn too_long(&self) -> Option<usize> {
        self.too_long
    }

    /// Whether the rest of a request is being skipped: a state that must not be lost by reading again.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Skips what has arrived of the rest of a request: a request without arguments, of as many bytes.
    #[cold]
    fn skip(&mut self, input: &[u8], limits: &Limits) -> Next {
        self.too_long = None;
        self.at = 0;
        match self.advance_skipping(input, limits) {
            Err(end) => end,
            Ok(()) if self.left == Some(0) => {
                let length = self.at;
                *self = Reader::default();
                Next::Request(length)
            }
            Ok(()) if self.at > 0 => Next::Request(self.at),
            Ok(()) => Next::More(input.len() + 1),
        }
    }

    /// Moves `at` over what is there of the arguments that are still to come.
    fn advance_skipping(&mut self, input: &[u8], limits: &Limits) -> Result<(), Next> {
        while self.left != Some(0) {
            let Some(length) = self.length else {
                let Some((length, next)) = self.argument_header(input)? else { return Ok(()) };
                if length > limits.max_skipped {
                    return Err(broken("ERR Protocol error: invalid bulk length"));
                }
                self.begin_argument(length, next, limits)?;
                continue;
            };
            let there = length.min(input.len() - self.at);
            (self.at, self.length) = (self.at + there, Some(length - there));
            match input.get(self.at..self.at + 2) {
                None if there < length || input.len() == self.at || input[self.at] == b'\r' => return Ok(()),
                Some(b"\r\n") => {}
                _ => return Err(UNTERMINATED),
            }
            self.at += 2;
            self.length = None;
            self.left = self.left.map(|left| left - 1);
        }
        Ok(())
    }

    /// The length in the header of the next argument, and where the argument begins; None if it has not arrived.
    fn argument_header(&self, input: &[u8]) -> Result<Option<(usize, usize)>, Next> {
        match input.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => {
                let text = format!("ERR Protocol error: expected '$', got '{}'", other.escape_ascii());
                return Err(Next::Broken(Error::with(Kind::Malformed, text)));
            }
        }
        let Some((line, next)) = header_line(input, self.at)? else { return Ok(None) };
        match header_number(&line[1..]) {
            Some(length @ 0..) => Ok(Some((length as usize, next))),
            _ => Err(broken("ERR Protocol error: invalid bulk length")),
        }
    }

    /// An argument of so many bytes begins at `at`.
    fn begin_argument(&mut self, length: usize, at: usize, limits: &Limits) -> Result<(), Next> {
        self.total += length;
        if self.total > limits.max_request {
            return Err(broken("ERR Protocol error: too big request"));
        }
        (self.at, self.length) = (at, Some(length));
        Ok(())
    }

    fn advance(&mut self, input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<Option<usize>, Next> {
        if self.left.is_none() {
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {}
                Some(_) => return inline(input, spans, limits),
            }
            let Some((line, next)) = header_line(input, 0)? else { return Ok(None) };
            match header_number(&line[1..]) {
                // Nothing is asked with no arguments: skipped, as Redis does.
                Some(..=0) => return Ok(Some(next)),
                Some(count) if count as usize <= limits.max_args => self.left = Some(count as usize),
                _ => return Err(broken("ERR Protocol error: invalid multibulk length")),
            }
            self.at = next;
        }
        while self.left != Some(0) {
            let length = match self.length {
                Some(length) => length,
                None => {
                    let Some((length, next)) = self.argument_header(input)? else { return Ok(None) };
                    if length > limits.max_value.max(limits.max_skipped) {
                        return Err(broken("ERR Protocol error: invalid bulk length"));
                    }
                    self.begin_argument(length, next, limits)?;
                    if length > limits.max_value {
                        (self.too_long, self.skipping) = (Some(length), true);
                        return Ok(Some(next));
                    }
                    length
                }
            };
            let end = self.at + length;
            match input.get(end..end + 2) {
                None => return Ok(None),
                Some(b"\r\n") => {}
                Some(_) => return Err(UNTERMINATED),
            }
            spans.push(Span { start: self.at as u32, end: end as u32 });
            self.at = end + 2;
            self.length = None;
            self.left = self.left.map(|left| left - 1);
        }
        Ok(Some(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads all requests of `input`, given in pieces that end at `cuts`.
    fn read(input: &[u8], cuts: &[usize]) -> (Vec<Vec<Vec<u8>>>, Option<Next>) {
        let (mut requests, mut reader, mut spans, mut start) = (Vec::new(), Reader::default(), Vec::new(), 0);
        for &end in cuts {
            loop {
                match reader.next(&input[start..end], &mut spans, &Limits::default()) {
                    Next::Request(length) => {
                        let words =
                            spans.drain(..).map(|span| input[start..][span.start as usize..span.end as usize].to_vec());
                        requests.push(words.collect());
                        start += length;
                    }
                    Next::More(wanted) => {
                        assert!(wanted > end - start);
                        break;
                    }
                    ended => return (requests, Some(ended)),
                }
                if start == end {
                    break;
                }
            }
        }
        (requests, None)
    }

    #[test]
    fn requests_are_the_same_however_they_are_cut() {
        let input = b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\nPING  hi\r\n\r\n*0\r\n*-1\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\nQUIT\n";
        let whole = read(input, &[input.len()]);
        assert_eq!(whole.0.iter().filter(|request| !request.is_empty()).count(), 4);
        assert_eq!(whole.1, None);
        assert_eq!(whole.0[0], [b"GET".to_vec(), b"x".to_vec()]);
        let each: Vec<usize> = (1..=input.len()).collect();
        assert_eq!(read(input, &each), whole);
        for cut in 1..input.len() {
            assert_eq!(read(input, &[cut, input.len()]), whole);
        }
    }

    #[test]
    fn lengths_that_lie_break_the_stream() {
        for number in [
            "-2",
            "2147483648",
            "4294967296",
            "9223372036854775807",
            "18446744073709551616",
            "+1",
            " 1",
            "1e3",
            "",
            "01",
            "1111111111111111111111111111111111111111",
            "268435457",
        ] {
            for input in [format!("*{number}\r\n"), format!("*1\r\n${number}\r\n")] {
                let (requests, end) = read(input.as_bytes(), &[input.len()]);
                assert!(requests.is_empty() && matches!(end, Some(Next::Broken(_))), "{input:?} {end:?}");
            }
        }
        assert!(matches!(read(b"*1\r\n$-1\r\n", &[9]).1, Some(Next::Broken(_))));
    }

    /// A request, and the length of its last argument if that was too long.
    type Short = (Vec<Vec<u8>>, Option<usize>);

    /// Reads `input` in pieces of one length with values of up to 10 bytes, 100 in a request. Requests whose last argument
    /// was too long end with its length; what was skipped is left out.
    fn read_short(input: &[u8], piece: usize) -> (Vec<Short>, Option<Next>) {
        let limits = Limits { max_value: 10, max_skipped: 90, max_request: 100, ..Limits::default() };
        let (mut requests, mut reader, mut spans, mut start) = (Vec::new(), Reader::default(), Vec::new(), 0);
        for end in (1..=input.len()).filter(|end| end % piece == 0 || *end == input.len()) {
            while start < end {
                match reader.next(&input[start..end], &mut spans, &limits) {
                    Next::Request(length) => {
                        let word = |span: Span| input[start..][span.start as usize..span.end as usize].to_vec();
                        let words: Vec<Vec<u8>> = spans.drain(..).map(word).collect();
                        if !words.is_empty() || reader.too_long().is_some() {
                            requests.push((words, reader.too_long()));
                        }
                        start += length;
                    }
                    Next::More(wanted) => {
                        assert!(wanted > end - start);
                        break;
                    }
                    ended => return (requests, Some(ended)),
                }
            }
        }
        (requests, None)
    }

    /// A request with a value of the length that is one too many, then PING in the same packet: the value is skipped
    /// wherever it is cut, and what it holds is never read as a request.
    #[test]
    fn an_argument_that_is_too_long_is_skipped() {
        let value = b"*1\r\n$7\r\nFLUSHDB";
        let long = [b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$15\r\n", &value[..], b"\r\n$11\r\nelevenbytes\r\n"].concat();
        let first = [b"*2\r\n$15\r\n", &value[..], b"\r\n$0\r\n\r\n"].concat();
        let input = [&long[..], &first, b"*1\r\n$4\r\nPING\r\n"].concat();
        let wanted =
            vec![(vec![b"SET".to_vec(), b"k".to_vec()], Some(15)), (vec![], Some(15)), (vec![b"PING".to_vec()], None)];
        for piece in 1..=input.len() {
            assert_eq!(read_short(&input, piece), (wanted.clone(), None), "{piece}");
        }
    }

    #[test]
    fn a_skipped_request_that_is_malformed_breaks_the_stream() {
        for (rest, text) in [
            (&b"$91\r\n"[..], "invalid bulk length"),
            (b"$-1\r\n", "invalid bulk length"),
            (b"$90\r\n", "too big request"),
            (b":1\r\n", "expected '$', got ':'"),
            (b"$1\r\nxyz", "expected '\\r\\n' after a bulk string"),
        ] {
            let input = [b"*3\r\n$3\r\nSET\r\n$11\r\nelevenbytes\r\n", rest, b"PING\r\n"].concat();
            for piece in 1..=input.len() {
                let (requests, end) = read_short(&input, piece);
                assert_eq!(requests, [(vec![b"SET".to_vec()], Some(11))]);
                assert!(matches!(&end, Some(Next::Broken(error)) if error.text.contains(text)), "{end:?} is no {text}");
            }
        }
    }

    #[test]
    fn framing_that_slips_breaks_the_stream() {
        for input in [
            &b"*1\n$4\r\nPING\r\n"[..],
            b"*1\r$4\r\nPING\r\n",
            b"*1\r\n$3\r\nPING\r\n",
            b"*1\r\n$5\r\nPING\r\n*1",
            b"*1\r\n:4\r\n",
            b"*1\r\n\r\n",
            b"GET \"x\r\n",
            b"GET \"x\"y\r\n",
            b"GET x\"y\r\n",
            b"GET \"a\\n\"\r\n",
        ] {
            assert!(matches!(read(input, &[input.len()]).1, Some(Next::Broken(_))), "{input:?}");
        }
    }
}
