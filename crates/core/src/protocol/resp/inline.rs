//! Requests on a line, as people type them; and what breaks a stream.

use crate::limits::Limits;
use crate::protocol::Next;
use crate::vocabulary::{Error, Kind, Span};

/// Longest inline request, and longest header line.
const MAX_LINE: usize = 64 << 10;

pub(super) const fn broken(text: &'static str) -> Next {
    Next::Broken(Error::new(Kind::Malformed, text))
}

/// A request on a line: words parted by blanks, or in quotes. Escapes within quotes are not offered, since arguments
/// are parts of the input; what needs them goes in an array.
pub(super) fn inline(input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<Option<usize>, Next> {
    let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(MAX_LINE)]) else {
        if input.len() >= MAX_LINE {
            return Err(broken("ERR Protocol error: too big inline request"));
        }
        return Ok(None);
    };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    if is_http(line) {
        return Err(Next::Close);
    }
    let mut at = 0;
    for count in 0.. {
        at += line[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let Some(&first) = line.get(at) else { break };
        if count == limits.max_args {
            return Err(broken("ERR Protocol error: too many arguments"));
        }
        at = word(line, at, first, spans)?;
    }
    Ok(Some(end + 1))
}

/// The word of an inline request that begins at `at` with `first`; returns where the next may begin.
fn word(line: &[u8], at: usize, first: u8, spans: &mut Vec<Span>) -> Result<usize, Next> {
    const UNBALANCED: &str = "ERR Protocol error: unbalanced quotes in request";
    let quoted = matches!(first, b'"' | b'\'');
    let start = at + usize::from(quoted);
    let ends = |byte: &u8| if quoted { *byte == first } else { byte.is_ascii_whitespace() };
    let length = line[start..].iter().position(ends);
    let end = start + length.unwrap_or(line.len() - start);
    let text = &line[start..end];
    let closed = !quoted || length.is_some() && line.get(end + 1).is_none_or(u8::is_ascii_whitespace);
    let plain = quoted && !text.contains(&b'\\') || !quoted && !text.iter().any(|byte| matches!(byte, b'"' | b'\''));
    if !closed || !plain {
        return Err(broken(UNBALANCED));
    }
    spans.push(Span { start: start as u32, end: end as u32 });
    Ok(end + usize::from(quoted))
}

/// A request or header line of HTTP: a page in a browser must not be able to run commands here.
pub(in crate::protocol) fn is_http(line: &[u8]) -> bool {
    let starts = |word: &str| line.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()));
    let last = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    last.starts_with(b"HTTP/") || starts("POST ") || starts("Host:")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the first line.
    fn read(input: &[u8]) -> Result<Vec<&[u8]>, Next> {
        let mut spans = Vec::new();
        inline(input, &mut spans, &Limits::default())?;
        Ok(spans.iter().map(|span| &input[span.start as usize..span.end as usize]).collect())
    }

    #[test]
    fn inline_words_may_be_quoted() {
        assert_eq!(read(b"SET 'a key' \"it's\" ''\n"), Ok(vec![&b"SET"[..], b"a key", b"it's", b""]));
    }

    #[test]
    fn http_is_recognised_whatever_its_verb() {
        for line in ["GET / HTTP/1.1", "PUT /x HTTP/2", "POST / x", "host: localhost", "DELETE /x HTTP/1.0"] {
            assert_eq!(read(format!("{line}\r\nSET x y\r\n").as_bytes()), Err(Next::Close), "{line}");
        }
        assert_eq!(read(b"GET HTTP\r\n"), Ok(vec![&b"GET"[..], b"HTTP"]));
    }
}
