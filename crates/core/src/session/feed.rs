//! Bytes in, bytes out: what protocol they are, and whether they may still be run.

use std::sync::Arc;

use super::connection::{Flow, Session};
use super::run::{Run, Scratch};
use crate::clock::Now;
use crate::output::Output;
use crate::protocol::resp;
use crate::protocol::sniff::{Protocol, Verdict, sniff};
use crate::state::engine::Engine;
use crate::state::users::Access;
use crate::store::Key;
use crate::table::lookup;

impl Session {
    /// The first key of what arrived, if it begins with a plain request: for those who fetch the memory of several
    /// connections' keys before they [`feed`](Session::feed) the first.
    pub fn first_key<'i>(&self, engine: &Engine, scratch: &mut Scratch, input: &'i [u8]) -> Option<Key<'i>> {
        if self.protocol != Some(Protocol::Resp) || self.wanted > 0 || self.is_parked() {
            return None;
        }
        scratch.spans.clear();
        resp::whole(input, &mut scratch.spans, &engine.limits)?;
        let word = |at: usize| scratch.spans.get(at).map(|span| &input[span.start as usize..span.end as usize]);
        let row = word(0).and_then(lookup)?;
        let bytes = word(usize::try_from(row.keys.0).ok().filter(|first| *first > 0)?)?;
        Some(Key { db: self.client.db, bytes })
    }

    /// Runs the requests in `input`: what the last call left over and what arrived since. Returns how many bytes were
    /// taken, and what is to become of the connection.
    pub fn feed(
        &mut self,
        engine: &Engine,
        now: Now,
        scratch: &mut Scratch,
        input: &[u8],
        out: &mut Output,
    ) -> (usize, Flow) {
        if input.len() < self.wanted {
            return (0, Flow::Continue);
        }
        if self.is_parked() && !self.is_ready() {
            return (0, Flow::Park);
        }
        // Held while this batch runs, so that nothing of it is run after a newer connection of the client was welcomed.
        let joined = self.client.joined.as_ref().map(|joined| (Arc::clone(&joined.fence), joined.generation));
        let newest = joined.as_ref().map(|(fence, generation)| (fence.read(), *generation));
        if newest.as_ref().is_some_and(|(newest, generation)| generation < newest) {
            return (input.len(), Flow::Close);
        }
        self.wanted = 0;
        let protocol = match self.protocol.map_or_else(|| sniff(input, |word| lookup(word).is_some()), Verdict::Is) {
            Verdict::Is(protocol) => protocol,
            Verdict::Unknown => return (0, Flow::Continue),
            Verdict::Refused(line) => {
                out.bytes().extend_from_slice(line);
                return (input.len(), Flow::Close);
            }
        };
        self.appear(engine, now);
        self.protocol = Some(protocol);
        let mut run = Run::new(engine, now, scratch);
        self.in_batch = true;
        let end = match protocol {
            Protocol::Resp => self.feed_words(&mut run, input, out, false),
            Protocol::Memcached => self.feed_words(&mut run, input, out, true),
            Protocol::Json => self.feed_json(&mut run, input, out),
        };
        self.in_batch = false;
        run.finish();
        end
    }

    /// Others see from now on that the client is there and active.
    #[inline(always)]
    fn appear(&mut self, engine: &Engine, now: Now) {
        if self.client.shown.is_none() {
            self.client.shown =
                Some(engine.clients.join(self.client.connection, self.client.info(), &self.address, now));
        }
        // After it is shown, so that whoever changes users at this moment finds it.
        if matches!(self.client.access, Access::Unknown) {
            self.client.access = engine.users.initial_access();
        }
        if let Some(shown) = &self.client.shown {
            shown.touch(now);
        }
    }
}
