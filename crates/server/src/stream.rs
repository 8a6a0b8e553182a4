//! A connected socket, with or without TLS: bytes of the client out and in, never waiting.
//!
//! TLS is done by rustls, which sees no socket: records go in and out of it here. What it has sealed and the socket did
//! not take is sent before anything else is sealed, so that it holds no more than one write.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use rustls::ServerConnection;
use socket2::{SockRef, TcpKeepalive};

/// A connected socket.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Tls>),
    /// What a test makes of it.
    #[cfg(test)]
    Scripted(crate::scripted::Socket),
}

/// A socket and what is known of the TLS on it.
pub(crate) struct Tls {
    socket: TcpStream,
    session: ServerConnection,
}

/// Memory that TLS takes beside the buffers of a connection: keys, and a record that has not arrived whole.
const TLS_MEMORY: u64 = 24 << 10;

impl Stream {
    /// A connection on which the client speaks TLS from its first byte on.
    pub(crate) fn tls(socket: TcpStream, session: ServerConnection) -> Stream {
        Stream::Tls(Box::new(Tls { socket, session }))
    }

    /// Sets what every connection wants: no waiting for more to send, and a peer that is gone is noticed after
    /// 55 + 3 x 10 seconds of silence, within 90 with what timers take. While bytes are not acknowledged the system sends
    /// them again instead of probing, for a quarter of an hour unless it is told how long it may.
    pub(crate) fn prepare(&self) {
        if let Some(socket) = self.tcp() {
            let probes = TcpKeepalive::new().with_time(Duration::from_secs(55)).with_interval(Duration::from_secs(10));
            let probes = probes.with_retries(3);
            // A socket that refuses these works without them.
            let _ = socket.set_nodelay(true);
            let _ = SockRef::from(socket).set_tcp_keepalive(&probes);
            #[cfg(target_os = "linux")]
            let _ = SockRef::from(socket).set_tcp_user_timeout(Some(Duration::from_secs(85)));
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(socket) => Some(socket),
            Stream::Tls(tls) => Some(&tls.socket),
            Stream::Unix(_) => None,
            #[cfg(test)]
            Stream::Scripted(_) => None,
        }
    }

    /// The address of the other end, as CLIENT LIST shows it.
    pub(crate) fn address(&self) -> String {
        let Some(socket) = self.tcp() else { return "unix".to_owned() };
        socket.peer_addr().map(|address| address.to_string()).unwrap_or_default()
    }

    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(socket) => socket,
            Stream::Unix(socket) => socket,
            Stream::Tls(tls) => &mut tls.socket,
            #[cfg(test)]
            Stream::Scripted(_) => unreachable!("a test does not ask the system"),
        }
    }

    /// Reads what the client sent; nothing when it sends no more.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.read(buffer),
            Stream::Unix(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
            #[cfg(test)]
            Stream::Scripted(socket) => socket.read(buffer),
        }
    }

    /// Whether there may be more to read although a read left room: a record of TLS ends where it ends.
    pub(crate) fn reads_short(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Writes a few bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.write(bytes),
            Stream::Unix(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(&[IoSlice::new(bytes)]),
            #[cfg(test)]
            Stream::Scripted(socket) => socket.write(&[IoSlice::new(bytes)]),
        }
    }

    pub(crate) fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (slices, self) {
            (_, Stream::Tls(tls)) => tls.write(slices),
            #[cfg(test)]
            (_, Stream::Scripted(socket)) => socket.write(slices),
            ([one], stream) => stream.write(one),
            (_, Stream::Tcp(socket)) => socket.write_vectored(slices),
            (_, Stream::Unix(socket)) => socket.write_vectored(slices),
        }
    }

    /// Whether something that was written has not reached the socket yet.
    #[inline]
    pub(crate) fn holds_back(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.session.wants_write())
    }

    /// Sends what was held back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tls(tls) => tls.flush(),
            _ => Ok(()),
        }
    }

    /// Whether client and server do not know each other yet.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.session.is_handshaking())
    }

    /// Memory that it takes beside the buffers of the connection.
    pub(crate) fn memory(&self) -> u64 {
        if self.reads_short() { TLS_MEMORY } else { 0 }
    }

    /// What is written next is kept back until [`end`](Stream::end), where the system can do that, for 200 ms at most.
    #[cold]
    pub(crate) fn hold_for_end(&self) {
        #[cfg(target_os = "linux")]
        if let Some(socket) = self.tcp() {
            // A socket that refuses sends the end in a packet of its own.
            let _ = SockRef::from(socket).set_tcp_cork(true);
        }
    }

    /// Nothing more is sent. It fails when the peer is gone, which is what it is for.
    pub(crate) fn end(&mut self) {
        let _ = match self {
            Stream::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Stream::Unix(socket) => socket.shutdown(Shutdown::Write),
            Stream::Tls(tls) => {
                tls.session.send_close_notify();
                tls.flush().and_then(|()| tls.socket.shutdown(Shutdown::Write))
            }
            #[cfg(test)]
            Stream::Scripted(_) => Ok(()),
        };
    }
}

/// Closing our descriptor does not end a connection while a child that was forked from this process has a duplicate of it.
impl Drop for Stream {
    fn drop(&mut self) {
        // It fails when the connection has ended already.
        let _ = match self {
            Stream::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Stream::Unix(socket) => socket.shutdown(Shutdown::Both),
            Stream::Tls(tls) => tls.socket.shutdown(Shutdown::Both),
            #[cfg(test)]
            Stream::Scripted(_) => Ok(()),
        };
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The end of the socket is the end, with the farewell of TLS or without: requests tell their lengths.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            let taken = self.session.process_new_packets();
            // Answers of the handshake, or the alert that says what is wrong.
            let sent = self.flush();
            taken.map_err(io::Error::other)?;
            sent?;
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut rest = slices.to_vec();
        let (mut rest, mut total) = (&mut rest[..], 0);
        loop {
            self.flush()?;
            if rest.is_empty() {
                return Ok(total);
            }
            // As much as one buffer of rustls holds, or nothing while it is full.
            let held = self.session.wants_write();
            let count = if held { 0 } else { self.session.writer().write_vectored(rest)? };
            if count == 0 {
                return if total > 0 { Ok(total) } else { Err(ErrorKind::WouldBlock.into()) };
            }
            IoSlice::advance_slices(&mut rest, count);
            total += count;
        }
    }

    /// Sends records until the socket takes no more.
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
