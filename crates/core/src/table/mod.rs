//! ONE table of commands, and how their arguments are read.
//!
//! A row of the table gives a command its name, arity, flags, key positions and documentation, and the function that makes a
//! [`Command`](crate::vocabulary::Command) of its arguments; the gate, COMMAND, users, the reference page and metrics read the
//! same rows. What a command does stands elsewhere, so that users, whose rights are sets of rows, need not know it.

mod page;
mod read;
pub mod redis;
mod request;
mod row;
mod rows;
mod unknown;

pub use page::page;
pub(crate) use read::cache::fill_of;
pub(crate) use read::scripts::{NO_LUA, known, sum};
pub use request::Request;
pub use row::{Copies, Fast, Row, Uses, flag};
pub(crate) use rows::read_late_expiry;
pub use rows::{TABLE, lookup};
pub(crate) use unknown::unknown;
