//! The short way to GET, SET and MGET: the same steps of the store (`commands/strings.rs`, `commands/read.rs`), whose replies
//! are written at once. It is for clients that may do everything and have set nothing, where no worker loads.

use super::frame::{Frame, Name, Plain};
use super::run::{Run, Scratch};
use crate::commands::context::Context;
use crate::commands::read::each_value;
use crate::commands::strings::write;
use crate::output::Output;
use crate::protocol::resp;
use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::state::users::Access;
use crate::state::waits::Waits;
use crate::store::{Entry, Key, Step, Value};
use crate::table::Fast;
use crate::vocabulary::{Replies, Reply, check_keys};

/// Whether requests of this client may go this way, if it waits for nothing.
#[inline]
pub(super) fn is_open(client: &Client, engine: &Engine) -> bool {
    matches!(client.access, Access::All(_))
        && client.transaction.queue.is_none()
        && client.transaction.watched.is_empty()
        && client.tracking.is_none()
        && client.replies == Replies::All
        && !client.worker
        && !client.only_listens()
        && !engine.loaders.any()
}

impl Run<'_> {
    /// Runs plain requests one after the other in one step, until too many replies wait. How many were run.
    #[inline]
    pub(super) fn run_plain(&mut self, client: &Client, input: &[u8], frames: &[Frame], out: &mut Output) -> usize {
        let (db, resp3, limits, now) = (client.db, client.resp == 3, &self.engine.limits, self.now);
        let (store, at, spans) =
            (&self.engine.store, Step { now: now.mono, actor: client.connection.id }, &self.scratch.spans);
        let (mut done, mut errors) = (0, 0);
        let mut step = |entry: &mut Entry<'_>| {
            let frame = &frames[done];
            match frame.plain {
                Some(Plain::Set(expiry)) => {
                    let value = frame.args(input, spans).get(2).unwrap_or_default();
                    match write(entry, now, value, expiry, limits.max_value) {
                        Ok(()) => out.bytes().extend_from_slice(b"+OK\r\n"),
                        Err(error) => {
                            errors += 1;
                            resp::encode(&Reply::Error(error), resp3, &[], out);
                        }
                    }
                }
                _ => encode_found(entry.get().map(|item| item.value), resp3, out),
            }
            done += 1;
            out.len() <= limits.pause_output
        };
        let keys = frames.iter().map(|frame| Key { db, bytes: frame.args(input, spans).get(1).unwrap_or_default() });
        if let [_] = frames {
            keys.for_each(|key| _ = store.with(key, at, &mut step));
        } else {
            store.each(keys, at, step);
        }
        self.commands += done as u64;
        self.errors += errors;
        done
    }

    /// Runs a read of several keys, their values going from the store to the output at once; whether it is one, and well
    /// formed.
    #[inline]
    pub(super) fn run_many(&mut self, client: &Client, input: &[u8], frame: &Frame, out: &mut Output) -> bool {
        if !matches!(frame.name, Name::Redis(Some(row)) if row.fast == Some(Fast::GetMany)) {
            return false;
        }
        let Scratch { values, spans, .. } = &mut *self.scratch;
        let (resp3, keys) = (client.resp == 3, frame.args(input, spans).from(1));
        if keys.is_empty() || check_keys(keys.iter()).is_err() {
            return false;
        }
        let begun = out.mark();
        resp::header(b'*', keys.len() as i64, out.bytes());
        let mut waits = Waits::default();
        let mut cx = Context::new(self.engine, self.now, client.connection.id, values, &mut waits);
        let read = each_value(&mut cx, client.db, keys, |_, item, _| {
            encode_found(item.map(|item| item.value), resp3, out);
            out.bytes_since(&begun)
        });
        if let Err(error) = read {
            out.rewind(begun);
            resp::encode(&Reply::Error(error), resp3, &[], out);
            self.errors += 1;
        }
        self.commands += 1;
        true
    }
}

/// Answers with what was found under a key.
#[inline(always)]
fn encode_found(value: Option<Value<'_>>, resp3: bool, out: &mut Output) {
    match value {
        None => out.bytes().extend_from_slice(resp::null(resp3)),
        Some(Value::Inline(value)) => resp::bulk(value, out.bytes()),
        Some(Value::Shared(value)) => resp::bulk_shared(value, out),
    }
}
