//! A row of the table: what is known of a command, whatever its arguments.

use crate::vocabulary::{Args, Command, Error, Kind, is};

/// What a command does, for permissions and for those who ask COMMAND.
pub mod flag {
    /// Reads keys and changes none.
    pub const READ: u32 = 1;
    /// May change keys.
    pub const WRITE: u32 = 2;
    /// Refused when memory is full and nothing may be evicted.
    pub const DENY_OOM: u32 = 4;
    /// Takes the same short time however much is cached.
    pub const FAST: u32 = 8;
    /// For operators.
    pub const ADMIN: u32 = 16;
    /// Allowed before authentication.
    pub const NO_AUTH: u32 = 32;
    /// About the connection.
    pub const CONNECTION: u32 = 64;
    /// Needs what is there, so a key that workers load is loaded first; without it, a command overwrites or removes.
    pub const LOAD: u32 = 128;
    /// What a loader worker may ask on its connection: nothing that could wait.
    pub const WORKER: u32 = 256;
    /// Is run at once within a transaction instead of being queued.
    pub const TRANSACTION: u32 = 512;
    /// May not be queued in a transaction: it would wait, or change what the connection is.
    pub const ALONE: u32 = 1024;
    /// Its words are no keys, and few of them are taken.
    pub const FEW_WORDS: u32 = 1 << 12;
    /// A client of RESP2 may ask it while it listens to channels.
    pub const LISTENER: u32 = 1 << 13;
    /// Belongs to loading, for the rights of users.
    pub const LOADER: u32 = 1 << 14;
    /// Looks by itself whether what it reads has to be loaded: a hit must not look twice.
    pub const LOOKS: u32 = 1 << 15;
    /// Ends a lease, also if the rest of it cannot be read.
    pub const FILL: u32 = 1 << 16;
    /// Touches keys that it does not name, or those of another database.
    pub const WIDE: u32 = 1 << 17;
    /// Changes nothing of what others see of the connection, although it is about that.
    pub const UNSEEN: u32 = 1 << 18;
    /// Ends a transaction, also if it is refused.
    pub const EXECUTES: u32 = 1 << 19;
    /// What CLIENT CACHING has said counts for what follows it.
    pub const KEEPS_CACHING: u32 = 1 << 20;
    /// Is told its ticket as a fetch is answered, and not by an error.
    pub const TICKET: u32 = 1 << 21;
    /// Invalidates tags: a transaction holds all of them from its beginning.
    pub const TAGS: u32 = 1 << 22;
    /// Every user may run it.
    pub const EVERYBODY: u32 = 1 << 23;
}

/// What a command uses besides the keys that stand at the places of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// Nothing.
    Keys,
    /// The value that was there, if it is asked for it.
    ValueBefore,
    /// Keys behind a word, in no fixed place.
    NamedKeys,
    /// Patterns of keys.
    Patterns,
    /// Patterns of keys that the client is to load.
    LoadedPatterns,
    /// All keys.
    AllKeys,
    /// A channel.
    Channel,
    /// Channels.
    Channels,
    /// Patterns of channels.
    ChannelPatterns,
}

/// What a write copies at most of values that are there: what a transaction may cost is bounded by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// A short value if it loads what is there, else nothing.
    Usual,
    /// A short value.
    Short,
    /// A short value, twice.
    TwoShort,
    /// A value, however long it is.
    Long,
}

/// A short way to a command, for requests without options of clients that have set nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fast {
    /// It returns the value of its key.
    Get,
    /// It writes the value of its key.
    Set,
    /// It returns the values of its keys.
    GetMany,
}

/// Words of a command that takes [few](flag::FEW_WORDS).
const MAX_WORDS: usize = 4096;

/// A row of the table.
pub struct Row {
    /// Name in capitals.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// What it does, of [`flag`].
    pub flags: u32,
    /// First key, last key (negative: counted from the end) and step; (0, 0, 0) where there is none.
    pub keys: (i32, i32, i32),
    /// The group it is documented in.
    pub group: &'static str,
    /// The Redis version that has it first, for COMMAND DOCS.
    pub since: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Makes a command of the arguments behind the name. The number of arguments fits the arity.
    pub read: for<'a> fn(&Row, Args<'a>) -> Result<Command<'a>, Error>,
    /// What it uses besides those keys.
    pub uses: Uses,
    /// What it copies, if it writes.
    pub copies: Copies,
    /// The short way to it.
    pub fast: Option<Fast>,
    /// Whoever may run one of these commands may run it, too.
    pub granted_by: &'static [&'static str],
    /// What its first argument may ask for, with the number of arguments, as `arity` with both names among them.
    pub subs: &'static [(&'static str, i32)],
}

/// Whether so many arguments are what an arity says.
fn fits(arity: i32, count: usize) -> bool {
    if arity < 0 { count as i32 >= -arity } else { count as i32 == arity }
}

impl Row {
    /// Whether it has one of these flags.
    #[inline]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Whether so many arguments, the name among them, are what the command takes.
    pub fn takes(&self, count: usize) -> bool {
        fits(self.arity, count)
    }

    /// Whether a request of so many arguments has more words than one may have whose words are no keys: each costs more than
    /// its bytes, and no client has reason to ask for thousands at a time.
    #[inline]
    pub fn is_too_wordy(&self, count: usize) -> bool {
        count > MAX_WORDS && (self.has(flag::FEW_WORDS) || !self.subs.is_empty())
    }

    /// The keys among `args`, of which the name is the first.
    #[inline]
    pub fn keys<'a>(&self, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { args.len() as i32 + last } else { last };
        let end = if first == 0 { 0 } else { (last + 1).max(first) };
        let (mut at, end) = (first as usize, (end as usize).min(args.len()));
        let step = step.max(1) as usize;
        std::iter::from_fn(move || {
            let key = if at < end { args.get(at) } else { None };
            at += step;
            key
        })
    }

    /// The command was asked with too few or too many arguments.
    pub fn wrong_arity(&self) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// The subcommand that is asked for by the arguments behind the name.
    pub(super) fn sub(&self, args: Args<'_>) -> Result<&'static str, Error> {
        let asked = args.get(0).unwrap_or_default();
        let (name, arity) =
            self.subs.iter().find(|(name, _)| is(asked, name)).ok_or_else(|| self.unknown_subcommand(asked))?;
        if fits(*arity, args.len() + 1) { Ok(name) } else { Err(self.wrong_subcommand_arity(name)) }
    }

    /// There is no such subcommand.
    fn unknown_subcommand(&self, sub: &[u8]) -> Error {
        let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]);
        Error::with(Kind::Malformed, format!("ERR unknown subcommand '{sub}'. Try {} HELP.", self.name))
    }

    /// A subcommand was asked with too few or too many arguments.
    pub(super) fn wrong_subcommand_arity(&self, sub: &str) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR wrong number of arguments for '{name}|{sub}' command"))
    }

    pub(super) fn invalid_expiry(&self) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR invalid expire time in '{name}' command"))
    }
}
