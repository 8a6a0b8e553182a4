//! Lists of segments, by their numbers: whatever is done to them takes the same short time, however many segments there
//! are. A segment stands in one list of a set at most.

const NONE: u32 = u32::MAX;

/// A set of `N` lists.
pub(super) struct Lists<const N: usize> {
    /// First and last of each list.
    ends: [[u32; 2]; N],
    /// The one before and the one behind, for each number.
    links: Vec<[u32; 2]>,
}

impl<const N: usize> Default for Lists<N> {
    fn default() -> Lists<N> {
        Lists { ends: [[NONE; 2]; N], links: Vec::new() }
    }
}

impl<const N: usize> Lists<N> {
    /// Takes the memory for numbers below `numbers`.
    pub(super) fn reserve(&mut self, numbers: usize) {
        self.links.reserve_exact(numbers - self.links.len());
    }

    pub(super) fn front(&self, list: usize) -> Option<usize> {
        let first = self.ends[list][0];
        (first != NONE).then_some(first as usize)
    }

    /// Puts a number that stands in no list first.
    pub(super) fn push_front(&mut self, list: usize, number: usize) {
        self.push(list, number, 0);
    }

    /// Puts a number that stands in no list last.
    pub(super) fn push_back(&mut self, list: usize, number: usize) {
        self.push(list, number, 1);
    }

    fn push(&mut self, list: usize, number: usize, end: usize) {
        if self.links.len() <= number {
            self.links.resize(number + 1, [NONE; 2]);
        }
        let neighbour = std::mem::replace(&mut self.ends[list][end], number as u32);
        self.links[number][end] = NONE;
        self.links[number][1 - end] = neighbour;
        if neighbour == NONE {
            self.ends[list][1 - end] = number as u32;
        } else {
            self.links[neighbour as usize][end] = number as u32;
        }
    }

    /// The numbers of a list, first to last.
    pub(super) fn iter(&self, list: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.front(list), |number| {
            let next = self.links[*number][1];
            (next != NONE).then_some(next as usize)
        })
    }

    /// Takes a number out of the list that it stands in.
    pub(super) fn remove(&mut self, list: usize, number: usize) {
        let [before, behind] = self.links[number];
        if before == NONE {
            self.ends[list][0] = behind;
        } else {
            self.links[before as usize][1] = behind;
        }
        if behind == NONE {
            self.ends[list][1] = before;
        } else {
            self.links[behind as usize][0] = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn they_are_as_queues() {
        let (mut lists, mut queues) = (Lists::<2>::default(), [VecDeque::new(), VecDeque::new()]);
        let mut state = 1u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (number, list, front) = ((state >> 33) as usize % 20, (state >> 50) as usize % 2, state >> 60 & 1 == 1);
            if let Some(known) = queues.iter().position(|queue| queue.contains(&number)) {
                lists.remove(known, number);
                queues[known].retain(|other| *other != number);
            } else if front {
                lists.push_front(list, number);
                queues[list].push_front(number);
            } else {
                lists.push_back(list, number);
                queues[list].push_back(number);
            }
            assert_eq!([lists.front(0), lists.front(1)], [queues[0].front().copied(), queues[1].front().copied()]);
        }
        for (list, queue) in queues.into_iter().enumerate() {
            for number in queue {
                assert_eq!(lists.front(list), Some(number));
                lists.remove(list, number);
            }
            assert_eq!(lists.front(list), None);
        }
    }
}
