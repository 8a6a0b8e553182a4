//! Commands on connections, channels, scripts, users and the configuration.

use super::args::Args;

/// Which replies a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replies {
    /// All.
    #[default]
    All,
    /// None.
    None,
    /// None to the command that comes next.
    SkipNext,
    /// None to the command that is being run.
    Skip,
}

/// Which connections are meant.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    pub(crate) id: Option<u64>,
    pub(crate) address: Option<&'a [u8]>,
    pub(crate) user: Option<&'a [u8]>,
    pub(crate) subscribers: Option<bool>,
    pub(crate) nobody: bool,
    pub(crate) older: Option<u64>,
    pub(crate) skip_me: bool,
}

/// CLIENT with its subcommand.
#[derive(Clone, Copy, Debug)]
pub enum ClientCommand<'a> {
    /// The number of the connection.
    Id,
    /// The name of the connection.
    GetName,
    /// Names the connection.
    SetName(&'a [u8]),
    /// Tells which client library is at the other end: its version instead of its name.
    SetInfo(bool, &'a [u8]),
    /// What is known of the connection.
    Info,
    /// What is known of all.
    List(Filter<'a>),
    /// What is known of those with these numbers.
    ListIds(Args<'a>),
    /// Closes connections; tells how many, or OK in the old form.
    Kill(Filter<'a>, bool),
    /// Which replies it wants.
    Reply(Replies),
    /// Keeps copies of what it reads from now on.
    Track(Args<'a>),
    /// Keeps no copies any more; other options are read and have no effect.
    Untrack(Args<'a>),
    /// Whether the keys of the next command are kept; a word that is neither is found out late, as in Redis.
    Caching(Option<bool>),
    /// How it tracks.
    TrackingInfo,
    /// Who is told instead.
    Redirection,
}

impl ClientCommand<'_> {
    /// Whether it takes the locks of all shards, and so cannot run while a transaction holds them.
    pub fn takes_locks(&self) -> bool {
        matches!(self, ClientCommand::Track(_) | ClientCommand::Untrack(_))
    }
}

/// What is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A channel.
    Channel,
    /// All channels that match.
    Pattern,
}

/// A command on channels.
#[derive(Clone, Copy, Debug)]
pub enum PubSubCommand<'a> {
    /// Listens to these.
    Subscribe(Topic, Args<'a>),
    /// Listens to these no more; to none without names.
    Unsubscribe(Topic, Args<'a>),
    /// Tells those who listen; how many they are.
    Publish(&'a [u8], &'a [u8]),
    /// Channels that somebody listens to and that match.
    Channels(Option<&'a [u8]>),
    /// How many listen to each of these channels.
    CountChannels(Args<'a>),
    /// How many patterns are listened to.
    CountPatterns,
}

/// What a known script does with its first key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Removes it if it has the first argument as its value.
    Release,
    /// As above; makes it live for the second argument in milliseconds longer, or so long from now if the third is not 0.
    Extend,
    /// As above; makes it live for the second argument in milliseconds from now.
    Reacquire,
    /// Adds the first argument if there is a number.
    AddIfThere,
    /// Adds the first argument.
    Add,
    /// Adds the first argument; a number that is then 1 lives for the second in milliseconds.
    AddAndExpire,
    /// Adds the second argument; a number that is then equal to it lives for the first in seconds.
    AddAndLimit,
    /// Writes the first argument if it has the second as its value, with a time to live if there are two more.
    Exchange,
    /// Removes all keys that match it.
    Clear,
}

/// A command on scripts.
#[derive(Clone, Copy, Debug)]
pub enum ScriptCommand<'a> {
    /// Runs a known script.
    Run {
        /// What it does.
        script: Script,
        /// Its keys.
        keys: Args<'a>,
        /// Its other arguments.
        args: Args<'a>,
    },
    /// Removes all keys that match a pattern.
    Clear(&'a [u8]),
    /// The SHA-1 of a text that is known.
    Load(&'a [u8]),
    /// Which of the SHA-1 sums are known, 1 or 0 each.
    Exists(Args<'a>),
}

/// What is asked about users.
#[derive(Clone, Copy, Debug)]
pub enum AclCommand<'a> {
    /// Who the client is.
    WhoAmI,
    /// All users, a line each.
    List,
    /// Their names.
    Users,
    /// All categories, or the commands of one.
    Cat(Option<&'a [u8]>),
    /// What one may do.
    GetUser(&'a [u8]),
}

/// A command on the configuration.
#[derive(Clone, Copy, Debug)]
pub enum ConfigCommand<'a> {
    /// Settings whose names match one of these patterns.
    Get(Args<'a>),
    /// Changes settings: name, value, name, value ...
    Set(Args<'a>),
    /// What INFO counts begins again from 0.
    ResetStat,
}
