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

pub(crate) struct Checker {
    protocol: Protocol,
    keys: u32,
    multi: usize,
    reply_size: usize,
    /// A key and a value in which only the number changes.
    key: Vec<u8>,
    value: Vec<u8>,
    /// What stands before, between and after key and value in a write.
    set: [Vec<u8>; 3],
    /// Headers of a found value, for RESP.
    found: Vec<u8>,
}

/// Digits of a number within a key, hexadecimal digits within a value.
const DIGITS: usize = 8;

impl Checker {
    pub(crate) fn new(options: &Options) -> Checker {
        let (key, value) = (options.key_size, options.value_size);
        let ttl = options.ttl;
        let set = match options.protocol {
            Protocol::Resp => {
                let (count, expiry) = match ttl {
                    0 => (3, String::new()),
                    _ => (5, format!("$2\r\nEX\r\n${}\r\n{ttl}\r\n", ttl.to_string().len())),
                };
                [format!("*{count}\r\n$3\r\nSET\r\n${key}\r\n"), format!("\r\n${value}\r\n"), format!("\r\n{expiry}")]
            }
            Protocol::Memcached => ["set ".to_owned(), format!(" 0 {ttl} {value}\r\n"), "\r\n".to_owned()],
        };
        Checker {
            protocol: options.protocol,
            keys: options.keys,
            multi: options.multi,
            reply_size: options.reply_size,
            key: [b"k:".to_vec(), vec![b'0'; key - 2]].concat(),
            value: vec![b'v'; value],
            set: set.map(String::into_bytes),
            found: format!("${value}\r\n").into_bytes(),
        }
    }

    fn write_key(&mut self, key: u32, out: &mut Vec<u8>) {
        let start = self.key.len() - DIGITS;
        digits(key, 10, &mut self.key[start..]);
        out.extend_from_slice(&self.key);
    }

    pub(crate) fn write(&mut self, request: Request, out: &mut Vec<u8>) {
        if !request.read {
            out.extend_from_slice(&self.set[0]);
            self.write_key(request.key, out);
            out.extend_from_slice(&self.set[1]);
            digits(request.key, 16, &mut self.value[..DIGITS]);
            out.extend_from_slice(&self.value);
            out.extend_from_slice(&self.set[2]);
            return;
        }
        match self.protocol {
            Protocol::Resp if self.multi == 1 => out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n"),
            Protocol::Resp => out.extend_from_slice(format!("*{}\r\n$4\r\nMGET\r\n", self.multi + 1).as_bytes()),
            Protocol::Memcached => out.extend_from_slice(b"get"),
        }
        for nth in 0..self.multi as u32 {
            let key = (request.key + nth) % self.keys;
            match self.protocol {
                Protocol::Resp => {
                    out.extend_from_slice(b"$");
                    out.extend_from_slice(self.key.len().to_string().as_bytes());
                    out.extend_from_slice(b"\r\n");
                    self.write_key(key, out);
                    out.extend_from_slice(b"\r\n");
                }
                Protocol::Memcached => {
                    out.push(b' ');
                    self.write_key(key, out);
                }
            }
        }
        if self.protocol == Protocol::Memcached {
            out.extend_from_slice(b"\r\n");
        }
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
        let mut wanted = [0; DIGITS];
        digits(key, 16, &mut wanted);
        value.len() == self.value.len() && value[..DIGITS] == wanted
    }

    fn check_resp(&self, request: Request, input: &[u8]) -> Checked {
        let (mut at, mut missed, mut right) = (0, 0, true);
        if self.multi > 1 {
            let Some(end) = line_end(input) else { return Checked::Partial };
            if input[..end] != *format!("*{}", self.multi).as_bytes() {
                return Checked::Wrong(end + 2);
            }
            at = end + 2;
        }
        for nth in 0..self.multi as u32 {
            let rest = &input[at..];
            let whole = self.found.len() + self.value.len() + 2;
            if rest.starts_with(&self.found) {
                if rest.len() < whole {
                    return Checked::Partial;
                }
                let value = &rest[self.found.len()..whole - 2];
                right &=
                    self.is_value_of((request.key + nth) % self.keys, value) && rest[whole - 2..].starts_with(b"\r\n");
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
            let whole = end + 2 + self.value.len() + 2;
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

/// Writes a number with leading zeros.
fn digits(mut number: u32, base: u32, place: &mut [u8]) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
    }
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
