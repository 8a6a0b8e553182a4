//! Clients that wait for one key together: how soon each has its value once the key is filled.
//!
//! One connection takes the lease of a key, all others ask for the key and wait, and the lease is filled; then comes the
//! next key. On as many connections as there are clients each waits in its place; on fewer the connections carry several
//! each, by tickets and pushes, as the client library does.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use mio::{Events, Poll};

use crate::histogram::Histogram;
use crate::{Begun, Options, Report, Stream};

/// What every answer carries once and nothing else does.
const VALUE: &[u8] = b"herd:value";
/// What the first answer to a client says whose wait has a ticket.
const WAITING: &[u8] = b"waiting";
const LIMIT: Duration = Duration::from_secs(10);

struct Waiter {
    stream: Stream,
    /// The end of what was read: a mark may be cut in two.
    rest: Vec<u8>,
}

trait Link: Read + Write {}
impl<T: Read + Write> Link for T {}

/// Who holds the leases. It waits for each answer.
struct Holder(Box<dyn Link>);

impl Holder {
    fn connect(address: &str) -> io::Result<Holder> {
        if address.starts_with('/') {
            let stream = UnixStream::connect(address)?;
            stream.set_read_timeout(Some(LIMIT))?;
            return Ok(Holder(Box::new(stream)));
        }
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Holder(Box::new(stream)))
    }

    /// Asks for something whose answer arrives in one piece.
    fn ask(&mut self, request: &str) -> io::Result<String> {
        self.0.write_all(request.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut answer = vec![0; 4 << 10];
        let count = self.0.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
    }

    fn lease(&mut self, key: &str) -> io::Result<u64> {
        let answer = self.ask(&format!("CACHE.FETCH {key}\r\n"))?;
        let token =
            answer.split("\r\n").find_map(|line| line.strip_prefix(':')?.parse().ok()).filter(|token| *token > 0);
        token.ok_or_else(|| io::Error::other(format!("no lease was granted: {}", answer.escape_default())))
    }

    /// Returns when so many wait for a key.
    fn until_waiting(&mut self, key: &str, wanted: usize) -> io::Result<()> {
        let (mark, end) = (format!("waiters\r\n:{wanted}\r\n"), Instant::now() + LIMIT);
        while !self.ask(&format!("CACHE.INSPECT {key}\r\n"))?.contains(&mark) {
            if Instant::now() > end {
                return Err(io::Error::new(ErrorKind::TimedOut, "not all came to wait in ten seconds"));
            }
        }
        Ok(())
    }
}

struct Herd {
    poll: Poll,
    events: Events,
    waiters: Vec<Waiter>,
    buffer: Vec<u8>,
}

impl Herd {
    fn connect(options: &Options) -> io::Result<Herd> {
        let poll = Poll::new()?;
        let connect =
            |token| Stream::connect(&options.address, &poll, token).map(|stream| Waiter { stream, rest: Vec::new() });
        let waiters = (0..options.connections).map(connect).collect::<io::Result<_>>()?;
        Ok(Herd { poll, events: Events::with_capacity(1024), waiters, buffer: vec![0; 64 << 10] })
    }

    /// Sends a request on every connection so many times.
    fn ask(&mut self, request: &str, times: usize) -> io::Result<()> {
        let bytes = request.repeat(times).into_bytes();
        for waiter in &mut self.waiters {
            if waiter.stream.write(&bytes)? < bytes.len() {
                return Err(io::Error::other("a socket does not take the requests of all its clients at once"));
            }
        }
        Ok(())
    }

    /// Reads until so many marks have come, and tells of each piece how many were in it.
    fn read(&mut self, mark: &[u8], wanted: usize, mut each: impl FnMut(usize)) -> io::Result<()> {
        let mut seen = 0;
        while seen < wanted {
            self.poll.poll(&mut self.events, Some(LIMIT))?;
            if self.events.is_empty() {
                let text = format!("{seen} of {wanted} answers came within ten seconds");
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            for event in &self.events {
                let Waiter { stream, rest } = &mut self.waiters[event.token().0];
                loop {
                    match stream.read(&mut self.buffer) {
                        Ok(0) => {
                            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed a connection"));
                        }
                        Ok(count) => rest.extend_from_slice(&self.buffer[..count]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                    let found = rest.windows(mark.len()).filter(|window| *window == mark).count();
                    rest.drain(..rest.len().saturating_sub(mark.len() - 1));
                    seen += found;
                    each(found);
                }
            }
        }
        Ok(())
    }
}

/// Has clients wait for one key after the other, for a time or for so many answers.
pub(crate) fn run(options: &Options) -> io::Result<Report> {
    let each = options.waiters / options.connections;
    let (mut holder, mut herd) = (Holder::connect(&options.address)?, Herd::connect(options)?);
    let tickets = each > 1;
    if tickets {
        herd.ask("HELLO 3\r\n", 1)?;
        herd.read(b"proto", options.connections, |_| {})?;
    }
    let (begun, mut histogram, mut answered) = (Begun::now(options.pid), Histogram::default(), 0);
    while begun.at.elapsed().as_secs_f64() < options.seconds && answered < options.most() {
        // The key of no other run, and none that was filled before.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let key = format!("herd:{}", now.as_nanos());
        let token = holder.lease(&key)?;
        herd.ask(&format!("CACHE.FETCH {key} WAIT 20000{}\r\n", if tickets { " TICKET" } else { "" }), each)?;
        if tickets {
            herd.read(WAITING, options.waiters, |_| {})?;
        }
        holder.until_waiting(&key, options.waiters)?;
        let value = std::str::from_utf8(VALUE).expect("ASCII");
        let filled = Instant::now();
        holder.0.write_all(format!("CACHE.FILL {key} {token} {value}\r\n").as_bytes())?;
        herd.read(VALUE, options.waiters, |count| {
            let took = filled.elapsed().as_nanos() as u64;
            (0..count).for_each(|_| histogram.add(took));
        })?;
        answered += options.waiters as u64;
        holder.answer()?;
        holder.ask(&format!("DEL {key}\r\n"))?;
    }
    Ok(begun.report(&histogram, answered))
}
