//! Arguments of requests: keys, numbers and times; and the lines that refuse a request.

use crate::vocabulary::{Args, Expiry};

/// Longest key.
pub const MAX_KEY: usize = 250;
/// Times up to here are counted from now; beyond, they are Unix time.
const MAX_RELATIVE: i64 = 60 * 60 * 24 * 30;

pub(super) const ERROR: &str = "ERROR";
pub(super) const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
pub(super) const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk";
pub(super) const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
pub(super) const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
pub(crate) const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
pub(super) const OUT_OF_MEMORY: &str = "SERVER_ERROR out of memory storing object";

/// Room for a key that arrived as base64.
pub type KeyBuffer = [u8; MAX_KEY];

pub(super) fn key_word<'a>(words: Args<'a>, at: usize) -> Result<&'a [u8], &'static str> {
    words.get(at).filter(|key| key.len() <= MAX_KEY).ok_or(BAD_FORMAT)
}

/// A number without a sign but a plus, as C reads it; all of the text.
#[inline]
pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    atoi::atoi::<u64>(digits)
}

pub(super) fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) if digits.starts_with(b"+") => None,
        Some(digits) => unsigned(digits).and_then(|number| 0i64.checked_sub_unsigned(number)),
        None => unsigned(text).and_then(|number| i64::try_from(number).ok()),
    }
}

pub(super) fn flags_number(text: &[u8]) -> Option<u32> {
    unsigned(text).and_then(|number| u32::try_from(number).ok())
}

/// A time: from now, or Unix time beyond thirty days; 0 is never, and what is negative has passed.
#[inline]
pub(super) fn expiry(text: &[u8]) -> Option<Expiry> {
    Some(match signed(text)? {
        0 => Expiry::Never,
        ..0 => Expiry::In(0),
        seconds @ 1..=MAX_RELATIVE => Expiry::In(seconds as u64 * 1000),
        seconds => Expiry::At((seconds as u64).saturating_mul(1000)),
    })
}

pub(super) fn expiry_word(words: Args<'_>, at: usize) -> Result<Expiry, &'static str> {
    words.get(at).and_then(expiry).ok_or(BAD_EXPTIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_from_now_for_thirty_days() {
        for (text, wanted) in [
            ("0", Some(Expiry::Never)),
            ("-1", Some(Expiry::In(0))),
            ("1", Some(Expiry::In(1000))),
            ("2592000", Some(Expiry::In(2_592_000_000))),
            ("2592001", Some(Expiry::At(2_592_001_000))),
            ("9223372036854775807", Some(Expiry::At(u64::MAX))),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("1s", None),
        ] {
            assert_eq!(expiry(text.as_bytes()), wanted, "{text:?}");
        }
    }
}
