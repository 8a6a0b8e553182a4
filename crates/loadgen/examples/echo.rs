//! The floor under every server of one thread: `echo PORT REQUEST_BYTES REPLY_BYTES` waits with epoll, reads once, and
//! answers each request with a reply of fixed length, knowing nothing of what either says.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

fn main() -> std::io::Result<()> {
    let [port, request, reply] = [1, 2, 3].map(|at| {
        let word = std::env::args().nth(at).expect("PORT REQUEST_BYTES REPLY_BYTES");
        word.parse::<usize>().expect("a number")
    });
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(format!("127.0.0.1:{port}").parse().expect("an address"))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut clients: HashMap<Token, (TcpStream, usize)> = HashMap::new();
    let (mut events, mut buffer, replies) = (Events::with_capacity(1024), vec![0; 1 << 16], vec![b'v'; 1 << 20]);
    let mut next = 1;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE)?;
                    clients.insert(Token(next), (stream, 0));
                    next += 1;
                }
                continue;
            }
            let Some((stream, held)) = clients.get_mut(&event.token()) else { continue };
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    *held += count;
                    let answers = *held / request;
                    *held %= request;
                    stream.write_all(&replies[..answers * reply])?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => drop(clients.remove(&event.token())),
            }
        }
    }
}
