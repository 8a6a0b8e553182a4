//! A message of JSON that is too long to be run, condensed as it arrives: the strings and the lists in it are emptied once
//! they are long, and what is left still tells who sent it, what it asked and under which number it is to be answered.

use memchr::memchr3;

/// Where a message ends that is condensed.
#[derive(Debug, Default)]
pub struct LongLine {
    kept: Vec<u8>,
    /// Objects and lists that are open.
    depth: usize,
    /// Where the string that is read began in `kept`, if one is.
    string: Option<usize>,
    /// The next byte of the string belongs to an escape.
    escaped: bool,
    /// The rest of the string is dropped.
    drops: bool,
    /// Bytes of the field of the body that is read, and of the longest so far.
    field: usize,
    longest: usize,
    /// Bytes of the message.
    length: usize,
}

/// Depth of the fields of a body: of what lies deeper nothing is kept.
const BODY: usize = 2;
/// Longest string that is kept: a key may be as long as this.
const LONGEST_STRING: usize = 68 << 10;
/// Most bytes that are kept: what has more fields than that is no message.
const MOST: usize = 256 << 10;

impl LongLine {
    /// Takes a part of the message. How many bytes were taken, the line's end included, if that was in it.
    pub fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.drops && !self.escaped {
                let rest = &bytes[at..];
                let plain = memchr3(b'"', b'\\', b'\n', rest).unwrap_or(rest.len());
                (self.field, at) = (self.field + plain, at + plain);
            }
            let Some(&byte) = bytes.get(at) else { break };
            at += 1;
            if byte == b'\n' {
                self.length += at;
                self.end_field();
                return Some(at);
            }
            self.field += 1;
            if self.string.is_some() { self.in_string(byte) } else { self.outside(byte) }
        }
        self.length += bytes.len();
        None
    }

    fn in_string(&mut self, byte: u8) {
        let Some(start) = self.string else { return };
        let ends = byte == b'"' && !self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
        if !self.drops && self.kept.len() - start > LONGEST_STRING {
            self.kept.truncate(start);
            self.drops = true;
        }
        if self.depth <= BODY && (ends || !self.drops) {
            self.keep(byte);
        }
        if ends {
            (self.string, self.drops) = (None, false);
        }
    }

    fn outside(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => self.depth += 1,
            b':' if self.depth == BODY => self.field = 0,
            b',' | b'}' if self.depth == BODY => {
                self.field -= 1;
                self.end_field();
            }
            _ => {}
        }
        let bracket = matches!(byte, b'{' | b'[' | b'}' | b']');
        if self.depth <= BODY || bracket && self.depth == BODY + 1 {
            self.keep(byte);
        }
        match byte {
            b'"' => (self.string, self.drops) = (Some(self.kept.len()), self.depth > BODY),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.kept.len() < MOST {
            self.kept.push(byte);
        }
    }

    fn end_field(&mut self) {
        self.longest = self.longest.max(self.field);
        self.field = 0;
    }

    /// What is kept of the message: a message as long as there was one.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Bytes of the longest field of the body.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Bytes of the message so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes that are held.
    pub fn memory(&self) -> usize {
        size_of::<LongLine>() + self.kept.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condense(line: &[u8], piece: usize) -> (String, usize, usize) {
        let mut long = LongLine::default();
        let mut taken = 0;
        for part in line.chunks(piece) {
            match long.take(part) {
                None => taken += part.len(),
                Some(count) => {
                    taken += count;
                    break;
                }
            }
        }
        (String::from_utf8(long.kept().to_vec()).unwrap(), long.longest(), taken)
    }

    #[test]
    fn what_a_message_asks_is_kept_however_long_its_value_is() {
        let escapes = "\\\"\\u00e9\\\\".repeat(20_000);
        for (value, kept) in [
            (format!("\"{}\"", "v".repeat(100_000)), "\"\""),
            (format!("\"{escapes}\""), "\"\""),
            (format!("[{}[{{\"a\":\"]}}\"}}],1]", "7,".repeat(90_000)), "[]"),
            (format!("{{\"a\":{{\"b\":[]}},\"c\":\"{}\"}}", "\\\"".repeat(80_000)), "{}"),
        ] {
            let message = |value: &str| {
                format!(
                    "{{\"src\":\"c\",\"dest\":\"n\",\"body\":{{\"key\":\"k\\\"\",\"value\":{value},\"msg_id\":7}}}}"
                )
            };
            let line = message(&value) + "\nnext";
            for piece in [1, 7, 65_536, line.len()] {
                assert_eq!(condense(line.as_bytes(), piece), (message(kept), value.len(), line.len() - 4));
            }
        }
    }

    #[test]
    fn what_is_no_message_takes_little_memory() {
        for line in ["{\"a\":1,".repeat(100_000), "[".repeat(1_000_000), "1".repeat(1_000_000), "\"x".repeat(500_000)] {
            let mut long = LongLine::default();
            assert_eq!(long.take(line.as_bytes()), None);
            assert_eq!(long.length(), line.len());
            assert!(long.memory() <= 2 * MOST, "{}", long.memory());
        }
    }
}
