//! The index: where the item of a key lies. It knows nothing of items.
//!
//! A page is an open-addressed table of 64-byte buckets, seven slots and a count each. A slot is one word:
//! 22 bits of the hash, segment + 1, offset in words of four bytes, and how often it was used (0 to 3). The bits
//! kept in a slot are those that choose its bucket, so a page grows by a sixteenth without reading a key. The
//! count of a bucket says how many items passed it by because it was full: a search ends at the first bucket that
//! nobody passed. The number of pages is fixed by the budget, so a step of growth is bounded: one page.

use memmap2::MmapMut;

const SLOTS: usize = 7;
const BUCKET: usize = 64;
/// Most buckets in a page; only the used ones are ever touched.
const MOST: usize = 8192;
/// Budget that one page stands for.
const SHARE: u64 = 1 << 20;

struct Page {
    map: MmapMut,
    buckets: usize,
    items: usize,
}

/// Where an item lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: usize,
    pub offset: usize,
}

/// A slot found: it stays good until the next insertion or removal.
#[derive(Clone, Copy)]
pub(super) struct At {
    page: usize,
    byte: usize,
    home: usize,
}

pub(super) struct Index {
    pages: Vec<Page>,
    scratch: Vec<u64>,
    pub buckets: usize,
}

fn bits(hash: u64) -> u64 {
    hash & 0x3f_ffff
}

fn place(word: u64) -> Place {
    Place {
        segment: (word >> 20 & 0x3f_ffff) as usize - 1,
        offset: ((word >> 2 & 0x3_ffff) << 2) as usize,
    }
}

impl Page {
    fn word(&self, byte: usize) -> u64 {
        u64::from_le_bytes(self.map[byte..byte + 8].try_into().expect("eight bytes"))
    }

    fn put(&mut self, byte: usize, word: u64) {
        self.map[byte..byte + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn home(&self, bits: u64) -> usize {
        ((bits * self.buckets as u64) >> 22) as usize
    }

    fn pass(&mut self, bucket: usize, by: i64) {
        let byte = bucket * BUCKET + SLOTS * 8;
        let count = self.word(byte).wrapping_add_signed(by);
        self.put(byte, count);
    }

    fn passed(&self, bucket: usize) -> bool {
        self.word(bucket * BUCKET + SLOTS * 8) != 0
    }

    fn add(&mut self, word: u64) {
        let mut bucket = self.home(word >> 42);
        loop {
            for slot in 0..SLOTS {
                let byte = bucket * BUCKET + slot * 8;
                if self.word(byte) == 0 {
                    return self.put(byte, word);
                }
            }
            self.pass(bucket, 1);
            bucket = (bucket + 1) % self.buckets;
        }
    }
}

impl Index {
    pub(super) fn new(budget: u64) -> Index {
        let pages = (budget / SHARE).max(1).next_power_of_two() as usize;
        let pages = (0..pages)
            .map(|_| {
                let map = MmapMut::map_anon(MOST * BUCKET).expect("address space for the index");
                // Huge pages would make a page of a few buckets resident as a whole.
                let _ = map.advise(memmap2::Advice::NoHugePage);
                Page {
                    map,
                    buckets: 1,
                    items: 0,
                }
            })
            .collect::<Vec<_>>();
        Index {
            buckets: pages.len(),
            pages,
            scratch: Vec::new(),
        }
    }

    /// Bytes touched. The last, half used machine page of every table counts as used.
    pub(super) fn bytes(&self) -> u64 {
        (self.buckets * BUCKET + self.pages.len() * 2048) as u64
    }

    fn page(&self, hash: u64) -> usize {
        (hash >> 24) as usize & (self.pages.len() - 1)
    }

    /// Reads the bucket of a hash, for its effect on the processor's cache.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u64 {
        let page = &self.pages[self.page(hash)];
        page.word(page.home(bits(hash)) * BUCKET)
    }

    /// The slot whose place satisfies `is`.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(Place) -> bool) -> Option<(At, Place)> {
        let number = self.page(hash);
        let page = &self.pages[number];
        let bits = bits(hash);
        let home = page.home(bits);
        let mut bucket = home;
        loop {
            for slot in 0..SLOTS {
                let byte = bucket * BUCKET + slot * 8;
                let word = page.word(byte);
                if word != 0 && word >> 42 == bits {
                    let place = place(word);
                    if is(place) {
                        return Some((
                            At {
                                page: number,
                                byte,
                                home,
                            },
                            place,
                        ));
                    }
                }
            }
            if !page.passed(bucket) {
                return None;
            }
            bucket = (bucket + 1) % page.buckets;
            if bucket == home {
                return None;
            }
        }
    }

    pub(super) fn used(&self, at: At) -> u8 {
        (self.pages[at.page].word(at.byte) & 3) as u8
    }

    /// Remembers one more use; a slot that has three already is not written to.
    #[inline]
    pub(super) fn touch_used(&mut self, at: At) {
        let page = &mut self.pages[at.page];
        let word = page.word(at.byte);
        if word & 3 < 3 {
            page.put(at.byte, word + 1);
        }
    }

    pub(super) fn redirect(&mut self, at: At, to: Place, used: u8) {
        let page = &mut self.pages[at.page];
        let word = page.word(at.byte);
        page.put(at.byte, word >> 42 << 42 | pack(to) | used as u64);
    }

    /// Adds a slot; false when the page of this hash is full.
    pub(super) fn insert(&mut self, hash: u64, to: Place) -> bool {
        let number = self.page(hash);
        let page = &self.pages[number];
        if page.items + 1 > page.buckets * 19 / 3 && !self.grow(number) {
            return false;
        }
        let page = &mut self.pages[number];
        page.items += 1;
        page.add(bits(hash) << 42 | pack(to));
        true
    }

    fn grow(&mut self, number: usize) -> bool {
        let page = &mut self.pages[number];
        let more = (page.buckets / 16).max(1).min(MOST - page.buckets);
        if more == 0 {
            return false;
        }
        self.scratch.clear();
        for bucket in 0..page.buckets {
            for slot in 0..SLOTS {
                let word = page.word(bucket * BUCKET + slot * 8);
                if word != 0 {
                    self.scratch.push(word);
                }
            }
        }
        let end = page.buckets * BUCKET;
        page.map[..end].fill(0);
        page.buckets += more;
        self.buckets += more;
        for &word in &self.scratch {
            page.add(word);
        }
        true
    }

    pub(super) fn remove(&mut self, at: At) {
        let page = &mut self.pages[at.page];
        page.put(at.byte, 0);
        page.items -= 1;
        let mut bucket = at.home;
        while bucket != at.byte / BUCKET {
            page.pass(bucket, -1);
            bucket = (bucket + 1) % page.buckets;
        }
    }

    /// Visits the places of a stretch of hashes: page and the low bits from `cursor` on; returns the cursor to go on
    /// with. A cursor is a place in the order of hashes, so growth between two calls neither hides nor repeats much.
    pub(super) fn walk(
        &self,
        cursor: u64,
        count: usize,
        mut visit: impl FnMut(Place),
    ) -> Option<u64> {
        let (number, from) = ((cursor >> 22) as usize, cursor & 0x3f_ffff);
        let page = self.pages.get(number)?;
        let first = page.home(from);
        let last = (first + count.div_ceil(SLOTS)).min(page.buckets);
        for home in first..last {
            let mut bucket = home;
            loop {
                for slot in 0..SLOTS {
                    let word = page.word(bucket * BUCKET + slot * 8);
                    if word != 0 && page.home(word >> 42) == home {
                        visit(place(word));
                    }
                }
                if !page.passed(bucket) {
                    break;
                }
                bucket = (bucket + 1) % page.buckets;
                if bucket == home {
                    break;
                }
            }
        }
        if last == page.buckets {
            return (number + 1 < self.pages.len()).then_some((number as u64 + 1) << 22);
        }
        // The smallest hash bits whose home is `last`.
        Some((number as u64) << 22 | ((last as u64) << 22).div_ceil(page.buckets as u64))
    }
}

fn pack(place: Place) -> u64 {
    (place.segment as u64 + 1) << 20 | (place.offset as u64 >> 2) << 2
}
