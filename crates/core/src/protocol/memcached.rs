//! The memcached protocol: classic text and meta commands.
//!
//! A request is a line of words, and for some verbs a block of data whose length the line gives. It is read without
//! allocating: words and block are spans of the input, and reading goes on where it stopped. Whether a block follows
//! is decided as memcached 1.6.45 decides it: a line without a readable length has none, so what follows is read as
//! commands; a line with one that is wrong otherwise has its block skipped, because the client may have taken the block
//! from somebody else and it must never be run as commands. Replies are spelled as memcached 1.6.18 spells them.
//!
//! Flags of meta commands are those of the current protocol document. Of these memcached 1.6.18 lacks E (a number of
//! the client's choice for `c` and `C`), x of `md` and s of `ms`, which are read as later releases read them.
//!
//! Not offered: the binary protocol and UDP; `watch`, `lru`, `slabs` and `cache_memlimit`, which steer what is not here.
//! h and l are taken and not told: a read writes nothing here that would say when an item was last read. E of `mg` is
//! taken and does nothing: the number of a win is the token of a lease, which the client may not choose.
//!
//! A client that has to say who it is says so by a first `set`, which the session takes before it runs anything.

use crate::limits::Limits;
use crate::output::Output;
use crate::protocol::Next;
use crate::protocol::resp::is_http;
use crate::version::MEMCACHED_VERSION;
use crate::vocabulary::{
    Args, Blob, Command, Error, Expiry, Found, Kind, MemcachedCommand, Mode, NO_SUCH_ITEM, OTHER_VERSION, Reply, Span,
};

/// Longest key.
pub const MAX_KEY: usize = 250;
/// Longest line, but for those that name many keys: memcached closes beyond it as well.
const MAX_LINE: usize = 2048;
/// Longest line of keys: eight thousand of the longest, and no more short ones than can be held at a time.
const MAX_KEYS_LINE: usize = 2 << 20;
/// Most flags of a meta command, and the longest opaque flag with its letter.
const MAX_FLAGS: usize = 20;
const MAX_OPAQUE: usize = 33;
/// Times up to here are counted from now; beyond, they are Unix time.
const MAX_RELATIVE: i64 = 60 * 60 * 24 * 30;

const ERROR: &str = "ERROR";
const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk";
const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
pub(crate) const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
const OUT_OF_MEMORY: &str = "SERVER_ERROR out of memory storing object";
const LINE_TOO_LONG: Error = Error::new(Kind::Malformed, "ERR line too long");
const NO_TLS: Error = Error::new(Kind::Malformed, "ERR this port does not speak TLS");
const BINARY: Error = Error::new(Kind::Malformed, "ERR the binary protocol is not offered, use the text protocol");

/// What a request asks, by its first word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    #[default]
    /// None that is known.
    Unknown,
    /// get, and gets, which tells versions.
    Get(bool),
    /// gat, and gats, which tells versions.
    Gat(bool),
    /// set, add, replace, append, prepend.
    Set(Mode),
    /// cas.
    Cas,
    /// delete.
    Delete,
    /// incr, and decr, which counts down.
    Count(bool),
    /// touch.
    Touch,
    /// mg.
    MetaGet,
    /// ms.
    MetaSet,
    /// md.
    MetaDelete,
    /// ma.
    MetaCount,
    /// me.
    MetaInspect,
    /// mn.
    MetaNoop,
    /// flush_all.
    Flush,
    /// stats.
    Stats,
    /// version.
    Version,
    /// verbosity.
    Verbosity,
    /// debugpanic.
    DebugPanic,
    /// debugtime.
    DebugTime,
    /// shutdown.
    Shutdown,
    /// quit.
    Quit,
}

/// The verb that a word is.
#[inline]
pub fn verb(word: &[u8]) -> Verb {
    match word {
        b"get" => Verb::Get(false),
        b"set" => Verb::Set(Mode::Set),
        b"mg" => Verb::MetaGet,
        b"ms" => Verb::MetaSet,
        b"gets" => Verb::Get(true),
        b"gat" => Verb::Gat(false),
        b"gats" => Verb::Gat(true),
        b"add" => Verb::Set(Mode::Add),
        b"replace" => Verb::Set(Mode::Replace),
        b"append" => Verb::Set(Mode::Append),
        b"prepend" => Verb::Set(Mode::Prepend),
        b"cas" => Verb::Cas,
        b"delete" => Verb::Delete,
        b"incr" => Verb::Count(false),
        b"decr" => Verb::Count(true),
        b"touch" => Verb::Touch,
        b"md" => Verb::MetaDelete,
        b"ma" => Verb::MetaCount,
        b"me" => Verb::MetaInspect,
        b"mn" => Verb::MetaNoop,
        b"flush_all" => Verb::Flush,
        b"stats" => Verb::Stats,
        b"version" => Verb::Version,
        b"verbosity" => Verb::Verbosity,
        b"debugpanic" => Verb::DebugPanic,
        b"debugtime" => Verb::DebugTime,
        b"shutdown" => Verb::Shutdown,
        b"quit" => Verb::Quit,
        _ => Verb::Unknown,
    }
}

/// The block of data behind a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    /// There is none.
    #[default]
    None,
    /// It is the last span.
    Whole,
    /// It does not end where it should.
    Torn,
    /// It is longer than a value may be, and is skipped as it arrives.
    TooLarge,
    /// The line is wrong, and the block is skipped as it arrives.
    Refused,
    /// This is a part of one that is skipped.
    Skipped,
}

/// A request that was read: its verb and what became of its block; the words are spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    verb: Verb,
    block: Block,
}

/// Reads requests. Spans count from the beginning of the request they belong to.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes that were searched for the end of the line.
    searched: usize,
    /// Length of the line with its end, and of the block without, once the line was read.
    line: Option<(usize, usize)>,
    /// Bytes still to be skipped.
    skip: usize,
    /// The block is too long to be skipped.
    closes: bool,
    call: Call,
}

impl Reader {
    /// What the last request that was read is.
    pub fn call(&self) -> Call {
        self.call
    }

    /// Whether what comes next is skipped: a state that must not be lost by reading again.
    pub fn is_skipping(&self) -> bool {
        self.skip > 0 || self.closes
    }

    /// Reads the request at the beginning of `input`, which is what it was at the last call and whatever arrived
    /// since. Its words, and its block as the last, are appended to `spans`.
    #[inline]
    pub fn next(&mut self, input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Next {
        if self.is_skipping() {
            return self.skip(input);
        }
        let (line, length) = match self.line {
            Some(line) => line,
            None => match self.read_line(input, spans, limits) {
                Ok(line) => line,
                Err(next) => return next,
            },
        };
        let whole = line + length + 2;
        if input.len() < whole {
            self.line = Some((line, length));
            return Next::More(whole);
        }
        (self.searched, self.line) = (0, None);
        self.call.block = if &input[whole - 2..whole] == b"\r\n" {
            spans.push(Span { start: line as u32, end: (whole - 2) as u32 });
            Block::Whole
        } else {
            Block::Torn
        };
        Next::Request(whole)
    }

    #[cold]
    fn skip(&mut self, input: &[u8]) -> Next {
        if self.closes {
            return Next::Close;
        }
        let skipped = self.skip.min(input.len());
        self.skip -= skipped;
        self.call = Call { verb: Verb::Unknown, block: Block::Skipped };
        Next::Request(skipped)
    }

    /// Reads the line; what is to be read behind it, or the outcome if that is nothing.
    #[inline]
    fn read_line(&mut self, input: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<(usize, usize), Next> {
        match input.first() {
            Some(0x80) => return Err(Next::Broken(BINARY)),
            // What others may write into a hello of TLS must not be read as lines.
            Some(0x16) => return Err(Next::Broken(NO_TLS)),
            _ => {}
        }
        let Some(end) = memchr::memchr(b'\n', &input[self.searched..]).map(|end| self.searched + end) else {
            self.searched = input.len();
            return Err(unfinished(input, limits));
        };
        self.searched = 0;
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let first = spans.len();
        split(line, spans);
        let words = Args::new(input, &spans[first..]);
        self.call = Call { verb: words.get(0).map_or(Verb::Unknown, verb), block: Block::None };
        if self.call.verb == Verb::Unknown && is_http(line) {
            return Err(Next::Close);
        }
        if line.len() > self.call.verb.longest_line(limits) {
            return Err(Next::Broken(LINE_TOO_LONG));
        }
        match block_length(self.call.verb, words) {
            None => Err(Next::Request(end + 1)),
            Some((length, true)) if length <= limits.max_value => Ok((end + 1, length)),
            Some((length, good)) => {
                self.call.block = if good { Block::TooLarge } else { Block::Refused };
                self.skip = length + 2;
                self.closes = length > limits.max_value.max(limits.max_skipped);
                Err(Next::Request(end + 1))
            }
        }
    }
}

/// No end of the line is in sight.
fn unfinished(input: &[u8], limits: &Limits) -> Next {
    let word = input.split(|byte| *byte == b' ').find(|word| !word.is_empty()).unwrap_or_default();
    if input.len() > verb(word).longest_line(limits) {
        Next::Broken(LINE_TOO_LONG)
    } else {
        Next::More(input.len() + 1)
    }
}

/// Adds the words of a line, which blanks part.
#[inline]
fn split(line: &[u8], spans: &mut Vec<Span>) {
    let mut start = 0;
    for (at, byte) in line.iter().enumerate() {
        if *byte == b' ' {
            if start < at {
                spans.push(Span { start: start as u32, end: at as u32 });
            }
            start = at + 1;
        }
    }
    if start < line.len() {
        spans.push(Span { start: start as u32, end: line.len() as u32 });
    }
}

/// Length of the block that follows, if the line tells it; and whether the line is good otherwise.
#[inline]
fn block_length(verb: Verb, words: Args<'_>) -> Option<(usize, bool)> {
    let (at, counts) = match verb {
        Verb::Set(_) => (4, 5..=6),
        Verb::Cas => (4, 6..=7),
        Verb::MetaSet => (2, 3..=usize::MAX),
        _ => return None,
    };
    let length = unsigned(words.get(at)?).filter(|length| *length <= i32::MAX as u64 - 2)?;
    let good = counts.contains(&words.len())
        && words.get(1)?.len() <= MAX_KEY
        && (at == 2 || unsigned(words.get(2)?).is_some() && signed(words.get(3)?).is_some())
        && (verb != Verb::Cas || words.get(5).and_then(unsigned).is_some());
    Some((length as usize, good))
}

/// A number without a sign but a plus, as C reads it; all of the text.
#[inline]
fn unsigned(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    atoi::atoi::<u64>(digits)
}

fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) if digits.starts_with(b"+") => None,
        Some(digits) => unsigned(digits).and_then(|number| 0i64.checked_sub_unsigned(number)),
        None => unsigned(text).and_then(|number| i64::try_from(number).ok()),
    }
}

fn flags_number(text: &[u8]) -> Option<u32> {
    unsigned(text).and_then(|number| u32::try_from(number).ok())
}

/// A time: from now, or Unix time beyond thirty days; 0 is never, and what is negative has passed.
#[inline]
fn expiry(text: &[u8]) -> Option<Expiry> {
    Some(match signed(text)? {
        0 => Expiry::Never,
        ..0 => Expiry::In(0),
        seconds @ 1..=MAX_RELATIVE => Expiry::In(seconds as u64 * 1000),
        seconds => Expiry::At((seconds as u64).saturating_mul(1000)),
    })
}

fn expiry_word(words: Args<'_>, at: usize) -> Result<Expiry, &'static str> {
    words.get(at).and_then(expiry).ok_or(BAD_EXPTIME)
}

impl Verb {
    fn longest_line(self, limits: &Limits) -> usize {
        if matches!(self, Verb::Get(_) | Verb::Gat(_)) { MAX_KEYS_LINE.min(limits.max_request) } else { MAX_LINE }
    }
}

/// How a reply is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    shape: Shape<'a>,
    /// Only errors are answered (noreply), or nothing that was expected is (q).
    quiet: bool,
}

#[derive(Clone, Copy, Debug)]
enum Shape<'a> {
    /// Values under keys; whether versions are told.
    Values(Args<'a>, bool),
    /// A word for what was done, and one for what was not found or not stored.
    Words(&'static str, &'static str),
    /// The new number.
    Number,
    /// Names and values.
    Table,
    /// Nothing.
    Nothing,
    /// As the meta command asks: its verb, key and flags.
    Meta(Verb, &'a [u8], Args<'a>),
}

/// Room for a key that arrived as base64.
pub type KeyBuffer = [u8; MAX_KEY];

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
        let key = if flags().any(|flag| flag == b"b") { decode(word, buffer)? } else { word };
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

fn key_word<'a>(words: Args<'a>, at: usize) -> Result<&'a [u8], &'static str> {
    words.get(at).filter(|key| key.len() <= MAX_KEY).ok_or(BAD_FORMAT)
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

fn inspect<'a>(words: Args<'a>, buffer: &'a mut KeyBuffer) -> Result<(Command<'a>, Form<'a>), &'static str> {
    let word = key_word(words, 1)?;
    let key = match words.get(2) {
        None => word,
        Some(b"b") if words.len() == 3 => decode(word, buffer).ok_or("CLIENT_ERROR error decoding key")?,
        Some(_) => return Err(BAD_FORMAT),
    };
    let look = MemcachedCommand::MetaGet { key, expiry: None, value: false, used: false, vivify: None, recache: None };
    Ok((Command::Memcached(look), Form { shape: Shape::Meta(Verb::MetaInspect, word, words.from(2)), quiet: false }))
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
fn meta<'a>(
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
    let key = if flags.base64 { decode(word, buffer).ok_or("CLIENT_ERROR error decoding key")? } else { word };
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

/// Reads the base64 of RFC 4648, section 4, with its padding. Nothing stands for no bytes, which is no key.
fn decode<'a>(text: &[u8], buffer: &'a mut KeyBuffer) -> Option<&'a [u8]> {
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

/// Appends a line that says why a request was not run.
pub fn refuse(line: &str, out: &mut Output) {
    out.bytes().extend_from_slice(line.as_bytes());
    out.bytes().extend_from_slice(b"\r\n");
}

/// Appends the line of an error.
pub fn encode_error(error: &Error, out: &mut Output) {
    let text = error.text.strip_prefix("ERR ").unwrap_or(&error.text);
    let line = match error.kind {
        Kind::Unknown => ERROR,
        Kind::TooLarge => TOO_LARGE,
        Kind::OutOfMemory => OUT_OF_MEMORY,
        Kind::Malformed | Kind::Denied | Kind::Mismatch | Kind::NotFound => {
            return refuse(&format!("CLIENT_ERROR {text}"), out);
        }
        Kind::LoadFailed | Kind::Busy => {
            let text =
                text.strip_prefix("LOADFAILED ").map_or_else(|| text.to_owned(), |rest| format!("load failed {rest}"));
            return refuse(&format!("SERVER_ERROR {text}"), out);
        }
    };
    refuse(line, out);
}

/// Appends a reply. `scratch` is that of the context the reply was made in.
#[inline]
pub fn encode(form: &Form<'_>, reply: &Reply, scratch: &[u8], out: &mut Output) {
    match (form.shape, reply) {
        (Shape::Values(keys, versions), Reply::Item(found)) => {
            value(keys.get(0).unwrap_or_default(), found, versions, scratch, out);
            out.bytes().extend_from_slice(b"END\r\n");
        }
        (Shape::Values(..), Reply::Null) => out.bytes().extend_from_slice(b"END\r\n"),
        (Shape::Values(keys, versions), Reply::Array(replies)) => {
            for (key, reply) in keys.iter().zip(replies) {
                if let Reply::Item(found) = reply {
                    value(key, found, versions, scratch, out);
                }
            }
            out.bytes().extend_from_slice(b"END\r\n");
        }
        (Shape::Meta(verb, key, flags), _) => encode_meta(verb, key, flags, form.quiet, reply, scratch, out),
        _ => encode_line(form, reply, scratch, out),
    }
}

fn encode_line(form: &Form<'_>, reply: &Reply, scratch: &[u8], out: &mut Output) {
    let line = match (form.shape, reply) {
        (_, Reply::Error(error)) => match unmet(error) {
            Some((word, _)) => word,
            None if form.quiet && error.kind == Kind::Malformed => return,
            None => return encode_error(error, out),
        },
        (Shape::Table, Reply::Map(rows)) => return table(rows, scratch, out),
        (Shape::Nothing, _) => return,
        _ if form.quiet => return,
        (Shape::Number, Reply::Item(found)) => return data(&found.value, scratch, out),
        (Shape::Number, _) => "NOT_FOUND",
        (Shape::Words(_, not), Reply::Null) => not,
        (Shape::Words(done, _), _) => done,
        _ => ERROR,
    };
    if !form.quiet {
        refuse(line, out);
    }
}

/// The words for an item that is not what the client thought it was; no errors, and so subject to noreply.
fn unmet(error: &Error) -> Option<(&'static str, &'static str)> {
    if *error == OTHER_VERSION {
        return Some(("EXISTS", "EX"));
    }
    (*error == NO_SUCH_ITEM).then_some(("NOT_FOUND", "NF"))
}

fn table(rows: &[(Reply, Reply)], scratch: &[u8], out: &mut Output) {
    let text = |reply: &Reply, out: &mut Output| match reply {
        Reply::Word(word) => out.bytes().extend_from_slice(word.as_bytes()),
        Reply::Text(text) => out.bytes().extend_from_slice(text.as_bytes()),
        Reply::Int(number) => push_number(*number as u64, out.bytes()),
        Reply::Value(blob) => out.bytes().extend_from_slice(blob.bytes(scratch)),
        _ => {}
    };
    for (name, value) in rows {
        out.bytes().extend_from_slice(b"STAT ");
        text(name, out);
        out.bytes().push(b' ');
        text(value, out);
        out.bytes().extend_from_slice(b"\r\n");
    }
    out.bytes().extend_from_slice(b"END\r\n");
}

#[inline]
fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[inline]
fn value(key: &[u8], found: &Found, versions: bool, scratch: &[u8], out: &mut Output) {
    let bytes = out.bytes();
    bytes.reserve(key.len() + 64);
    bytes.extend_from_slice(b"VALUE ");
    bytes.extend_from_slice(key);
    bytes.push(b' ');
    push_number(found.flags.into(), bytes);
    bytes.push(b' ');
    push_number(found.size.into(), bytes);
    if versions {
        bytes.push(b' ');
        push_number(found.version, bytes);
    }
    bytes.extend_from_slice(b"\r\n");
    data(&found.value, scratch, out);
}

#[inline]
fn data(blob: &Blob, scratch: &[u8], out: &mut Output) {
    match blob {
        Blob::Shared(value) => out.push_shared(value.clone()),
        _ => out.bytes().extend_from_slice(blob.bytes(scratch)),
    }
    out.bytes().extend_from_slice(b"\r\n");
}

#[inline]
fn encode_meta(verb: Verb, key: &[u8], flags: Args<'_>, quiet: bool, reply: &Reply, scratch: &[u8], out: &mut Output) {
    let wants_value = matches!(verb, Verb::MetaGet | Verb::MetaCount) && flags.iter().any(|flag| flag[0] == b'v');
    match reply {
        // What everybody expects is what q keeps quiet about: no item when getting, done when changing.
        Reply::Item(_) | Reply::Int(_) if quiet && verb != Verb::MetaGet => {}
        Reply::Null if quiet && verb == Verb::MetaGet => {}
        Reply::Item(found) if verb == Verb::MetaInspect => describe(key, found, out.bytes()),
        Reply::Item(found) if wants_value => {
            out.bytes().extend_from_slice(b"VA ");
            push_number(found.size.into(), out.bytes());
            returned(verb, key, flags, Some(found), out.bytes());
            data(&found.value, scratch, out);
        }
        Reply::Item(found) => status("HD", verb, key, flags, Some(found), out.bytes()),
        Reply::Int(_) => status("HD", verb, key, flags, None, out.bytes()),
        Reply::Error(error) => match unmet(error) {
            Some((_, code)) => status(code, verb, key, flags, None, out.bytes()),
            None => encode_error(error, out),
        },
        _ => {
            let code = match verb {
                Verb::MetaGet | Verb::MetaInspect => "EN",
                Verb::MetaSet => "NS",
                _ => "NF",
            };
            status(code, verb, key, flags, None, out.bytes());
        }
    }
}

#[inline]
fn status(code: &str, verb: Verb, key: &[u8], flags: Args<'_>, found: Option<&Found>, out: &mut Vec<u8>) {
    out.extend_from_slice(code.as_bytes());
    returned(verb, key, flags, found, out);
}

/// What the flags ask to be told, in their order, and the end of the line.
#[inline]
fn returned(verb: Verb, key: &[u8], flags: Args<'_>, found: Option<&Found>, out: &mut Vec<u8>) {
    let counted = matches!(verb, Verb::MetaGet | Verb::MetaCount);
    for flag in flags.iter() {
        let number = match (flag[0], found) {
            (b'O', _) => {
                out.push(b' ');
                out.extend_from_slice(flag);
                continue;
            }
            (b'k', _) => {
                out.extend_from_slice(b" k");
                out.extend_from_slice(key);
                if flags.iter().any(|flag| flag[0] == b'b') {
                    out.extend_from_slice(b" b");
                }
                continue;
            }
            (b'c', Some(found)) if verb != Verb::MetaDelete => found.version,
            // memcached tells 0 for what was not stored.
            (b'c', None) if verb == Verb::MetaSet => 0,
            (b's', Some(found)) if verb == Verb::MetaSet => found.size.into(),
            (b't', Some(Found { ttl: None, .. })) if counted => {
                out.extend_from_slice(b" t-1");
                continue;
            }
            (b't', Some(Found { ttl: Some(ttl), .. })) if counted => (*ttl).into(),
            (b's', Some(found)) if verb == Verb::MetaGet => found.size.into(),
            (b'f', Some(found)) if verb == Verb::MetaGet => found.flags.into(),
            _ => continue,
        };
        out.extend_from_slice(&[b' ', flag[0]]);
        push_number(number, out);
    }
    if let (Verb::MetaGet, Some(Found { recache, .. })) = (verb, found) {
        for (is, mark) in [(recache.taken, b" Z"), (recache.stale, b" X"), (recache.won, b" W")] {
            if is {
                out.extend_from_slice(mark);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// All that is known of an item, in the manner of `me`.
fn describe(key: &[u8], found: &Found, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ME ");
    out.extend_from_slice(key);
    match found.ttl {
        None => out.extend_from_slice(b" exp=-1"),
        Some(ttl) => {
            out.extend_from_slice(b" exp=");
            push_number(ttl.into(), out);
        }
    }
    for (name, number) in [(" cas=", found.version), (" size=", found.size.into())] {
        out.extend_from_slice(name.as_bytes());
        push_number(number, out);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Recache;

    /// What was read: verb, block and words.
    type Seen = (Verb, Block, Vec<Vec<u8>>);

    /// Reads all requests of `input`, given in pieces that end at `cuts`. What is passed over is left out.
    fn read(input: &[u8], cuts: &[usize]) -> (Vec<Seen>, Option<Next>) {
        let limits = Limits { max_value: 1000, ..Limits::default() };
        let (mut seen, mut reader, mut spans, mut start) = (Vec::new(), Reader::default(), Vec::new(), 0);
        for &end in cuts {
            while start < end {
                match reader.next(&input[start..end], &mut spans, &limits) {
                    Next::Request(length) => {
                        let words = spans.drain(..);
                        let words =
                            words.map(|span| input[start..][span.start as usize..span.end as usize].to_vec()).collect();
                        let Call { verb, block } = reader.call();
                        if block != Block::Skipped {
                            seen.push((verb, block, words));
                        }
                        start += length;
                    }
                    Next::More(wanted) => {
                        assert!(wanted > end - start);
                        break;
                    }
                    ended => return (seen, Some(ended)),
                }
            }
        }
        (seen, None)
    }

    fn whole(input: &[u8]) -> (Vec<Seen>, Option<Next>) {
        read(input, &[input.len()])
    }

    #[test]
    fn requests_are_the_same_however_they_are_cut() {
        let input =
            b"get a bb\r\nset a 1 0 4\r\na\r\nb\r\n\r\nms k 2 T0 c\nhi\r\nset b 0 0 1\r\nabc\r\nset c 0 0 1001\r\n";
        let mut input = input.to_vec();
        input.extend_from_slice(&[b'x'; 1001]);
        input.extend_from_slice(b"\r\nmg k v\r\nquit\r\n");
        let (seen, end) = whole(&input);
        let blocks: Vec<_> = seen.iter().map(|(verb, block, _)| (*verb, *block)).collect();
        assert_eq!(
            blocks,
            [
                (Verb::Get(false), Block::None),
                (Verb::Set(Mode::Set), Block::Whole),
                (Verb::Unknown, Block::None),
                (Verb::MetaSet, Block::Whole),
                (Verb::Set(Mode::Set), Block::Torn),
                (Verb::Unknown, Block::None),
                (Verb::Set(Mode::Set), Block::TooLarge),
                (Verb::MetaGet, Block::None),
                (Verb::Quit, Block::None),
            ]
        );
        assert_eq!((&seen[1].2[5][..], end.clone()), (&b"a\r\nb"[..], None));
        let each: Vec<usize> = (1..=input.len()).collect();
        assert_eq!(read(&input, &each), (seen.clone(), end.clone()));
        for cut in 1..input.len() {
            assert_eq!(read(&input, &[cut, input.len()]), (seen.clone(), end.clone()), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_that_lie_have_no_block() {
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
                let (seen, end) = whole(input.as_bytes());
                assert!(seen.len() == 1 && seen[0].1 == Block::None && end.is_none(), "{input:?}");
                let refused = run(input.as_bytes());
                assert_eq!(refused, "CLIENT_ERROR bad command line format\r\n", "{input:?}");
            }
        }
        for number in ["2147483645", "1001", "+1001", "01001"] {
            assert_eq!(whole(format!("set k 0 0 {number}\r\n").as_bytes()).0[0].1, Block::TooLarge);
        }
    }

    #[test]
    fn lines_without_end_and_binary_break_the_stream() {
        for input in [&[b'x'; MAX_LINE + 1][..], b"\x80\x0a\x00", &[&b"set "[..], &[b'k'; MAX_LINE]].concat()] {
            assert!(matches!(whole(input), (seen, Some(Next::Broken(_))) if seen.is_empty()));
        }
        assert_eq!(whole(&[&b"get "[..], &b"key ".repeat(MAX_LINE)].concat()), (vec![], None));
    }

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
    fn marks_stand_behind_what_was_asked_for() {
        let marks = |stale, won, taken| {
            let recache = Recache { stale, won, taken };
            let found = Found { value: Blob::Scratch(0..0), version: 7, flags: 5, ttl: Some(9), size: 0, recache };
            let (input, mut spans, limits) = (b"mg k c f v t s\r\n", Vec::new(), Limits::default());
            let (mut reader, mut out, mut buffer) = (Reader::default(), Output::default(), [0; MAX_KEY]);
            reader.next(input, &mut spans, &limits);
            let (_, form) = reader.call().read(Args::new(input, &spans), &mut buffer, &limits).unwrap().unwrap();
            encode(&form, &Reply::Item(found), &[], &mut out);
            String::from_utf8(out.take_bytes()).unwrap()
        };
        for (told, wanted) in [
            (marks(false, false, false), ""),
            (marks(false, true, false), " W"),
            (marks(false, false, true), " Z"),
            (marks(true, true, false), " X W"),
            (marks(true, false, true), " Z X"),
        ] {
            assert_eq!(told, format!("VA 0 c7 f5 t9 s0{wanted}\r\n\r\n"));
        }
    }

    #[test]
    fn keys_in_base64_are_their_bytes() {
        for (text, bytes) in [("Zg==", &b"f"[..]), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("/wAB", b"\xff\0\x01")] {
            assert_eq!(decode(text.as_bytes(), &mut [0; MAX_KEY]), Some(bytes));
        }
        for text in ["", "Z", "Zg=", "Zg", "====", "Z===", "Zm9v!aaa"] {
            assert_eq!(decode(text.as_bytes(), &mut [0; MAX_KEY]).unwrap_or_default(), b"", "{text:?}");
        }
    }

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
