//! Patterns as Redis has them: `*` any bytes, `?` one byte, `[a-z]` and `[^a-z]` one of a set, `\` the next byte as it is.
//!
//! Everything before the first `*` and behind the last has its place in the text, so only what stands between stars is
//! searched for. The search goes back to the last `*` only, and may take a few steps for each byte of the text and some
//! ten thousand more; a text that needs more steps does not match. Every element but a star takes one byte.

/// Steps of one match beside two for each byte of the text: a few microseconds. Enough for all that is searched for between
/// two stars if its length times that of the text is less.
const SPARE: usize = 2048;
/// Most of what may be added to that: the product of the lengths of pattern and text, which ordinary patterns need.
const MOST_SPARE: usize = 1 << 15;

/// Steps that cost as much as it costs to look at a key.
pub const STEPS_OF_A_KEY: usize = 128;

/// Whether `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_within(pattern, text, &mut 0)
}

/// As [`matches()`]; adds the steps that it takes to `spent`.
pub fn matches_within(pattern: &[u8], text: &[u8], spent: &mut usize) -> bool {
    let product = pattern.len().saturating_mul(text.len()).min(MOST_SPARE);
    let mut steps = Steps { left: (SPARE + product).saturating_add(2 * text.len()) };
    let all = steps.left;
    let matched = steps.matches(pattern, text) == Some(true);
    *spent += all - steps.left;
    matched
}

/// Steps that a match may still take. What takes more returns None.
struct Steps {
    left: usize,
}

impl Steps {
    fn take(&mut self, count: usize) -> Option<()> {
        let left = self.left.checked_sub(count);
        self.left = left.unwrap_or(0);
        left.map(|_| ())
    }

    fn matches(&mut self, pattern: &[u8], text: &[u8]) -> Option<bool> {
        let (mut at, mut seen) = (0, 0);
        // Where to go on if what follows the last star does not match: behind it, with one byte more taken by it.
        let mut star: Option<(usize, usize)> = None;
        loop {
            self.take(1)?;
            if pattern.get(at) == Some(&b'*') {
                at += 1;
                if at == pattern.len() {
                    return Some(true);
                }
                if let Some(length) = self.length_of_end(&pattern[at..])? {
                    // The last star: what follows it stands at the end of the text.
                    match text.len().checked_sub(length).filter(|from| *from >= seen) {
                        None => return Some(false),
                        Some(from) => (star, seen) = (None, from),
                    }
                } else {
                    star = Some((at, seen));
                }
                continue;
            }
            let fits = match (pattern.get(at), text.get(seen)) {
                (None, None) => return Some(true),
                (Some(_), Some(&byte)) => self.one(&pattern[at..], byte)?,
                _ => None,
            };
            match (fits, star) {
                (Some(length), _) => (at, seen) = (at + length, seen + 1),
                (None, Some((after, taken))) if taken < text.len() => {
                    (at, seen) = (after, taken + 1);
                    star = Some((after, taken + 1));
                }
                (None, _) => return Some(false),
            }
        }
    }

    /// Bytes of text that a pattern without a star takes; None if there is a star in it.
    fn length_of_end(&mut self, pattern: &[u8]) -> Option<Option<usize>> {
        let (mut at, mut length) = (0, 0);
        while let Some(rest) = pattern.get(at..).filter(|rest| !rest.is_empty()) {
            self.take(1)?;
            at += match rest {
                [b'*', ..] => return Some(None),
                [b'\\', _, ..] => 2,
                [b'[', set_begin @ ..] => self.set(set_begin, 0)?.1 + 1,
                _ => 1,
            };
            length += 1;
        }
        Some(Some(length))
    }

    /// Whether a byte matches the beginning of a pattern that is no star; bytes of the pattern that were used.
    fn one(&mut self, pattern: &[u8], byte: u8) -> Option<Option<usize>> {
        Some(match pattern {
            [b'?', ..] => Some(1),
            [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
            [b'[', rest @ ..] => {
                let (is_in, length) = self.set(rest, byte)?;
                is_in.then_some(length + 1)
            }
            [plain, ..] => (*plain == byte).then_some(1),
            [] => None,
        })
    }

    /// Whether a byte is in the set that begins behind `[`; bytes up to and with `]`. A set without an end ends with the
    /// pattern, as in Redis.
    fn set(&mut self, rest: &[u8], byte: u8) -> Option<(bool, usize)> {
        let negated = rest.first() == Some(&b'^');
        let (mut at, mut is_in) = (usize::from(negated), false);
        loop {
            self.take(1)?;
            match &rest[at.min(rest.len())..] {
                [] => return Some((is_in != negated, rest.len())),
                [b']', ..] => return Some((is_in != negated, at + 1)),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_patterns_match_long_texts() {
        let hex = "0123456789abcdef".repeat(20);
        for (pattern, text) in [
            ("*[0-9a-f][0-9a-f][0-9a-f][0-9a-f].html*", format!("page:{hex}.html")),
            ("*[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f].html*", format!("{hex}.html?x")),
            ("*[a-z0-9][a-z0-9][a-z0-9].html?*", format!("{hex}.html?x")),
            ("*[A-Za-z0-9][A-Za-z0-9].html*", format!("{hex}.html")),
            ("*user*profile*[0-9]*", format!("user{hex}profile{hex}")),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern}");
        }
    }

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
            ("*a[bc]", "aab"),
            ("*\\*", "a*"),
            ("a*b", "ab"),
            ("*ab*ab", "abab"),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("user:*", "use"),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("a*b", "abc"),
            ("ab*b", "ab"),
            ("*ab*ab", "ab"),
        ] {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    /// Patterns that go back at each byte, with long sets, and that are longer than the text: none takes more steps than
    /// two for each byte of the text and a constant.
    #[test]
    fn no_pattern_takes_long() {
        let text = [vec![b'a'; 10_000], vec![b'b']].concat();
        let set = [&b"*["[..], &vec![b'x'; 1 << 20], b"]*"].concat();
        for pattern in [b"*a".repeat(64), b"*aaaaaaaaaaaaaaaaaaaaaac*".repeat(40), set, vec![b'*'; 1 << 20]] {
            let mut spent = 0;
            assert!(!matches_within(&[&pattern[..], b"c"].concat(), &text, &mut spent));
            assert!(spent <= SPARE + MOST_SPARE + 2 * text.len(), "{spent}");
        }
    }

    /// What follows the only star is compared once, however often its beginning is in the text.
    #[test]
    fn an_end_is_not_searched_for() {
        let (text, pattern) = (vec![b'a'; 2000], [&b"*"[..], &[b'a'; 1000], b"b"].concat());
        let mut spent = 0;
        assert!(!matches_within(&pattern, &text, &mut spent));
        assert!(spent <= 2100, "{spent}");
        assert!(matches(&pattern, &[&text[..], b"b"].concat()));
    }
}
