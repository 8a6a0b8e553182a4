//! Connections: what is known of a client, and what it sets.

use std::sync::Arc;

use super::{NO_PASSWORD, Replies, WRONG_PASSWORD};
use crate::clients::Shown;
use crate::command::{Error, Kind, Reply};
use crate::engine::Engine;
use crate::engine::{REDIS_VERSION, VERSION};
use crate::fence::Joined;
use crate::key_list::KeyList;
use crate::pubsub::Subscriptions;
use crate::store::{Holds, Party};
use crate::tracking::Options;
use crate::transaction::{Queue, Watched};
use crate::users::{Access, DEFAULT};

/// What the server knows of the client at the other end.
#[derive(Clone, Debug)]
pub struct Client {
    /// Number of the connection, never used twice.
    pub id: u64,
    /// Selected database.
    pub db: u8,
    /// Version of RESP: 2 or 3.
    pub resp: u8,
    /// Name it gave itself.
    pub name: Vec<u8>,
    /// Library at the other end.
    pub lib_name: Vec<u8>,
    /// Its version.
    pub lib_version: Vec<u8>,
    /// It said that it is leaving.
    pub quitting: bool,
    /// Where its messages go.
    pub party: Party,
    /// Commands that would wait answer with a ticket, and the outcome is pushed.
    pub tickets: bool,
    /// As `tickets`, for the command that is run.
    pub ticket_once: bool,
    /// Answers may come in another order than requests: they carry numbers.
    pub unordered: bool,
    /// It is a loader worker, and asks for nothing that could wait.
    pub worker: bool,
    /// Leases that it was granted.
    pub holds: Holds,
    /// Its place behind the fence of its session.
    pub joined: Option<Joined>,
    /// The transaction that it has begun.
    pub queue: Option<Box<Queue>>,
    /// What the next transaction depends on.
    pub watched: KeyList<Watched>,
    /// Which replies it wants.
    pub replies: Replies,
    /// What it listens to.
    pub subscriptions: Option<Box<Subscriptions>>,
    /// How it wants to be told of changes of what it read.
    pub tracking: Option<Box<Options>>,
    /// What it may do.
    pub access: Access,
    /// What others see of it.
    pub shown: Option<Arc<Shown>>,
}

impl Client {
    /// A client of whom nothing is known yet.
    pub fn new(party: Party) -> Client {
        Client {
            id: party.id,
            db: 0,
            resp: 2,
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            quitting: false,
            party,
            tickets: false,
            ticket_once: false,
            unordered: false,
            worker: false,
            holds: Holds::default(),
            joined: None,
            queue: None,
            watched: KeyList::default(),
            replies: Replies::All,
            subscriptions: None,
            tracking: None,
            access: Access::Unknown,
            shown: None,
        }
    }

    /// It listens to nothing and keeps no copies any more.
    pub fn leave(&mut self, engine: &Engine) {
        if let Some(subscriptions) = self.subscriptions.take() {
            engine.bus.leave_all(*subscriptions);
        }
        if self.tracking.take().is_some() {
            engine.tracking.leave(self.party, &engine.store);
        }
    }

    /// Lets others see what it is now.
    pub fn show(&self) {
        if let Some(shown) = &self.shown {
            shown.update(self);
        }
    }

    /// It has said who it is. False if users were changed at the same moment: whoever changes them closes connections by
    /// what is shown of them, so it is shown first and looked at once more.
    pub fn become_known(&mut self, engine: &Engine, access: Access) -> bool {
        let before = std::mem::replace(&mut self.access, access);
        self.show();
        let known =
            self.access.user().is_some_and(|user| engine.users.get(user.name().as_bytes()).as_ref() == Some(user));
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
        self.name.clear();
        self.queue = None;
        self.tickets = false;
        self.replies = Replies::All;
    }

    /// CLIENT CACHING counts for the next command, and for all of a transaction; whether that succeeds or not.
    #[inline]
    pub fn end_caching(&mut self, command: &[u8]) {
        if let Some(options) = &mut self.tracking
            && self.queue.is_none()
            && !command.eq_ignore_ascii_case(b"CLIENT")
        {
            options.caching = false;
        }
    }

    /// Bytes that the server holds for the client.
    pub fn memory(&self) -> usize {
        let queue = self.queue.as_ref().map_or(0, |queue| queue.memory());
        let prefixes = self.tracking.as_ref().map_or(0, |options| options.memory());
        let topics = self.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.memory());
        let leases = self.holds.bytes();
        queue + self.watched.memory() + prefixes + topics + leases
    }
}

/// Longest name that a client may give itself or its library: enough for any, and a bound on what is kept.
const MAX_NAME: usize = 256;

pub(super) fn printable(text: &[u8], what: &str) -> Result<Vec<u8>, Error> {
    if text.len() > MAX_NAME {
        return Err(Error::with(Kind::TooLarge, format!("ERR {what} cannot be longer than {MAX_NAME} bytes.")));
    }
    if !text.iter().all(u8::is_ascii_graphic) {
        let text = format!("ERR {what} cannot contain spaces, newlines or special characters.");
        return Err(Error::with(Kind::Malformed, text));
    }
    Ok(text.to_vec())
}

/// What a connection is told goes by who it was when it asked to be told.
const AS_ANOTHER: Error = Error::new(
    Kind::Denied,
    "ERR this connection listens, tracks or loads as another user: authenticate on a connection of its own",
);

/// A session belongs to the user who began it.
const OF_ANOTHER: Error = Error::new(
    Kind::Denied,
    "ERR the session of this connection is another user's: authenticate on a connection of its own",
);

/// Says who the client is.
pub(super) fn auth(engine: &Engine, client: &mut Client, user: Option<&[u8]>, password: &[u8]) -> Result<Reply, Error> {
    let name = user.unwrap_or(DEFAULT.as_bytes());
    if user.is_none() && engine.users.get(name).is_some_and(|user| user.needs_no_password()) {
        return Err(NO_PASSWORD);
    }
    let access = engine.users.authenticate(name, password).ok_or(WRONG_PASSWORD)?;
    let name = access.user().map(|user| user.name());
    let other = client.access.user().map(|user| user.name()) != name;
    if client.joined.as_ref().is_some_and(|joined| Some(joined.user()) != name) {
        return Err(OF_ANOTHER);
    }
    if other && (client.worker || client.subscriptions.is_some() || client.tracking.is_some()) {
        return Err(AS_ANOTHER);
    }
    if client.become_known(engine, access) { Ok(Reply::Ok) } else { Err(WRONG_PASSWORD) }
}

pub(super) fn hello(
    engine: &Engine,
    client: &mut Client,
    version: Option<u8>,
    user: Option<(&[u8], &[u8])>,
    name: Option<&[u8]>,
) -> Result<Reply, Error> {
    if let Some((user, password)) = user {
        auth(engine, client, Some(user), password)?;
    } else if client.access.user().is_none() {
        return Err(Error::new(
            Kind::Denied,
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
             <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        client.name = printable(name, "Client names")?;
    }
    client.resp = version.unwrap_or(client.resp);
    Ok(Reply::Map(vec![
        (Reply::word("server"), Reply::word("redis")),
        (Reply::word("version"), Reply::word(REDIS_VERSION)),
        (Reply::word("proto"), Reply::Int(client.resp.into())),
        (Reply::word("id"), Reply::Int(client.id as i64)),
        (Reply::word("mode"), Reply::word("standalone")),
        (Reply::word("role"), Reply::word("master")),
        (Reply::word("modules"), Reply::Array(Vec::new())),
        (Reply::word("globalcache"), Reply::word(VERSION)),
    ]))
}
