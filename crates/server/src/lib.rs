//! The server: sockets, threads and limits around the core.
