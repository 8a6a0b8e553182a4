//! What is sent to a client that it did not ask for just now: messages, invalidations, loads.

use std::sync::Arc;

use super::connection::{Flow, Session};
use super::run::Scratch;
use crate::clock::Now;
use crate::output::Output;
use crate::protocol::resp;
use crate::state::batch::{Batch, Options, Tracker};
use crate::state::engine::Engine;
use crate::state::mailbox::Event;
use crate::state::users::Access;
use crate::store::Key;
use crate::vocabulary::{Blob, Reply};

impl Session {
    /// Takes a message that was left for the connection; what is to be sent is appended to `out`.
    pub fn deliver(
        &mut self,
        engine: &Engine,
        now: Now,
        scratch: &mut Scratch,
        event: Event,
        out: &mut Output,
    ) -> Flow {
        let resp3 = self.client.resp == 3;
        match event {
            Event::Close => return Flow::Close,
            Event::Void(key) => self.push_void(key, out),
            Event::Keys(batch, tracker) => self.push_keys(&batch, &tracker, out),
            Event::RedirectBroken(target) => self.push_broken(target, out),
            Event::Push(reply) => resp::encode(&reply, resp3, &[], out),
            Event::Load(db, key, token) => self.push_loads(engine, &[(db, key, token)], out),
            Event::Outcome(wait, outcome) => self.take_outcome(engine, now, scratch, (wait, outcome), out),
        }
        Flow::Continue
    }

    /// Sends a client the invalidation of a key, or of everything.
    fn push_void(&self, key: Option<Arc<[u8]>>, out: &mut Output) {
        // It may be redirected here by a client that may read more.
        if key.as_ref().is_some_and(|key| !self.client.access.may_read(key)) {
            return;
        }
        self.push_invalidation(key.map(|key| vec![key]), out);
    }

    /// Sends a client the invalidations of a batch of keys that it may read.
    #[cold]
    fn push_keys(&self, batch: &Batch, tracker: &Tracker, out: &mut Output) {
        let access = &self.client.access;
        if self.client.resp == 3 && matches!(access, Access::All(_)) {
            let encode = || {
                let mut all = Output::default();
                self.push_invalidation(batch.keys_for(|_, _| true), &mut all);
                all.take_bytes()
            };
            if let Some(bytes) = batch.encoded(tracker, encode) {
                out.bytes().extend_from_slice(bytes);
                return;
            }
        }
        let keys = batch.keys_for(|key, actor| tracker.wants(key, actor) && access.may_read(key));
        if keys.as_ref().is_none_or(|keys| !keys.is_empty()) {
            self.push_invalidation(keys, out);
        }
    }

    /// A client of RESP2 gets invalidations only while it listens to channels.
    fn push_invalidation(&self, keys: Option<Vec<Arc<[u8]>>>, out: &mut Output) {
        let list = |keys: Vec<Arc<[u8]>>| keys.into_iter().map(|key| Reply::Value(Blob::Shared(key))).collect();
        let keys = keys.map_or(Reply::NoArray, |keys| Reply::Array(list(keys)));
        if self.client.resp == 3 {
            resp::encode(&Reply::Push(vec![Reply::bytes("invalidate"), keys]), true, &[], out);
        } else if self.client.only_listens() {
            let channel = Reply::bytes("__redis__:invalidate");
            resp::encode(&Reply::Push(vec![Reply::bytes("message"), channel, keys]), false, &[], out);
        }
    }

    /// The connection that the client had its invalidations sent to has closed.
    #[cold]
    fn push_broken(&mut self, target: u64, out: &mut Output) {
        let redirected =
            |options: &&mut Box<Options>| options.redirect.is_some_and(|connection| connection.id == target);
        let Some(options) = self.client.tracking.as_mut().filter(redirected) else { return };
        options.broken = true;
        if self.client.resp == 3 {
            let push = Reply::Push(vec![Reply::bytes("tracking-redir-broken"), Reply::Int(target as i64)]);
            resp::encode(&push, true, &[], out);
        }
    }

    /// Sends loads to a worker: those that come together in one push.
    pub fn push_loads(&mut self, engine: &Engine, loads: &[(u8, Arc<[u8]>, u64)], out: &mut Output) {
        let (store, connection) = (&engine.store, self.client.connection);
        let each = loads.iter().map(|(db, key, token)| {
            let hold = store.hold(Key { db: *db, bytes: key }, *token);
            self.client.holds.add(hold, |hold| store.stands(hold, connection));
            Reply::Array(vec![Reply::Value(Blob::Shared(key.clone())), Reply::Int(*token as i64)])
        });
        let push = Reply::Push(std::iter::once(Reply::bytes("load")).chain(each).collect());
        resp::encode(&push, true, &[], out);
    }
}
