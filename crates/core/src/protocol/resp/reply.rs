//! Replies in both versions of RESP.

use std::sync::Arc;

use crate::output::Output;
use crate::vocabulary::{Blob, Fetched, Found, Piece, Reply, Values};

/// Appends a reply in the given version of RESP. `scratch` is that of the context the reply was made in.
#[inline]
pub fn encode(reply: &Reply, resp3: bool, scratch: &[u8], out: &mut Output) {
    match reply {
        Reply::Value(Blob::Scratch(range)) => bulk(&scratch[range.clone()], out.bytes()),
        Reply::Ok => out.bytes().extend_from_slice(b"+OK\r\n"),
        Reply::Null => out.bytes().extend_from_slice(null(resp3)),
        Reply::Int(number) => header(b':', *number, out.bytes()),
        _ => encode_rare(reply, resp3, scratch, out),
    }
}

fn encode_rare(reply: &Reply, resp3: bool, scratch: &[u8], out: &mut Output) {
    match reply {
        Reply::Value(Blob::Shared(value)) => bulk_shared(value, out),
        Reply::Value(blob) | Reply::Item(Found { value: blob, .. }) => bulk(blob.bytes(scratch), out.bytes()),
        Reply::Fetched(fetched) => {
            header(b'*', 6, out.bytes());
            encode_fields(fetched, resp3, scratch, out);
        }
        Reply::Entry(fetched) => {
            header(b'*', 7, out.bytes());
            encode_fields(fetched, resp3, scratch, out);
            header(b':', fetched.age.map_or(-1, |age| age as i64), out.bytes());
        }
        Reply::Stored(version) => header(b':', version.unwrap_or(0) as i64, out.bytes()),
        Reply::NoArray => out.bytes().extend_from_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" }),
        Reply::Word(word) => line(b'+', word.as_bytes(), out.bytes()),
        Reply::Error(error) => line(b'-', error.text.as_bytes(), out.bytes()),
        Reply::Text(text) if resp3 => {
            header(b'=', text.len() as i64 + 4, out.bytes());
            out.bytes().extend_from_slice(b"txt:");
            out.bytes().extend_from_slice(text.as_bytes());
            out.bytes().extend_from_slice(b"\r\n");
        }
        Reply::Text(text) => bulk(text.as_bytes(), out.bytes()),
        Reply::Values(values) => encode_values(values, resp3, scratch, out),
        Reply::Array(replies) => elements(b'*', replies, resp3, scratch, out),
        Reply::Set(replies) => elements(if resp3 { b'~' } else { b'*' }, replies, resp3, scratch, out),
        Reply::Push(parts) => elements(if resp3 { b'>' } else { b'*' }, parts, resp3, scratch, out),
        Reply::Several(replies) => replies.iter().for_each(|reply| encode(reply, resp3, scratch, out)),
        Reply::Map(pairs) => {
            let (mark, count) = if resp3 { (b'%', pairs.len()) } else { (b'*', 2 * pairs.len()) };
            header(mark, count as i64, out.bytes());
            for (name, value) in pairs {
                bulk(name.as_bytes(), out.bytes());
                encode(value, resp3, scratch, out);
            }
        }
        Reply::Ok | Reply::Null | Reply::Int(_) => encode(reply, resp3, scratch, out),
        Reply::Fixed(reply) => encode(reply, resp3, scratch, out),
        // The session keeps what has no answer yet.
        Reply::Parked => {}
    }
}

/// A token or a version that there is not is 0.
fn encode_fields(fetched: &Fetched, resp3: bool, scratch: &[u8], out: &mut Output) {
    let Fetched { state, value, token, version, flags, .. } = fetched;
    bulk(state.word().as_bytes(), out.bytes());
    match value {
        Some(Blob::Shared(value)) => bulk_shared(value, out),
        Some(value) => bulk(value.bytes(scratch), out.bytes()),
        None => out.bytes().extend_from_slice(null(resp3)),
    }
    let (token, version) = (token.unwrap_or(0) as i64, version.unwrap_or(0) as i64);
    for number in [token, version, fetched.ttl_told(), i64::from(*flags)] {
        header(b':', number, out.bytes());
    }
}

fn encode_values(values: &Values, resp3: bool, scratch: &[u8], out: &mut Output) {
    header(b'*', values.len() as i64, out.bytes());
    for found in values.iter() {
        let Some((piece, flags)) = found else {
            out.bytes().extend_from_slice(null(resp3));
            continue;
        };
        if flags != 0 {
            out.bytes().extend_from_slice(b"*2\r\n");
        }
        match piece {
            Piece::Scratch(range) => bulk(&scratch[range], out.bytes()),
            Piece::Shared(value) => bulk_shared(value, out),
        }
        if flags != 0 {
            header(b':', flags.into(), out.bytes());
        }
    }
}

fn elements(mark: u8, replies: &[Reply], resp3: bool, scratch: &[u8], out: &mut Output) {
    header(mark, replies.len() as i64, out.bytes());
    for reply in replies {
        encode(reply, resp3, scratch, out);
    }
}

/// What stands for no value.
pub fn null(resp3: bool) -> &'static [u8] {
    if resp3 { b"_\r\n" } else { b"$-1\r\n" }
}

/// Appends a large value, which is not copied.
pub fn bulk_shared(value: &Arc<[u8]>, out: &mut Output) {
    header(b'$', value.len() as i64, out.bytes());
    out.push_shared(Arc::clone(value));
    out.bytes().extend_from_slice(b"\r\n");
}

/// Appends a value.
#[inline]
pub fn bulk(value: &[u8], out: &mut Vec<u8>) {
    out.reserve(value.len() + 16);
    header(b'$', value.len() as i64, out);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Header lines of the numbers below 1,000, with room for the mark, and their lengths: found faster than made.
static HEADERS: [([u8; 7], u8); 1000] = {
    let mut all = [([0; 7], 0); 1000];
    let mut number = 0;
    while number < all.len() {
        let (ones, tens) = (b'0' + (number % 10) as u8, b'0' + (number / 10 % 10) as u8);
        all[number] = match number {
            0..10 => ([0, ones, b'\r', b'\n', 0, 0, 0], 4),
            10..100 => ([0, tens, ones, b'\r', b'\n', 0, 0], 5),
            _ => ([0, b'0' + (number / 100) as u8, tens, ones, b'\r', b'\n', 0], 6),
        };
        number += 1;
    }
    all
};

/// A line of a mark and a number.
#[inline]
pub fn header(mark: u8, number: i64, out: &mut Vec<u8>) {
    // Most lengths are short: written as one word, of which what is not used is taken back.
    if let Some((word, used)) = usize::try_from(number).ok().and_then(|number| HEADERS.get(number)) {
        let (mut word, end) = (*word, out.len() + usize::from(*used));
        word[0] = mark;
        out.extend_from_slice(&word);
        out.truncate(end);
        return;
    }
    out.push(mark);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A reply on one line: what a client sent may be quoted in it, and must not end it.
fn line(mark: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(mark);
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{Error, Kind};

    #[test]
    fn numbers_of_any_length_are_written_whole() {
        for number in [0, 7, 10, 99, 100, 999, 1000, 12_345, -1, i64::MIN, i64::MAX] {
            let mut out = b"x".to_vec();
            header(b':', number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("x:{number}\r\n"));
        }
    }

    #[test]
    fn replies_in_both_versions() {
        let reply = Reply::Array(vec![
            Reply::Ok,
            Reply::Null,
            Reply::Int(-7),
            Reply::Value(Blob::Scratch(1..3)),
            Reply::Value(Blob::Shared(b"shared"[..].into())),
            Reply::Map(vec![("a", Reply::Text("b".into()))]),
            Reply::Set(vec![Reply::Word("fast")]),
            Reply::Error(Error::new(Kind::Malformed, "ERR two\r\nlines")),
        ]);
        for (resp3, wanted) in [
            (false, &b"*8\r\n+OK\r\n$-1\r\n:-7\r\n$2\r\nyz\r\n$6\r\nshared\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n*1\r\n+fast\r\n-ERR two  lines\r\n"[..]),
            (true, b"*8\r\n+OK\r\n_\r\n:-7\r\n$2\r\nyz\r\n$6\r\nshared\r\n%1\r\n$1\r\na\r\n=5\r\ntxt:b\r\n~1\r\n+fast\r\n-ERR two  lines\r\n"),
        ] {
            let mut out = Output::default();
            encode(&reply, resp3, b"xyz", &mut out);
            assert_eq!(out.take_bytes().escape_ascii().to_string(), wanted.escape_ascii().to_string());
        }
    }
}
