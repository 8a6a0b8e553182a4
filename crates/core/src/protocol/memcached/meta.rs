//! Commands of the meta verbs, whose flags say what is to be done and what is to be told.

use super::arguments::{BAD_FORMAT, BAD_TOKEN, ERROR, KeyBuffer, MAX_KEY, expiry, flags_number, key_word, unsigned};
use super::frame::Verb;
use super::reply::{Form, Shape};
use crate::base64;
use crate::vocabulary::{Args, Command, Expiry, MemcachedCommand, Mode};

/// Most flags of a meta command, and the longest opaque flag with its letter.
const MAX_FLAGS: usize = 20;
const MAX_OPAQUE: usize = 33;

pub(super) fn inspect<'a>(words: Args<'a>, buffer: &'a mut KeyBuffer) -> Result<(Command<'a>, Form<'a>), &'static str> {
    let word = key_word(words, 1)?;
    let key = match words.get(2) {
        None => word,
        Some(b"b") if words.len() == 3 => base64::decode(word, buffer).ok_or("CLIENT_ERROR error decoding key")?,
        Some(_) => return Err(BAD_FORMAT),
    };
    let look = MemcachedCommand::MetaGet { key, expiry: None, value: false, used: false, vivify: None, recache: None };
    Ok((Command::Memcached(look), Form { shape: Shape::Meta(Verb::MetaInspect, word, words.from(2)), quiet: false }))
}

/// What the flags of a meta command ask, but for what is to be told.
#[derive(Default)]
struct Flags {
    base64: bool,
    quiet: bool,
    value: bool,
    unused: bool,
    stale: bool,
    empty: bool,
    version: Option<u64>,
    cas: Option<u64>,
    client_flags: u32,
    expiry: Option<Expiry>,
    vivify: Option<Expiry>,
    recache: Option<Expiry>,
    mode: Option<u8>,
    initial: Option<u64>,
    delta: Option<u64>,
}

impl Flags {
    #[inline]
    fn read(verb: Verb, words: Args<'_>) -> Result<Flags, &'static str> {
        if words.len() > MAX_FLAGS {
            return Err("CLIENT_ERROR options flags are too long");
        }
        let (mut flags, mut seen) = (Flags::default(), 0u128);
        for word in words.iter() {
            let (letter, token) = (word[0], &word[1..]);
            if letter >= 127 || seen & 1 << letter != 0 {
                return Err(if matches!(verb, Verb::MetaGet | Verb::MetaSet) {
                    "CLIENT_ERROR duplicate flag"
                } else {
                    "CLIENT_ERROR invalid or duplicate flag"
                });
            }
            seen |= 1 << letter;
            flags.take(verb, letter, token)?;
        }
        Ok(flags)
    }

    #[inline]
    fn take(&mut self, verb: Verb, letter: u8, token: &[u8]) -> Result<(), &'static str> {
        let count = verb == Verb::MetaCount;
        match letter {
            b'k' | b's' | b't' | b'c' | b'f' => {}
            // Not kept here, and so not told: when an item was last read, and whether it ever was.
            b'h' | b'l' if verb == Verb::MetaGet => {}
            b'u' if verb == Verb::MetaGet => self.unused = true,
            b'I' if matches!(verb, Verb::MetaSet | Verb::MetaDelete) => self.stale = true,
            b'x' if verb == Verb::MetaDelete => self.empty = true,
            b'v' => self.value = true,
            b'q' => self.quiet = true,
            b'b' => self.base64 = true,
            b'O' if token.len() < MAX_OPAQUE => {}
            b'O' => return Err("CLIENT_ERROR opaque token too long"),
            // Places of a proxy, for whom they are: passed over.
            b'P' | b'L' => {}
            b'T' => self.expiry = Some(expiry(token).ok_or(BAD_TOKEN)?),
            b'C' => self.version = Some(unsigned(token).ok_or(BAD_TOKEN)?),
            // What a look would give this number to is a lease, and has one already; a plain `md` leaves no item.
            b'E' if verb != Verb::MetaGet => self.cas = Some(unsigned(token).ok_or(BAD_TOKEN)?),
            b'F' if verb == Verb::MetaSet => self.client_flags = flags_number(token).ok_or(BAD_FORMAT)?,
            b'R' if verb == Verb::MetaGet => self.recache = Some(expiry(token).ok_or(BAD_TOKEN)?),
            b'N' if verb != Verb::MetaDelete => self.vivify = Some(expiry(token).ok_or(BAD_TOKEN)?),
            b'M' if token.len() != 1 => return Err("CLIENT_ERROR incorrect length for M token"),
            b'M' => self.mode = Some(token[0]),
            b'J' if count => self.initial = Some(unsigned(token).ok_or("CLIENT_ERROR invalid or duplicate flag")?),
            b'D' if count => self.delta = Some(unsigned(token).ok_or("CLIENT_ERROR invalid or duplicate flag")?),
            _ if matches!(verb, Verb::MetaGet | Verb::MetaSet) => return Err("CLIENT_ERROR invalid flag"),
            _ => return Err("CLIENT_ERROR invalid or duplicate flag"),
        }
        Ok(())
    }
}

#[inline]
pub(super) fn meta<'a>(
    verb: Verb,
    words: Args<'a>,
    block: Option<&'a [u8]>,
    buffer: &'a mut KeyBuffer,
) -> Result<(Command<'a>, Form<'a>), &'static str> {
    let word = words.get(1).ok_or(ERROR)?;
    if word.len() > MAX_KEY {
        return Err(BAD_FORMAT);
    }
    let told = words.from(if verb == Verb::MetaSet { 3 } else { 2 });
    let flags = Flags::read(verb, told)?;
    let key = if flags.base64 { base64::decode(word, buffer).ok_or("CLIENT_ERROR error decoding key")? } else { word };
    let Flags { version, cas, stale, empty, expiry, vivify, recache, .. } = flags;
    let command = match verb {
        Verb::MetaGet => {
            MemcachedCommand::MetaGet { key, expiry, value: flags.value, used: !flags.unused, vivify, recache }
        }
        Verb::MetaDelete if stale || empty => MemcachedCommand::MetaDelete { key, version, stale, empty, expiry, cas },
        Verb::MetaDelete => MemcachedCommand::Remove { key, version },
        Verb::MetaSet => MemcachedCommand::Store {
            key,
            value: block.unwrap_or_default(),
            flags: flags.client_flags,
            expiry: expiry.unwrap_or_default(),
            mode: mode(flags.mode).ok_or("CLIENT_ERROR invalid mode for ms M token")?,
            version,
            vivify,
            cas,
            stale,
        },
        _ => MemcachedCommand::Arithmetic {
            key,
            delta: flags.delta.unwrap_or(1),
            down: counts_down(flags.mode).ok_or("CLIENT_ERROR invalid mode for ma M token")?,
            initial: vivify.map(|expiry| (flags.initial.unwrap_or(0), expiry)),
            version,
            expiry,
            cas,
        },
    };
    Ok((Command::Memcached(command), Form { shape: Shape::Meta(verb, word, told), quiet: flags.quiet }))
}

fn mode(letter: Option<u8>) -> Option<Mode> {
    Some(match letter {
        None | Some(b'S' | b's') => Mode::Set,
        Some(b'E' | b'e') => Mode::Add,
        Some(b'R' | b'r') => Mode::Replace,
        Some(b'A' | b'a') => Mode::Append,
        Some(b'P' | b'p') => Mode::Prepend,
        Some(_) => return None,
    })
}

fn counts_down(letter: Option<u8>) -> Option<bool> {
    match letter {
        None | Some(b'I' | b'i' | b'+') => Some(false),
        Some(b'D' | b'd' | b'-') => Some(true),
        Some(_) => None,
    }
}
