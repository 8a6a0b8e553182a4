//! What a socket is ready for, as the system tells it: once, by edges, so that it has to be remembered.

/// What the system tells of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready {
    /// There may be something to read, or the end.
    pub(crate) readable: bool,
    /// The peer sends no more.
    pub(crate) finished: bool,
    /// Nothing can be sent to the peer any more.
    pub(crate) gone: bool,
}

impl From<&mio::event::Event> for Ready {
    fn from(event: &mio::event::Event) -> Ready {
        Ready {
            readable: event.is_readable(),
            finished: event.is_read_closed(),
            gone: event.is_write_closed() || event.is_error(),
        }
    }
}

/// What was told of the socket of a connection and not used up yet.
pub(super) struct Readiness {
    /// The socket may have more to read.
    pub(super) readable: bool,
    /// The peer sends no more: its end stands behind what is unread.
    pub(super) finished: bool,
    /// The end was read.
    pub(super) ended: bool,
    /// Nothing can be sent to the peer any more.
    pub(super) gone: bool,
}

impl Readiness {
    /// Of a socket that was just accepted: it may have something to read.
    pub(super) fn new() -> Readiness {
        Readiness { readable: true, finished: false, ended: false, gone: false }
    }

    /// Takes over what the system told, which it tells once.
    #[inline]
    pub(super) fn hear(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.finished |= ready.finished;
        self.gone |= ready.gone;
    }
}
