//! What the server knows of one client, and what that has set.

use std::sync::Arc;

use super::batch::Options;
use super::client_sessions::ClientSession;
use super::clients::{ClientAttributes, ClientInfo, Names};
use super::pubsub::Subscriptions;
use super::queue::Transaction;
use super::users::{Access, DEFAULT, Users};
use crate::store::{ConnectionId, Holds};
use crate::table::{Row, flag};
use crate::vocabulary::Replies;

/// What the server knows of the client at the other end.
#[derive(Clone, Debug)]
pub struct Client {
    /// Selected database.
    pub db: u8,
    /// Version of RESP: 2 or 3.
    pub resp: u8,
    /// What it calls itself.
    pub names: Names,
    /// It said that it is leaving.
    pub quitting: bool,
    /// Its connection, whose number is never used twice: where its messages go.
    pub connection: ConnectionId,
    /// Which of its commands may be answered later than those behind them.
    pub later: Later,
    /// It is a loader worker, and asks for nothing that could wait.
    pub worker: bool,
    /// Leases that it was granted.
    pub holds: Holds,
    /// Its place behind the fence of its session.
    pub joined: Option<ClientSession>,
    /// The transaction that it has begun, and what the next one depends on.
    pub transaction: Transaction,
    /// Which replies it wants.
    pub replies: Replies,
    /// What it listens to.
    pub subscriptions: Option<Box<Subscriptions>>,
    /// How it wants to be told of changes of what it read.
    pub tracking: Option<Box<Options>>,
    /// What it may do.
    pub access: Access,
    /// What others see of it.
    pub shown: Option<Arc<ClientInfo>>,
}

/// Which commands may be answered later than those behind them.
#[derive(Clone, Debug, Default)]
pub struct Later {
    /// Commands that would wait answer with a ticket, and the outcome is pushed.
    pub tickets: bool,
    /// As `tickets`, for the command that is run.
    pub ticket_once: bool,
    /// Answers may come in another order than requests: they carry numbers.
    pub unordered: bool,
}

impl Client {
    /// A client of whom nothing is known yet.
    pub fn new(connection: ConnectionId) -> Client {
        Client {
            db: 0,
            resp: 2,
            names: Names::default(),
            quitting: false,
            connection,
            later: Later::default(),
            worker: false,
            holds: Holds::default(),
            joined: None,
            transaction: Transaction::default(),
            replies: Replies::All,
            subscriptions: None,
            tracking: None,
            access: Access::Unknown,
            shown: None,
        }
    }

    /// Lets others see what it is now.
    pub fn show(&self) {
        if let Some(shown) = &self.shown {
            shown.update(self.info());
        }
    }

    /// What others see of it now.
    pub fn info(&self) -> ClientAttributes {
        let (channels, patterns) = self.subscriptions.as_ref().map_or((0, 0), |known| known.counts());
        let redirect =
            self.tracking.as_ref().map(|options| options.redirect.map_or(0, |connection| connection.id as i64));
        ClientAttributes {
            names: self.names.clone(),
            db: self.db,
            resp: self.resp,
            channels,
            patterns,
            queued: self.transaction.queue.as_ref().map_or(-1, |queue| queue.len() as i64),
            watched: self.transaction.watched.len(),
            tracking: self.tracking.is_some(),
            redirect: redirect.unwrap_or(-1),
            user: self.access.user().map_or(DEFAULT, |user| user.name()).to_owned(),
        }
    }

    /// It has said who it is. False if users were changed at the same moment: whoever changes them closes connections by
    /// what is shown of them, so it is shown first and looked at once more.
    pub fn authenticate_as(&mut self, users: &Users, access: Access) -> bool {
        let before = std::mem::replace(&mut self.access, access);
        self.show();
        let known = self.access.user().is_some_and(|user| users.get(user.name().as_bytes()).as_ref() == Some(user));
        if !known {
            self.access = before;
            self.show();
        }
        known
    }

    /// Whether it is one of RESP2 that listens, and so may ask for little else.
    pub fn only_listens(&self) -> bool {
        self.resp == 2 && self.subscriptions.is_some()
    }

    /// RESET: everything that the client has set is as it was at the beginning, except its name as a library and its
    /// session.
    pub fn reset(&mut self) {
        (self.db, self.resp) = (0, 2);
        self.names.name.clear();
        self.transaction.queue = None;
        self.later.tickets = false;
        self.replies = Replies::All;
    }

    /// CLIENT CACHING counts for the next command, and for all of a transaction; whether that succeeds or not.
    #[inline]
    pub fn end_caching(&mut self, row: Option<&Row>) {
        if let Some(options) = &mut self.tracking
            && self.transaction.queue.is_none()
            && !row.is_some_and(|row| row.has(flag::KEEPS_CACHING))
        {
            options.caching = false;
        }
    }

    /// Bytes that the server holds for the client.
    pub fn memory(&self) -> usize {
        let queue = self.transaction.queue.as_ref().map_or(0, |queue| queue.memory());
        let prefixes = self.tracking.as_ref().map_or(0, |options| options.memory());
        let topics = self.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.memory());
        let leases = self.holds.bytes();
        queue + self.transaction.watched.memory() + prefixes + topics + leases
    }
}
