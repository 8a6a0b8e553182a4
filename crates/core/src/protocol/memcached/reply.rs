//! Replies: how a request asks for its own, and how it is written.

use super::arguments::{ERROR, OUT_OF_MEMORY, TOO_LARGE};
use super::frame::Verb;
use crate::output::Output;
use crate::vocabulary::{Args, Blob, Error, Found, Kind, NO_SUCH_ITEM, OTHER_VERSION, Reply};

/// How a reply is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    pub(super) shape: Shape<'a>,
    /// Only errors are answered (noreply), or nothing that was expected is (q).
    pub(super) quiet: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    /// Values under keys; whether versions are told.
    Values(Args<'a>, bool),
    /// A word for what was done, and one for what was not found or not stored.
    Words(&'static str, &'static str),
    /// The new number.
    Number,
    /// Names and values.
    Table,
    /// Nothing.
    Nothing,
    /// As the meta command asks: its verb, key and flags.
    Meta(Verb, &'a [u8], Args<'a>),
}

/// Appends a line that says why a request was not run.
pub fn refuse(line: &str, out: &mut Output) {
    out.bytes().extend_from_slice(line.as_bytes());
    out.bytes().extend_from_slice(b"\r\n");
}

/// Appends the line of an error.
pub fn encode_error(error: &Error, out: &mut Output) {
    let text = error.text.strip_prefix("ERR ").unwrap_or(&error.text);
    let line = match error.kind {
        Kind::Unknown => ERROR,
        Kind::TooLarge => TOO_LARGE,
        Kind::OutOfMemory => OUT_OF_MEMORY,
        Kind::Malformed | Kind::Denied | Kind::Mismatch | Kind::NotFound => {
            return refuse(&format!("CLIENT_ERROR {text}"), out);
        }
        Kind::LoadFailed | Kind::Busy | Kind::Waiting => {
            let text =
                text.strip_prefix("LOADFAILED ").map_or_else(|| text.to_owned(), |rest| format!("load failed {rest}"));
            return refuse(&format!("SERVER_ERROR {text}"), out);
        }
    };
    refuse(line, out);
}

/// Appends a reply. `scratch` is that of the context the reply was made in.
#[inline]
pub fn encode(form: &Form<'_>, reply: &Reply, scratch: &[u8], out: &mut Output) {
    match (form.shape, reply) {
        (Shape::Values(keys, versions), Reply::Item(found)) => {
            value(keys.get(0).unwrap_or_default(), found, versions, scratch, out);
            out.bytes().extend_from_slice(b"END\r\n");
        }
        (Shape::Values(..), Reply::Null) => out.bytes().extend_from_slice(b"END\r\n"),
        (Shape::Values(keys, versions), Reply::Array(replies)) => {
            for (key, reply) in keys.iter().zip(replies) {
                if let Reply::Item(found) = reply {
                    value(key, found, versions, scratch, out);
                }
            }
            out.bytes().extend_from_slice(b"END\r\n");
        }
        (Shape::Meta(verb, key, flags), _) => encode_meta(verb, key, flags, form.quiet, reply, scratch, out),
        _ => encode_line(form, reply, scratch, out),
    }
}

fn encode_line(form: &Form<'_>, reply: &Reply, scratch: &[u8], out: &mut Output) {
    let line = match (form.shape, reply) {
        (_, Reply::Error(error)) => match unmet(error) {
            Some((word, _)) => word,
            None if form.quiet && error.kind == Kind::Malformed => return,
            None => return encode_error(error, out),
        },
        (Shape::Table, Reply::Map(rows)) => return table(rows, scratch, out),
        (Shape::Nothing, _) => return,
        _ if form.quiet => return,
        (Shape::Number, Reply::Item(found)) => return data(&found.value, scratch, out),
        (Shape::Number, _) => "NOT_FOUND",
        (Shape::Words(_, not), Reply::Null) => not,
        (Shape::Words(done, _), _) => done,
        _ => ERROR,
    };
    if !form.quiet {
        refuse(line, out);
    }
}

/// The words for an item that is not what the client thought it was; no errors, and so subject to noreply.
fn unmet(error: &Error) -> Option<(&'static str, &'static str)> {
    if *error == OTHER_VERSION {
        return Some(("EXISTS", "EX"));
    }
    (*error == NO_SUCH_ITEM).then_some(("NOT_FOUND", "NF"))
}

fn table(rows: &[(&str, Reply)], scratch: &[u8], out: &mut Output) {
    for (name, value) in rows {
        out.bytes().extend_from_slice(b"STAT ");
        out.bytes().extend_from_slice(name.as_bytes());
        out.bytes().push(b' ');
        match value {
            Reply::Word(word) => out.bytes().extend_from_slice(word.as_bytes()),
            Reply::Text(text) => out.bytes().extend_from_slice(text.as_bytes()),
            Reply::Int(number) => push_number(*number as u64, out.bytes()),
            Reply::Value(blob) => out.bytes().extend_from_slice(blob.bytes(scratch)),
            _ => {}
        }
        out.bytes().extend_from_slice(b"\r\n");
    }
    out.bytes().extend_from_slice(b"END\r\n");
}

#[inline]
fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[inline]
fn value(key: &[u8], found: &Found, versions: bool, scratch: &[u8], out: &mut Output) {
    let bytes = out.bytes();
    bytes.reserve(key.len() + 64);
    bytes.extend_from_slice(b"VALUE ");
    bytes.extend_from_slice(key);
    bytes.push(b' ');
    push_number(found.flags.into(), bytes);
    bytes.push(b' ');
    push_number(found.size.into(), bytes);
    if versions {
        bytes.push(b' ');
        push_number(found.version, bytes);
    }
    bytes.extend_from_slice(b"\r\n");
    data(&found.value, scratch, out);
}

#[inline]
fn data(blob: &Blob, scratch: &[u8], out: &mut Output) {
    match blob {
        Blob::Shared(value) => out.push_shared(value.clone()),
        _ => out.bytes().extend_from_slice(blob.bytes(scratch)),
    }
    out.bytes().extend_from_slice(b"\r\n");
}

#[inline]
fn encode_meta(verb: Verb, key: &[u8], flags: Args<'_>, quiet: bool, reply: &Reply, scratch: &[u8], out: &mut Output) {
    let wants_value = matches!(verb, Verb::MetaGet | Verb::MetaCount) && flags.iter().any(|flag| flag[0] == b'v');
    match reply {
        // What everybody expects is what q keeps quiet about: no item when getting, done when changing.
        Reply::Item(_) | Reply::Int(_) if quiet && verb != Verb::MetaGet => {}
        Reply::Null if quiet && verb == Verb::MetaGet => {}
        Reply::Item(found) if verb == Verb::MetaInspect => describe(key, found, out.bytes()),
        Reply::Item(found) if wants_value => {
            out.bytes().extend_from_slice(b"VA ");
            push_number(found.size.into(), out.bytes());
            returned(verb, key, flags, Some(found), out.bytes());
            data(&found.value, scratch, out);
        }
        Reply::Item(found) => status("HD", verb, key, flags, Some(found), out.bytes()),
        Reply::Int(_) => status("HD", verb, key, flags, None, out.bytes()),
        Reply::Error(error) => match unmet(error) {
            Some((_, code)) => status(code, verb, key, flags, None, out.bytes()),
            None => encode_error(error, out),
        },
        _ => {
            let code = match verb {
                Verb::MetaGet | Verb::MetaInspect => "EN",
                Verb::MetaSet => "NS",
                _ => "NF",
            };
            status(code, verb, key, flags, None, out.bytes());
        }
    }
}

#[inline]
fn status(code: &str, verb: Verb, key: &[u8], flags: Args<'_>, found: Option<&Found>, out: &mut Vec<u8>) {
    out.extend_from_slice(code.as_bytes());
    returned(verb, key, flags, found, out);
}

/// What the flags ask to be told, in their order, and the end of the line.
#[inline]
fn returned(verb: Verb, key: &[u8], flags: Args<'_>, found: Option<&Found>, out: &mut Vec<u8>) {
    let counted = matches!(verb, Verb::MetaGet | Verb::MetaCount);
    for flag in flags.iter() {
        let number = match (flag[0], found) {
            (b'O', _) => {
                out.push(b' ');
                out.extend_from_slice(flag);
                continue;
            }
            (b'k', _) => {
                out.extend_from_slice(b" k");
                out.extend_from_slice(key);
                if flags.iter().any(|flag| flag[0] == b'b') {
                    out.extend_from_slice(b" b");
                }
                continue;
            }
            (b'c', Some(found)) if verb != Verb::MetaDelete => found.version,
            // memcached tells 0 for what was not stored.
            (b'c', None) if verb == Verb::MetaSet => 0,
            (b's', Some(found)) if verb == Verb::MetaSet => found.size.into(),
            (b't', Some(Found { ttl: None, .. })) if counted => {
                out.extend_from_slice(b" t-1");
                continue;
            }
            (b't', Some(Found { ttl: Some(ttl), .. })) if counted => (*ttl).into(),
            (b's', Some(found)) if verb == Verb::MetaGet => found.size.into(),
            (b'f', Some(found)) if verb == Verb::MetaGet => found.flags.into(),
            _ => continue,
        };
        out.extend_from_slice(&[b' ', flag[0]]);
        push_number(number, out);
    }
    if let (Verb::MetaGet, Some(Found { recache, .. })) = (verb, found) {
        for (is, mark) in [(recache.taken, b" Z"), (recache.stale, b" X"), (recache.won, b" W")] {
            if is {
                out.extend_from_slice(mark);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// All that is known of an item, in the manner of `me`.
fn describe(key: &[u8], found: &Found, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ME ");
    out.extend_from_slice(key);
    match found.ttl {
        None => out.extend_from_slice(b" exp=-1"),
        Some(ttl) => {
            out.extend_from_slice(b" exp=");
            push_number(ttl.into(), out);
        }
    }
    for (name, number) in [(" cas=", found.version), (" size=", found.size.into())] {
        out.extend_from_slice(name.as_bytes());
        push_number(number, out);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::super::arguments::MAX_KEY;
    use super::super::frame::Reader;
    use super::*;
    use crate::limits::Limits;
    use crate::vocabulary::Recache;

    #[test]
    fn marks_stand_behind_what_was_asked_for() {
        let marks = |stale, won, taken| {
            let recache = Recache { stale, won, taken };
            let found = Found { value: Blob::Scratch(0..0), version: 7, flags: 5, ttl: Some(9), size: 0, recache };
            let (input, mut spans, limits) = (b"mg k c f v t s\r\n", Vec::new(), Limits::default());
            let (mut reader, mut out, mut buffer) = (Reader::default(), Output::default(), [0; MAX_KEY]);
            reader.next(input, &mut spans, &limits);
            let (_, form) = reader.call().read(Args::new(input, &spans), &mut buffer, &limits).unwrap().unwrap();
            encode(&form, &Reply::Item(found), &[], &mut out);
            String::from_utf8(out.take_bytes()).unwrap()
        };
        for (told, wanted) in [
            (marks(false, false, false), ""),
            (marks(false, true, false), " W"),
            (marks(false, false, true), " Z"),
            (marks(true, true, false), " X W"),
            (marks(true, false, true), " Z X"),
        ] {
            assert_eq!(told, format!("VA 0 c7 f5 t9 s0{wanted}\r\n\r\n"));
        }
    }
}
