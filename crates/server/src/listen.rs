//! Addresses to listen on: `HOST:PORT`, `tls://HOST:PORT`, `unix:///path` and `memcached://HOST:PORT`, and the sockets
//! behind them.

use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use parking_lot::RwLock;
use rustix::fs::Mode;
use rustix::process::umask;
use rustls::{ServerConfig, ServerConnection};
use socket2::{Domain, SockRef, Socket, Type};

use crate::StartError;
use crate::stream::Stream;

/// What the connections of a listener speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Whatever their first bytes say.
    Any,
    /// memcached, from the first byte on.
    Memcached,
    /// TLS, and within it whatever its first bytes say.
    Tls,
}

/// A bound socket.
pub(crate) enum Listener {
    Tcp(TcpListener, SocketAddr, Speaks),
    Unix(UnixListener, PathBuf),
}

/// What stands before an address.
const KINDS: [(&str, Speaks); 2] = [("memcached://", Speaks::Memcached), ("tls://", Speaks::Tls)];
const ALLOWED: &str = "allowed are HOST:PORT, tls://HOST:PORT, unix:///path and memcached://HOST:PORT";

impl Listener {
    /// Binds an address. `guarded`: clients have to show who they are, by a password or, on a port with TLS, by a
    /// certificate.
    pub(crate) fn bind(address: &str, guarded: impl Fn(Speaks) -> bool) -> Result<Listener, StartError> {
        let refused = |error| StartError::Bind(address.to_owned(), error);
        if let Some(path) = address.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(StartError::Option(format!("listen: {address}: a path behind unix:// begins with /")));
            }
            return bind_unix(Path::new(path)).map_err(refused);
        }
        let known = KINDS.iter().find_map(|(kind, speaks)| Some((*speaks, address.strip_prefix(kind)?)));
        let (speaks, place) = known.unwrap_or((Speaks::Any, address));
        let (host, port) = place.rsplit_once(':').unwrap_or((place, ""));
        if host.is_empty() || place.contains("://") || port.parse::<u16>().is_err() {
            return Err(StartError::Option(format!("listen: {address}: {ALLOWED}")));
        }
        let found = place.to_socket_addrs().map_err(refused)?.next();
        let found = found.ok_or_else(|| refused(io::Error::other("the name has no address")))?;
        if !found.ip().is_loopback() && !guarded(speaks) {
            return Err(StartError::Option(format!(
                "listen: {address}: others than this machine could connect, and nobody has to authenticate: \
                 --password-file and --users-file ask who they are, --insecure allows it without"
            )));
        }
        let listener = bind_tcp(found).map_err(refused)?;
        let bound = listener.local_addr()?;
        Ok(Listener::Tcp(listener, bound, speaks))
    }

    /// The address as it would be given to [`bind`](Listener::bind).
    pub(crate) fn address(&self) -> String {
        match self {
            Listener::Tcp(_, bound, speaks) => {
                let kind = KINDS.iter().find_map(|(kind, known)| (known == speaks).then_some(*kind));
                format!("{}{bound}", kind.unwrap_or_default())
            }
            Listener::Unix(_, path) => format!("unix://{}", path.display()),
        }
    }

    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Listener::Tcp(_, bound, _) => Some(bound.port()),
            Listener::Unix(..) => None,
        }
    }

    /// What its connections speak.
    pub(crate) fn speaks(&self) -> Speaks {
        match self {
            Listener::Tcp(_, _, speaks) => *speaks,
            Listener::Unix(..) => Speaks::Any,
        }
    }

    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener, ..) => listener,
            Listener::Unix(listener, _) => listener,
        }
    }

    /// The next connection that waits; with `tls` where it is spoken.
    pub(crate) fn accept(&self, tls: &RwLock<Option<Arc<ServerConfig>>>) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener, _, Speaks::Tls) => {
                let (socket, _) = listener.accept()?;
                let config = tls.read().clone().expect("there is a certificate where TLS is spoken");
                Ok(Stream::tls(socket, ServerConnection::new(config).map_err(io::Error::other)?))
            }
            Listener::Tcp(listener, ..) => listener.accept().map(|(socket, _)| Stream::Tcp(socket)),
            Listener::Unix(listener, _) => listener.accept().map(|(socket, _)| Stream::Unix(socket)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A child that was forked from this process may have a duplicate, which would go on to take connections. Systems
        // that refuse this do so only for what does not listen.
        let _ = match self {
            Listener::Tcp(listener, ..) => SockRef::from(&*listener).shutdown(Shutdown::Both),
            Listener::Unix(listener, _) => SockRef::from(&*listener).shutdown(Shutdown::Both),
        };
        if let Listener::Unix(_, path) = self {
            // It may have been removed already, and there is nobody to tell.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Connections that may wait to be accepted: a whole fleet that comes back at once. The system has a bound of its own.
const BACKLOG: i32 = 4096;

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A server that is started again does not wait for the connections of the one before to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A socket file that nobody listens on any more is what a killed server left behind: it is replaced.
fn bind_unix(path: &Path) -> io::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::Error::from(io::ErrorKind::AddrInUse)),
        }
    }
    // The file appears with the rights of its creation: nobody else can connect in between.
    let before = umask(Mode::from_raw_mode(0o077));
    let bound = UnixListener::bind(path);
    umask(before);
    Ok(Listener::Unix(bound?, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// The process forks while it listens, and the child lives longer than the listener, whose socket it has inherited. Nobody
    /// can connect any more, and another server may take the address.
    #[test]
    fn a_listener_ends_although_a_child_has_its_socket() {
        let listener = Listener::bind("127.0.0.1:0", |_| true).unwrap();
        let address = listener.address();
        let Listener::Tcp(socket, ..) = &listener else { unreachable!("it is an address of TCP") };
        let _of_child = SockRef::from(socket).try_clone().unwrap();
        drop(listener);
        let refused = TcpStream::connect(&address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Listener::bind(&address, |_| true).unwrap();
    }
}
