//! Blocks that begin with a cache line.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a cache line, and of the widest registers.
const LINE: usize = 64;
/// Smaller blocks are left as they are.
const LARGE: usize = 1 << 10;

/// Gives large blocks an address that is a multiple of 64 bytes, where the allocator that it wraps gives one of 16.
///
/// A read of 64 bytes from elsewhere is two, and a tile of AMX then takes six times as long to read. Ways to ask for such
/// addresses exist; but glibc does not reuse for them what it got back from them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheLines<A = System>(pub A);

/// The layout of the block that holds a large one, with room to move it by one to four times 16 bytes.
fn outer(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(LINE)?, 16).ok()
}

/// Whether a block is moved. That of a layout is the same when it is asked for and when it is given back.
fn is_moved(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= LINE
}

/// The large block in an outer one; how far it was moved is noted before it.
///
/// # Safety
///
/// `block` is null or has the layout [`outer`].
unsafe fn moved(block: *mut u8) -> *mut u8 {
    if block.is_null() {
        return block;
    }
    let by = LINE - block.addr() % LINE;
    // SAFETY: the outer block has room for that, and a multiple of 16 is at least as long as the note.
    unsafe {
        let to = block.add(by);
        to.cast::<usize>().sub(1).write(by);
        to
    }
}

/// How far a large block was moved.
///
/// # Safety
///
/// `block` is what [`moved`] gave, and not null.
unsafe fn by(block: *mut u8) -> usize {
    // SAFETY: the note is before it.
    unsafe { block.cast::<usize>().sub(1).read() }
}

// SAFETY: a block that is moved has the whole of its size behind its new address, and goes back by its old one.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CacheLines<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_moved(layout) {
            // SAFETY: the caller keeps the contract.
            return unsafe { self.0.alloc(layout) };
        }
        let Some(outer) = outer(layout.size()) else { return std::ptr::null_mut() };
        // SAFETY: the layout is not empty.
        unsafe { moved(self.0.alloc(outer)) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_moved(layout) {
            // SAFETY: the caller keeps the contract.
            return unsafe { self.0.alloc_zeroed(layout) };
        }
        let Some(outer) = outer(layout.size()) else { return std::ptr::null_mut() };
        // SAFETY: the layout is not empty.
        unsafe { moved(self.0.alloc_zeroed(outer)) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match outer(layout.size()).filter(|_| is_moved(layout)) {
            // SAFETY: the block came from `moved`, out of one with this layout.
            Some(outer) => unsafe { self.0.dealloc(pointer.sub(by(pointer)), outer) },
            // SAFETY: the caller keeps the contract.
            None => unsafe { self.0.dealloc(pointer, layout) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(size, layout.align()) else {
            return std::ptr::null_mut();
        };
        match (is_moved(layout), is_moved(new)) {
            // SAFETY: the caller keeps the contract.
            (false, false) => unsafe { self.0.realloc(pointer, layout, size) },
            (true, true) => {
                let (Some(outer), Some(size)) = (outer(layout.size()), size.checked_add(LINE))
                else {
                    return std::ptr::null_mut();
                };
                // SAFETY: the block came from `moved`, out of one with this layout; what it holds is where it was in the
                // outer block, and may have to go elsewhere in the new one, which has room for it there.
                unsafe {
                    let was = by(pointer);
                    let block = self.0.realloc(pointer.sub(was), outer, size);
                    if block.is_null() {
                        return block;
                    }
                    let is = LINE - block.addr() % LINE;
                    if is != was {
                        let length = layout.size().min(new.size());
                        std::ptr::copy(block.add(was), block.add(is), length);
                    }
                    moved(block)
                }
            }
            // SAFETY: as the caller keeps the contract, both blocks are as long as what is copied, and are not the same.
            _ => unsafe {
                let block = self.alloc(new);
                if !block.is_null() {
                    let length = layout.size().min(size);
                    std::ptr::copy_nonoverlapping(pointer, block, length);
                    self.dealloc(pointer, layout);
                }
                block
            },
        }
    }
}
