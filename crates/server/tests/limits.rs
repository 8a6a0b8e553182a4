//! The limits on connections, on a real server over loopback: back-pressure, fairness, descriptors, many that are idle.

mod talk;

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use globalcache_server::{Admission, Options, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use talk::{address, ask, connect, eventually, stat};

/// Tests of one process share its descriptors and its memory: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

fn options() -> Options {
    Options {
        listen: vec!["127.0.0.1:0".to_owned()],
        threads: 1,
        memory: 64 << 20,
        evict: true,
        max_value: 16 << 20,
        max_clients: 20_000,
        client_memory: 256 << 20,
        idle_timeout: Duration::ZERO,
        admission: Admission::default(),
        loaders: Vec::new(),
        load_limit: Duration::from_secs(30),
        shutdown: false,
        debug_time: false,
    }
}

fn ping(stream: &mut TcpStream) {
    ask(stream, b"PING\r\n", b"+PONG\r\n");
}

const MIB: usize = 1 << 20;

fn set_big(stream: &mut TcpStream, key: &str, size: usize) {
    let mut request = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${size}\r\n", key.len()).into_bytes();
    request.extend(std::iter::repeat_n(b'v', size));
    request.extend(b"\r\n");
    ask(stream, &request, b"+OK\r\n");
}

#[test]
fn a_stalled_reader_gets_everything_in_the_end() {
    const REQUESTS: usize = 400;
    let _alone = alone();
    let server = Server::start(options()).unwrap();
    let mut other = connect(&server);
    set_big(&mut other, "big", MIB / 4);
    let mut stalled = connect(&server);
    // 100 MiB of replies, far more than any socket buffer holds.
    stalled.write_all(&b"GET big\r\n".repeat(REQUESTS)).unwrap();
    eventually("replies wait", || stat(&server, "client_bytes") > 0);
    ping(&mut other);
    let held = stat(&server, "client_bytes");
    assert!(held < 3 * MIB as u64, "{held} bytes are held for one that does not read");
    let mut one = format!("${}\r\n", MIB / 4).into_bytes();
    one.extend(std::iter::repeat_n(b'v', MIB / 4));
    one.extend(b"\r\n");
    let mut reply = vec![0; one.len()];
    for _ in 0..REQUESTS {
        stalled.read_exact(&mut reply).unwrap();
        assert!(reply == one);
    }
    ping(&mut stalled);
    eventually("nothing is held", || stat(&server, "client_bytes") == 0);
}

#[test]
fn readers_above_client_memory_are_closed_alone() {
    let _alone = alone();
    let server = Server::start(Options { client_memory: 24 << 20, ..options() }).unwrap();
    let mut other = connect(&server);
    set_big(&mut other, "big", 15 * MIB);
    let mut greedy: Vec<TcpStream> = (0..20).map(|_| connect(&server)).collect();
    for stream in &mut greedy {
        stream.write_all(b"GET big\r\nGET big\r\nGET big\r\n").unwrap();
    }
    eventually("some are closed", || stat(&server, "connected") < 21);
    ping(&mut other);
    assert!(stat(&server, "client_bytes") <= 24 << 20);
}

#[test]
fn a_request_that_never_ends_takes_only_what_it_sent() {
    let _alone = alone();
    let server = Server::start(options()).unwrap();
    let mut slow = connect(&server);
    slow.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16000000\r\nabc").unwrap();
    let mut other = connect(&server);
    ping(&mut other);
    eventually("the beginning is held", || stat(&server, "client_bytes") > 0);
    assert!(stat(&server, "client_bytes") < 1024);
}

#[test]
fn at_saturation_every_connection_gets_its_share() {
    const CONNECTIONS: usize = 50;
    const DEPTH: usize = 64;
    const REPLIES: usize = 300_000;
    let _alone = alone();
    let server = Server::start(options()).unwrap();
    let mut clients: Vec<(TcpStream, usize)> = (0..CONNECTIONS).map(|_| (connect(&server), 0)).collect();
    let burst = b"*1\r\n$4\r\nPING\r\n".repeat(DEPTH);
    for (stream, _) in &mut clients {
        stream.set_nonblocking(true).unwrap();
        stream.write_all(&burst).unwrap();
    }
    // Every connection has a whole burst on its way all the time; whoever is answered asks again.
    let (mut total, mut buffer) = (0, vec![0; 7 * DEPTH]);
    let begun = Instant::now();
    while total < REPLIES && begun.elapsed() < Duration::from_secs(20) {
        for (stream, bytes) in &mut clients {
            match stream.read(&mut buffer) {
                Ok(count) => {
                    let before = *bytes / buffer.len();
                    *bytes += count;
                    total += count / 7;
                    if *bytes / buffer.len() > before {
                        stream.write_all(&burst).unwrap();
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
    let slowest = clients.iter().map(|(_, bytes)| *bytes).min().unwrap();
    let mean = clients.iter().map(|(_, bytes)| *bytes).sum::<usize>() / CONNECTIONS;
    assert!(slowest * 10 >= mean * 8, "the slowest of {CONNECTIONS} got {slowest} bytes, the mean is {mean}");
}

#[test]
fn clients_beyond_the_limit_are_told_so_and_others_are_served() {
    let _alone = alone();
    let server = Server::start(Options { max_clients: 2, ..options() }).unwrap();
    let (mut one, mut two) = (connect(&server), connect(&server));
    ping(&mut one);
    ping(&mut two);
    let mut line = String::new();
    connect(&server).read_to_string(&mut line).unwrap();
    assert_eq!(line, "-ERR max number of clients reached\r\n");
    drop(one);
    eventually("a place is free", || stat(&server, "connected") == 1);
    ping(&mut connect(&server));
    ping(&mut two);
}

#[test]
fn an_idle_connection_is_closed_only_when_that_is_asked_for() {
    let _alone = alone();
    let server = Server::start(Options { idle_timeout: Duration::from_millis(100), ..options() }).unwrap();
    let mut idle = connect(&server);
    ping(&mut idle);
    assert_eq!(idle.read(&mut [0; 16]).unwrap(), 0);
}

/// Raises the limit on descriptors as far as is allowed; what it is then.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }).unwrap();
    most
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_delay_nobody() {
    let _alone = alone();
    // Both ends of every connection are in this process.
    let wanted = raise_descriptors().saturating_sub(200).min(20_000) / 2;
    let server = Server::start(options()).unwrap();
    let mut active = connect(&server);
    ping(&mut active);
    let before = resident();
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..wanted {
        idle.push(TcpStream::connect(address(&server)).unwrap());
    }
    eventually("all are connected", || stat(&server, "connected") == wanted + 1);
    for stream in idle.iter_mut().step_by(100) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        ping(stream);
    }
    ping(&mut active);
    let each = resident().saturating_sub(before) / wanted;
    assert!(each <= 4096, "{each} bytes of memory for each of {wanted} idle connections");
}

/// Bytes of memory that this process has in use.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

#[test]
fn accepting_resumes_when_there_are_descriptors_again() {
    let _alone = alone();
    let server = Server::start(options()).unwrap();
    let mut early = connect(&server);
    ping(&mut early);
    // A socket that is made before the descriptors run out and connects after that.
    let late = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let old = getrlimit(Resource::Nofile);
    let mut fillers = Vec::new();
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: old.maximum }).unwrap();
    let full = loop {
        match std::fs::File::open("/dev/null") {
            Ok(file) => fillers.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(full.raw_os_error(), Some(24), "{full}");
    late.connect(&address(&server).into()).unwrap();
    let mut late = TcpStream::from(late);
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    late.write_all(b"PING\r\n").unwrap();
    let waiting = late.read(&mut [0; 16]);
    // Those who are connected are served all the time, and waiting for descriptors takes no processor time.
    let busy = processor_time();
    for _ in 0..20 {
        ping(&mut early);
        std::thread::sleep(Duration::from_millis(10));
    }
    let busy = processor_time() - busy;
    drop(fillers);
    setrlimit(Resource::Nofile, old).unwrap();
    let error: io::Error = waiting.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    assert!(busy < Duration::from_millis(100), "{busy:?} of processor time in 200 ms");
    let mut answer = [0; 7];
    late.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    late.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}

/// Processor time that this process has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn a_stopping_server_answers_and_frees_its_address() {
    const REQUESTS: usize = 10_000;
    let _alone = alone();
    let server = Server::start(options()).unwrap();
    let bound = server.addresses()[0].clone();
    let mut client = connect(&server);
    ping(&mut client);
    client.write_all(&b"PING\r\n".repeat(REQUESTS)).unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    drop(client);
    stopping.join().unwrap();
    assert_eq!(replies, "+PONG\r\n".repeat(REQUESTS));
    let again = Server::start(Options { listen: vec![bound], ..options() }).unwrap();
    ping(&mut connect(&again));
}

#[test]
fn a_unix_socket_is_private_and_a_stale_one_replaced() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    let _alone = alone();
    let path = std::env::temp_dir().join(format!("globalcache-test-{}.sock", std::process::id()));
    let listen = vec![format!("unix://{}", path.display())];
    drop(UnixListener::bind(&path).unwrap());
    let server = Server::start(Options { listen: listen.clone(), ..options() }).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    assert!(Server::start(Options { listen, ..options() }).is_err(), "one that is listened on is left alone");
    drop(server);
    assert!(!path.exists());
}

#[test]
fn addresses_that_cannot_be_served_are_refused_with_a_reason() {
    for (address, reason) in [
        ("7411", "allowed are HOST:PORT, tls://HOST:PORT"),
        ("127.0.0.1:", "allowed are HOST:PORT, tls://HOST:PORT"),
        ("127.0.0.1:65536", "allowed are HOST:PORT, tls://HOST:PORT"),
        ("ftp://127.0.0.1:1", "allowed are HOST:PORT, tls://HOST:PORT"),
        ("unix://relative", "begins with /"),
        ("0.0.0.0:0", "--insecure allows it"),
    ] {
        let refused = Server::start(Options { listen: vec![address.to_owned()], ..options() });
        match refused.err() {
            Some(globalcache_server::StartError::Option(text)) => assert!(text.contains(reason), "{address}: {text}"),
            other => panic!("{address}: {other:?}"),
        }
    }
}
