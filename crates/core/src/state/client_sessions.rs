//! Sessions of clients: what a client sent on an old connection is never executed after its new one was welcomed.
//!
//! A client that lost its connection comes back with the same name and a higher generation, and then invalidates what it
//! could not deliver. A write that still lies unread on the old connection must not arrive after that:
//!
//! - The old connection sends SET K v1, the server stalls; the client gives up, comes back, sends INVALIDATE K, is
//!   answered; then the server reads SET K v1 from the old connection: v1 stays, although everybody was told it went.
//!
//! A newest generation is remembered for a while after its last connection has closed: what the old connection sent may
//! still be on its way then. Each user has room for so many of them, so that nobody is forgotten for another user's sake, and
//! a session takes one place, however often its connections close.
//!
//! A name belongs to the user who uses it: nobody is fenced by another user who chose the same.
//!
//! So every batch of a named client runs with its fence held for reading, and a newcomer raises the generation with the
//! fence held for writing: what runs is done before, and what comes after sees that it is too old. The batch in which a
//! client says its name ends with that request, and a connection that is refused for being too old is closed.
//!
//! A session is also what holds leases. A client that lost one of several connections, on which a call was interrupted
//! say, still runs the loads whose leases were granted there, and renews them over another connection. So while the session
//! has another open connection of the newest generation, the leases of one that closes stand for a moment more:
//!
//! - The close comes first: the lease has no holder that is connected until the RENEW arrives, whose connection holds it
//!   from then on. If none arrives, because the client knows nothing of the lease, it passes on when the moment is over.
//! - The RENEW comes first: the connection that closes holds the lease no more, so its close changes nothing.
//! - The other connections close as well, because the process was killed say, or a newer generation begins: what the last
//!   one leaves, and what those before it left, passes on at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::mailbox::{Event, Mailboxes};
use crate::store::{ConnectionId, Hold};
use crate::vocabulary::{Error, Kind};

/// The newest generation of a client.
pub type Fence = Arc<RwLock<u64>>;

/// A connection of a client that named itself, and the fence behind which its requests run.
#[derive(Clone, Debug)]
pub struct ClientSession {
    name: Name,
    connection: ConnectionId,
    /// The fence.
    pub fence: Fence,
    /// The generation of this connection.
    pub generation: u64,
    servers: bool,
}

/// What a session is known by: its user and the name that it gave itself.
type Name = (Box<str>, Box<[u8]>);

/// A client's fence, its newest generation, its connections with theirs, and when the last of them closed.
#[derive(Default)]
struct Place {
    fence: Fence,
    newest: u64,
    connections: Vec<Member>,
    /// Leases of connections that ended.
    unheld: Vec<Unheld>,
    left_at: u64,
}

/// A connection of a session. One that has `ended` renews no lease: its peer sends nothing any more.
struct Member {
    connection: ConnectionId,
    generation: u64,
    ended: bool,
}

/// A lease of a connection that has ended, which another connection of the session may take over until a moment.
struct Unheld {
    hold: Hold,
    connection: ConnectionId,
    generation: u64,
    until: u64,
}

/// What becomes of the leases of a connection that has ended.
#[derive(Default)]
pub struct EndedLeases {
    /// These pass on now, each from the connection that held it last.
    pub lost: Vec<(Hold, ConnectionId)>,
    /// These may be taken over by another connection of the session.
    pub unheld: Vec<Hold>,
}

/// For how long a lease stands whose connection has ended while its session has others, in milliseconds; and how many of
/// one session are remembered, so that they pass on sooner if its last connection ends.
pub const TAKE_OVER: u64 = 400;
const MAX_UNHELD: usize = 1 << 10;

/// For how long the generation of a session without connections is remembered, in milliseconds, and of how many sessions of
/// a user.
const REMEMBERED: u64 = 600_000;
const MAX_REMEMBERED: usize = 1 << 13;

/// The sessions of a user.
#[derive(Default)]
struct Sessions {
    places: HashMap<Box<[u8]>, Place>,
    /// Those without connections, by when the last one closed.
    left: BTreeSet<(u64, Box<[u8]>)>,
}

impl Sessions {
    /// Welcomes a connection and returns its fence; None if a newer one has been there.
    fn join(&mut self, id: &[u8], connection: (ConnectionId, u64), mail: &Mailboxes) -> Option<Fence> {
        let place = self.places.entry(id.into()).or_default();
        let generation = connection.1;
        if generation < place.newest {
            return None;
        }
        if place.connections.is_empty() {
            self.left.remove(&(place.left_at, id.into()));
        }
        for old in place.connections.iter().filter(|old| old.generation < generation) {
            mail.post(old.connection, Event::Close);
        }
        place.newest = generation;
        place.connections.push(Member { connection: connection.0, generation, ended: false });
        Some(Arc::clone(&place.fence))
    }

    /// A connection is gone.
    fn leave(&mut self, id: &[u8], connection: ConnectionId, now: u64) {
        let Some(place) = self.places.get_mut(id) else { return };
        place.connections.retain(|member| member.connection != connection);
        if place.connections.is_empty() {
            place.left_at = now;
            self.left.insert((now, id.into()));
        }
    }

    /// A connection can renew nothing any more.
    fn end(
        &mut self,
        id: &[u8],
        (connection, generation): (ConnectionId, u64),
        holds: Vec<Hold>,
        now: u64,
    ) -> EndedLeases {
        let mut ended = EndedLeases::default();
        let Some(place) = self.places.get_mut(id) else { return EndedLeases { lost: of(holds, connection), ..ended } };
        place
            .connections
            .iter_mut()
            .filter(|member| member.connection == connection)
            .for_each(|member| member.ended = true);
        place.unheld.retain(|unheld| now < unheld.until);
        let lives = |member: &Member| !member.ended && member.generation == generation;
        if generation == place.newest && place.connections.iter().any(lives) {
            let room = MAX_UNHELD.saturating_sub(place.unheld.len());
            let until = now + TAKE_OVER;
            place.unheld.extend(holds.iter().take(room).map(|hold| Unheld {
                hold: *hold,
                connection,
                generation,
                until,
            }));
            ended.unheld = holds;
        } else {
            ended.lost = of(holds, connection);
            place.unheld.retain(|unheld| {
                let stays = unheld.generation > generation;
                ended.lost.extend((!stays).then_some((unheld.hold, unheld.connection)));
                stays
            });
        }
        if place.unheld.is_empty() {
            place.unheld = Vec::new();
        }
        ended
    }

    /// Forgets sessions that have had no connection for long, and the oldest of too many.
    fn forget_old(&mut self, now: u64) {
        while let Some((at, _)) = self.left.first()
            && (at + REMEMBERED <= now || self.left.len() > MAX_REMEMBERED)
            && let Some((_, id)) = self.left.pop_first()
        {
            self.places.remove(&id);
        }
    }
}

#[derive(Default)]
struct Known {
    /// Sessions by user.
    users: HashMap<Box<str>, Sessions>,
    /// When the sessions of all users were last looked through for old ones.
    looked_at: u64,
    /// The hash of the list of servers that the connected clients use, and how many of them told it.
    servers: Option<(Box<[u8]>, usize)>,
}

impl Known {
    /// Forgets old sessions of a user; and now and then those of all, since some users do not come back.
    fn forget_old(&mut self, user: &str, now: u64) {
        if now >= self.looked_at + REMEMBERED {
            self.looked_at = now;
            self.users.retain(|_, sessions| {
                sessions.forget_old(now);
                !sessions.places.is_empty()
            });
        } else if let Some(sessions) = self.users.get_mut(user) {
            sessions.forget_old(now);
        }
    }
}

/// Leases of one connection, with it.
fn of(holds: Vec<Hold>, connection: ConnectionId) -> Vec<(Hold, ConnectionId)> {
    holds.into_iter().map(|hold| (hold, connection)).collect()
}

impl ClientSession {
    /// The user whose session it is.
    pub fn user(&self) -> &str {
        &self.name.0
    }
}

/// The sessions of all clients.
#[derive(Default)]
pub struct ClientSessions {
    known: Mutex<Known>,
}

impl ClientSessions {
    /// Welcomes a connection of a named client; those of older generations are refused from now on. False if it is too old
    /// itself.
    pub fn join(
        &self,
        joined: &mut Option<ClientSession>,
        (user, connection): (&str, ConnectionId),
        (id, generation): (&[u8], u64),
        servers: Option<&[u8]>,
        (mail, now): (&Mailboxes, u64),
    ) -> Result<bool, Error> {
        if joined.is_some() {
            return Err(Error::new(Kind::Malformed, "ERR this connection has a session already"));
        }
        let name: Name = (user.into(), id.into());
        let fence = {
            let mut known = self.known.lock();
            known.forget_old(&name.0, now);
            if known.servers.as_ref().zip(servers).is_some_and(|((hash, _), told)| **hash != *told) {
                let text = "SERVERS another list of servers is in use: all clients must use the same one";
                return Err(Error::new(Kind::Mismatch, text));
            }
            let sessions = known.users.entry(name.0.clone()).or_default();
            let Some(fence) = sessions.join(id, (connection, generation), mail) else { return Ok(false) };
            if let Some(told) = servers {
                known.servers.get_or_insert_with(|| (told.into(), 0)).1 += 1;
            }
            fence
        };
        *joined =
            Some(ClientSession { name, connection, fence: Arc::clone(&fence), generation, servers: servers.is_some() });
        let mut newest = fence.write();
        if generation < *newest {
            // A newer one has come since.
            return Ok(false);
        }
        *newest = generation;
        Ok(true)
    }

    /// A connection that holds these leases can renew nothing any more: it closes, or its peer sends nothing more. What is
    /// to become of them, and of those that earlier ones of the session have left.
    pub fn end(&self, joined: &ClientSession, holds: Vec<Hold>, now: u64) -> EndedLeases {
        let (user, id) = &joined.name;
        match self.known.lock().users.get_mut(user) {
            Some(sessions) => sessions.end(id, (joined.connection, joined.generation), holds, now),
            None => EndedLeases { lost: of(holds, joined.connection), ..EndedLeases::default() },
        }
    }

    /// A connection is gone, after it has [`end`](ClientSessions::end)ed.
    pub fn leave(&self, joined: &ClientSession, now: u64) {
        let mut known = self.known.lock();
        let (user, id) = &joined.name;
        if let Some(sessions) = known.users.get_mut(user) {
            sessions.leave(id, joined.connection, now);
        }
        known.forget_old(user, now);
        if joined.servers
            && let Some((_, count)) = &mut known.servers
        {
            *count -= 1;
            if *count == 0 {
                known.servers = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(
        sessions: &ClientSessions,
        id: u64,
        session: &str,
        generation: u64,
        now: u64,
    ) -> (Option<ClientSession>, bool) {
        let (mut joined, connection) = (None, ConnectionId { mailbox: 0, slot: 0, id });
        let session = (session.as_bytes(), generation);
        let welcome =
            sessions.join(&mut joined, ("", connection), session, None, (&Mailboxes::new(1, usize::MAX), now));
        (joined, welcome == Ok(true))
    }

    fn close(sessions: &ClientSessions, joined: &mut Option<ClientSession>, now: u64) {
        if let Some(joined) = joined.take() {
            sessions.leave(&joined, now);
        }
    }

    /// Sessions close many times, some while another connection of theirs is there, and old ones are refused: one entry of
    /// each is left, and after the time nothing at all.
    #[test]
    fn a_session_takes_one_place_however_often_it_closes() {
        let sessions = ClientSessions::default();
        for round in 1..100 {
            let (mut first, _) = connect(&sessions, 1, "a", round, round);
            let (mut second, _) = connect(&sessions, 2, "a", round, round);
            let (mut old, welcome) = connect(&sessions, 3, "a", round - 1, round);
            assert!(!welcome && old.is_none());
            close(&sessions, &mut first, round);
            assert!(sessions.known.lock().users[""].left.is_empty());
            close(&sessions, &mut old, round);
            close(&sessions, &mut second, round);
            let known = sessions.known.lock();
            assert_eq!((known.users[""].left.len(), known.users[""].places.len()), (1, 1));
        }
        let (mut other, _) = connect(&sessions, 4, "b", 1, 99 + REMEMBERED);
        assert_eq!(sessions.known.lock().users[""].places.len(), 1);
        close(&sessions, &mut other, 99 + REMEMBERED);
        sessions.known.lock().forget_old("someone else", 99 + 2 * REMEMBERED);
        assert!(sessions.known.lock().users.is_empty());
    }
}
