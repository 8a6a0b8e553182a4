//! An allocator that takes long pieces of memory from the system page by page, and gives them back when they are freed.
//!
//! What the store holds changes its shape: values of other lengths, a larger index, fewer segments. A heap keeps the
//! holes that this leaves (measured: 115 MiB resident for a cache of 64 MiB whose values change their lengths, 71 with
//! pages), so the process would take much more than the store counts. Short pieces stay with the heap of the system.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Shortest piece that has pages of its own: on the mean half a page is lost with each.
const LONG: usize = 16 << 10;
/// The smallest page of any system: pieces that want to begin at multiples of more are left to the heap.
const PAGE: usize = 4 << 10;

#[cfg(target_os = "linux")]
const FILL: MapFlags = MapFlags::POPULATE;
#[cfg(not(target_os = "linux"))]
const FILL: MapFlags = MapFlags::empty();

/// The allocator, to be made the global one by a program or native module.
pub struct Pages;

fn is_long(layout: Layout) -> bool {
    layout.size() >= LONG && layout.align() <= PAGE
}

/// Longest piece whose pages are all taken at once when it is about to be written, instead of one by one as they are
/// touched: a value, not a table that may never be full.
const FILLED: usize = 1 << 20;

/// What a piece is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Zeros, of which some may never be touched.
    Zeros,
    /// To be written from one end to the other.
    Content,
}

fn map(size: usize, purpose: Use) -> *mut u8 {
    let mut flags = MapFlags::PRIVATE;
    if purpose == Use::Content && size <= FILLED {
        flags |= FILL;
    }
    // SAFETY: a new mapping at an address that the system chooses touches no memory that is in use.
    unsafe { mmap_anonymous(null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, flags) }
        .map_or(null_mut(), |place| place.cast())
}

// SAFETY: a piece is long or not by its layout alone, which is the same when it is allocated and when it is freed, so each
// goes back to where it came from; `realloc` copies when a piece changes from one to the other.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_long(layout) {
            return map(layout.size(), Use::Content);
        }
        // SAFETY: the caller's promises are those that System wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_long(layout) {
            // New pages are zero.
            return map(layout.size(), Use::Zeros);
        }
        // SAFETY: the caller's promises are those that System wants.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if is_long(layout) {
            // SAFETY: `map` returned this place for this size, and the caller gives it up. The system refuses only when
            // a process has too many mappings; the pages are lost then.
            let _ = unsafe { munmap(place.cast(), layout.size()) };
            return;
        }
        // SAFETY: the place came from System, with this layout.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises a size that is not zero and does not overflow when rounded up to the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_long(layout), is_long(wanted)) {
            // SAFETY: the place came from System, with this layout.
            (false, false) => unsafe { System.realloc(place, layout, size) },
            // SAFETY: `map` returned this place for this size; the caller uses only what is returned from now on.
            (true, true) => unsafe { move_pages(place, layout.size(), size) },
            _ => {
                // SAFETY: as for `alloc`; both pieces are as long as what is copied, and do not overlap; the old one came
                // from this allocator with this layout.
                unsafe {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        place.copy_to_nonoverlapping(new, layout.size().min(size));
                        self.dealloc(place, layout);
                    }
                    new
                }
            }
        }
    }
}

/// Changes the length of a piece; its pages move to another address without being copied.
#[cfg(target_os = "linux")]
unsafe fn move_pages(place: *mut u8, from: usize, to: usize) -> *mut u8 {
    use rustix::mm::{MremapFlags, mremap};
    // SAFETY: the caller's promise.
    unsafe { mremap(place.cast(), from, to, MremapFlags::MAYMOVE) }.map_or(null_mut(), |place| place.cast())
}

/// Changes the length of a piece by copying it.
#[cfg(not(target_os = "linux"))]
unsafe fn move_pages(place: *mut u8, from: usize, to: usize) -> *mut u8 {
    let new = map(to, Use::Content);
    if !new.is_null() {
        // SAFETY: both pieces are as long as what is copied; the old one is given up by the caller.
        unsafe {
            place.copy_to_nonoverlapping(new, from.min(to));
            let _ = munmap(place.cast(), from);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_their_bytes_whatever_length_they_take() {
        for sizes in [[10, 100_000, 20], [LONG - 1, LONG, LONG + 1], [1 << 20, 16 << 20, 40_000], [50_000, 60_000, 1]] {
            let mut layout = Layout::from_size_align(sizes[0], 64).expect("a layout");
            // SAFETY: the size is not zero, and the piece is used within its length only, and freed by its last layout.
            unsafe {
                let mut place = Pages.alloc_zeroed(layout);
                assert!(!place.is_null() && place.addr() % 64 == 0);
                assert!((0..layout.size()).all(|at| *place.add(at) == 0));
                (0..layout.size()).for_each(|at| place.add(at).write(at as u8));
                for size in sizes {
                    place = Pages.realloc(place, layout, size);
                    assert!((0..layout.size().min(size)).all(|at| *place.add(at) == at as u8));
                    layout = Layout::from_size_align(size, 64).expect("a layout");
                    (0..size).for_each(|at| place.add(at).write(at as u8));
                }
                Pages.dealloc(place, layout);
            }
        }
    }
}
