//! Leases, stale values and recache flags as memcached's meta commands have them, on the leases of everything else.
//!
//! Each test is one of the interleavings that a naive cache gets wrong.

mod world;

use world::{World, token_of};

/// The number after a letter in a reply.
fn flag(reply: &str, letter: char) -> u64 {
    let words = reply.split(' ').filter_map(|word| word.strip_prefix(letter));
    words.filter_map(|number| number.parse().ok()).next().unwrap_or_else(|| panic!("{reply} has no {letter}"))
}

impl World {
    /// Wins the lease of a key without a value, and returns its token.
    fn win(&mut self, number: usize, key: &str) -> u64 {
        let answer = self.ask(number, &format!("mg {key} v c N30"));
        assert!(answer.starts_with("VA 0 c") && answer.ends_with(" W"), "{answer}");
        flag(&answer, 'c')
    }
}

#[test]
fn one_wins_and_others_wait_while_it_loads() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    assert_eq!(world.ask(a, "mg k v R30"), "EN");
    assert_eq!(world.ask(a, "mg k s v t f k O7 N30"), "VA 0 s0 t30 f0 kk O7 W");
    assert_eq!(world.ask(b, "mg k v c t N30"), "VA 0 c0 t30 Z");
    assert_eq!(world.ask(b, "mg k v R30"), "VA 0 Z");
    assert_eq!(world.ask(b, "mg k N30 q"), "HD Z");
    // Nobody who does not know of leases is shown an item that is none.
    assert_eq!(world.ask(b, "mg k v"), "EN");
    assert_eq!(world.ask(b, "get k"), "END");
    assert_eq!(world.ask(b, "replace k 0 0 1\r\nx"), "NOT_STORED");
    // The number of who lost stands for nothing.
    assert_eq!(world.ask(b, "ms k 1 C0\r\nx"), "NF");
    assert_eq!(world.ask(a, "mg k v N30"), "VA 0 Z");
}

#[test]
fn the_token_of_a_win_fills_once_by_any_connection() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    let token = world.win(a, "k");
    world.close(a);
    // The lease is bound to no connection: who lost goes on losing.
    assert_eq!(world.ask(b, "mg k v N30"), "VA 0 Z");
    let stored = world.ask(b, &format!("ms k 2 C{token} T100 F5 c s\r\nv1"));
    assert!(stored.starts_with("HD c") && stored.ends_with(" s2"), "{stored}");
    assert_eq!(
        world.ask(b, "mg k v f t c"),
        format!("VA 2 f5 t100 c{}\r\nv1", flag(&stored, 'c')).replace("\r\n", " ")
    );
    assert_eq!(world.ask(b, &format!("ms k 2 C{token}\r\nv0")), "EX");
    assert_eq!(world.ask(b, "get k"), "VALUE k 5 2 v1 END");
}

#[test]
fn a_token_from_before_a_write_stores_nothing() {
    for write in [
        "md k",
        "md k I",
        "md k x",
        "delete k",
        "flush_all",
        "set k 0 0 2\r\nv2",
        "add k 0 0 2\r\nv2",
        "ms k 2\r\nv2",
        "ma k N0 J5",
    ] {
        let mut world = World::new();
        let (winner, writer) = (world.connect(""), world.connect(""));
        let token = world.win(winner, "k");
        world.ask(writer, write);
        let late = world.ask(winner, &format!("ms k 2 C{token} q\r\nv1"));
        assert!(late == "NF" || late == "EX", "{write}: {late}");
        assert!(!world.ask(writer, "mg k v").ends_with("v1"), "{write}");
    }
}

#[test]
fn a_delete_between_win_and_fill_stores_nothing() {
    let mut world = World::new();
    let (winner, writer) = (world.connect(""), world.connect(""));
    world.ask(writer, "ms k 2 T10\r\nv0");
    let token = flag(&world.ask(winner, "mg k v c R30"), 'c');
    // There is an item, so memcached says so; a new one is loaded by whoever asks next.
    assert_eq!(world.ask(writer, "md k I T20"), "HD");
    assert_eq!(world.ask(winner, &format!("ms k 2 C{token}\r\nv1")), "EX");
    let again = world.ask(winner, "mg k v c");
    assert!(again.starts_with("VA 2 c") && again.ends_with(" X W v0"), "{again}");
    assert_eq!(world.ask(winner, &format!("ms k 2 C{}\r\nv2", flag(&again, 'c'))), "HD");
    assert_eq!(world.ask(writer, "mg k v"), "VA 2 v2");
}

#[test]
fn plain_stores_void_what_is_being_loaded() {
    let mut world = World::new();
    let (winner, writer) = (world.connect(""), world.connect(""));
    let token = world.win(winner, "k");
    assert_eq!(world.ask(writer, "ms k 2 T100\r\nv2"), "HD");
    assert_eq!(world.ask(winner, &format!("ms k 2 C{token}\r\nv1")), "EX");
    assert_eq!(world.ask(writer, "mg k v N30"), "VA 2 v2");
}

#[test]
fn what_ends_soon_is_loaded_anew_by_one() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    world.ask(a, "ms k 2 T100\r\nv1");
    assert_eq!(world.ask(a, "mg k v R30"), "VA 2 v1");
    world.wait(80_000);
    let won = world.ask(a, "mg k v c R30");
    assert!(won.ends_with(" W v1"), "{won}");
    // Readers that prolong the item change nothing about who loads it, and are told.
    assert_eq!(world.ask(b, "mg k v R30 T60"), "VA 2 Z v1");
    assert_eq!(world.ask(b, "mg k v"), "VA 2 Z v1");
    assert_eq!(world.ask(b, "gets k").split(' ').nth(3), Some("2"));
    assert_eq!(world.ask(a, &format!("ms k 2 C{} T100\r\nv2", flag(&won, 'c'))), "HD");
    assert_eq!(world.ask(b, "mg k v R30"), "VA 2 v2");
    // What never ends is not loaded anew.
    world.ask(a, "ms k 2\r\nv3");
    assert_eq!(world.ask(b, "mg k v R30"), "VA 2 v3");
}

#[test]
fn touches_and_expiry_void_no_win() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    world.ask(a, "ms k 2 T20\r\nv1");
    let won = world.ask(a, "mg k v c R30");
    world.ask(b, "touch k 2");
    world.ask(b, "gat 3 k");
    world.wait(3_001);
    assert_eq!(world.ask(b, "get k"), "END");
    assert_eq!(world.ask(b, "mg k v N30"), "VA 0 Z");
    assert_eq!(world.ask(a, &format!("ms k 2 C{} T100\r\nv2", flag(&won, 'c'))), "HD");
    assert_eq!(world.ask(b, "mg k v"), "VA 2 v2");
}

#[test]
fn an_expired_win_passes_on_and_the_first_fill_is_stored() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    let first = flag(&world.ask(a, "mg k v c N2"), 'c');
    world.wait(2_001);
    assert_eq!(world.ask(b, "mg k v R30"), "EN");
    let second = flag(&world.ask(b, "mg k v c N2"), 'c');
    assert_ne!(first, second);
    assert_eq!(world.ask(a, &format!("ms k 2 C{first}\r\nv1")), "HD");
    assert_eq!(world.ask(b, &format!("ms k 2 C{second}\r\nv2")), "EX");
    assert_eq!(world.ask(b, "get k"), "VALUE k 0 2 v1 END");
    // A lease ends after a minute, whatever was asked for; and at once is not never.
    for asked in ["N0", "N3600", "N1700003600"] {
        assert_eq!(world.ask(a, &format!("mg {asked} t {asked}")), "HD t60 W", "{asked}");
    }
    assert_eq!(world.ask(a, "mg past N-1"), "HD W");
}

#[test]
fn tokens_and_versions_are_not_mistaken_for_each_other() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    world.ask(a, "ms k 2 T20\r\nv0");
    let version = flag(&world.ask(b, "mg k c"), 'c');
    let token = flag(&world.ask(a, "mg k c R30"), 'c');
    assert_ne!(version, token);
    // A client may choose the number that others compare, but none that fills.
    let refused = "CLIENT_ERROR the chosen number is the token of a lease";
    assert_eq!(world.ask(b, &format!("ms k 2 E{token} q\r\nv9")), refused);
    assert_eq!(world.ask(b, &format!("md k I E{token}")), refused);
    assert_eq!(world.ask(b, &format!("ma k E{token}")), refused);
    assert_eq!(world.ask(b, "mg k v"), "VA 2 Z v0");
    assert_eq!(world.ask(b, &format!("ms k 2 C{version} E55 c\r\nv1")), "HD c55");
    assert_eq!(world.ask(a, &format!("ms k 2 C{token}\r\nv0")), "EX");
    assert_eq!(world.ask(b, "gets k"), "VALUE k 0 2 55 v1 END");
    assert_eq!(world.ask(b, "touch k 100"), "TOUCHED");
    assert_eq!(world.ask(b, "cas k 0 0 2 54\r\nv2"), "EXISTS");
    assert_eq!(world.ask(b, "cas k 0 0 2 55\r\nv2"), "STORED");
    // The number goes with the value that it was chosen for.
    assert_ne!(flag(&world.ask(b, "mg k c"), 'c'), 55);
    // What compares versions otherwise sees those of the server.
    let redis = world.connect("");
    assert_eq!(world.ask(b, "ms n 1 E7\r\n1"), "HD");
    assert!(!world.ask(redis, "CACHE.GET n").contains(":7 "));
    assert_eq!(world.ask(b, "ma n E9 c v"), "VA 1 c9 2");
    assert_eq!(world.ask(b, "ms n 1 MA E11 c s\r\n3"), "HD c11 s2");
    assert_eq!(world.ask(b, "md n C11 I E13"), "HD");
    assert_eq!(world.ask(b, "md n C11"), "EX");
    assert_eq!(world.ask(b, "md n C13"), "HD");
}

#[test]
fn a_marked_value_is_stale_and_loaded_by_one() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    world.ask(a, "set k 5 100 2\r\nv1");
    let before = flag(&world.ask(a, "mg k c"), 'c');
    assert_eq!(world.ask(a, "md k I T30 q"), "");
    assert_eq!(world.ask(b, &format!("ms k 2 C{before}\r\nv0")), "EX");
    // It wins without N and R.
    let won = world.ask(b, "mg k v f t c");
    assert!(won.starts_with("VA 2 f5 t30 c") && won.ends_with(" X W v1"), "{won}");
    assert_eq!(world.ask(a, "mg k v"), "VA 2 Z X v1");
    assert_eq!(world.ask(a, "get k"), "VALUE k 5 2 v1 END");
    // A fetch of this server sees the same lease.
    let redis = world.connect("");
    assert!(world.ask(redis, "CACHE.FETCH k").starts_with("*6 $5 stale $2 v1 :0"));
    assert_eq!(world.ask(b, &format!("ms k 2 C{} T100\r\nv2", flag(&won, 'c'))), "HD");
    assert_eq!(world.ask(a, "mg k v"), "VA 2 v2");
    assert_eq!(world.ask(a, "md none I"), "NF");
    world.ask(a, "md k I T2");
    world.wait(2_001);
    assert_eq!(world.ask(a, "mg k v"), "EN");
}

#[test]
fn what_md_empties_is_kept_without_its_value() {
    let mut world = World::new();
    let a = world.connect("");
    world.ask(a, "set k 5 100 2\r\nv1");
    assert_eq!(world.ask(a, "md k x"), "HD");
    assert_eq!(world.ask(a, "mg k v f s t"), "VA 0 f0 s0 t-1");
    assert_eq!(world.ask(a, "md k x I T50"), "HD");
    assert_eq!(world.ask(a, "mg k v t"), "VA 0 t50 X W");
    assert_eq!(world.ask(a, "md none x"), "NF");
}

#[test]
fn a_fill_with_an_older_version_is_stored_as_stale() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    world.ask(a, "set k 0 100 2\r\nv1");
    let old = flag(&world.ask(a, "mg k c"), 'c');
    world.ask(a, "md k I T40");
    let won = flag(&world.ask(a, "mg k c"), 'c');
    assert_eq!(world.ask(b, &format!("ms k 2 C{old} T900\r\nv2")), "EX");
    assert_eq!(world.ask(b, &format!("ms k 2 C{old} I T900\r\nv2")), "HD");
    // Better stale than old: it ends when what was there would have, and who loads goes on.
    assert_eq!(world.ask(b, "mg k v t"), "VA 2 t40 Z X v2");
    assert_eq!(world.ask(a, &format!("ms k 2 C{won} T900\r\nv3")), "HD");
    assert_eq!(world.ask(b, "mg k v t"), "VA 2 t900 v3");
    let higher = u64::MAX;
    assert_eq!(world.ask(b, &format!("ms k 2 C{higher} I\r\nv4")), "EX");
    assert_eq!(world.ask(b, &format!("ms none 2 C{old} I\r\nv4")), "NF");
}

#[test]
fn a_win_is_the_lease_of_everything_else() {
    let mut world = World::new();
    let (memcached, redis) = (world.connect(""), world.connect(""));
    let token = world.win(memcached, "k");
    world.send(redis, "CACHE.FETCH k WAIT 10000");
    assert_eq!(world.heard(redis), "");
    assert_eq!(world.ask(memcached, &format!("ms k 2 C{token}\r\nv1")), "HD");
    assert!(world.heard(redis).starts_with("*6 $3 hit $2 v1"));
    // And the other way round.
    let token = world.lease(redis, "other");
    assert_eq!(world.ask(memcached, "mg other v N30"), "VA 0 Z");
    assert_eq!(world.ask(memcached, &format!("ms other 2 C{token} ME\r\nv2")), "HD");
    assert_eq!(world.ask(redis, "GET other"), "$2 v2");
    // After a failure somebody tries again a while later, and until then nobody is told that there is nothing.
    let token = world.lease(redis, "failed");
    world.ask(redis, &format!("CACHE.FAIL failed {token} down"));
    assert_eq!(world.ask(memcached, "mg failed v N30"), "VA 0 Z");
    world.wait(150);
    world.win(memcached, "failed");
    // What is known to be absent is not loaded.
    let token = token_of(&world.ask(redis, "CACHE.FETCH absent"), "miss");
    world.ask(redis, &format!("CACHE.FILL absent {token} '' ABSENT TTL 1000"));
    assert_eq!(world.ask(memcached, "mg absent v N30"), "EN");
}

#[test]
fn on_a_served_key_mg_waits_and_nobody_wins() {
    let mut world = World::new();
    let (worker, reader, other) = (world.connect("HELLO 3"), world.connect(""), world.connect(""));
    assert_eq!(world.ask(worker, "CACHE.LOADER user:*"), "+OK");
    world.send(reader, "mg user:1 v N30");
    assert_eq!(world.heard(reader), "");
    let push = world.heard(worker);
    let token = push.split(' ').nth(6).unwrap().trim_start_matches(':').to_owned();
    world.send(worker, &format!("CACHE.FILL user:1 {token} v1 TTL 20000"));
    world.heard(worker);
    assert_eq!(world.heard(reader), "VA 2 v1");
    // What ends soon, or is stale, the worker loads anew.
    assert_eq!(world.ask(reader, "mg user:1 v R30"), "VA 2 Z v1");
    assert!(world.heard(worker).contains("user:1"));
    assert_eq!(world.ask(other, "md user:1 I"), "HD");
    assert_eq!(world.ask(reader, "mg user:1 v"), "VA 2 Z X v1");
    assert!(world.heard(worker).contains("user:1"));
    // A win from before a worker came is still good.
    let token = world.win(reader, "item:1");
    world.ask(worker, "CACHE.LOADER item:*");
    assert_eq!(world.ask(reader, &format!("ms item:1 2 C{token}\r\nv1")), "HD");
}
