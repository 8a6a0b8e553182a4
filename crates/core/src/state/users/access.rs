//! What a connection may do.

use std::sync::Arc;

use super::rules::Need;
use super::user::User;

/// What a connection may do.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whatever the default user may: it has not asked yet.
    Unknown,
    /// Nothing but to say who it is.
    Unauthenticated,
    /// Everything.
    All(Arc<User>),
    /// What the user may.
    Limited(Arc<User>),
}

impl Access {
    pub(super) fn of(user: Arc<User>) -> Access {
        if user.rights.is_unlimited() { Access::All(user) } else { Access::Limited(user) }
    }

    /// The user, if it said who it is.
    pub fn user(&self) -> Option<&Arc<User>> {
        match self {
            Access::Unknown | Access::Unauthenticated => None,
            Access::All(user) | Access::Limited(user) => Some(user),
        }
    }

    /// Whether a key may be told to it.
    pub fn may_read(&self, key: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use(key, Need { read: true, write: false }),
            Access::Unknown | Access::Unauthenticated => false,
        }
    }

    /// Whether a channel may be told to it.
    pub fn may_hear(&self, channel: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use_channel(channel),
            Access::Unknown | Access::Unauthenticated => false,
        }
    }

    /// Whether it may change a key.
    pub fn may_write(&self, key: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use(key, Need { read: false, write: true }),
            Access::Unknown | Access::Unauthenticated => false,
        }
    }
}
