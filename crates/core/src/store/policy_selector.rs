//! Which way of evicting suits the keys that are asked for: found by trying several on a sample.
//!
//! No one way is best: recency wins where what was just used is used again, a small probation queue where most keys are
//! used once, a tiny one where a loop is longer than the memory. So each way runs on a model of the shard that holds only
//! fingerprints of a sample of the keys (Waldspurger et al., "Cache modeling and optimization using miniature
//! simulations", ATC 2017). The one that misses least of late decides what the shard does; its items stay where they are.
//! Recency is where a shard begins, what it leaves only for what is better beyond chance, and where it returns at once when
//! nothing is better: whoever expects LRU gets no less.

use super::index::MAX_FREQ;
use super::segment::Queue;

/// A way of evicting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Policy {
    /// Share of the small queue, in percent; none: recency.
    pub(super) small: usize,
    /// A use counts only of an item that has passed so many percent of its queue: what is used shortly after its write
    /// is likely part of the same task.
    pub(super) window: [usize; 2],
}

impl Policy {
    /// Whether it is recency: new items go to the main queue, and its oldest get one more round there if they were used
    /// late in this one, half a round if they were used early, in the small queue, or none. LRU would give to each what
    /// it had left at its last use; two lengths come within a percent of its misses, and one does not.
    pub(super) fn is_recency(&self) -> bool {
        self.small == 0
    }

    /// What a use makes of an item's frequency. `age` is what came after it, in the same measure as `whole`, all that is kept.
    #[inline]
    pub(super) fn used(&self, freq: u8, queue: Queue, age: usize, whole: usize) -> u8 {
        let share = if queue == Queue::Small { self.small } else { 100 - self.small };
        if age * 10_000 < whole * self.window[queue as usize] * share {
            freq
        } else if !self.is_recency() {
            (freq + 1).min(MAX_FREQ)
        } else if queue == Queue::Small || age * 100 >= whole * LATE {
            MAX_FREQ
        } else {
            freq.max(1)
        }
    }

    /// Where an item goes at the end of its round, and with which frequency; None: nowhere.
    #[inline]
    pub(super) fn next(&self, queue: Queue, freq: u8) -> Option<(Queue, u8)> {
        match queue {
            _ if freq == 0 => None,
            Queue::Main if !self.is_recency() => Some((Queue::Main, freq - 1)),
            Queue::Main if freq < MAX_FREQ => Some((Queue::Small, 0)),
            _ => Some((Queue::Main, 0)),
        }
    }

    /// Whether the next victim is the oldest of the small queue, which holds `small` of all that is kept; `age` is that of
    /// the oldest of each queue, if there is one.
    #[inline]
    pub(super) fn takes_small(&self, small: usize, whole: usize, age: [Option<usize>; 2]) -> bool {
        match age {
            [Some(half), Some(full)] if self.is_recency() => half + whole / 2 > full,
            [Some(_), Some(_)] => small * 100 > whole * self.small,
            [half, _] => half.is_some(),
        }
    }
}

/// A use after so many percent of a round is a late one.
const LATE: usize = 60;

/// Recency, then S3-FIFO with a large, the usual, and a tiny small queue.
const POLICIES: [Policy; 4] = [
    Policy { small: 0, window: [0, 15] },
    Policy { small: 30, window: [30, 0] },
    Policy { small: 10, window: [30, 0] },
    Policy { small: 1, window: [30, 0] },
];

/// Most keys of a model: the differences between policies that matter show with fewer.
const MOST: usize = 1024;
/// Fewest: with less, chance decides.
const LEAST: usize = 64;
/// Part of the memory that all models may take, as a divisor.
const PART: usize = 16;
/// Bytes that a key takes in all models: an entry of eight for it and one for a ghost, and two places in the table each.
const EACH: usize = POLICIES.len() * 2 * (size_of::<Entry>() + 4);
/// Looks at the scores while a model is used once over.
const LOOKS: usize = 10;
/// What is left of a score from one look to the next.
const DECAY: f32 = 0.995;
/// How much fewer misses, as a share, a policy must have to take over from another.
const MARGIN: f32 = 0.01;
/// To take over from recency it must be better than chance would have it once in a thousand times as well: by so many roots
/// of the misses.
const CHANCE: f32 = 3.0;

const NONE: u16 = u16::MAX;
const SMALL: u8 = Queue::Small as u8;
const MAIN: u8 = Queue::Main as u8;
const GHOST: u8 = 2;
/// It has no name any more, and stays in its list until its turn comes.
const DEAD: u8 = 3;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Fingerprint 28 | frequency 2 | queue 2.
    word: u32,
    next: u16,
    /// How many had come to either queue when it came, modulo 2¹⁶.
    stamp: u16,
}

impl Entry {
    fn fingerprint(self) -> u32 {
        self.word >> 4
    }

    fn queue(self) -> u8 {
        (self.word & 3) as u8
    }

    fn freq(self) -> u8 {
        (self.word >> 2 & 3) as u8
    }
}

/// A list, oldest first.
#[derive(Clone, Copy)]
struct List {
    head: u16,
    tail: u16,
    len: usize,
}

const EMPTY: List = List { head: NONE, tail: NONE, len: 0 };

/// One policy at work on fingerprints.
struct Model {
    policy: Policy,
    entries: Box<[Entry]>,
    /// Numbers of entries, by fingerprint; linear probing.
    table: Box<[u16]>,
    lists: [List; 3],
    /// How many came to the queues, modulo 2¹⁶.
    entered: u16,
    free: u16,
    misses: f32,
}

impl Model {
    fn new(policy: Policy, keys: usize) -> Model {
        let entries: Box<[Entry]> =
            (0..2 * keys + 1).map(|at| Entry { next: at as u16 + 1, ..Entry::default() }).collect();
        let mut model = Model {
            policy,
            table: vec![NONE; 4 * keys].into(),
            lists: [EMPTY; 3],
            entered: 0,
            free: 0,
            misses: 0.0,
            entries,
        };
        if let Some(last) = model.entries.last_mut() {
            last.next = NONE;
        }
        model
    }

    fn home(&self, fingerprint: u32) -> usize {
        // Those of a sample are all small.
        let spread = u64::from(fingerprint.wrapping_mul(0x9e37_79b1));
        ((spread * self.table.len() as u64) >> 32) as usize
    }

    /// Where in the table the fingerprint stands, or the empty place where it would.
    fn find(&self, fingerprint: u32) -> (usize, Option<u16>) {
        let mut at = self.home(fingerprint);
        loop {
            let number = self.table[at];
            if number == NONE {
                return (at, None);
            }
            if self.entries[usize::from(number)].fingerprint() == fingerprint {
                return (at, Some(number));
            }
            at = (at + 1) % self.table.len();
        }
    }

    /// Takes a fingerprint out of the table; what probing put behind it moves up.
    fn forget(&mut self, fingerprint: u32) {
        let (mut hole, Some(_)) = self.find(fingerprint) else { return };
        let length = self.table.len();
        let mut at = hole;
        loop {
            at = (at + 1) % length;
            let number = self.table[at];
            if number == NONE {
                break;
            }
            let home = self.home(self.entries[usize::from(number)].fingerprint());
            if (at + length - home) % length >= (at + length - hole) % length {
                self.table[hole] = number;
                hole = at;
            }
        }
        self.table[hole] = NONE;
    }

    fn resident(&self) -> usize {
        self.lists[0].len + self.lists[1].len
    }

    fn push(&mut self, number: u16, queue: u8, freq: u8) {
        self.entered = self.entered.wrapping_add(u16::from(queue <= MAIN));
        let list = &mut self.lists[usize::from(queue)];
        list.len += 1;
        let entry = &mut self.entries[usize::from(number)];
        let word = entry.word & !15 | u32::from(freq) << 2 | u32::from(queue);
        *entry = Entry { word, next: NONE, stamp: self.entered };
        let before = std::mem::replace(&mut list.tail, number);
        if before == NONE {
            list.head = number;
        } else {
            self.entries[usize::from(before)].next = number;
        }
    }

    fn pop(&mut self, queue: u8) -> Option<u16> {
        let list = &mut self.lists[usize::from(queue)];
        let number = list.head;
        if number == NONE {
            return None;
        }
        list.head = self.entries[usize::from(number)].next;
        if list.head == NONE {
            list.tail = NONE;
        }
        list.len -= 1;
        Some(number)
    }

    fn release(&mut self, number: u16) {
        let entry = self.entries[usize::from(number)];
        if entry.queue() != DEAD {
            self.forget(entry.fingerprint());
        }
        self.entries[usize::from(number)] = Entry { next: self.free, ..Entry::default() };
        self.free = number;
    }

    /// A read: a miss is counted. What the shard holds nobody writes after it; but had this policy ruled, whoever missed it
    /// would have written it. Else each model goes on missing what only the ruling policy keeps, and that one rules on.
    fn read(&mut self, fingerprint: u32, room: usize, held: bool) {
        let found = self.find(fingerprint).1.map(usize::from);
        let Some(number) = found.filter(|number| self.entries[*number].queue() <= MAIN) else {
            self.misses += 1.0;
            if held {
                self.write(fingerprint, room, false);
            }
            return;
        };
        let entry = self.entries[number];
        let queue = if entry.queue() == SMALL { Queue::Small } else { Queue::Main };
        let freq = self.policy.used(entry.freq(), queue, self.age(entry), room);
        self.entries[number].word = entry.word & !12 | u32::from(freq) << 2;
    }

    fn age(&self, entry: Entry) -> usize {
        usize::from(self.entered.wrapping_sub(entry.stamp))
    }

    /// A write of a key: it is there afterwards.
    fn write(&mut self, fingerprint: u32, room: usize, filling: bool) {
        let known = self.find(fingerprint).1;
        if known.is_some_and(|number| self.entries[usize::from(number)].queue() <= MAIN) {
            return;
        }
        self.remove(fingerprint);
        while self.resident() >= room {
            self.evict(room);
        }
        let filled = filling && self.lists[0].len * 100 >= (self.resident() + 1) * self.policy.small;
        let number = match self.free {
            NONE => return,
            number => number,
        };
        self.free = self.entries[usize::from(number)].next;
        let (place, _) = self.find(fingerprint);
        self.table[place] = number;
        self.entries[usize::from(number)].word = fingerprint << 4;
        let direct = known.is_some() || filled || self.policy.is_recency();
        self.push(number, if direct { MAIN } else { SMALL }, 0);
    }

    /// The key was removed.
    fn remove(&mut self, fingerprint: u32) {
        if let (_, Some(number)) = self.find(fingerprint) {
            self.forget(fingerprint);
            self.entries[usize::from(number)].word |= u32::from(DEAD);
        }
    }

    /// Makes room for one key.
    fn evict(&mut self, room: usize) {
        loop {
            let age = [0, 1].map(|queue: usize| match self.lists[queue].head {
                NONE => None,
                head => Some(self.age(self.entries[usize::from(head)])),
            });
            let small = self.policy.takes_small(self.lists[0].len, room, age);
            let queue = if small { Queue::Small } else { Queue::Main };
            let Some(number) = self.pop(queue as u8) else { return };
            let entry = self.entries[usize::from(number)];
            if entry.queue() == DEAD {
                self.release(number);
                return;
            }
            match self.policy.next(queue, entry.freq()) {
                Some((queue, freq)) => self.push(number, queue as u8, freq),
                None if small => {
                    self.push(number, GHOST, 0);
                    if self.lists[2].len > room {
                        let oldest = self.pop(GHOST).expect("a ghost");
                        self.release(oldest);
                    }
                    return;
                }
                None => {
                    self.release(number);
                    return;
                }
            }
        }
    }

    /// Keeps only what `keep` accepts, in order.
    fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        for queue in [SMALL, MAIN, GHOST] {
            for _ in 0..self.lists[usize::from(queue)].len {
                let number = self.pop(queue).expect("an entry of the list");
                let entry = self.entries[usize::from(number)];
                if entry.queue() != DEAD && keep(entry.fingerprint()) {
                    self.push(number, queue, entry.freq());
                } else {
                    self.release(number);
                }
            }
        }
    }
}

/// The models of a shard, and the policy that does best.
pub(super) struct PolicySelector {
    models: Box<[Model]>,
    /// Keys whose fingerprint is below it are in the sample.
    limit: u32,
    /// Share of the shard's items that are in the sample.
    density: f64,
    /// Most keys of a model.
    most: usize,
    /// Keys that a model has room for; none while the shard is not full.
    room: Option<usize>,
    best: usize,
    reads: usize,
}

/// 28 bits, unlike those that choose shards and buckets.
#[inline]
fn fingerprint(hash: u64) -> u32 {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36) as u32
}

impl PolicySelector {
    /// Models for a shard of so many bytes.
    pub(super) fn new(budget: usize) -> PolicySelector {
        let most = (budget / PART / EACH).clamp(LEAST, MOST);
        let models = POLICIES.iter().map(|policy| Model::new(*policy, most)).collect();
        PolicySelector { models, limit: 1 << 28, density: 1.0, most, room: None, best: 0, reads: 0 }
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.most * EACH
    }

    /// The policy to go by.
    #[inline]
    pub(super) fn policy(&self) -> &'static Policy {
        &POLICIES[self.best]
    }

    /// A key was asked for, which the shard holds or not.
    #[inline]
    pub(super) fn read(&mut self, hash: u64, held: bool) {
        let fingerprint = fingerprint(hash);
        if fingerprint < self.limit {
            self.read_sampled(fingerprint, held);
        }
    }

    fn read_sampled(&mut self, fingerprint: u32, held: bool) {
        // Until the shard is full the models differ in nothing, and a sample of few keys is most of what is read.
        let Some(room) = self.room else { return };
        for model in &mut self.models {
            model.read(fingerprint, room, held);
        }
        self.reads += 1;
        if self.reads * LOOKS >= room {
            self.reads = 0;
            self.look();
        }
    }

    fn look(&mut self) {
        let misses = |at: usize| self.models[at].misses;
        let least = (0..self.models.len()).fold(0, |least, at| if misses(at) < misses(least) { at } else { least });
        let margin = if least == 0 { 0.0 } else { MARGIN * misses(least) };
        let chance = if self.best == 0 { CHANCE * misses(least).sqrt() } else { 0.0 };
        if misses(least) + margin + chance < misses(self.best) {
            self.best = least;
        }
        for model in &mut self.models {
            model.misses *= DECAY;
        }
    }

    /// A key was written. `items` are held, by a shard that is `full` or not yet.
    #[inline]
    pub(super) fn write(&mut self, hash: u64, items: u64, full: bool) {
        let fingerprint = fingerprint(hash);
        if fingerprint < self.limit {
            self.write_sampled(fingerprint, items, full);
        }
    }

    fn write_sampled(&mut self, fingerprint: u32, items: u64, full: bool) {
        if full && self.room.is_none() {
            // All models hold the same as the shard does: this is how many of its items are in the sample, exactly. A
            // guess by the share of fingerprints could have a loop fit that does not.
            self.density = self.models[0].resident() as f64 / items.max(1) as f64;
        }
        while self.limit > 1 && items as f64 * self.density > self.most as f64 {
            // An eighth of the sample goes.
            self.limit -= (self.limit / 8).max(1);
            let (limit, before) = (self.limit, self.models[0].resident().max(1));
            self.models.iter_mut().for_each(|model| model.retain(|known| known < limit));
            self.density *= if full { 0.875 } else { self.models[0].resident() as f64 / before as f64 };
        }
        if full {
            if self.limit < 1 << 27 && items as f64 * self.density * 4.0 < self.most as f64 {
                (self.limit, self.density) = (self.limit * 2, self.density * 2.0);
            }
            self.room = Some(((items as f64 * self.density) as usize).clamp(8, self.most));
        }
        for model in &mut self.models {
            model.write(fingerprint, self.room.unwrap_or(self.most), self.room.is_none());
        }
    }

    /// A key was removed.
    #[inline]
    pub(super) fn remove(&mut self, hash: u64) {
        let fingerprint = fingerprint(hash);
        if fingerprint < self.limit {
            self.models.iter_mut().for_each(|model| model.remove(fingerprint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(key: u64) -> u64 {
        let mixed = (key + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    /// Look-aside reads of a shard that holds `items`.
    fn feed(selector: &mut PolicySelector, items: u64, keys: impl Iterator<Item = u64>) {
        let mut seen = std::collections::HashSet::new();
        for key in keys {
            seen.insert(key);
            selector.read(hash(key), false);
            let held = items.min(seen.len() as u64);
            selector.write(hash(key), held, seen.len() as u64 > items);
        }
    }

    #[test]
    fn a_loop_that_does_not_fit_is_met_with_a_tiny_queue() {
        for items in [900, 20_000] {
            let mut selector = PolicySelector::new(64 << 20);
            feed(&mut selector, items, (0..40 * items).map(|at| at % (items + items / 8)));
            assert_eq!(selector.policy().small, 1, "{items}");
        }
    }

    #[test]
    fn what_is_used_again_once_is_left_to_recency_even_after_a_loop() {
        let mut selector = PolicySelector::new(64 << 20);
        let looped = (0..40_000).map(|at| at % 1200);
        // Each key twice, further apart than a small queue keeps it, within what the whole memory holds.
        let twice = (10_000..60_000).flat_map(|at| [at + 400, at]);
        feed(&mut selector, 1000, looped.chain(twice));
        assert!(selector.policy().is_recency(), "{:?}", selector.policy());
    }

    #[test]
    fn what_the_shard_holds_enters_a_model_that_missed_it() {
        let mut selector = PolicySelector::new(64 << 20);
        feed(&mut selector, 1000, 0..4000);
        let before: Vec<f32> = selector.models.iter().map(|model| model.misses).collect();
        // The shard has had them for long; nobody writes them again.
        for _ in 0..20 {
            (10_000..10_100).for_each(|key| selector.read(hash(key), true));
        }
        for (model, before) in selector.models.iter().zip(before) {
            assert!(model.misses - before < 200.0, "{:?}: {} misses of 100 keys", model.policy, model.misses - before);
        }
    }

    proptest! {
        #[test]
        fn models_stay_whole(
            steps in prop::collection::vec((0u64..3000, 0u8..4), 1..4000),
            items in 100u64..5000,
        ) {
            let mut selector = PolicySelector::new(64 << 10);
            for (at, (key, what)) in steps.into_iter().enumerate() {
                match what {
                    0 => selector.remove(hash(key)),
                    1 => selector.read(hash(key), key % 2 == 0),
                    _ => selector.write(hash(key), items.min(at as u64), at as u64 > items),
                }
            }
            for model in &selector.models {
                let named = model.table.iter().filter(|number| **number != NONE);
                for number in named.clone() {
                    let entry = model.entries[usize::from(*number)];
                    prop_assert_eq!(model.find(entry.fingerprint()).1, Some(*number));
                    prop_assert!(entry.queue() != DEAD);
                }
                let listed: usize = model.lists.iter().map(|list| list.len).sum();
                let mut free = 0;
                let mut next = model.free;
                while next != NONE {
                    (free, next) = (free + 1, model.entries[usize::from(next)].next);
                }
                prop_assert_eq!(listed + free, model.entries.len());
                prop_assert!(named.count() <= listed);
            }
        }
    }
}
