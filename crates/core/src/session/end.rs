//! The end of a connection, or of its input: its leases pass on.

use super::connection::Session;
use crate::clock::Now;
use crate::commands::transaction;
use crate::state::client_sessions::TAKE_OVER;
use crate::state::engine::Engine;

impl Session {
    /// The connection is gone: its leases pass on, and it waits for nothing any more.
    pub fn close(&mut self, engine: &Engine, now: Now) {
        let now = engine.time(now);
        let connection = self.client.connection;
        if self.client.worker {
            // First: what it was loading must not be sent to it again.
            engine.loaders.leave(connection);
        }
        engine.stop_pushes(&mut self.client);
        transaction::unwatch(engine, now.mono, &mut self.client);
        self.client.transaction.queue = None;
        self.pass_leases(engine, now);
        // What it has done stays done; the rest of it must not run behind a newer connection of the client.
        self.under_way = None;
        self.leave_waits(engine, now.mono);
        engine.clients.leave(connection.id);
        if engine.tracking.is_target(connection.id) {
            engine.tracking.closed(connection.id, &engine.mail);
        }
        self.lines.long = None;
        if let Some(joined) = self.client.joined.take() {
            engine.client_sessions.leave(&joined, now.mono);
        }
        engine.loaders.pump(&engine.store, &engine.mail, now.mono);
    }

    /// The peer sends nothing any more, but may still read: its leases pass on, and it is granted none from now on.
    #[cold]
    pub fn end_input(&mut self, engine: &Engine, now: Now) {
        if !std::mem::replace(&mut self.peer_ended, true) {
            self.pass_leases(engine, engine.time(now));
        }
    }

    /// Gives up the leases of this connection, or leaves them to the others of its session for a moment; what is loaded
    /// under them may still be stored.
    fn pass_leases(&mut self, engine: &Engine, now: Now) {
        let (connection, holds) = (self.client.connection, self.client.holds.take());
        let Some(joined) = &self.client.joined else {
            holds.for_each(|hold| engine.store.lost(hold, connection, now.mono));
            return;
        };
        // First the session decides, under its lock: if its last connection ends at this moment in another thread, that one
        // passes these leases on, whether or not they have been shortened here.
        let ended = engine.client_sessions.end(joined, holds.collect(), now.mono);
        for hold in ended.unheld {
            engine.store.unheld(hold, connection, now.mono + TAKE_OVER, now.mono);
        }
        for (hold, holder) in ended.lost {
            engine.store.lost(hold, holder, now.mono);
        }
    }
}
