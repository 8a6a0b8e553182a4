//! Patterns as Redis has them: `*` any bytes, `?` one byte, `[a-z]` and `[^a-z]` one of a set, `\` the next byte as it is.
//!
//! The matcher goes back to the last `*` only, so it takes at most as many steps as pattern and text have bytes
//! multiplied; a budget of steps bounds even that, and what exceeds it does not match.

/// Steps after which a text is taken not to match: far more than any sensible pattern needs.
const STEPS: usize = 1 << 20;

/// Whether `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on if what follows the last star does not match: behind it, with one byte more taken by it.
    let mut star: Option<(usize, usize)> = None;
    for _ in 0..STEPS {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            if at == pattern.len() {
                return true;
            }
            star = Some((at, seen));
            continue;
        }
        let fits = match (pattern.get(at), text.get(seen)) {
            (None, None) => return true,
            (Some(_), Some(&byte)) => one(&pattern[at..], byte),
            _ => None,
        };
        match (fits, star) {
            (Some(length), _) => (at, seen) = (at + length, seen + 1),
            (None, Some((after, taken))) if taken < text.len() => {
                (at, seen) = (after, taken + 1);
                star = Some((after, taken + 1));
            }
            (None, _) => return false,
        }
    }
    false
}

/// Whether a byte matches the beginning of a pattern that is no star; bytes of the pattern that were used.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => {
            let (is_in, length) = set(rest, byte);
            is_in.then_some(length + 1)
        }
        [plain, ..] => (*plain == byte).then_some(1),
        [] => None,
    }
}

/// Whether a byte is in the set that begins behind `[`; bytes up to and with `]`. A set without an end ends with the
/// pattern, as in Redis.
fn set(rest: &[u8], byte: u8) -> (bool, usize) {
    let negated = rest.first() == Some(&b'^');
    let (mut at, mut is_in) = (usize::from(negated), false);
    loop {
        match &rest[at.min(rest.len())..] {
            [] => return (is_in != negated, rest.len()),
            [b']', ..] => return (is_in != negated, at + 1),
            [b'\\', escaped, ..] => {
                is_in |= *escaped == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                is_in |= *plain == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("*", ""),
            ("user:*", "user:42"),
            ("h?llo", "hello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[b-a]llo", "hallo"),
            ("\\*", "*"),
            ("a\\\\b", "a\\b"),
            ("[\\]]", "]"),
            ("*a*b*c", "xxaxxbxxc"),
            ("[abc", "a"),
            ("a**", "a"),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("user:*", "use"), ("h?llo", "hllo"), ("h[^e]llo", "hello"), ("a*b", "abc")]
        {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let pattern = b"*a".repeat(64);
        let text = [vec![b'a'; 10_000], vec![b'b']].concat();
        assert!(!matches(&[&pattern[..], b"c"].concat(), &text));
    }
}
