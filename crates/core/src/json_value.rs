//! Stored bytes as JSON values: how other protocols' bytes look through JSON, and when two values are the same.
//!
//! A value set as JSON is kept as its text without blanks, so that the number 100 is the bytes `100` to everybody.
//! Bytes that are no JSON are seen as a string if they are UTF-8, else as `{"base64": "..."}`.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::base64;

/// Appends the JSON that `stored` is seen as, on one line and without blanks.
pub fn append_view(stored: &[u8], out: &mut Vec<u8>) {
    if serde_json::from_slice::<&RawValue>(stored).is_ok() {
        append_compact(stored, out);
    } else if let Ok(text) = std::str::from_utf8(stored) {
        append_string(text, out);
    } else {
        out.extend_from_slice(b"{\"base64\":\"");
        base64::append(stored, out);
        out.extend_from_slice(b"\"}");
    }
}

/// Appends a JSON text without the blanks between its tokens.
pub fn append_compact(json: &[u8], out: &mut Vec<u8>) {
    let (mut quoted, mut escaped) = (false, false);
    for &byte in json {
        if quoted || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            out.push(byte);
        }
        if byte == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = byte == b'\\' && !escaped;
    }
}

/// Appends `text` as a JSON string.
pub fn append_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to memory does not fail");
}

/// Whether `stored`, seen as JSON, is the same value as the JSON text `json`, whatever their spelling.
pub fn equals(stored: &[u8], json: &[u8]) -> bool {
    let mut seen = Cow::Borrowed(stored);
    if serde_json::from_slice::<&RawValue>(stored).is_err() {
        let mut view = Vec::with_capacity(stored.len() + 16);
        append_view(stored, &mut view);
        seen = Cow::Owned(view);
    }
    if *seen == *json {
        return true;
    }
    match (serde_json::from_slice::<Value>(&seen), serde_json::from_slice::<Value>(json)) {
        (Ok(one), Ok(other)) => same(&one, &other),
        // Nested deeper than the parser goes: only the same spelling is the same value.
        _ => false,
    }
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => same_number(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

/// JSON has one kind of number: 1 and 1.0 are the same. Whole numbers are compared exactly, beyond 2^53 too.
fn same_number(one: &Number, other: &Number) -> bool {
    let whole = |number: &Number| number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.as_f64() == other.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(stored: &[u8]) -> String {
        let mut out = Vec::new();
        append_view(stored, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn stored_bytes_are_seen_as_json() {
        assert_eq!(view(b"100"), "100");
        assert_eq!(view(b"{\"a\": [1,\n 2], \"b \\\" c\": \" \"}"), "{\"a\":[1,2],\"b \\\" c\":\" \"}");
        assert_eq!(view(b"hello"), "\"hello\"");
        assert_eq!(view(b""), "\"\"");
        assert_eq!(view(b"two\nlines"), "\"two\\nlines\"");
        assert_eq!(view(b"\xff\x00"), "{\"base64\":\"/wA=\"}");
        assert_eq!(view(b"\xff"), "{\"base64\":\"/w==\"}");
        assert_eq!(view(b"\xffab"), "{\"base64\":\"/2Fi\"}");
    }

    #[test]
    fn values_are_compared_not_their_spelling() {
        for (stored, json) in [
            ("1", "1.0"),
            ("{\"a\":1,\"b\":2}", "{ \"b\": 2, \"a\": 1e0 }"),
            ("\"\\u0041\"", "\"A\""),
            ("hello", "\"hello\""),
            ("null", "null"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert!(equals(stored.as_bytes(), json.as_bytes()), "{stored} {json}");
        }
        for (stored, json) in [
            ("1", "2"),
            ("1", "\"1\""),
            ("9007199254740993", "9007199254740992"),
            ("[1,2]", "[2,1]"),
            ("{\"a\":1}", "{\"a\":1,\"b\":2}"),
            ("hello", "hello"),
        ] {
            assert!(!equals(stored.as_bytes(), json.as_bytes()), "{stored} {json}");
        }
    }
}
