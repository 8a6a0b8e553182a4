//! Patterns as Redis has them: `*` any bytes, `?` one byte, `[a-z]` and `[^a-z]` one of a set, `\` the next byte as it is.
//!
//! A pattern is read once, into elements that take one byte of a text each, and the stars between them. What stands before
//! the first star and behind the last has its place in the text. A part between two stars is searched for from where the
//! part before it ended, and the first place where it fits is as good as any other: it leaves the most to the rest. So no
//! match goes back behind a part that was found, and none takes more steps than [`Pattern::most_steps`].

use crate::limits::MAX_PATTERN;

/// Steps that cost as much as it costs to look at a key.
pub const STEPS_OF_A_KEY: usize = 128;

/// Steps of comparing for each byte of the text, and as many once for each part as its table costs, after which a part is
/// searched for by a table.
const PATIENCE: usize = 8;
const SPARE: usize = 256;

/// The bytes of a set, a bit each.
type Set = [u64; 4];

/// What takes one byte of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Byte(u8),
    Any,
    /// One of the bytes of the set of this number.
    Set(u16),
}

/// A pattern that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// All elements, without the stars.
    elements: Box<[Element]>,
    /// How many elements stand before each star; several stars in a row are one.
    stars: Box<[u16]>,
    sets: Box<[Set]>,
}

impl Pattern {
    /// Reads a pattern; None if it is longer than [`MAX_PATTERN`] bytes.
    pub fn new(text: &[u8]) -> Option<Pattern> {
        if text.len() > MAX_PATTERN {
            return None;
        }
        let (mut elements, mut stars, mut sets) = (Vec::with_capacity(text.len()), Vec::new(), Vec::new());
        let mut rest = text;
        while let [first, behind @ ..] = rest {
            rest = behind;
            match (first, behind) {
                (b'*', _) => stars.push(elements.len() as u16),
                (b'?', _) => elements.push(Element::Any),
                (b'[', _) => {
                    let (set, length) = read_set(behind);
                    elements.push(Element::Set(sets.len() as u16));
                    sets.push(set);
                    rest = &behind[length..];
                }
                (b'\\', [escaped, behind @ ..]) => {
                    elements.push(Element::Byte(*escaped));
                    rest = behind;
                }
                (plain, _) => elements.push(Element::Byte(*plain)),
            }
        }
        stars.dedup();
        Some(Pattern { elements: elements.into(), stars: stars.into(), sets: sets.into() })
    }

    /// Bytes that it holds.
    pub fn memory(&self) -> usize {
        size_of::<Pattern>() + size_of_val(&*self.elements) + size_of_val(&*self.stars) + size_of_val(&*self.sets)
    }

    /// The bytes that each text begins with which matches.
    pub fn prefix(&self) -> Vec<u8> {
        let first = self.stars.first().map_or(self.elements.len(), |at| usize::from(*at));
        let byte = |element: &Element| if let Element::Byte(byte) = element { Some(*byte) } else { None };
        self.elements[..first].iter().map_while(byte).collect()
    }

    /// The parts between two stars.
    fn parts(&self) -> impl Iterator<Item = &[Element]> {
        self.stars.windows(2).map(|ends| &self.elements[usize::from(ends[0])..usize::from(ends[1])])
    }

    /// More steps than a match with a text of so many bytes takes.
    pub fn most_steps(&self, length: usize) -> usize {
        let long = || self.parts().filter(|part| part.len() > PATIENCE);
        let each_byte = self.parts().map(|part| part.len().min(PATIENCE)).max().unwrap_or(0);
        let words = long().map(words_of).max().map_or(0, |words| words + 1);
        let once = long().map(|part| SPARE + part.len() + table_steps(part)).sum::<usize>();
        1 + self.elements.len() + (each_byte + words) * length + once
    }

    /// Whether a text matches.
    #[inline]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.matches_within(text, &mut 0)
    }

    /// As [`matches`](Pattern::matches); adds the steps that it takes to `spent`.
    pub fn matches_within(&self, text: &[u8], spent: &mut usize) -> bool {
        *spent += 1;
        let count = self.elements.len();
        let (Some(first), Some(last)) = (self.stars.first(), self.stars.last()) else {
            return text.len() == count && self.fits(&self.elements, text, spent);
        };
        let (first, last) = (usize::from(*first), usize::from(*last));
        if text.len() < count || !self.fits(&self.elements[..first], text, spent) {
            return false;
        }
        let end = text.len() - (count - last);
        self.fits(&self.elements[last..], &text[end..], spent) && self.has_parts(&text[first..end], spent)
    }

    /// Whether a text has all parts between stars, one behind the other.
    fn has_parts(&self, mut text: &[u8], spent: &mut usize) -> bool {
        self.parts().all(|part| {
            let end = self.find(part, text, spent);
            text = &text[end.unwrap_or(0)..];
            end.is_some()
        })
    }

    #[inline]
    fn takes(&self, element: Element, byte: u8) -> bool {
        match element {
            Element::Byte(known) => known == byte,
            Element::Any => true,
            Element::Set(number) => has(&self.sets[usize::from(number)], byte),
        }
    }

    /// Whether a text, which is no shorter, begins with these elements.
    #[inline]
    fn fits(&self, part: &[Element], text: &[u8], spent: &mut usize) -> bool {
        let different = part.iter().zip(text).position(|(element, byte)| !self.takes(*element, *byte));
        *spent += different.map_or(part.len(), |at| at + 1);
        different.is_none()
    }

    /// Where the first place ends at which a part is in a text. Compares at each byte, which is over soon in ordinary texts;
    /// else goes on by a table.
    fn find(&self, part: &[Element], text: &[u8], spent: &mut usize) -> Option<usize> {
        let before = *spent;
        for at in 0..=text.len().checked_sub(part.len())? {
            if part.len() > PATIENCE && *spent - before > PATIENCE * at + SPARE {
                return self.find_by_table(part, &text[at..], spent).map(|end| at + end);
            }
            if self.fits(part, &text[at..], spent) {
                return Some(at + part.len());
            }
        }
        None
    }

    /// As [`find`](Pattern::find), with the same few steps for each byte. Bit `i` of the state is set while what was read
    /// ends with the first `i + 1` elements; the table has the elements that take each byte.
    #[cold]
    fn find_by_table(&self, part: &[Element], text: &[u8], spent: &mut usize) -> Option<usize> {
        let (words, last) = (words_of(part), part.len() - 1);
        let mut table = vec![0u64; 256 * words];
        for (at, element) in part.iter().enumerate() {
            let mut put = |byte: u8| table[usize::from(byte) * words + at / 64] |= 1 << (at % 64);
            match element {
                Element::Byte(byte) => put(*byte),
                _ => (0..=u8::MAX).filter(|byte| self.takes(*element, *byte)).for_each(put),
            }
        }
        *spent += table_steps(part);
        let mut state = vec![0u64; words];
        for (at, byte) in text.iter().enumerate() {
            let mut carry = 1;
            for (word, takes) in state.iter_mut().zip(&table[usize::from(*byte) * words..]) {
                let next = *word >> 63;
                *word = (*word << 1 | carry) & takes;
                carry = next;
            }
            *spent += words + 1;
            if state[last / 64] >> (last % 64) & 1 == 1 {
                return Some(at + 1);
            }
        }
        None
    }
}

/// Words that have a bit for each element.
fn words_of(part: &[Element]) -> usize {
    part.len().div_ceil(64)
}

/// Steps that it takes to make the table of a part.
fn table_steps(part: &[Element]) -> usize {
    let many = part.iter().filter(|element| !matches!(element, Element::Byte(_))).count();
    256 * (words_of(part) + many)
}

fn has(set: &Set, byte: u8) -> bool {
    set[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
}

/// The set that begins behind `[`, and its length with `]`. A set without an end ends with the pattern, as in Redis.
fn read_set(text: &[u8]) -> (Set, usize) {
    let is_negated = text.first() == Some(&b'^');
    let (mut set, mut at) = ([0; 4], usize::from(is_negated));
    let mut put = |byte: u8| set[usize::from(byte / 64)] |= 1u64 << (byte % 64);
    loop {
        at += match &text[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                put(*escaped);
                2
            }
            [from, b'-', to, ..] => {
                (*from.min(to)..=*from.max(to)).for_each(&mut put);
                3
            }
            [plain, ..] => {
                put(*plain);
                1
            }
        };
    }
    (if is_negated { set.map(|word| !word) } else { set }, at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern.as_bytes()).unwrap().matches(text.as_bytes())
    }

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
            assert!(matches(pattern, &text), "{pattern}");
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
            ("a\\", "a\\"),
            ("[\\]]", "]"),
            ("*a*b*c", "xxaxxbxxc"),
            ("[abc", "a"),
            ("[^", "a"),
            ("a**", "a"),
            ("*a[bc]", "aab"),
            ("*\\*", "a*"),
            ("a*b", "ab"),
            ("*ab*ab", "abab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("[]", "]"),
            ("[", "["),
            ("user:*", "use"),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("a*b", "abc"),
            ("ab*b", "ab"),
            ("*ab*ab", "ab"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    /// Whether a text matches, straight from what each character of a pattern means. It may take long.
    fn means(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| means(rest, &text[taken..])),
            (_, []) => false,
            ([b'?', rest @ ..], [_, text @ ..]) => means(rest, text),
            ([b'\\', escaped, rest @ ..], [byte, text @ ..]) => escaped == byte && means(rest, text),
            ([b'[', rest @ ..], [byte, text @ ..]) => {
                let (takes, length) = set_means(rest, *byte);
                takes && means(&rest[length..], text)
            }
            ([plain, rest @ ..], [byte, text @ ..]) => plain == byte && means(rest, text),
        }
    }

    fn set_means(rest: &[u8], byte: u8) -> (bool, usize) {
        let negated = rest.first() == Some(&b'^');
        let (mut at, mut is_in) = (usize::from(negated), false);
        loop {
            match &rest[at..] {
                [] => return (is_in != negated, rest.len()),
                [b']', ..] => return (is_in != negated, at + 1),
                [b'\\', escaped, ..] => (at, is_in) = (at + 2, is_in || *escaped == byte),
                [from, b'-', to, ..] => {
                    (at, is_in) = (at + 3, is_in || (*from.min(to)..=*from.max(to)).contains(&byte));
                }
                [plain, ..] => (at, is_in) = (at + 1, is_in || *plain == byte),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Patterns of the characters that mean something, and texts of few bytes, so that many match.
        #[test]
        fn a_match_is_what_the_pattern_means(
            pattern in prop::collection::vec(prop::sample::select(&b"aab*?[]^-\\"[..]), 0..14),
            text in prop::collection::vec(prop::sample::select(&b"aaab]^-\\"[..]), 0..12),
        ) {
            let (read, mut spent) = (Pattern::new(&pattern).unwrap(), 0);
            prop_assert_eq!(read.matches_within(&text, &mut spent), means(&pattern, &text));
            prop_assert!(spent <= read.most_steps(text.len()), "{} steps", spent);
        }

        /// Long parts in texts that begin as they do everywhere, which are searched for by a table.
        #[test]
        fn long_parts_are_found(
            parts in prop::collection::vec((0usize..150, prop::sample::select(&["a", "?", "[ac]", "b", "[^b]b"][..])), 1..4),
            runs in prop::collection::vec((0usize..400, prop::sample::select(&["b", "c", "ab", "x"][..])), 1..5),
        ) {
            let part = |(length, end): &(usize, &str)| format!("{}{end}", "a".repeat(*length));
            let pattern = format!("*{}*", parts.iter().map(part).collect::<Vec<_>>().join("*"));
            let text: String = runs.iter().map(part).collect();
            let (read, mut spent) = (Pattern::new(pattern.as_bytes()).unwrap(), 0);
            prop_assert_eq!(read.matches_within(text.as_bytes(), &mut spent), found(&parts, text.as_bytes()));
            prop_assert!(spent <= read.most_steps(text.len()), "{} steps", spent);
        }
    }

    /// Whether a text has all these parts of `long_parts_are_found`, one behind the other.
    fn found(parts: &[(usize, &str)], mut text: &[u8]) -> bool {
        parts.iter().all(|(length, end)| {
            let part = [&b"a".repeat(*length), end.as_bytes()].concat();
            let taken = length + if end.len() == 5 { 2 } else { 1 };
            let at = (0..(text.len() + 1).saturating_sub(taken)).find(|at| means(&part, &text[*at..at + taken]));
            text = &text[at.map_or(0, |at| at + taken)..];
            at.is_some()
        })
    }

    /// Patterns whose parts begin at each byte of a long text: each has its right answer, within a few milliseconds.
    #[test]
    fn no_pattern_takes_long() {
        let text = [vec![b'a'; 60_000], vec![b'b']].concat();
        let longest = format!("*{}b*", "a".repeat(MAX_PATTERN - 3));
        for (pattern, fits) in [
            ("*a".repeat(512), false),
            ("*aaaaaaaaaaaaaaaaaaaaaac*".repeat(40), false),
            (longest, true),
            (format!("*{}c*", "a".repeat(MAX_PATTERN - 3)), false),
            (format!("*{}*", "[ab]".repeat(255)), true),
            (format!("*{}c*", "[ab]".repeat(255)), false),
            (format!("*{}c*", "a?".repeat(500)), false),
            ("*".repeat(MAX_PATTERN), true),
        ] {
            let (read, mut spent) = (Pattern::new(pattern.as_bytes()).unwrap(), 0);
            assert_eq!(read.matches_within(&text, &mut spent), fits, "{pattern}");
            assert!(spent <= read.most_steps(text.len()), "{spent} steps of {pattern}");
            assert!(read.most_steps(text.len()) < 2_000_000, "{} steps of {pattern}", read.most_steps(text.len()));
        }
        assert_eq!(Pattern::new(&[b'a'; MAX_PATTERN + 1]), None);
    }

    /// What follows the only star is compared once, however often its beginning is in the text.
    #[test]
    fn an_end_is_not_searched_for() {
        let (text, pattern) = (vec![b'a'; 2000], [&b"*"[..], &[b'a'; 1000], b"b"].concat());
        let (read, mut spent) = (Pattern::new(&pattern).unwrap(), 0);
        assert!(!read.matches_within(&text, &mut spent));
        assert!(spent <= 1100, "{spent}");
        assert!(read.matches(&[&text[..], b"b"].concat()));
    }
}
