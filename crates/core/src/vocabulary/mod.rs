//! The vocabulary: what can be asked ([`Command`]) and what is answered ([`Reply`], [`Error`]).
//!
//! Every protocol decodes to these commands and encodes these replies. Nothing here knows anything else of the crate.

mod args;
mod cache;
mod command;
mod error;
mod memcached;
mod options;
mod reply;
mod server;
mod words;

pub use args::{Args, Span};
pub use cache::{CacheCommand, EntryOptions, SetCondition};
pub use command::{After, Command, KeyCommand, Rename, TextCommand};
pub use error::{Error, Kind, NO_SUCH_ITEM, NOT_AN_INTEGER, OTHER_VERSION, PATTERN_TOO_LONG, SYNTAX, too_long};
pub use memcached::{MemcachedCommand, Mode};
pub use options::{Condition, ExpireWhen, Expiry};
pub use reply::{Blob, Fetched, Found, Piece, Recache, Reply, State, Values};
pub use server::{
    AclCommand, ClientCommand, ConfigCommand, Filter, PubSubCommand, Replies, Script, ScriptCommand, Topic,
};
pub use words::{MAX_KEY, check_keys, integer, is};
