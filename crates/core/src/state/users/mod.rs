//! Users: who may ask for what, in the words of Redis's ACL files.
//!
//! ```text
//! user app on #9f86d081884c7d65... ~shop:* &news.* +@read +@write -flushall
//! ```
//! `on` and `off`; `#` and the SHA-256 of a password, `>` and a password, or `nopass`; `~` and a pattern of keys, `%R~`
//! and `%W~` for those that may only be read or written, `allkeys`; `&` and a pattern of channels, `allchannels`; `+` and
//! `-` with a command, a subcommand (`client|id`) or `@` and a category, `allcommands`, `nocommands`; rules in brackets
//! are further rights, each on its own. Rules are read from left to right. Nothing is allowed at first.
//!
//! A set of users never changes; a new one takes its place. Passwords are kept as their hashes only.
//!
//! `rules.rs` has what rules allow, `user.rs` one user, `registry.rs` all of them and their file, `access.rs` what a connection
//! may do.

mod access;
mod registry;
mod rules;
mod user;

#[cfg(test)]
mod tests;

pub use access::Access;
pub use registry::{DEFAULT, Users};
pub use rules::{Need, Rights};
pub use user::User;
