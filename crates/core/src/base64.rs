//! The base64 of RFC 4648, section 4, with its padding.

/// Appends bytes as base64.
pub fn append(bytes: &[u8], out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { letter } else { b'=' });
        }
    }
}

/// Reads a text into the buffer, which has at least three bytes for four of the text; None if it is no base64, or empty.
pub fn decode<'a>(text: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let body = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if text.is_empty() || text.len() % 4 != 0 {
        return None;
    }
    let (mut bits, mut length) = (0u32, 0);
    for (index, byte) in body.iter().enumerate() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        // Each digit but the first of four completes a byte.
        if index % 4 != 0 {
            buffer[length] = (bits >> (6 - 2 * (index % 4))) as u8;
            length += 1;
        }
    }
    Some(&buffer[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_text() {
        for (text, bytes) in [("Zg==", &b"f"[..]), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("/wAB", b"\xff\0\x01")] {
            assert_eq!(decode(text.as_bytes(), &mut [0; 3]), Some(bytes));
            let mut out = Vec::new();
            append(bytes, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn what_is_no_base64_has_no_bytes() {
        for text in ["", "Z", "Zg=", "Zg", "====", "Z===", "Zm9v!aaa"] {
            assert_eq!(decode(text.as_bytes(), &mut [0; 6]).unwrap_or_default(), b"", "{text:?}");
        }
    }
}
