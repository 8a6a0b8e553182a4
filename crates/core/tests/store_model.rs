//! Long random sequences of operations against a model: a map that never forgets. The store may forget when memory
//! is short, but never invents, revives or mixes up, and forgets nothing while there is room.

use std::collections::HashMap;

use globalcache_core::store::{Key, Meta, Options, Store};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Set { key: u16, size: usize, ttl: Option<u64>, tag: Option<u8> },
    Get(u16),
    Remove(u16),
    Expire { key: u16, ttl: Option<u64> },
    Invalidate(u8),
    Clear,
    Pass(u64),
}

struct Known {
    value: Vec<u8>,
    expires_at: Option<u64>,
    tag: Option<u8>,
}

fn op(keys: u16, largest: usize) -> impl Strategy<Value = Op> {
    let key = 0..keys;
    prop_oneof![
        8 => (key.clone(), 0..largest, proptest::option::of(1..500u64), proptest::option::of(0..4u8))
            .prop_map(|(key, size, ttl, tag)| Op::Set { key, size, ttl, tag }),
        8 => key.clone().prop_map(Op::Get),
        2 => key.clone().prop_map(Op::Remove),
        2 => (key, proptest::option::of(1..500u64)).prop_map(|(key, ttl)| Op::Expire { key, ttl }),
        1 => (0..4u8).prop_map(Op::Invalidate),
        1 => Just(Op::Clear),
        2 => (0..100u64).prop_map(Op::Pass),
    ]
}

/// Runs the operations; `roomy` says that nothing may be forgotten.
fn run(ops: &[Op], memory: u64, roomy: bool) {
    let store =
        Store::new(Options { memory, shards: 1, evict: true, max_value: 1 << 18, seed: [1, 2, 3, 4], epoch: 1 << 40 });
    let mut model: HashMap<u16, Known> = HashMap::new();
    let (mut now, mut count) = (1_000_000u64, 0u32);
    for op in ops {
        match *op {
            Op::Set { key, size, ttl, tag } => {
                count += 1;
                let mut value = vec![count as u8; size];
                value.extend_from_slice(&count.to_le_bytes());
                let tags: Vec<u64> = tag.iter().map(|tag| store.tag(&[*tag])).collect();
                let meta = Meta { expires_at: ttl.map(|ttl| now + ttl), tags: &tags, ..Meta::default() };
                let name = key.to_be_bytes();
                let written = store.with(Key { db: 0, bytes: &name }, now, |entry| entry.set(&value, &meta));
                written.expect("room, or something to push out");
                model.insert(key, Known { value, expires_at: meta.expires_at, tag });
            }
            Op::Get(key) => {
                let known = model.get(&key).filter(|known| known.expires_at.is_none_or(|at| now < at));
                let name = key.to_be_bytes();
                store.with(Key { db: 0, bytes: &name }, now, |entry| match (entry.get(), known) {
                    (Some(item), Some(known)) => {
                        assert_eq!(item.value.bytes(), known.value);
                        assert_eq!(item.expires_at, known.expires_at);
                    }
                    (Some(_), None) => panic!("a value that was not there"),
                    (None, Some(_)) => assert!(!roomy, "forgotten with room to spare"),
                    (None, None) => {}
                });
            }
            Op::Remove(key) => {
                let name = key.to_be_bytes();
                store.with(Key { db: 0, bytes: &name }, now, |entry| entry.remove());
                model.remove(&key);
            }
            Op::Expire { key, ttl } => {
                let at = ttl.map(|ttl| now + ttl);
                let name = key.to_be_bytes();
                if store.with(Key { db: 0, bytes: &name }, now, |entry| entry.expire(at)) {
                    model.get_mut(&key).expect("an item that the store holds is known").expires_at = at;
                }
            }
            Op::Invalidate(tag) => {
                store.invalidate_tags(&[store.tag(&[tag])]);
                model.retain(|_, known| known.tag != Some(tag));
            }
            Op::Clear => {
                store.clear(Some(0), now);
                model.clear();
            }
            Op::Pass(ms) => {
                now += ms;
                store.tick(now);
            }
        }
        model.retain(|_, known| known.expires_at.is_none_or(|at| now < at));
        assert!(store.stats().used <= memory, "the budget is exact: {}", store.stats().used);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forgets_nothing_with_room_to_spare(ops in proptest::collection::vec(op(64, 300), 1..800)) {
        run(&ops, 8 << 20, true);
    }

    #[test]
    fn never_invents_revives_or_mixes_up_when_memory_is_short(ops in proptest::collection::vec(op(2000, 3000), 1..3000)) {
        run(&ops, 1 << 20, false);
    }
}
