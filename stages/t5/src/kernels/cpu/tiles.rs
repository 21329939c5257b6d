//! Products of bf16 by tiles: matrices of sixteen rows of sixteen pairs that stand in registers, as AMX has them.
//!
//! An element of the product is summed up tile after tile: the first numbers of the pairs of a tile in one chain, the
//! second in another, and the sum of the two is added to what the tiles before gave. So it is in any batch and on any
//! number of threads, but not what multiply-adds of vectors give, to the bit.

use super::part::Part;

/// Rows of a tile, and words of a row.
pub(super) const SIDE: usize = super::simd::LANES;

/// What [`Tiles::multiply`] multiplies: words, each a pair of numbers.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    /// One or two tiles of rows; a row is a whole number of tiles long.
    pub(super) left: &'a [f32],
    /// Words in a row of it.
    pub(super) left_stride: usize,
    /// One or two tiles of columns, as long as a row of the left-hand side.
    pub(super) right: &'a [f32],
    /// Words in a row of it.
    pub(super) right_stride: usize,
    /// What to ask for meanwhile: the next right-hand side, likely.
    pub(super) next: Option<*const f32>,
}

/// A way to multiply tiles.
pub(super) trait Tiles: Copy + Sync {
    /// Calls `work`, which multiplies.
    fn with_registers(self, work: impl FnOnce());

    /// The product, into all of `out`, which is as many whole tiles.
    fn multiply(self, factors: Factors<'_>, out: Part<'_>);
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use self::amx::available;

/// No processor has tiles.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn available() -> Option<impl Tiles> {
    #[derive(Clone, Copy)]
    enum Absent {}
    impl Tiles for Absent {
        fn with_registers(self, _: impl FnOnce()) {
            match self {}
        }
        fn multiply(self, _: Factors<'_>, _: Part<'_>) {
            match self {}
        }
    }
    None::<Absent>
}

/// Intel's instructions for tiles, from the processors of 2023 on.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod amx {
    use std::arch::{asm, x86_64::__cpuid_count};
    use std::sync::LazyLock;

    use super::super::part::Part;
    use super::{Factors, SIDE, Tiles};

    /// AMX, on a processor that has it, under a kernel that saves its registers.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Amx(());

    pub(in super::super) fn available() -> Option<Amx> {
        static THERE: LazyLock<bool> = LazyLock::new(|| is_in_processor() && is_permitted());
        THERE.then_some(Amx(()))
    }

    fn is_in_processor() -> bool {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
    }

    /// Linux wants to be asked by every process, since the registers take 8 KiB of each signal's stack.
    fn is_permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and changes nothing but what the process may use.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// All eight registers have whole tiles.
    static WHOLE: Shapes = Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// Gives the registers back, also when the work panics.
    struct Release;

    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: there is an `Amx`, so there is the instruction.
            unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
        }
    }

    impl Tiles for Amx {
        #[inline(always)]
        fn with_registers(self, work: impl FnOnce()) {
            // SAFETY: `self` says that the instruction is there. Nothing but `multiply` uses these registers.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(readonly, nostack, preserves_flags));
            }
            let _release = Release;
            work();
        }

        fn multiply(self, factors: Factors<'_>, mut out: Part<'_>) {
            let Factors { left, left_stride, right, right_stride, next } = factors;
            let (rows, columns) = (left.len() / left_stride / SIDE, right_stride / SIDE);
            assert!(left_stride.is_multiple_of(SIDE) && left.len() == rows * SIDE * left_stride);
            assert!(right_stride.is_multiple_of(SIDE) && right.len() >= left_stride * right_stride);
            assert!(out.rows() == rows * SIDE && out.columns() == columns * SIDE);
            let pointers = Pointers {
                left: left.as_ptr(),
                right: right.as_ptr(),
                out: out.first(),
                left_stride: left_stride * size_of::<f32>(),
                right_stride: right_stride * size_of::<f32>(),
                out_stride: out.stride() * size_of::<f32>(),
                steps: left_stride / SIDE,
                next: next.unwrap_or(std::ptr::null()),
            };
            // SAFETY: all three are as large as the assertions say, which is what the loops read and write.
            unsafe {
                match (rows, columns, next) {
                    (1, 1, _) => pointers.one_by_one(),
                    (1, 2, None) => pointers.one_by_two(),
                    (1, 2, Some(_)) => pointers.one_by_two_and_next(),
                    (2, 1, _) => pointers.two_by_one(),
                    (2, 2, None) => pointers.two_by_two(),
                    (2, 2, Some(_)) => pointers.two_by_two_and_next(),
                    _ => unreachable!("{rows} by {columns} tiles"),
                }
            }
        }
    }

    /// Where a loop reads and writes, with the strides in bytes.
    struct Pointers {
        left: *const f32,
        right: *const f32,
        out: *mut f32,
        left_stride: usize,
        right_stride: usize,
        out_stride: usize,
        steps: usize,
        next: *const f32,
    }

    /// A loop over the depth. The left-hand tiles are in tmm4 and, of two, tmm5; the right-hand ones after them.
    macro_rules! loops {
        ($($name:ident: [$($zero:literal)*] [$($step:literal)*] [$($store:literal)*])*) => {
            impl Pointers {$(
                /// # Safety
                ///
                /// The pointers are good for so many tiles, and the registers are set up.
                unsafe fn $name(self) {
                    let left_below = self.left.wrapping_byte_add(SIDE * self.left_stride);
                    let out_below = self.out.wrapping_byte_add(SIDE * self.out_stride);
                    // SAFETY: as the caller says. A step goes on by the sixteen words of a left-hand tile, and by the
                    // sixteen rows of a right-hand one.
                    unsafe {
                        asm!(
                            $($zero,)*
                            "2:",
                            $($step,)*
                            "add rsi, 64",
                            "add rdi, 64",
                            "add rdx, rax",
                            "dec rcx",
                            "jnz 2b",
                            $($store,)*
                            inout("rsi") self.left => _,
                            inout("rdi") left_below => _,
                            inout("rdx") self.right => _,
                            inout("rcx") self.steps => _,
                            inout("r12") self.next => _,
                            in("rax") SIDE * self.right_stride,
                            in("r8") self.left_stride,
                            in("r9") self.right_stride,
                            in("r10") self.out,
                            in("r11") self.out_stride,
                            in("r13") out_below,
                            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                            options(nostack),
                        );
                    }
                }
            )*}
        };
    }

    /// The loops for tiles that there are two of beside each other, with and without asking for what comes next: for
    /// sixteen cache lines a step, so that those of 64 rows ask for the whole of the next panel.
    macro_rules! with_next {
        ($($name:ident, $asking:ident: [$($zero:literal)*] [$($step:literal)*] [$($store:literal)*])*) => {
            loops! {
                $($name: [$($zero)*] [$($step)*] [$($store)*]
                $asking: [$($zero)*] [
                    $($step)*
                    "prefetcht1 [r12]" "prefetcht1 [r12 + 64]"
                    "prefetcht1 [r12 + 128]" "prefetcht1 [r12 + 192]"
                    "prefetcht1 [r12 + 256]" "prefetcht1 [r12 + 320]"
                    "prefetcht1 [r12 + 384]" "prefetcht1 [r12 + 448]"
                    "prefetcht1 [r12 + 512]" "prefetcht1 [r12 + 576]"
                    "prefetcht1 [r12 + 640]" "prefetcht1 [r12 + 704]"
                    "prefetcht1 [r12 + 768]" "prefetcht1 [r12 + 832]"
                    "prefetcht1 [r12 + 896]" "prefetcht1 [r12 + 960]"
                    "add r12, 1024"
                ] [$($store)*])*
            }
        };
    }

    loops! {
        one_by_one: ["tilezero tmm0"] [
            "tileloadd tmm4, [rsi + r8]"
            "tileloadd tmm5, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm5"
        ] ["tilestored [r10 + r11], tmm0"]
        two_by_one: ["tilezero tmm0" "tilezero tmm1"] [
            "tileloadd tmm4, [rsi + r8]" "tileloadd tmm6, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm5, [rdi + r8]" "tdpbf16ps tmm1, tmm5, tmm6"
        ] [
            "tilestored [r10 + r11], tmm0"
            "tilestored [r13 + r11], tmm1"
        ]
    }

    with_next! {
        one_by_two, one_by_two_and_next: ["tilezero tmm0" "tilezero tmm1"] [
            "tileloadd tmm4, [rsi + r8]"
            "tileloadd tmm5, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm5"
            "tileloadd tmm6, [rdx + r9 + 64]" "tdpbf16ps tmm1, tmm4, tmm6"
        ] ["tilestored [r10 + r11], tmm0" "tilestored [r10 + r11 + 64], tmm1"]
        two_by_two, two_by_two_and_next:
        ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"] [
            "tileloadd tmm4, [rsi + r8]" "tileloadd tmm6, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [rdx + r9 + 64]" "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [rdi + r8]" "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
        ] [
            "tilestored [r10 + r11], tmm0"
            "tilestored [r10 + r11 + 64], tmm1"
            "tilestored [r13 + r11], tmm2"
            "tilestored [r13 + r11 + 64], tmm3"
        ]
    }
}

/// The same sums by ordinary arithmetic.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct Emulated;

#[cfg(test)]
impl Tiles for Emulated {
    fn with_registers(self, work: impl FnOnce()) {
        work();
    }

    fn multiply(self, factors: Factors<'_>, mut out: Part<'_>) {
        let Factors { left, left_stride, right, right_stride, .. } = factors;
        let number = |word: f32, place: u32| f32::from_bits(word.to_bits() >> (16 * place) << 16);
        for (row, left) in left.chunks_exact(left_stride).enumerate() {
            for (column, out) in out.row(row).iter_mut().enumerate() {
                let mut sum = 0.0;
                let right = right[column..].iter().step_by(right_stride);
                let words: Vec<_> = left.iter().zip(right).collect();
                for tile in words.chunks(SIDE) {
                    let chain = |place| {
                        let products =
                            tile.iter().map(|(a, b)| [number(**a, place), number(**b, place)]);
                        products.fold(0.0, |sum: f32, [a, b]| a.mul_add(b, sum))
                    };
                    sum += chain(0) + chain(1);
                }
                out.write(sum);
            }
        }
    }
}
