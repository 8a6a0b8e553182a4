//! What a server makes of peers that end, half-close or reset their connections, and of threads of its own that panic.

mod talk;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use globalcache_server::{Admission, Options, Server};
use socket2::SockRef;
use talk::{ask, connect, eventually, stat};

fn options() -> Options {
    Options {
        listen: vec!["127.0.0.1:0".to_owned()],
        threads: 2,
        memory: 64 << 20,
        evict: true,
        max_value: 16 << 20,
        max_clients: 1000,
        client_memory: 256 << 20,
        idle_timeout: Duration::ZERO,
        admission: Admission::default(),
        // Nobody loads these keys: whoever reads one waits.
        loaders: vec!["u:*".to_owned()],
        load_limit: Duration::from_secs(600),
        shutdown: false,
        debug_time: true,
    }
}

/// All that still comes until the server closes.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes.escape_ascii().to_string()
}

/// Writes more than one read takes, and its end behind it: the end is told once, with the first of several reads.
#[test]
fn the_end_behind_much_input_is_read() {
    let server = Server::start(options()).unwrap();
    let set = b"set k 0 0 100000 noreply\r\n".iter().copied().chain([b'x'; 100_000]).chain(*b"\r\n");
    let set: Vec<u8> = set.collect();
    let json = b"{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":1,\"key\":\"none\"}}\n";
    for (request, lines) in [(b"PING\r\n".repeat(20_000), 20_000), (set, 0), (json.repeat(2_000), 2_000)] {
        let mut peer = connect(&server);
        let mut writer = peer.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(&request).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        writing.join().unwrap();
        assert_eq!(text.lines().count(), lines);
    }
    eventually("they are gone", || stat(&server, "connected") == 0);
}

/// A request waits for a load; another one and the end of the input arrive meanwhile. The peer still reads: it gets both
/// replies, then the end.
#[test]
fn a_peer_that_half_closes_while_it_waits_gets_its_replies() {
    let server = Server::start(options()).unwrap();
    let mut other = connect(&server);
    let json = "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":1,\"key\":\"u:3\"}}\n";
    for (key, request, replies) in [
        ("u:1", "GET u:1\r\nPING\r\n", "$1\\r\\nv\\r\\n+PONG\\r\\n"),
        ("u:2", "get u:2\r\nmn\r\n", "VALUE u:2 0 1\\r\\nv\\r\\nEND\\r\\nMN\\r\\n"),
        ("u:3", json, "get_ok"),
    ] {
        let mut peer = connect(&server);
        peer.write_all(request.as_bytes()).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        eventually("it waits", || waiters(&mut other, key) == 1);
        ask(&mut other, format!("SET {key} v\r\n").as_bytes(), b"+OK\r\n");
        let got = rest(&mut peer);
        assert!(got.contains(replies), "{got}");
    }
}

/// How many wait for a key.
fn waiters(client: &mut TcpStream, key: &str) -> u64 {
    client.write_all(format!("CACHE.INSPECT {key}\r\nECHO end\r\n").as_bytes()).unwrap();
    let mut got = String::new();
    let mut buffer = [0; 4096];
    while !got.ends_with("end\r\n") {
        let count = client.read(&mut buffer).unwrap();
        got.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    let lines: Vec<&str> = got.lines().collect();
    let at = lines.iter().position(|line| *line == "waiters").unwrap();
    lines[at + 1].trim_start_matches(':').parse().unwrap()
}

/// Clients ask for what nobody loads, give up and close, in the time of one load. They would keep their places until the
/// limit of the load: one in a hundred is kept, since it may only have sent its end.
#[test]
fn clients_that_gave_up_waiting_leave_their_places() {
    let server = Server::start(options()).unwrap();
    for number in 0..200 {
        connect(&server).write_all(format!("GET u:{number}\r\n").as_bytes()).unwrap();
    }
    eventually("all came", || stat(&server, "accepted") == 200);
    eventually("nearly all are gone", || stat(&server, "connected") <= 10);
}

/// A reset says that the peer takes no reply: a connection that waits is closed at once.
#[test]
fn a_reset_ends_a_wait() {
    let server = Server::start(options()).unwrap();
    let mut other = connect(&server);
    let mut peer = connect(&server);
    peer.write_all(b"GET u:1\r\n").unwrap();
    eventually("it waits", || waiters(&mut other, "u:1") == 1);
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    eventually("it is gone", || stat(&server, "connected") == 1);
    assert_eq!(waiters(&mut other, "u:1"), 0);
}

/// B and C wait for the lease that A holds. B's process ends, then A's. The lease comes to B, which cannot fill it: it goes
/// on to C at once, and counts neither as B's failure nor as a reason to give up.
#[test]
fn a_lease_does_not_stay_with_a_peer_that_is_gone() {
    let server = Server::start(options()).unwrap();
    let mut other = connect(&server);
    let mut holder = connect(&server);
    holder.write_all(b"CACHE.FETCH k\r\n").unwrap();
    let _ = holder.read(&mut [0; 256]).unwrap();
    let mut waiting: Vec<TcpStream> = (1..=3)
        .map(|count| {
            let mut stream = connect(&server);
            stream.write_all(b"CACHE.FETCH k WAIT 600000 LEASE 60000\r\n").unwrap();
            eventually("it waits", || waiters(&mut other, "k") == count);
            stream
        })
        .collect();
    drop(waiting.remove(0));
    // The end of B was seen when what came after it on the same thread, and any other, has run.
    for _ in 0..4 {
        ask(&mut connect(&server), b"PING\r\n", b"+PONG\r\n");
    }
    drop(holder);
    let mut buffer = [0; 256];
    let count = waiting[0].read(&mut buffer).unwrap();
    let got = buffer[..count].escape_ascii().to_string();
    assert!(got.starts_with("*6\\r\\n$4\\r\\nmiss"), "{got}");
    waiting[1].set_nonblocking(true).unwrap();
    assert_eq!(waiting[1].read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A client says QUIT and puts the connection back into its pool when it has the reply: it must see there at once that the
/// connection has ended, else its next command fails.
#[test]
fn the_end_comes_together_with_the_reply_to_quit() {
    let server = Server::start(options()).unwrap();
    for request in [&b"QUIT\r\n"[..], b"*1\r\n$4\r\nQUIT\r\n"].repeat(50) {
        let mut client = connect(&server);
        ask(&mut client, request, b"+OK\r\n");
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    }
}

/// One connection holds most of what all may hold and is idle; another one then needs more than there is. The large one is
/// closed, not the one that happened to come last, also when another thread serves it.
#[test]
fn when_connections_hold_too_much_the_largest_is_closed() {
    for threads in [1, 2] {
        close_the_largest(threads);
    }
}

fn close_the_largest(threads: usize) {
    // Connections go to the threads in turn.
    let server = Server::start(Options { threads, client_memory: 10 << 20, ..options() }).unwrap();
    let part = |size: usize| {
        let mut bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16000000\r\n".to_vec();
        bytes.resize(bytes.len() + size, b'x');
        bytes
    };
    let (mut large, mut small) = (connect(&server), connect(&server));
    large.write_all(&part(5 << 20)).unwrap();
    eventually("the large part is held", || stat(&server, "client_bytes") >= 5 << 20);
    small.write_all(&part(3 << 20)).unwrap();
    let end = large.read(&mut [0; 16]);
    assert!(
        end.as_ref().is_ok_and(|count| *count == 0)
            || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    );
    eventually("the small part is held", || stat(&server, "client_bytes") >= 3 << 20);
    assert_eq!(stat(&server, "connected"), 1);
}

/// A panic in an I/O thread or in the one that accepts: listeners and all connections are closed, also those of the other
/// threads, nothing hangs, and the cause can be asked for.
#[test]
fn a_panic_of_a_thread_closes_the_server_with_its_cause() {
    for (which, thread) in [("io", "globalcache-io"), ("accept", "globalcache-accept")] {
        let server = Server::start(options()).unwrap();
        let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
        clients.iter_mut().for_each(|client| ask(client, b"mn\r\n", b"MN\r\n"));
        assert_eq!(server.failure(), None);
        clients[0].write_all(format!("debugpanic {which}\r\n").as_bytes()).unwrap();
        eventually("it has failed", || server.failure().is_some());
        let cause = server.failure().unwrap().to_owned();
        assert!(cause.contains(thread) && cause.ends_with("debugpanic was asked for"), "{cause}");
        // A connection with unread input is reset, the others end.
        for client in &mut clients {
            let ended = client.read_to_end(&mut Vec::new());
            assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        }
        let address: SocketAddr = server.addresses()[0].parse().unwrap();
        server.stop();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(server.is_stopping());
    }
}

/// The longest turn is told by the processor time of the thread, and begins anew with CONFIG RESETSTAT.
#[test]
fn the_longest_turn_is_told() {
    let server = Server::start(Options { threads: 1, memory: 256 << 20, ..options() }).unwrap();
    let mut client = connect(&server);
    // One step that copies 100 MB cannot take less than a few milliseconds.
    let value = vec![b'x'; 1 << 20];
    let mut set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", value.len()).into_bytes();
    set.extend(value);
    set.extend(b"\r\n");
    ask(&mut client, &set, b"+OK\r\n");
    ask(&mut client, b"CONFIG RESETSTAT\r\n", b"+OK\r\n");
    let resting = stat(&server, "longest_turn_usec");
    let script = b"MULTI\r\n".iter().copied().chain(b"APPEND k x\r\n".repeat(100)).chain(*b"EXEC\r\n");
    client.write_all(&script.collect::<Vec<u8>>()).unwrap();
    eventually("the long turn was seen", || stat(&server, "longest_turn_usec") > resting.max(2_000));
}

/// A client has sent more than the server's socket takes at once when the server stops. All of it is answered, though the
/// rest arrives only when the server has read: a socket that is empty for a moment is no end.
#[test]
fn it_answers_what_the_system_of_a_client_holds_when_it_stops() {
    const REQUESTS: usize = 20_000;
    for _ in 0..5 {
        let server = Server::start(options()).unwrap();
        let mut client = connect(&server);
        ask(&mut client, b"PING\r\n", b"+PONG\r\n");
        client.write_all(&b"*1\r\n$4\r\nPING\r\n".repeat(REQUESTS)).unwrap();
        let reading = std::thread::spawn(move || rest(&mut client));
        server.stop();
        assert_eq!(reading.join().unwrap().len(), r"+PONG\r\n".len() * REQUESTS);
    }
}

/// The first call after a panic may come before or after somebody asks to be called: either way the cause is reported, and
/// once.
#[test]
fn a_failure_is_reported_once() {
    static REPORTS: AtomicUsize = AtomicUsize::new(0);
    for early in [true, false] {
        REPORTS.store(0, Ordering::SeqCst);
        let server = Server::start(options()).unwrap();
        let report = |cause: &str| {
            assert!(cause.contains("debugpanic"));
            REPORTS.fetch_add(1, Ordering::SeqCst);
        };
        if early {
            server.on_failure(report);
        }
        connect(&server).write_all(b"debugpanic accept\r\n").unwrap();
        eventually("it has failed", || server.failure().is_some());
        server.on_failure(report);
        server.stop();
        assert_eq!(REPORTS.load(Ordering::SeqCst), 1);
    }
}

/// A server that stops while a request waits, a peer has half-closed and another one never stops sending ends in time.
#[test]
fn it_stops_whatever_its_connections_do() {
    let server = Server::start(options()).unwrap();
    let (mut waits, mut half, mut busy) = (connect(&server), connect(&server), connect(&server));
    waits.write_all(b"GET u:1\r\n").unwrap();
    half.write_all(b"GET u:2\r\n").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    ask(&mut busy, b"PING\r\n", b"+PONG\r\n");
    let mut sender = busy.try_clone().unwrap();
    let sending = std::thread::spawn(move || while sender.write_all(&b"PING\r\n".repeat(1000)).is_ok() {});
    let reading = std::thread::spawn(move || while busy.read(&mut [0; 1 << 16]).is_ok_and(|count| count > 0) {});
    server.stop();
    assert_eq!((rest(&mut waits), rest(&mut half)), (String::new(), String::new()));
    sending.join().unwrap();
    reading.join().unwrap();
}
