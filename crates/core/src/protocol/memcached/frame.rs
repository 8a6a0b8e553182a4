//! Where requests end: a line of words, and for some verbs a block of data whose length the line gives.

use super::arguments::{MAX_KEY, signed, unsigned};
use crate::limits::Limits;
use crate::protocol::Next;
use crate::protocol::resp::is_http;
use crate::vocabulary::{Args, Error, Kind, Mode, Span};

/// Longest line, but for those that name many keys: memcached closes beyond it as well.
const MAX_LINE: usize = 2048;
/// Longest line of keys: eight thousand of the longest, and no more short ones than can be held at a time.
const MAX_KEYS_LINE: usize = 2 << 20;
const LINE_TOO_LONG: Error = Error::new(Kind::Malformed, "ERR line too long");
const NO_TLS: Error = Error::new(Kind::Malformed, "ERR this port does not speak TLS");
const BINARY: Error = Error::new(Kind::Malformed, "ERR the binary protocol is not offered, use the text protocol");

/// What a request asks, by its first word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    #[default]
    /// None that is known.
    Unknown,
    /// get, and gets, which tells versions.
    Get(bool),
    /// gat, and gats, which tells versions.
    Gat(bool),
    /// set, add, replace, append, prepend.
    Set(Mode),
    /// cas.
    Cas,
    /// delete.
    Delete,
    /// incr, and decr, which counts down.
    Count(bool),
    /// touch.
    Touch,
    /// mg.
    MetaGet,
    /// ms.
    MetaSet,
    /// md.
    MetaDelete,
    /// ma.
    MetaCount,
    /// me.
    MetaInspect,
    /// mn.
    MetaNoop,
    /// flush_all.
    Flush,
    /// stats.
    Stats,
    /// version.
    Version,
    /// verbosity.
    Verbosity,
    /// debugpanic.
    DebugPanic,
    /// debugtime.
    DebugTime,
    /// shutdown.
    Shutdown,
    /// quit.
    Quit,
}

/// The verb that a word is.
#[inline]
pub fn verb(word: &[u8]) -> Verb {
    match word {
        b"get" => Verb::Get(false),
        b"set" => Verb::Set(Mode::Set),
        b"mg" => Verb::MetaGet,
        b"ms" => Verb::MetaSet,
        b"gets" => Verb::Get(true),
        b"gat" => Verb::Gat(false),
        b"gats" => Verb::Gat(true),
        b"add" => Verb::Set(Mode::Add),
        b"replace" => Verb::Set(Mode::Replace),
        b"append" => Verb::Set(Mode::Append),
        b"prepend" => Verb::Set(Mode::Prepend),
        b"cas" => Verb::Cas,
        b"delete" => Verb::Delete,
        b"incr" => Verb::Count(false),
        b"decr" => Verb::Count(true),
        b"touch" => Verb::Touch,
        b"md" => Verb::MetaDelete,
        b"ma" => Verb::MetaCount,
        b"me" => Verb::MetaInspect,
        b"mn" => Verb::MetaNoop,
        b"flush_all" => Verb::Flush,
        b"stats" => Verb::Stats,
        b"version" => Verb::Version,
        b"verbosity" => Verb::Verbosity,
        b"debugpanic" => Verb::DebugPanic,
        b"debugtime" => Verb::DebugTime,
        b"shutdown" => Verb::Shutdown,
        b"quit" => Verb::Quit,
        _ => Verb::Unknown,
    }
}

/// The block of data behind a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    /// There is none.
    #[default]
    None,
    /// It is the last span.
    Whole,
    /// It does not end where it should.
    Torn,
    /// It is longer than a value may be, and is skipped as it arrives.
    TooLarge,
    /// The line is wrong, and the block is skipped as it arrives.
    Refused,
    /// This is a part of one that is skipped.
    Skipped,
}

/// A request that was read: its verb and what became of its block; the words are spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub(super) verb: Verb,
    pub(super) block: Block,
}

/// Reads requests. Spans count from the beginning of the request they belong to.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes that were searched for the end of the line.
    searched: usize,
    /// Length of the line with its end, and of the block without, once the line was read.
    line: Option<(usize, usize)>,
    /// Bytes still to be skipped.
    skip: usize,
    /// The block is too long to be skipped.
    closes: bool,
    call: Call,
}

impl Reader {
    /// What the last request that was read is.
    pub fn call(&self) -> Call {
        self.call
    }

    /// Whether what comes next is skipped: a state that must not be lost by reading again.
    pub fn is_skipping(&self) -> bool {
        self.skip > 0 || self.closes
    }

    /// Reads the request at the beginning of `input`, which is what it was at the last call and whatever arrived
    /// since. Its words, and its block as the last, are appended to `spans`.
    #[inline]
    pub fn next(&mut self, input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Next {
        if self.is_skipping() {
            return self.skip(input);
        }
        let (line, length) = match self.line {
            Some(line) => line,
            None => match self.read_line(input, spans, limits) {
                Ok(line) => line,
                Err(next) => return next,
            },
        };
        let whole = line + length + 2;
        if input.len() < whole {
            self.line = Some((line, length));
            return Next::More(whole);
        }
        (self.searched, self.line) = (0, None);
        self.call.block = if &input[whole - 2..whole] == b"\r\n" {
            spans.push(Span { start: line as u32, end: (whole - 2) as u32 });
            Block::Whole
        } else {
            Block::Torn
        };
        Next::Request(whole)
    }

    #[cold]
    fn skip(&mut self, input: &[u8]) -> Next {
        if self.closes {
            return Next::Close;
        }
        let skipped = self.skip.min(input.len());
        self.skip -= skipped;
        self.call = Call { verb: Verb::Unknown, block: Block::Skipped };
        Next::Request(skipped)
    }

    /// Reads the line; what is to be read behind it, or the outcome if that is nothing.
    #[inline]
    fn read_line(&mut self, input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<(usize, usize), Next> {
        match input.first() {
            Some(0x80) => return Err(Next::Broken(BINARY)),
            // What others may write into a hello of TLS must not be read as lines.
            Some(0x16) => return Err(Next::Broken(NO_TLS)),
            _ => {}
        }
        let Some(end) = memchr::memchr(b'\n', &input[self.searched..]).map(|end| self.searched + end) else {
            self.searched = input.len();
            return Err(unfinished(input, limits));
        };
        self.searched = 0;
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let first = spans.len();
        split(line, spans);
        let words = Args::new(input, &spans[first..]);
        self.call = Call { verb: words.get(0).map_or(Verb::Unknown, verb), block: Block::None };
        if self.call.verb == Verb::Unknown && is_http(line) {
            return Err(Next::Close);
        }
        if line.len() > self.call.verb.longest_line(limits) {
            return Err(Next::Broken(LINE_TOO_LONG));
        }
        match block_length(self.call.verb, words) {
            None => Err(Next::Request(end + 1)),
            Some((length, true)) if length <= limits.max_value => Ok((end + 1, length)),
            Some((length, good)) => {
                self.call.block = if good { Block::TooLarge } else { Block::Refused };
                self.skip = length + 2;
                self.closes = length > limits.max_value.max(limits.max_skipped);
                Err(Next::Request(end + 1))
            }
        }
    }
}

/// No end of the line is in sight.
fn unfinished(input: &[u8], limits: &Limits) -> Next {
    let word = input.split(|byte| *byte == b' ').find(|word| !word.is_empty()).unwrap_or_default();
    if input.len() > verb(word).longest_line(limits) {
        Next::Broken(LINE_TOO_LONG)
    } else {
        Next::More(input.len() + 1)
    }
}

/// Adds the words of a line, which blanks part.
#[inline]
fn split(line: &[u8], spans: &mut Vec<Span>) {
    let mut start = 0;
    for (at, byte) in line.iter().enumerate() {
        if *byte == b' ' {
            if start < at {
                spans.push(Span { start: start as u32, end: at as u32 });
            }
            start = at + 1;
        }
    }
    if start < line.len() {
        spans.push(Span { start: start as u32, end: line.len() as u32 });
    }
}

/// Length of the block that follows, if the line tells it; and whether the line is good otherwise.
#[inline]
fn block_length(verb: Verb, words: Args<'_>) -> Option<(usize, bool)> {
    let (at, counts) = match verb {
        Verb::Set(_) => (4, 5..=6),
        Verb::Cas => (4, 6..=7),
        Verb::MetaSet => (2, 3..=usize::MAX),
        _ => return None,
    };
    let length = unsigned(words.get(at)?).filter(|length| *length <= i32::MAX as u64 - 2)?;
    let good = counts.contains(&words.len())
        && words.get(1)?.len() <= MAX_KEY
        && (at == 2 || unsigned(words.get(2)?).is_some() && signed(words.get(3)?).is_some())
        && (verb != Verb::Cas || words.get(5).and_then(unsigned).is_some());
    Some((length as usize, good))
}

impl Verb {
    fn longest_line(self, limits: &Limits) -> usize {
        if matches!(self, Verb::Get(_) | Verb::Gat(_)) { MAX_KEYS_LINE.min(limits.max_request) } else { MAX_LINE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read: verb, block and words.
    type Seen = (Verb, Block, Vec<Vec<u8>>);

    /// Reads all requests of `input`, given in pieces that end at `cuts`. What is passed over is left out.
    fn read(input: &[u8], cuts: &[usize]) -> (Vec<Seen>, Option<Next>) {
        let limits = Limits { max_value: 1000, ..Limits::default() };
        let (mut seen, mut reader, mut spans, mut start) = (Vec::new(), Reader::default(), Vec::new(), 0);
        for &end in cuts {
            while start < end {
                match reader.next(&input[start..end], &mut spans, &limits) {
                    Next::Request(length) => {
                        let words = spans.drain(..);
                        let words =
                            words.map(|span| input[start..][span.start as usize..span.end as usize].to_vec()).collect();
                        let Call { verb, block } = reader.call();
                        if block != Block::Skipped {
                            seen.push((verb, block, words));
                        }
                        start += length;
                    }
                    Next::More(wanted) => {
                        assert!(wanted > end - start);
                        break;
                    }
                    ended => return (seen, Some(ended)),
                }
            }
        }
        (seen, None)
    }

    fn whole(input: &[u8]) -> (Vec<Seen>, Option<Next>) {
        read(input, &[input.len()])
    }

    #[test]
    fn requests_are_the_same_however_they_are_cut() {
        let input =
            b"get a bb\r\nset a 1 0 4\r\na\r\nb\r\n\r\nms k 2 T0 c\nhi\r\nset b 0 0 1\r\nabc\r\nset c 0 0 1001\r\n";
        let mut input = input.to_vec();
        input.extend_from_slice(&[b'x'; 1001]);
        input.extend_from_slice(b"\r\nmg k v\r\nquit\r\n");
        let (seen, end) = whole(&input);
        let blocks: Vec<_> = seen.iter().map(|(verb, block, _)| (*verb, *block)).collect();
        assert_eq!(
            blocks,
            [
                (Verb::Get(false), Block::None),
                (Verb::Set(Mode::Set), Block::Whole),
                (Verb::Unknown, Block::None),
                (Verb::MetaSet, Block::Whole),
                (Verb::Set(Mode::Set), Block::Torn),
                (Verb::Unknown, Block::None),
                (Verb::Set(Mode::Set), Block::TooLarge),
                (Verb::MetaGet, Block::None),
                (Verb::Quit, Block::None),
            ]
        );
        assert_eq!((&seen[1].2[5][..], end.clone()), (&b"a\r\nb"[..], None));
        let each: Vec<usize> = (1..=input.len()).collect();
        assert_eq!(read(&input, &each), (seen.clone(), end.clone()));
        for cut in 1..input.len() {
            assert_eq!(read(&input, &[cut, input.len()]), (seen.clone(), end.clone()), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_that_lie_have_no_block() {
        for number in [
            "-2",
            "-1",
            "2147483646",
            "4294967296",
            "9223372036854775807",
            "18446744073709551616",
            "1e3",
            "1111111111111111111111111111111111111111",
            "0x1",
        ] {
            for input in [format!("set k 0 0 {number}\r\n"), format!("ms k {number}\r\n")] {
                let (seen, end) = whole(input.as_bytes());
                assert!(seen.len() == 1 && seen[0].1 == Block::None && end.is_none(), "{input:?}");
            }
        }
        for number in ["2147483645", "1001", "+1001", "01001"] {
            assert_eq!(whole(format!("set k 0 0 {number}\r\n").as_bytes()).0[0].1, Block::TooLarge);
        }
    }

    #[test]
    fn lines_without_end_and_binary_break_the_stream() {
        for input in [&[b'x'; MAX_LINE + 1][..], b"\x80\x0a\x00", &[&b"set "[..], &[b'k'; MAX_LINE]].concat()] {
            assert!(matches!(whole(input), (seen, Some(Next::Broken(_))) if seen.is_empty()));
        }
        assert_eq!(whole(&[&b"get "[..], &b"key ".repeat(MAX_LINE)].concat()), (vec![], None));
    }
}
