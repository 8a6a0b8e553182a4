//! Patterns that are refused, the order of queues, and what one step does.

use super::*;

/// Costly patterns are registered until one is refused: a key of 64 KiB would take too long to be compared with them all.
/// Patterns that begin differently, as those of functions do, cost a key no more than one of them.
#[test]
fn costly_patterns_are_refused() {
    let loaders = Loaders::default();
    for number in 0..1000 {
        loaders.declare(0, format!("f{number}:*:of:*:in:*").as_bytes()).unwrap();
    }
    let costly = |number: usize| format!("f1:*{}*{number}", "[ab]?".repeat(150));
    let taken = (0..20).take_while(|number| loaders.declare(0, costly(*number).as_bytes()).is_ok()).count();
    assert!((5..20).contains(&taken), "{taken}");
    // In another database, or of other keys, there is room.
    loaders.declare(1, costly(0).as_bytes()).unwrap();
    loaders.declare(0, b"f2:*[ab]*").unwrap();
    // What is served already is no new pattern, and what is forgotten makes room.
    loaders.declare(0, costly(0).as_bytes()).unwrap();
    assert_eq!(loaders.declare(0, costly(taken).as_bytes()), Err(TOO_COSTLY));
    assert_eq!(loaders.forget(0, [costly(0).as_bytes()].into_iter()), 1);
    loaders.declare(0, costly(taken).as_bytes()).unwrap();
}

/// While some keys of a full queue are looked at, their pattern is forgotten and another one has its place, with a worker
/// of its own. The keys are not sent to that worker, but to one that comes for a pattern which covers them.
#[test]
fn a_search_ends_with_the_pattern_of_its_queue() {
    let loaders = Loaders::default();
    let worker = |slot| ConnectionId { slot, id: u64::from(slot), ..ConnectionId::default() };
    loaders.declare(0, b"a:*").unwrap();
    (0..3).for_each(|number| loaders.want(0, Arc::from(format!("a:{number}").as_bytes())));
    assert!(loaders.take_work(1 << 20).sent.is_empty());
    let (number, some) = loaders.work.lock().unchecked(true, 0).unwrap();
    let taken = loaders.work.lock().taken;
    assert_eq!((some.len(), loaders.queued_bytes()), (3, 0));
    assert_eq!(loaders.forget(0, [&b"a:*"[..]].into_iter()), 1);
    loaders.register(worker(1), 0, [&b"b:*"[..]].into_iter(), 10).unwrap();
    loaders.put_back(number, some, taken);
    let turn = loaders.take_work(1 << 20);
    assert_eq!((turn.sent.len(), turn.unserved.len()), (0, 3));
    turn.unserved.into_iter().for_each(|(db, key)| loaders.want(db, key));
    loaders.register(worker(2), 0, [&b"a:*"[..]].into_iter(), 10).unwrap();
    let sent = loaders.take_work(1 << 20).sent;
    assert_eq!((sent.len(), sent.iter().all(|(_, connection)| *connection == worker(2))), (3, true));
}

/// A full queue is searched a part at a time, while workers take its first keys and others are queued: its order stays.
#[test]
fn a_queue_keeps_its_order_while_it_is_searched() {
    let wanted = |number: usize| -> Wanted { (0, Arc::from(number.to_be_bytes())) };
    let mut queue = Queue::default();
    let count = 3 * STEP;
    (0..count).for_each(|number| queue.push(wanted(number)));
    let (mut got, mut next) = (Vec::new(), count);
    loop {
        let some = queue.unchecked();
        if some.is_empty() {
            break;
        }
        queue.keep(some.into_iter().filter(|(_, key)| key[7] % 2 == 0).collect());
        got.extend(queue.pop());
        queue.push(wanted(next));
        // It is queued already, and has its place.
        queue.push(wanted(next));
        next += 1;
    }
    got.extend(std::iter::from_fn(|| queue.pop()));
    assert!(got.is_sorted() && got.len() < count / 2 + 10, "{}", got.len());
    assert_eq!((queue.bytes, queue.is_empty()), (0, true));
}

/// More loads are wanted than one step queues: they are queued in further steps, in their order.
#[test]
fn a_step_queues_a_bounded_number_of_loads() {
    let loaders = Loaders::default();
    let connection = ConnectionId::default();
    loaders.register(connection, 0, [&b"*"[..]].into_iter(), 1 << 16).unwrap();
    let count = 2 * STEP + 1;
    (0..count).for_each(|number| loaders.want(0, Arc::from(number.to_be_bytes())));
    let turns: Vec<Turn> = (0..3).map(|_| loaders.take_work(1 << 30)).collect();
    assert_eq!(turns.iter().map(|turn| turn.sent.len()).collect::<Vec<_>>(), [STEP, STEP, 1]);
    assert_eq!(turns.iter().map(|turn| turn.more).collect::<Vec<_>>(), [true, true, false]);
    assert!(turns.iter().flat_map(|turn| &turn.sent).is_sorted_by_key(|((_, key), _)| Arc::clone(key)));
}
