//! A row of the table: what is known of a command, whatever its arguments.

use crate::vocabulary::{Args, Command, Error, Kind};

/// What a command does, for permissions and for those who ask COMMAND.
pub mod flag {
    /// Reads keys and changes none.
    pub const READ: u16 = 1;
    /// May change keys.
    pub const WRITE: u16 = 2;
    /// Refused when memory is full and nothing may be evicted.
    pub const DENY_OOM: u16 = 4;
    /// Takes the same short time however much is cached.
    pub const FAST: u16 = 8;
    /// For operators.
    pub const ADMIN: u16 = 16;
    /// Allowed before authentication.
    pub const NO_AUTH: u16 = 32;
    /// About the connection.
    pub const CONNECTION: u16 = 64;
    /// Needs what is there, so a key that workers load is loaded first; without it, a command overwrites or removes.
    pub const LOAD: u16 = 128;
    /// What a loader worker may ask on its connection: nothing that could wait.
    pub const WORKER: u16 = 256;
    /// Is run at once within a transaction instead of being queued.
    pub const TRANSACTION: u16 = 512;
    /// May not be queued in a transaction: it would wait, or change what the connection is.
    pub const ALONE: u16 = 1024;
}

/// Words of a command with subcommands.
const MAX_WORDS: usize = 4096;

/// A row of the table.
pub struct Row {
    /// Name in capitals.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// What it does, of [`flag`].
    pub flags: u16,
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
}

impl Row {
    /// Whether so many arguments, the name among them, are what the command takes.
    pub fn takes(&self, count: usize) -> bool {
        if self.arity < 0 { count as i32 >= -self.arity } else { count as i32 == self.arity }
    }

    /// Whether a request of so many arguments has more words than one may have whose words are no keys: each costs more than
    /// its bytes, and no client has reason to ask for thousands at a time.
    #[inline]
    pub fn is_too_wordy(&self, count: usize) -> bool {
        count > MAX_WORDS && (self.has_subcommands() || self.name == "INFO")
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

    /// Whether a client of RESP2 may ask it while it listens to channels.
    pub fn is_for_listeners(&self) -> bool {
        self.name.ends_with("SUBSCRIBE") || matches!(self.name, "PING" | "QUIT" | "RESET")
    }

    /// Whether its first argument says what it does.
    pub fn has_subcommands(&self) -> bool {
        const THESE: [&str; 9] =
            ["ACL", "CLIENT", "COMMAND", "CONFIG", "FUNCTION", "MEMORY", "OBJECT", "PUBSUB", "SCRIPT"];
        THESE.contains(&self.name)
    }

    /// There is no such subcommand.
    pub fn unknown_subcommand(&self, sub: &[u8]) -> Error {
        let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]);
        Error::with(Kind::Malformed, format!("ERR unknown subcommand '{sub}'. Try {} HELP.", self.name))
    }

    /// A subcommand was asked with too few or too many arguments.
    pub fn wrong_subcommand_arity(&self, sub: &str) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR wrong number of arguments for '{name}|{sub}' command"))
    }

    pub(super) fn invalid_expiry(&self) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR invalid expire time in '{name}' command"))
    }
}

/// The keys that a command wants loaded before it runs.
pub fn needed<'a>(row: &Row, args: Args<'a>, command: &Command<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let marked = row.flags & flag::LOAD != 0;
    let more = if marked { None } else { command.depends_on() };
    row.keys(args).filter(move |_| marked).chain(more)
}
