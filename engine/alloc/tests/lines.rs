//! Every block begins with a cache line, and keeps what is in it however it grows and shrinks.

use std::alloc::System;

use paraloom_alloc::CacheLines;

#[global_allocator]
static ALLOCATOR: CacheLines = CacheLines(System);

fn is_at_a_line(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(64)
}

#[test]
fn large_blocks_begin_with_a_line() {
    let blocks: Vec<_> = (0..200).map(|number| vec![number as u8; 1000 + 7 * number]).collect();
    for (number, block) in blocks.iter().enumerate() {
        assert!(block.len() < 1024 || is_at_a_line(block));
        assert!(block.iter().all(|&byte| byte == number as u8));
    }
    let zeros = vec![0_u8; 1 << 20];
    assert!(is_at_a_line(&zeros) && zeros.iter().all(|&byte| byte == 0));
}

#[test]
fn what_is_in_a_block_stays_when_it_grows_and_shrinks() {
    let mut others = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    // Sizes on both sides of where blocks are large; others lie between, so that the block has to move.
    for step in 0..3000_usize {
        let size = [100, 1100, 2000, 900, 50_000, 1023, 1024, 40_000, 7][step % 9] + step;
        let kept = bytes.len().min(size);
        bytes.truncate(kept);
        bytes.shrink_to_fit();
        bytes.reserve_exact(size - kept);
        bytes.extend((kept..size).map(|index| (index * 31) as u8));
        assert!(
            bytes.iter().enumerate().all(|(index, &byte)| byte == (index * 31) as u8),
            "{step}"
        );
        assert!(bytes.capacity() < 1024 || is_at_a_line(&bytes), "{step}");
        if step.is_multiple_of(3) {
            others.push(vec![0_u8; step]);
        }
    }
}

#[test]
fn what_cannot_be_there_is_refused() {
    let mut bytes = vec![1_u8; 2000];
    assert!(bytes.try_reserve_exact(isize::MAX as usize - 2001).is_err());
    assert!(bytes.try_reserve_exact(1 << 60).is_err());
    assert!(bytes.iter().all(|&byte| byte == 1));
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let page = std::hint::black_box(Box::new(Page([3; 4096])));
    assert!(std::ptr::from_ref(&*page).addr().is_multiple_of(4096) && page.0[4095] == 3);
}
