//! Making commands of arguments, as the rows of the table ask for it.

pub(super) mod acl;
pub(super) mod basic;
pub(super) mod cache;
pub(super) mod client;
pub(super) mod config;
pub(super) mod keyspace;
pub(super) mod pubsub;
pub(super) mod scripts;
pub(super) mod text;
pub(super) mod words;
