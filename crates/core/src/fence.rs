//! Fences: what a client sent on an old connection is never executed after its new one was welcomed.
//!
//! A client that lost its connection comes back with the same name and a higher generation, and then invalidates what it
//! could not deliver. A write that still lies unread on the old connection must not arrive after that:
//!
//! - The old connection sends SET K v1, the server stalls; the client gives up, comes back, sends INVALIDATE K, is
//!   answered; then the server reads SET K v1 from the old connection: v1 stays, although everybody was told it went.
//!
//! A newest generation is remembered for a while after its last connection has closed: what the old connection sent may
//! still be on its way then.
//!
//! A name belongs to the user who uses it: nobody is fenced by another user who chose the same.
//!
//! So every batch of a named client runs with its fence held for reading, and a newcomer raises the generation with the
//! fence held for writing: what runs is done before, and what comes after sees that it is too old. The batch in which a
//! client says its name ends with that request, and a connection that is refused for being too old is closed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::command::{Error, Kind};
use crate::execute::Client;
use crate::mailbox::{Event, Mailboxes};
use crate::store::Party;

/// The newest generation of a client.
pub type Fence = Arc<RwLock<u64>>;

/// A client's place behind its fence.
#[derive(Clone, Debug)]
pub struct Joined {
    name: Name,
    party: Party,
    /// The fence.
    pub fence: Fence,
    /// The generation of this connection.
    pub generation: u64,
    servers: bool,
}

/// What a session is known by: its user and the name that it gave itself.
type Name = (Box<str>, Box<[u8]>);

/// A client's fence, its connections with their generations, and when the last of them closed.
#[derive(Default)]
struct Place {
    fence: Fence,
    connections: Vec<(Party, u64)>,
    left_at: u64,
}

/// For how long the generation of a session without connections is remembered, in milliseconds, and of how many sessions.
const REMEMBERED: u64 = 600_000;
const MAX_REMEMBERED: usize = 1 << 13;

#[derive(Default)]
struct Known {
    fences: HashMap<Name, Place>,
    /// Sessions whose last connection closed, and when: some have connections again, or closed another time since.
    left: VecDeque<(u64, Name)>,
    /// The hash of the list of servers that the connected clients use, and how many of them told it.
    servers: Option<(Box<[u8]>, usize)>,
}

impl Known {
    /// Forgets sessions that have had no connection for long, and the oldest of too many.
    fn forget_old(&mut self, now: u64) {
        while let Some((at, name)) = self.left.front()
            && (at + REMEMBERED <= now || self.left.len() > MAX_REMEMBERED)
        {
            // A session that closed several times stands here as often, and its last time counts.
            let last = |place: &Place| place.connections.is_empty() && place.left_at == *at;
            if self.fences.get(name).is_some_and(last) {
                self.fences.remove(name);
            }
            self.left.pop_front();
        }
    }
}

impl Joined {
    /// The user whose session it is.
    pub fn user(&self) -> &str {
        &self.name.0
    }
}

/// The fences of all clients.
#[derive(Default)]
pub struct Fences {
    known: Mutex<Known>,
}

impl Fences {
    /// Welcomes a connection of a named client; those of older generations are refused from now on.
    pub fn join(
        &self,
        client: &mut Client,
        id: &[u8],
        generation: u64,
        servers: Option<&[u8]>,
        (mail, now): (&Mailboxes, u64),
    ) -> Result<(), Error> {
        if client.joined.is_some() {
            return Err(Error::new(Kind::Malformed, "ERR this connection has a session already"));
        }
        let user = client.access.user().map(|user| user.name()).unwrap_or_default();
        let name: Name = (user.into(), id.into());
        let fence = {
            let mut known = self.known.lock();
            known.forget_old(now);
            match (&mut known.servers, servers) {
                (Some((hash, _)), Some(told)) if **hash != *told => {
                    let text = "SERVERS another list of servers is in use: all clients must use the same one";
                    return Err(Error::new(Kind::Mismatch, text));
                }
                (Some((_, count)), Some(_)) => *count += 1,
                (none @ None, Some(told)) => *none = Some((told.into(), 1)),
                (_, None) => {}
            }
            let Place { fence, connections, .. } = known.fences.entry(name.clone()).or_default();
            for (old, _) in connections.iter().filter(|(_, known)| *known < generation) {
                mail.post(*old, Event::Close);
            }
            connections.push((client.party, generation));
            Arc::clone(fence)
        };
        let (party, servers) = (client.party, servers.is_some());
        client.joined = Some(Joined { name, party, fence: Arc::clone(&fence), generation, servers });
        let mut newest = fence.write();
        if generation < *newest {
            // Nothing that it has sent behind this is run.
            client.quitting = true;
            return Err(Error::new(Kind::Mismatch, "FENCED a newer connection of this session is there already"));
        }
        *newest = generation;
        Ok(())
    }

    /// A connection is gone.
    pub fn leave(&self, joined: &Joined, now: u64) {
        let mut known = self.known.lock();
        if let Some(place) = known.fences.get_mut(&joined.name) {
            place.connections.retain(|(party, _)| *party != joined.party);
            if place.connections.is_empty() {
                place.left_at = now;
                known.left.push_back((now, joined.name.clone()));
            }
        }
        known.forget_old(now);
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
