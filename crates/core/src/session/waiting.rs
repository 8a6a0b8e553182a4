//! Requests that wait: in their place, beside others under a ticket, or for their next turn; and what becomes of them.

use std::collections::HashSet;
use std::sync::Arc;

use super::connection::Session;
use super::run::{Run, Scratch};
use super::ticket::{Kept, TOO_MANY_WAIT, Ticket};
use crate::clock::Now;
use crate::commands::context::Context;
use crate::commands::execute::execute_request;
use crate::commands::gate;
use crate::output::Output;
use crate::protocol::resp;
use crate::state::engine::Engine;
use crate::state::waits::{Waits, wait_parts};
use crate::store::{Granted, Key, Outcome};
use crate::table::{Request, Row, flag, lookup};
use crate::vocabulary::{Args, Error, Fetched, Kind, Replies, Reply, State};

impl Session {
    /// Gives a request its number under which it could wait, unless it has waited.
    #[inline]
    pub(super) fn number_waits(&mut self, waits: &mut Waits) {
        if waits.number == 0 {
            waits.number = self.number + 1;
        }
        self.number = self.number.max(waits.number);
    }

    /// Keeps a request that waits, or leaves it where it is; what is answered at once if what follows is run.
    #[cold]
    pub(super) fn park(
        &mut self,
        engine: &Engine,
        now: Now,
        (row, args): (Option<&'static Row>, Args<'_>),
        mut waits: Waits,
        out: &mut Output,
    ) -> Option<Reply> {
        if waits.progress.is_some() {
            self.send_pushes(&mut waits, out);
            self.under_way = Some(Ticket { waits, request: Kept::of(args), db: self.client.db });
            return None;
        }
        let once = std::mem::take(&mut self.client.later.ticket_once);
        // What a transaction waits for is waited for in its place: what follows may begin the next one.
        // A client that has chosen RESP2 since it asked for tickets can be told no outcome later.
        let later = (once || self.client.later.tickets) && self.client.resp == 3;
        if !later || self.client.transaction.queue.is_some() || waits.is_ready() {
            if self.client.replies == Replies::Skip {
                self.client.replies = Replies::SkipNext;
            }
            self.parked = Some(waits);
            return None;
        }
        let number = waits.number;
        if self.tickets.is_full() {
            waits.leave(engine, &self.client, now.mono);
            return Some(Reply::Error(TOO_MANY_WAIT));
        }
        waits.caching = self.client.tracking.as_ref().map(|options| options.caching);
        self.tickets.keep(waits, Kept::of(args), self.client.db);
        Some(ticket_reply(row, number))
    }

    /// Sends what a turn of a request pushes. Messages that come until the next turn stand behind it.
    fn send_pushes(&self, waits: &mut Waits, out: &mut Output) {
        let pushes = waits.progress.iter_mut().flat_map(|progress| progress.pushes.drain(..));
        pushes.for_each(|push| resp::encode(&push, self.client.resp == 3, &[], out));
    }

    /// Gives up all requests that wait beside others, since the client has chosen RESP2, in which nothing can tell their
    /// outcomes from replies.
    #[cold]
    pub(super) fn leave_tickets(&mut self, engine: &Engine, now: Now) {
        let connection = self.client.connection;
        for (db, key) in keys_of(self.tickets.drain()) {
            engine.store.with(Key { db, bytes: &key }, now.mono, |entry| entry.leave_all(connection));
        }
    }

    /// The client is gone, and waits for nothing any more. Where all clients are gone at once, each leaves before the first
    /// is closed: else its lease would be passed from one to the next, as if each had failed to load.
    pub fn leave_waits(&mut self, engine: &Engine, now: u64) {
        let connection = self.client.connection;
        let parked = self.parked.take().into_iter();
        for (db, key) in keys_of(parked.chain(self.tickets.drain())) {
            engine.store.with(Key { db, bytes: &key }, now, |entry| entry.left(connection));
        }
    }

    /// Takes another turn of a request that runs in turns; whether it is done.
    #[cold]
    pub(super) fn go_on(&mut self, run: &mut Run<'_>, ticket: Ticket, out: &mut Output) -> bool {
        let Ticket { mut waits, request, db } = ticket;
        let Kept::Resp(bytes, spans) = &request else { return true };
        let args = Args::new(bytes, spans);
        run.scratch.values.clear();
        let Some(row) = args.get(0).and_then(lookup) else { return true };
        let reply = self.execute_again(run, &mut waits, row, args);
        if matches!(reply, Reply::Parked) {
            self.send_pushes(&mut waits, out);
            self.under_way = Some(Ticket { waits, request, db });
            return false;
        }
        self.client.end_caching(Some(row));
        self.send_reply(run, &reply, out);
        true
    }

    fn execute_again(&mut self, run: &mut Run<'_>, waits: &mut Waits, row: &'static Row, args: Args<'_>) -> Reply {
        let mut cx = Context::new(run.engine, run.now, self.client.connection.id, &mut run.scratch.values, waits);
        match (row.read)(row, args.from(1)) {
            Ok(command) => execute_request(&mut cx, &mut self.client, &Request::new(row, args), &command),
            Err(error) => Reply::Error(error),
        }
    }

    /// Leases that came to a request which did not take them, because the user may not ask for the key any more, say, go
    /// on to somebody else.
    pub(super) fn give_back(&mut self, engine: &Engine, now: u64, waits: &Waits) {
        for known in &waits.keys {
            let key = Key { db: known.db, bytes: &known.key };
            if let Some(Outcome::Lease(Granted { token, .. })) = known.outcome
                && !self.client.holds.has(engine.store.hold(key, token))
            {
                engine.store.with(key, now, |entry| entry.give_up(token));
            }
        }
    }

    /// Leaves the queues that a ticket stands for; whether it stood for any.
    pub(super) fn cancel(&mut self, engine: &Engine, now: Now, ticket: u64) -> bool {
        let known = self.tickets.take(ticket);
        if let Some(ticket) = &known {
            ticket.waits.leave(engine, &self.client, now.mono);
        }
        known.is_some()
    }

    /// Takes the outcome of a wait.
    pub(super) fn take_outcome(
        &mut self,
        engine: &Engine,
        now: Now,
        scratch: &mut Scratch,
        (wait, outcome): (u64, Outcome),
        out: &mut Output,
    ) {
        let outcome = if self.peer_ended { decline(engine, now, outcome) } else { outcome };
        let (number, index) = wait_parts(wait);
        if let Some(waits) = self.parked.as_mut().filter(|waits| waits.number == number) {
            waits.tell(index, outcome);
            return;
        }
        if !self.tickets.has(number) {
            // Nobody here awaits it any more: a lease goes on to somebody who does.
            decline(engine, now, outcome);
        } else if self.tickets.tell(number, index, outcome)
            && let Some(ticket) = self.tickets.take(number)
        {
            self.run_again(engine, now, scratch, ticket, out);
        }
    }

    /// Runs a request that has waited beside others.
    fn run_again(&mut self, engine: &Engine, now: Now, scratch: &mut Scratch, ticket: Ticket, out: &mut Output) {
        // As in `feed`, which holds the fence already where it calls this: an old connection's request is not run after a
        // newer one was welcomed.
        let joined = self.client.joined.as_ref().filter(|_| !self.in_batch);
        let joined = joined.map(|joined| (Arc::clone(&joined.fence), joined.generation));
        let newest = joined.as_ref().map(|(fence, generation)| (fence.read(), *generation));
        if newest.as_ref().is_some_and(|(newest, generation)| generation < newest) {
            self.give_back(engine, engine.time(now).mono, &ticket.waits);
            return;
        }
        let mut run = Run::new(engine, now, scratch);
        let Ticket { mut waits, request, db } = ticket;
        // It has had its turns, and would not be asked for others.
        waits.in_turns = false;
        // Another database may have been selected since.
        let selected = std::mem::replace(&mut self.client.db, db);
        run.scratch.values.clear();
        match request {
            Kept::Json(line) => self.run_json(&mut run, &line, waits, out),
            Kept::Resp(bytes, spans) => {
                let args = Args::new(&bytes, &spans);
                let reply = match gate::admit(args.get(0).and_then(lookup), args, &self.client) {
                    Ok(row) => self.execute_again(&mut run, &mut waits, row, args),
                    Err(error) => Reply::Error(error),
                };
                if matches!(reply, Reply::Parked) {
                    self.tickets.keep(waits, Kept::Resp(bytes, spans), db);
                } else {
                    self.give_back(engine, run.now.mono, &waits);
                    run.errors += u64::from(matches!(reply, Reply::Error(_)));
                    let number = Reply::Int(waits.number as i64);
                    let push = Reply::Push(vec![Reply::bytes("outcome"), number, reply]);
                    resp::encode(&push, true, &run.scratch.values, out);
                }
            }
        }
        run.count();
        self.client.db = selected;
    }
}

/// The keys that requests wait for, each once: many may wait for one, and each look at a key goes through all its waiters.
fn keys_of(all: impl Iterator<Item = Waits>) -> HashSet<(u8, Arc<[u8]>)> {
    let mut keys = HashSet::new();
    for waits in all {
        keys.extend(waits.keys.iter().map(|known| (known.db, Arc::clone(&known.key))));
    }
    keys
}

/// Hands a lease on that came to a client which cannot fill it any more; to that client its wait has timed out.
fn decline(engine: &Engine, now: Now, outcome: Outcome) -> Outcome {
    let Outcome::Lease(Granted { db, key, token }) = outcome else { return outcome };
    engine.store.with(Key { db, bytes: &key }, engine.time(now).mono, |entry| entry.give_up(token));
    Outcome::Timeout
}

/// What a request answers at once that waits beside others.
fn ticket_reply(row: Option<&Row>, number: u64) -> Reply {
    if row.is_some_and(|row| row.has(flag::TICKET)) {
        return Reply::Fetched(Box::new(Fetched::nothing(State::Waiting, Some(number))));
    }
    Reply::Error(Error::with(Kind::Waiting, format!("WAITING {number}")))
}
