//! Which protocol a connection speaks: decided by its first bytes, once, and never again.

use memchr::memchr2;

use crate::protocol::memcached;

/// The protocols that share a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Redis: RESP2 and RESP3, inline commands.
    Resp,
    /// memcached: text and meta commands.
    Memcached,
    /// Maelstrom's messages, one JSON object a line.
    Json,
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this one.
    Is(Protocol),
    /// Too early to tell.
    Unknown,
    /// It is none of ours: send the line, if any, and close.
    Refused(&'static [u8]),
}

/// Longest first word. No verb of any protocol here is longer.
const MAX_WORD: usize = 16;

const NOT_OURS: &[u8] = b"-ERR Protocol error: neither Redis, memcached nor JSON\r\n";
const NO_TLS: &[u8] = b"-ERR Protocol error: this port does not speak TLS\r\n";

/// Judges the first bytes of a connection; `is_command` tells which words are commands of Redis.
pub fn sniff(input: &[u8], is_command: impl Fn(&[u8]) -> bool) -> Verdict {
    match input.first() {
        None => return Verdict::Unknown,
        Some(b'*') => return Verdict::Is(Protocol::Resp),
        Some(b'{') => return Verdict::Is(Protocol::Json),
        Some(0x80) => return Verdict::Is(Protocol::Memcached),
        Some(0x16) => return Verdict::Refused(NO_TLS),
        Some(_) => {}
    }
    let head = &input[..input.len().min(MAX_WORD + 1)];
    let end = memchr2(b' ', b'\n', head);
    let word = match end {
        Some(end) => head[..end].strip_suffix(b"\r").unwrap_or(&head[..end]),
        None if head.len() <= MAX_WORD && head.iter().all(|byte| byte.is_ascii_graphic() || *byte == b'\r') => {
            return Verdict::Unknown;
        }
        None => return Verdict::Refused(NOT_OURS),
    };
    // Some words are inline commands of Redis as well: lower case is memcached, upper case Redis.
    if memcached::verb(word) != memcached::Verb::Unknown {
        return Verdict::Is(Protocol::Memcached);
    }
    // An empty line is what people type first; Redis ignores it.
    if word.is_empty() || is_command(word) { Verdict::Is(Protocol::Resp) } else { Verdict::Refused(NOT_OURS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_command(word: &[u8]) -> bool {
        [&b"PING"[..], b"GET", b"DEL"].iter().any(|known| word.eq_ignore_ascii_case(known))
    }

    #[test]
    fn the_first_word_decides() {
        for (input, verdict) in [
            (&b""[..], Verdict::Unknown),
            (b"*", Verdict::Is(Protocol::Resp)),
            (b"{", Verdict::Is(Protocol::Json)),
            (b"\x16\x03\x01", Verdict::Refused(NO_TLS)),
            (b"PI", Verdict::Unknown),
            (b"PING\r", Verdict::Unknown),
            (b"PING\r\n", Verdict::Is(Protocol::Resp)),
            (b"ping\n", Verdict::Is(Protocol::Resp)),
            (b"\r\n", Verdict::Is(Protocol::Resp)),
            (b"POST / HTTP/1.1\r\n", Verdict::Refused(NOT_OURS)),
            (b"\x80\x00\x00", Verdict::Is(Protocol::Memcached)),
            (b"get", Verdict::Unknown),
            (b"get x\r\n", Verdict::Is(Protocol::Memcached)),
            (b"GET x\r\n", Verdict::Is(Protocol::Resp)),
            (b"Get x\r\n", Verdict::Is(Protocol::Resp)),
            (b"mn\r\n", Verdict::Is(Protocol::Memcached)),
            (b"version\r\n", Verdict::Is(Protocol::Memcached)),
            (b"del x\r\n", Verdict::Is(Protocol::Resp)),
            (b"\x00", Verdict::Refused(NOT_OURS)),
            (b"AVERYLONGWORDINDEED", Verdict::Refused(NOT_OURS)),
        ] {
            assert_eq!(sniff(input, is_command), verdict, "{input:?}");
        }
    }
}
