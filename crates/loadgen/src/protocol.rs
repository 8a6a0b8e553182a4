//! Requests as bytes, and replies checked against what was written.

use serde::{Deserialize, Serialize};

use crate::Options;

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Redis.
    Resp,
    /// memcached's text protocol.
    Memcached,
}

/// A request: read or write, and the key, or the first of several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) read: bool,
    pub(crate) key: u32,
}

/// What became of a request, with the bytes of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// The reply has not arrived whole.
    Partial,
    Good(usize),
    /// Some keys were not found.
    Missed(usize, u64),
    /// An error, or not what was written.
    Wrong(usize),
}

/// A piece of a request, with the places of the numbers in it.
#[derive(Default)]
struct Template {
    text: Vec<u8>,
    /// Where the digits of the key end.
    key: Option<usize>,
    /// Where the digits in the value begin.
    value: Option<usize>,
}

impl Template {
    fn new(text: String) -> Template {
        Template { text: text.into_bytes(), key: None, value: None }
    }

    /// With a key that begins where the text now ends, and `rest` behind it.
    fn with_key(mut self, size: usize, rest: &str) -> Template {
        self.text.extend_from_slice(b"k:");
        self.text.resize(self.text.len() + size - 2, b'0');
        self.key = Some(self.text.len());
        self.text.extend_from_slice(rest.as_bytes());
        self
    }

    /// With a value that begins where the text now ends, and `rest` behind it.
    fn with_value(mut self, size: usize, rest: &str) -> Template {
        self.value = Some(self.text.len());
        self.text.resize(self.text.len() + size, b'v');
        self.text.extend_from_slice(rest.as_bytes());
        self
    }

    fn write(&self, key: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.text);
        if let Some(end) = self.key {
            out[start + end - DIGITS..start + end].copy_from_slice(&decimal(key));
        }
        if let Some(begin) = self.value {
            out[start + begin..start + begin + DIGITS].copy_from_slice(&hexadecimal(key));
        }
    }
}

pub(crate) struct Checker {
    protocol: Protocol,
    keys: u32,
    multi: usize,
    reply_size: usize,
    /// Bytes of a value.
    value: usize,
    /// A write and a read of one key, or the beginning, the middle for each key, and the end of a read of several: made
    /// once, copied for each request, and then given their numbers.
    set: Template,
    get: [Template; 3],
    /// The header of several replies, and that of a found value, for RESP.
    several: Vec<u8>,
    found: Vec<u8>,
}

/// Digits of a number within a key, hexadecimal digits within a value.
const DIGITS: usize = 8;

impl Checker {
    pub(crate) fn new(options: &Options) -> Checker {
        let (key, value, ttl, multi) = (options.key_size, options.value_size, options.ttl, options.multi);
        let (set, get) = match options.protocol {
            Protocol::Resp => {
                let (count, expiry) = match ttl {
                    0 => (3, String::new()),
                    _ => (5, format!("$2\r\nEX\r\n${}\r\n{ttl}\r\n", ttl.to_string().len())),
                };
                let set = Template::new(format!("*{count}\r\n$3\r\nSET\r\n${key}\r\n"));
                let set = set.with_key(key, &format!("\r\n${value}\r\n")).with_value(value, &format!("\r\n{expiry}"));
                let get = if multi == 1 {
                    let whole = Template::new(format!("*2\r\n$3\r\nGET\r\n${key}\r\n"));
                    [Template::default(), whole.with_key(key, "\r\n"), Template::default()]
                } else {
                    let head = Template::new(format!("*{}\r\n$4\r\nMGET\r\n", multi + 1));
                    [head, Template::new(format!("${key}\r\n")).with_key(key, "\r\n"), Template::default()]
                };
                (set, get)
            }
            Protocol::Memcached => (
                Template::new("set ".to_owned())
                    .with_key(key, &format!(" 0 {ttl} {value}\r\n"))
                    .with_value(value, "\r\n"),
                [
                    Template::new("get".to_owned()),
                    Template::new(" ".to_owned()).with_key(key, ""),
                    Template::new("\r\n".to_owned()),
                ],
            ),
        };
        Checker {
            protocol: options.protocol,
            keys: options.keys,
            multi,
            reply_size: options.reply_size,
            value,
            set,
            get,
            several: format!("*{multi}\r\n").into_bytes(),
            found: format!("${value}\r\n").into_bytes(),
        }
    }

    pub(crate) fn write(&mut self, request: Request, out: &mut Vec<u8>) {
        if !request.read {
            return self.set.write(request.key, out);
        }
        let [head, each, end] = &self.get;
        if self.multi == 1 && self.protocol == Protocol::Resp {
            return each.write(request.key, out);
        }
        head.write(0, out);
        for nth in 0..self.multi as u32 {
            each.write(self.nth(request, nth), out);
        }
        end.write(0, out);
    }

    /// The key of a request of several.
    fn nth(&self, request: Request, nth: u32) -> u32 {
        let key = request.key + nth;
        if key < self.keys { key } else { key % self.keys }
    }

    pub(crate) fn check(&mut self, request: Request, input: &[u8]) -> Checked {
        if self.reply_size > 0 {
            return if input.len() < self.reply_size { Checked::Partial } else { Checked::Good(self.reply_size) };
        }
        let stored: &[u8] = if self.protocol == Protocol::Resp { b"+OK\r\n" } else { b"STORED\r\n" };
        match (request.read, self.protocol) {
            (false, _) if input.starts_with(stored) => Checked::Good(stored.len()),
            (false, _) => wrong_line(input),
            (true, Protocol::Resp) => self.check_resp(request, input),
            (true, Protocol::Memcached) => self.check_memcached(request, input),
        }
    }

    fn is_value_of(&self, key: u32, value: &[u8]) -> bool {
        value.len() == self.value && value[..DIGITS] == hexadecimal(key)
    }

    fn check_resp(&self, request: Request, input: &[u8]) -> Checked {
        let (mut at, mut missed, mut right) = (0, 0, true);
        if self.multi > 1 {
            if !input.starts_with(&self.several) {
                return wrong_line(input);
            }
            at = self.several.len();
        }
        for nth in 0..self.multi as u32 {
            let rest = &input[at..];
            let whole = self.found.len() + self.value + 2;
            if rest.starts_with(&self.found) {
                if rest.len() < whole {
                    return Checked::Partial;
                }
                let value = &rest[self.found.len()..whole - 2];
                right &= self.is_value_of(self.nth(request, nth), value) && rest[whole - 2..].starts_with(b"\r\n");
                at += whole;
            } else if rest.starts_with(b"$-1\r\n") {
                (at, missed) = (at + 5, missed + 1);
            } else {
                return wrong_line(rest);
            }
        }
        verdict(at, missed, right)
    }

    fn check_memcached(&self, request: Request, input: &[u8]) -> Checked {
        let (mut at, mut found, mut right) = (0, 0, true);
        loop {
            let rest = &input[at..];
            let Some(end) = line_end(rest) else { return Checked::Partial };
            if rest[..end] == *b"END" {
                return verdict(at + 5, self.multi as u64 - found, right);
            }
            if !rest.starts_with(b"VALUE ") {
                return Checked::Wrong(at + end + 2);
            }
            let whole = end + 2 + self.value + 2;
            if rest.len() < whole {
                return Checked::Partial;
            }
            right &= self.multi > 1 || self.is_value_of(request.key, &rest[end + 2..whole - 2]);
            (at, found) = (at + whole, found + 1);
        }
    }
}

fn verdict(length: usize, missed: u64, right: bool) -> Checked {
    match (right, missed) {
        (false, _) => Checked::Wrong(length),
        (true, 0) => Checked::Good(length),
        (true, missed) => Checked::Missed(length, missed),
    }
}

/// A line that is not what was expected, once it is whole.
fn wrong_line(input: &[u8]) -> Checked {
    line_end(input).map_or(Checked::Partial, |end| Checked::Wrong(end + 2))
}

fn line_end(input: &[u8]) -> Option<usize> {
    input.windows(2).position(|pair| pair == b"\r\n")
}

/// A number with leading zeros.
fn decimal(mut number: u32) -> [u8; DIGITS] {
    let mut place = [b'0'; DIGITS];
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    place
}

/// As [`decimal`], by nibbles: eight at a time, each moved to a byte of its own.
fn hexadecimal(number: u32) -> [u8; DIGITS] {
    let mut word = u64::from(number);
    word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // Those above nine are letters, which begin 39 after the digit that would follow nine.
    let letters = ((word + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (word + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checker(protocol: Protocol, multi: usize) -> Checker {
        Checker::new(&Options { protocol, multi, value_size: 10, keys: 100, ttl: 60, ..Options::default() })
    }

    fn text(bytes: &[u8]) -> String {
        bytes.escape_ascii().to_string()
    }

    #[test]
    fn numbers_have_their_digits() {
        for number in [0, 1, 9, 10, 26, 0xabcdef, 99_999_999, 0x1234_5678, u32::MAX] {
            assert_eq!(text(&hexadecimal(number)), format!("{number:08x}"));
            assert_eq!(text(&decimal(number)), format!("{:08}", number % 100_000_000));
        }
    }

    #[test]
    fn requests_are_what_the_servers_read() {
        let mut out = Vec::new();
        checker(Protocol::Resp, 2).write(Request { read: true, key: 99 }, &mut out);
        assert_eq!(text(&out), r"*3\r\n$4\r\nMGET\r\n$16\r\nk:00000000000099\r\n$16\r\nk:00000000000000\r\n");
        out.clear();
        checker(Protocol::Resp, 1).write(Request { read: false, key: 26 }, &mut out);
        let wanted = r"*5\r\n$3\r\nSET\r\n$16\r\nk:00000000000026\r\n$10\r\n0000001avv\r\n$2\r\nEX\r\n$2\r\n60\r\n";
        assert_eq!(text(&out), wanted);
        out.clear();
        checker(Protocol::Memcached, 1).write(Request { read: false, key: 26 }, &mut out);
        checker(Protocol::Memcached, 1).write(Request { read: true, key: 26 }, &mut out);
        assert_eq!(text(&out), r"set k:00000000000026 0 60 10\r\n0000001avv\r\nget k:00000000000026\r\n");
    }

    #[test]
    fn replies_are_checked_and_nothing_wrong_passes() {
        let read = Request { read: true, key: 26 };
        for (protocol, good, missing, wrong) in [
            (Protocol::Resp, "$10\r\n0000001avv\r\n", "$-1\r\n", ["$10\r\n0000001bvv\r\n", "-ERR x\r\n"]),
            (
                Protocol::Memcached,
                "VALUE k:00000000000026 0 10\r\n0000001avv\r\nEND\r\n",
                "END\r\n",
                ["VALUE k:00000000000026 0 10\r\n0000001bvv\r\nEND\r\n", "SERVER_ERROR x\r\n"],
            ),
        ] {
            let mut checker = checker(protocol, 1);
            assert_eq!(checker.check(read, good.as_bytes()), Checked::Good(good.len()));
            assert_eq!(checker.check(read, missing.as_bytes()), Checked::Missed(missing.len(), 1));
            for wrong in wrong {
                assert_eq!(checker.check(read, wrong.as_bytes()), Checked::Wrong(wrong.len()));
            }
            for cut in 0..good.len() {
                assert_eq!(checker.check(read, &good.as_bytes()[..cut]), Checked::Partial);
            }
        }
        let mut several = checker(Protocol::Resp, 2);
        let reply = "*2\r\n$10\r\n0000001avv\r\n$-1\r\n";
        assert_eq!(several.check(read, reply.as_bytes()), Checked::Missed(reply.len(), 1));
    }
}
