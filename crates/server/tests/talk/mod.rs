//! Bare sockets to a server, and its counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use globalcache_server::Server;

pub fn address(server: &Server) -> SocketAddr {
    server.addresses()[0].parse().unwrap()
}

pub fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(address(server)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends a request and compares as many bytes as the reply has.
pub fn ask(stream: &mut TcpStream, request: &[u8], reply: &[u8]) {
    stream.write_all(request).unwrap();
    let mut answer = vec![0; reply.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer.escape_ascii().to_string(), reply.escape_ascii().to_string());
}

pub fn stat(server: &Server, name: &str) -> u64 {
    server.stats().into_iter().find(|(known, _)| *known == name).unwrap().1
}

/// Waits for what a server does in its own time; fails after ten seconds.
pub fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !test() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
