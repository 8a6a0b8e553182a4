//! Commands of requests: those of the classic verbs, and those about the server and the connection.

use super::arguments::{
    BAD_CHUNK, BAD_EXPTIME, BAD_FORMAT, ERROR, KeyBuffer, MAX_KEY, TOO_LARGE, expiry, expiry_word, flags_number,
    key_word, unsigned,
};
use super::frame::{Block, Call, Verb};
use super::meta::{inspect, meta};
use super::reply::{Form, Shape};
use crate::base64;
use crate::limits::Limits;
use crate::version::MEMCACHED_VERSION;
use crate::vocabulary::{Args, Command, Expiry, MemcachedCommand, Mode};

impl Call {
    /// The key that is looked up first, for those who look ahead.
    #[inline]
    pub fn first_key<'a>(self, args: Args<'a>) -> Option<&'a [u8]> {
        match self.verb {
            Verb::Get(_) | Verb::Set(_) | Verb::MetaGet | Verb::MetaSet | Verb::Cas | Verb::Delete | Verb::Count(_) => {
                args.get(1)
            }
            Verb::Gat(_) => args.get(2),
            _ => None,
        }
    }

    /// Makes a command of the words, or the line that says why not; nothing where input was passed over.
    #[inline]
    pub fn read<'a>(
        self,
        args: Args<'a>,
        buffer: &'a mut KeyBuffer,
        limits: &Limits,
    ) -> Option<Result<(Command<'a>, Form<'a>), &'static str>> {
        let read = match self.block {
            Block::Skipped => return None,
            Block::Refused => self.plain(args, buffer, limits),
            Block::Torn => Err(BAD_CHUNK),
            Block::TooLarge => self.too_large(args, buffer),
            Block::Whole => self.store(args.to(args.len() - 1), args.get(args.len() - 1).unwrap_or_default(), buffer),
            Block::None => self.plain(args, buffer, limits),
        };
        // Silence covers mistakes in an argument, not those in the form of a request.
        match read {
            Err(line) if noreply(args) && !matches!(line, ERROR | BAD_FORMAT | TOO_LARGE) => None,
            read => Some(read),
        }
    }

    /// The key and the token of a request that would fill a lease, if it has any, although it could not be read.
    #[cold]
    pub fn fill<'a>(self, words: Args<'a>, buffer: &'a mut KeyBuffer) -> Option<(&'a [u8], u64)> {
        if self.verb == Verb::Cas {
            return Some((words.get(1)?, unsigned(words.get(5)?)?));
        }
        if self.verb != Verb::MetaSet || words.len() < 3 {
            return None;
        }
        let flags = || words.from(3).iter();
        let token = flags().find_map(|flag| unsigned(flag.strip_prefix(b"C")?))?;
        let word = words.get(1).filter(|word| word.len() <= MAX_KEY)?;
        let key = if flags().any(|flag| flag == b"b") { base64::decode(word, buffer)? } else { word };
        Some((key, token))
    }

    #[inline]
    fn plain<'a>(
        self,
        words: Args<'a>,
        buffer: &'a mut KeyBuffer,
        limits: &Limits,
    ) -> Result<(Command<'a>, Form<'a>), &'static str> {
        match self.verb {
            Verb::Get(versions) => find(words.from(1), None, versions),
            Verb::MetaGet | Verb::MetaDelete | Verb::MetaCount => meta(self.verb, words, None, buffer),
            Verb::Gat(versions) if words.len() >= 2 => find(words.from(2), Some(expiry_word(words, 1)?), versions),
            Verb::Set(_) if matches!(words.len(), 5 | 6) => Err(BAD_FORMAT),
            Verb::Cas if matches!(words.len(), 6 | 7) => Err(BAD_FORMAT),
            Verb::MetaSet if words.len() >= 2 => Err(BAD_FORMAT),
            Verb::Delete => delete(words),
            Verb::Count(down) => count(words, down),
            Verb::Touch => touch(words),
            Verb::MetaInspect => inspect(words, buffer),
            _ => manage(self.verb, words, limits),
        }
    }

    /// A value that is too long is not stored, and the old one goes if it was to be replaced: whoever reads next
    /// must not take it for the new one. Where a version is given it may be a lease, which the session ends.
    fn too_large<'a>(
        self,
        words: Args<'a>,
        buffer: &'a mut KeyBuffer,
    ) -> Result<(Command<'a>, Form<'a>), &'static str> {
        let (command, _) = self.store(words, &[], buffer)?;
        let command = match command {
            Command::Memcached(MemcachedCommand::Store { key, mode: Mode::Set, version: None, .. }) => {
                Command::Memcached(MemcachedCommand::Remove { key, version: None })
            }
            _ => return Err(TOO_LARGE),
        };
        Ok((command, Form { shape: Shape::Words(TOO_LARGE, TOO_LARGE), quiet: false }))
    }

    /// A request with its block.
    #[inline]
    fn store<'a>(
        self,
        words: Args<'a>,
        value: &'a [u8],
        buffer: &'a mut KeyBuffer,
    ) -> Result<(Command<'a>, Form<'a>), &'static str> {
        let mode = match self.verb {
            Verb::Set(mode) => mode,
            Verb::Cas => Mode::Set,
            _ => return meta(self.verb, words, Some(value), buffer),
        };
        let word = |at| words.get(at).unwrap_or_default();
        let version = if self.verb == Verb::Cas { unsigned(word(5)) } else { None };
        let store = MemcachedCommand::Store {
            cas: None,
            stale: false,
            key: word(1),
            value,
            flags: flags_number(word(2)).ok_or(BAD_FORMAT)?,
            expiry: expiry(word(3)).ok_or(BAD_FORMAT)?,
            mode,
            version,
            vivify: None,
        };
        Ok((Command::Memcached(store), Form { shape: Shape::Words("STORED", "NOT_STORED"), quiet: noreply(words) }))
    }
}

/// Whether the last word asks for silence.
#[inline]
fn noreply(words: Args<'_>) -> bool {
    words.get(words.len().wrapping_sub(1)) == Some(b"noreply")
}

#[inline]
fn find<'a>(keys: Args<'a>, expiry: Option<Expiry>, versions: bool) -> Result<(Command<'a>, Form<'a>), &'static str> {
    if keys.is_empty() && expiry.is_none() {
        return Err(ERROR);
    }
    if keys.iter().any(|key| key.len() > MAX_KEY) {
        return Err(BAD_FORMAT);
    }
    let form = Form { shape: Shape::Values(keys, versions), quiet: false };
    Ok((Command::Memcached(MemcachedCommand::Get { keys, expiry }), form))
}

fn delete<'a>(words: Args<'a>) -> Result<(Command<'a>, Form<'a>), &'static str> {
    let key = match words.len() {
        2..=4 => key_word(words, 1)?,
        _ => return Err(ERROR),
    };
    // Once there was a time to wait; 0 is still taken for it.
    let rest = (words.get(2), words.get(3));
    if !matches!(rest, (None, _) | (Some(b"noreply" | b"0"), None) | (Some(b"0"), Some(b"noreply"))) {
        return Err("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
    }
    let form = Form { shape: Shape::Words("DELETED", "NOT_FOUND"), quiet: noreply(words) };
    Ok((Command::Memcached(MemcachedCommand::Remove { key, version: None }), form))
}

fn count<'a>(words: Args<'a>, down: bool) -> Result<(Command<'a>, Form<'a>), &'static str> {
    if !matches!(words.len(), 3 | 4) {
        return Err(ERROR);
    }
    let key = key_word(words, 1)?;
    let delta = words.get(2).and_then(unsigned).ok_or("CLIENT_ERROR invalid numeric delta argument")?;
    let command =
        MemcachedCommand::Arithmetic { key, delta, down, initial: None, version: None, expiry: None, cas: None };
    Ok((Command::Memcached(command), Form { shape: Shape::Number, quiet: noreply(words) }))
}

fn touch<'a>(words: Args<'a>) -> Result<(Command<'a>, Form<'a>), &'static str> {
    if !matches!(words.len(), 3 | 4) {
        return Err(ERROR);
    }
    let command = MemcachedCommand::Touch { key: key_word(words, 1)?, expiry: expiry_word(words, 2)? };
    let form = Form { shape: Shape::Words("TOUCHED", "NOT_FOUND"), quiet: noreply(words) };
    Ok((Command::Memcached(command), form))
}

/// Commands about the server and the connection.
fn manage<'a>(verb: Verb, words: Args<'a>, limits: &Limits) -> Result<(Command<'a>, Form<'a>), &'static str> {
    let done = |command, line| Ok((command, Form { shape: Shape::Words(line, ERROR), quiet: noreply(words) }));
    // Those that only ask are answered always: memccapable waits for the answer to `version noreply`.
    let told = |line| Ok((Command::Ping(None), Form { shape: Shape::Words(line, ERROR), quiet: false }));
    match verb {
        Verb::MetaNoop => told("MN"),
        Verb::Version => told(MEMCACHED_VERSION),
        Verb::Verbosity if matches!(words.len(), 2 | 3) => {
            words.get(1).filter(|word| *word == b"noreply" || unsigned(word).is_some()).ok_or(BAD_FORMAT)?;
            done(Command::Ping(None), "OK")
        }
        Verb::Flush => {
            let when = words.get(1).filter(|word| *word != b"noreply").map_or(Some(Expiry::Never), expiry);
            done(Command::FlushAt(when.ok_or(BAD_EXPTIME)?), "OK")
        }
        Verb::Stats if words.get(1) == Some(b"reset") => done(Command::Stats(Some(b"reset")), "RESET"),
        Verb::Stats => Ok((Command::Stats(words.get(1)), Form { shape: Shape::Table, quiet: false })),
        Verb::Quit => Ok((Command::Quit, Form { shape: Shape::Nothing, quiet: true })),
        Verb::Shutdown if limits.shutdown => Ok((Command::Shutdown, Form { shape: Shape::Nothing, quiet: true })),
        Verb::Shutdown => Err("ERROR: shutdown not enabled"),
        Verb::DebugPanic if limits.debug_time => done(Command::Panic(words.get(1) == Some(b"accept")), "OK"),
        Verb::DebugTime if limits.debug_time => {
            let seconds = words.get(1).and_then(unsigned).ok_or(BAD_FORMAT)?;
            done(Command::Advance(seconds.saturating_mul(1000)), "OK")
        }
        _ => Err(ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::BAD_TOKEN;
    use super::super::frame::Reader;
    use super::super::reply::{encode, refuse};
    use super::*;
    use crate::output::Output;
    use crate::protocol::Next;
    use crate::vocabulary::Reply;

    /// The line that refuses a request, or nothing.
    fn run(input: &[u8]) -> String {
        let (mut reader, mut spans, limits) = (Reader::default(), Vec::new(), Limits::default());
        let Next::Request(_) = reader.next(input, &mut spans, &limits) else { panic!("{input:?} is whole") };
        let (mut out, mut buffer) = (Output::default(), [0; MAX_KEY]);
        match reader.call().read(Args::new(input, &spans), &mut buffer, &limits) {
            Some(Err(line)) => refuse(line, &mut out),
            Some(Ok((_, form))) => encode(&form, &Reply::Null, &[], &mut out),
            None => {}
        }
        String::from_utf8(out.take_bytes()).unwrap()
    }

    #[test]
    fn errors_are_spelled_as_memcached_spells_them() {
        let long = "k".repeat(MAX_KEY + 1);
        for (input, wanted) in [
            ("get\r\n", ERROR),
            ("bogus\r\n", ERROR),
            ("get k\r\n", "END"),
            ("set k 0 0\r\n", ERROR),
            ("set k b 0 1\r\n", BAD_FORMAT),
            ("set k 0 0 1\r\nabc\r\n", BAD_CHUNK),
            ("touch k x\r\n", BAD_EXPTIME),
            ("gat x k\r\n", BAD_EXPTIME),
            ("incr k x\r\n", "CLIENT_ERROR invalid numeric delta argument"),
            ("delete k 1\r\n", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"),
            ("mg k z\r\n", "CLIENT_ERROR invalid flag"),
            ("mg k v v\r\n", "CLIENT_ERROR duplicate flag"),
            ("mg k Tx\r\n", BAD_TOKEN),
            ("mg Zm9 b\r\n", "CLIENT_ERROR error decoding key"),
            ("mg k k Oabc\r\n", "EN kk Oabc"),
            ("md k Oabc q\r\n", "NF Oabc"),
            ("mg k N30 R30 u v\r\n", "EN"),
            ("mg k N30 E5 c\r\n", "CLIENT_ERROR invalid flag"),
            ("mg k Nx\r\n", BAD_TOKEN),
            ("mg k R\r\n", BAD_TOKEN),
            ("mg k I\r\n", "CLIENT_ERROR invalid flag"),
            ("md k I x T5 E7 C9\r\n", "NF"),
            ("md k N5\r\n", "CLIENT_ERROR invalid or duplicate flag"),
            ("ms k 1 x\r\nx\r\n", "CLIENT_ERROR invalid flag"),
            ("ms k 1 S1\r\nx\r\n", "CLIENT_ERROR invalid flag"),
            ("ms k 1 Ex\r\nx\r\n", BAD_TOKEN),
            ("ms k 1 I C5 q\r\nx\r\n", "NS"),
            ("me Zg== b\r\n", "EN"),
            ("me k v\r\n", BAD_FORMAT),
            ("ms k 1 MX\r\nx\r\n", "CLIENT_ERROR invalid mode for ms M token"),
            ("shutdown\r\n", "ERROR: shutdown not enabled"),
            ("debugtime 5\r\n", ERROR),
            ("debugpanic io\r\n", ERROR),
            (&format!("get {long}\r\n"), BAD_FORMAT),
        ] {
            assert_eq!(run(input.as_bytes()), format!("{wanted}\r\n"), "{input:?}");
        }
        for silent in
            ["delete k noreply\r\n", "touch k 0 noreply\r\n", "incr k 1 noreply\r\n", "mg k q\r\n", "quit\r\n"]
        {
            assert_eq!(run(silent.as_bytes()), "", "{silent:?}");
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for number in [
            "-2",
            "-1",
            "2147483646",
            "4294967296",
            "9223372036854775807",
            "18446744073709551616",
            "1e3",
            "1111111111111111111111111111111111111111",
            "0x1",
        ] {
            for input in [format!("set k 0 0 {number}\r\n"), format!("ms k {number}\r\n")] {
                assert_eq!(run(input.as_bytes()), format!("{BAD_FORMAT}\r\n"), "{input:?}");
            }
        }
    }
}
