//! Ordinary load of leases, in virtual time: pools of connections that use any of them for either half of a load, loader
//! workers that die with loads in hand, holders that answer late, wrongly or never, waiters that leave, clients that
//! come back with a newer session, and tags of other keys that are invalidated meanwhile.
//!
//! A model follows what every client was told. It judges effects: who holds a lease is there, no two hold one, nobody
//! waits beyond its limit or gets an error that no holder is to blame for, no fill is refused that nothing has touched, and
//! in the end everything is as it was, with all credit given back.
//!
//! `LEASE_LOADS=10000 cargo test --release -p globalcache-core --test lease_load` runs so many, from the seed LEASE_FROM on.

mod clients;
mod judge;
#[path = "../random/mod.rs"]
mod random;
mod simulation;
mod told;
#[path = "../world/mod.rs"]
mod world;

use simulation::Simulation;

/// A number from the environment: how many loads, say, more where there is time for them.
fn given(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn leases_under_ordinary_load() {
    let mut total = [0; 4];
    let (from, count) = (given("LEASE_FROM", 1), given("LEASE_LOADS", 60));
    for seed in from..from + count {
        let (violations, counts) = Simulation::new(seed).run();
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    // It is a load only if all of this happens often.
    assert!(total.iter().all(|total| *total > count), "{total:?}");
}
