//! What single words of a request mean.

use super::error::{Error, Kind, NOT_AN_INTEGER};

/// A number as Redis reads it: all of the text, no sign but a minus, no leading zeros.
pub fn integer(text: &[u8]) -> Result<i64, Error> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !plain || digits.len() > 19 {
        return Err(NOT_AN_INTEGER);
    }
    atoi::atoi::<i64>(text).ok_or(NOT_AN_INTEGER)
}

/// Whether a word is this one, however it is cased.
pub fn is(option: &[u8], name: &str) -> bool {
    option.eq_ignore_ascii_case(name.as_bytes())
}

/// Longest key in bytes; its length has to fit two bytes of the item's header.
pub const MAX_KEY: usize = 65_535;

const BAD_KEY: Error = Error::new(Kind::TooLarge, "ERR a key has 1 to 65535 bytes");

/// Whether these are keys.
#[inline]
pub fn check_keys<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> Result<(), Error> {
    if keys.all(|key| !key.is_empty() && key.len() <= MAX_KEY) { Ok(()) } else { Err(BAD_KEY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, number) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(integer(text.as_bytes()), Ok(number));
        }
        for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "1e3", "9223372036854775808", "0x1", "99999999999999999999"]
        {
            assert_eq!(integer(text.as_bytes()), Err(NOT_AN_INTEGER), "{text:?}");
        }
    }
}
