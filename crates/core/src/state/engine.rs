//! What all connections of a server share: the store, the limits, the counters, the facts and all else of this folder.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::client::Client;
use super::client_sessions::ClientSessions;
use super::clients::Clients;
use super::control::ServerControl;
use super::counters::Counters;
use super::events::EventRouter;
use super::facts::Facts;
use super::loaders::Loaders;
use super::mailbox::{Event, Mailboxes};
use super::pubsub::PubSub;
use super::tracking::Tracking;
use super::users::Users;
use crate::clock::Now;
use crate::limits::Limits;
use crate::store::{self, ConnectionId, Key, Outcome, Store};

/// Everything that sessions share.
pub struct Engine {
    /// The cache itself.
    pub store: Store,
    /// What one client may ask.
    pub limits: Limits,
    /// What happened.
    pub counters: Counters,
    /// Who this is.
    pub facts: Facts,
    /// What clients have set going.
    pub control: ServerControl,
    /// Messages for connections.
    pub mail: Arc<Mailboxes>,
    /// Who loads what.
    pub loaders: Arc<Loaders>,
    /// Who listens to which channels.
    pub pubsub: PubSub,
    /// The connections that there are.
    pub clients: Clients,
    /// Who keeps copies of what it read.
    pub tracking: Arc<Tracking>,
    /// What keeps old connections from being heard after new ones.
    pub client_sessions: ClientSessions,
    /// Who may do what.
    pub users: Users,
    /// What one client may ask before it said who it is.
    pub pre_auth_limits: Limits,
}

/// Leases that stand now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// All of them.
    pub standing: u64,
    /// Those whose holder was a connection that is gone.
    pub unowned: u64,
}

impl Engine {
    /// An engine with an empty store, for connections on so many threads.
    pub fn new(options: store::Options, limits: Limits, facts: Facts, threads: usize) -> Engine {
        let (mail, loaders) = (Arc::new(Mailboxes::new(threads, limits.max_reply)), Arc::new(Loaders::default()));
        let tracking = Arc::new(Tracking::default());
        let router =
            EventRouter { mail: Arc::clone(&mail), loaders: Arc::clone(&loaders), tracking: Arc::clone(&tracking) };
        Engine {
            store: Store::with_event_sink(options, Arc::new(router)),
            pre_auth_limits: limits.pre_auth(),
            users: Users::default(),
            limits,
            counters: Counters::default(),
            facts,
            control: ServerControl::default(),
            mail,
            loaders,
            client_sessions: ClientSessions::default(),
            pubsub: PubSub::default(),
            clients: Clients::default(),
            tracking,
        }
    }

    /// A client listens to nothing and keeps no copies any more.
    pub fn stop_pushes(&self, client: &mut Client) {
        if let Some(subscriptions) = client.subscriptions.take() {
            self.pubsub.leave_all(*subscriptions);
        }
        if client.tracking.take().is_some() {
            self.tracking.leave(client.connection, &self.store);
        }
    }

    /// Takes other users in place of those there are. Connections of users who are not what they were are closed. An
    /// error says what is wrong, and nothing changes.
    pub fn replace_users(&self, passwords: &[String], file: &str) -> Result<(), String> {
        let changed = self.users.replace(passwords, file)?;
        for shown in self.clients.list().iter().filter(|shown| changed.contains(&shown.user())) {
            self.mail.post(shown.connection, Event::Close);
        }
        Ok(())
    }

    /// Sends loads to workers that can take them: to be called when a batch of requests is done.
    #[inline]
    pub fn pump(&self, now: Now) {
        self.loaders.pump(&self.store, &self.mail, self.time(now).mono);
    }

    /// A message came for a connection that is gone: a lease in it passes on, and clients that had invalidations sent to
    /// it are told that they are not.
    pub fn undelivered(&self, connection: ConnectionId, event: Event, now: Now) {
        let (db, key, token) = match event {
            Event::Void(_) | Event::Keys(..) => return self.tracking.closed(connection.id, &self.mail),
            Event::Outcome(_, Outcome::Lease(granted)) => (granted.db, granted.key, granted.token),
            Event::Load(db, key, token) => (db, key, token),
            _ => return,
        };
        let key = Key { db, bytes: &key };
        self.store.with(key, self.time(now).mono, |entry| entry.give_up(token));
        self.loaders.done(self.store.hold(key, token));
    }

    /// A part of a step of upkeep, as [`Store::tick_part`]; whether the others have nothing to do.
    pub fn tick_part(&self, now: Now) -> bool {
        let more = self.pubsub.tick();
        self.store.tick_part(now.mono) && !more
    }

    /// A bounded step of upkeep, as [`Store::tick`].
    pub fn tick(&self, now: Now) {
        self.pubsub.tick();
        self.store.tick(now.mono);
    }

    /// Ends waits and leases whose time is over; whether there are any, so that it is to be called again soon.
    pub fn tick_leases(&self, now: Now) -> bool {
        let mono = self.time(now).mono;
        let any = self.store.tick_leases(mono);
        self.loaders.expire(mono);
        self.pump(now);
        any
    }

    /// The time that commands go by; what is due by then is done.
    #[inline]
    pub fn time(&self, now: Now) -> Now {
        let ahead = self.control.ahead.load(Relaxed);
        let now = Now { mono: now.mono + ahead, wall: now.wall + ahead };
        let flush = self.control.flush.load(Relaxed);
        if flush != 0 && now.mono >= flush >> 4 {
            self.flush_due(flush, now);
        }
        now
    }

    #[cold]
    fn flush_due(&self, flush: u64, now: Now) {
        // Whoever takes the wish away empties the database: a second flush would remove what was written since.
        if self.control.flush.compare_exchange(flush, 0, Relaxed, Relaxed).is_ok() {
            self.store.clear(Some((flush & 15) as u8), now.mono);
        }
    }

    /// Counts the leases that stand now. `each` visits who holds them: twice if there seem to be some whose connection is
    /// gone, since one that closes meanwhile hands its leases on first.
    pub fn count_leases(&self, each: impl Fn(&mut dyn FnMut(Option<u64>, usize))) -> LeaseCounts {
        let (mut standing, mut holders) = (0, HashSet::new());
        each(&mut |holder, count| {
            standing += count as u64;
            holders.extend(holder);
        });
        holders.retain(|id| self.clients.get(*id).is_none());
        let mut unowned = 0;
        if !holders.is_empty() {
            each(&mut |holder, count| {
                unowned += if holder.is_some_and(|id| holders.contains(&id)) { count as u64 } else { 0 }
            });
        }
        LeaseCounts { standing, unowned }
    }

    /// Bytes that connections make the server hold, and those that closed connections still do.
    pub fn client_bytes(&self) -> u64 {
        self.counters.client_bytes.load(Relaxed) + self.pubsub.left_bytes() as u64
    }

    /// The name of what is done when memory is full.
    pub fn policy(&self) -> &'static str {
        if self.store.options().evict { "allkeys-s3fifo" } else { "noeviction" }
    }

    /// The wall clock at the start.
    pub fn started_wall(&self, now: Now) -> u64 {
        now.wall.saturating_sub(now.mono.saturating_sub(self.facts.started))
    }
}
