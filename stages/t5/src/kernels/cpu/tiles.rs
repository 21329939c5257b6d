//! Products of bf16 by tiles: matrices of sixteen rows of sixteen pairs that stand in registers, as AMX has them.
//!
//! An element of the product is summed up tile after tile: the first numbers of the pairs of a tile in one chain, the
//! second in another, and the sum of the two is added to what the tiles before gave. So it is in any batch and on any
//! number of threads, but not what multiply-adds of vectors give, to the bit.

/// Rows of a tile, and words of a row.
pub(super) const SIDE: usize = super::simd::LANES;

/// What [`Tiles::multiply`] multiplies: words, each a pair of numbers.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    /// One or two tiles of rows; a row is a whole number of tiles long.
    pub(super) left: &'a [f32],
    /// Words in a row of it.
    pub(super) left_stride: usize,
    /// One to three tiles of columns, as long as a row of the left-hand side.
    pub(super) right: &'a [f32],
    /// Words in a row of it.
    pub(super) right_stride: usize,
    /// What to ask for meanwhile: the next right-hand side, likely.
    pub(super) next: *const f32,
}

/// The sums of [`Tiles::multiply`].
pub(super) type Sums = [[f32; super::product::PANEL]; 2 * SIDE];

/// A way to multiply tiles.
pub(super) trait Tiles: Copy + Sync {
    /// Calls `work`, which multiplies.
    fn with_registers(self, work: impl FnOnce());

    /// The product, into the first rows and columns of `sums`.
    fn multiply(self, factors: Factors<'_>, sums: &mut Sums);
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
        fn multiply(self, _: Factors<'_>, _: &mut Sums) {
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

    use super::{Factors, SIDE, Sums, Tiles};

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

        fn multiply(self, factors: Factors<'_>, sums: &mut Sums) {
            let Factors { left, left_stride, right, right_stride, next } = factors;
            let (rows, columns) = (left.len() / left_stride / SIDE, right_stride / SIDE);
            assert!(left_stride.is_multiple_of(SIDE) && left.len() == rows * SIDE * left_stride);
            assert!(right_stride.is_multiple_of(SIDE) && right.len() >= left_stride * right_stride);
            let first_sum = (&raw mut *sums).cast::<f32>();
            let of = |column: usize| Pointers {
                left: left.as_ptr(),
                right: right[column * SIDE..].as_ptr(),
                sums: first_sum.wrapping_add(column * SIDE),
                left_stride: left_stride * size_of::<f32>(),
                right_stride: right_stride * size_of::<f32>(),
                steps: left_stride / SIDE,
                next: next.wrapping_add(if column == 0 { 0 } else { left_stride / SIDE * AHEAD }),
            };
            // SAFETY: the sides are as large as the assertions say, which is what the loops read; the sums are as large
            // as two by three tiles.
            unsafe {
                match (rows, columns) {
                    (_, 0) => {}
                    (1, 1) => of(0).one_by_one(),
                    (1, 2) => of(0).one_by_two(),
                    (1, 3) => of(0).one_by_three(),
                    (2, 1) => of(0).two_by_one(),
                    (2, 2) => of(0).two_by_two(),
                    (2, 3) => {
                        of(0).two_by_two();
                        of(2).two_by_one();
                    }
                    _ => unreachable!("{rows} by {columns} tiles"),
                }
            }
        }
    }

    /// Where a loop reads and writes, with the strides in bytes.
    struct Pointers {
        left: *const f32,
        right: *const f32,
        sums: *mut f32,
        left_stride: usize,
        right_stride: usize,
        steps: usize,
        next: *const f32,
    }

    /// Words that a step asks for: twelve cache lines, so that those of 64 rows ask for the whole of the next panel.
    pub(super) const AHEAD: usize = 12 * SIDE;

    /// A loop over the depth. The left-hand tiles are in tmm4 and, of two, tmm5; the right-hand ones after them.
    macro_rules! loops {
        ($($name:ident: [$($zero:literal)*] [$($step:literal)*] [$($store:literal)*])*) => {
            impl Pointers {$(
                /// # Safety
                ///
                /// The pointers are good for so many tiles, and the registers are set up.
                unsafe fn $name(self) {
                    let next_row = self.left.wrapping_byte_add(SIDE * self.left_stride);
                    // SAFETY: as the caller says. A step goes on by the sixteen words of a left-hand tile, and by the
                    // sixteen rows of a right-hand one.
                    unsafe {
                        asm!(
                            $($zero,)*
                            "2:",
                            $($step,)*
                            "prefetcht1 [r12]",
                            "prefetcht1 [r12 + 64]",
                            "prefetcht1 [r12 + 128]",
                            "prefetcht1 [r12 + 192]",
                            "prefetcht1 [r12 + 256]",
                            "prefetcht1 [r12 + 320]",
                            "prefetcht1 [r12 + 384]",
                            "prefetcht1 [r12 + 448]",
                            "prefetcht1 [r12 + 512]",
                            "prefetcht1 [r12 + 576]",
                            "prefetcht1 [r12 + 640]",
                            "prefetcht1 [r12 + 704]",
                            "add r12, 768",
                            "add rsi, 64",
                            "add rdi, 64",
                            "add rdx, rax",
                            "dec rcx",
                            "jnz 2b",
                            $($store,)*
                            inout("rsi") self.left => _,
                            inout("rdi") next_row => _,
                            inout("rdx") self.right => _,
                            inout("rcx") self.steps => _,
                            inout("r12") self.next => _,
                            in("rax") SIDE * self.right_stride,
                            in("r8") self.left_stride,
                            in("r9") self.right_stride,
                            in("r10") self.sums,
                            in("r11") size_of::<Sums>() / (2 * SIDE),
                            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                            options(nostack),
                        );
                    }
                }
            )*}
        };
    }

    loops! {
        one_by_one: ["tilezero tmm0"] [
            "tileloadd tmm4, [rsi + r8]"
            "tileloadd tmm5, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm5"
        ] ["tilestored [r10 + r11], tmm0"]
        one_by_two: ["tilezero tmm0" "tilezero tmm1"] [
            "tileloadd tmm4, [rsi + r8]"
            "tileloadd tmm5, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm5"
            "tileloadd tmm6, [rdx + r9 + 64]" "tdpbf16ps tmm1, tmm4, tmm6"
        ] ["tilestored [r10 + r11], tmm0" "tilestored [r10 + r11 + 64], tmm1"]
        one_by_three: ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2"] [
            "tileloadd tmm4, [rsi + r8]"
            "tileloadd tmm5, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm5"
            "tileloadd tmm6, [rdx + r9 + 64]" "tdpbf16ps tmm1, tmm4, tmm6"
            "tileloadd tmm7, [rdx + r9 + 128]" "tdpbf16ps tmm2, tmm4, tmm7"
        ] [
            "tilestored [r10 + r11], tmm0"
            "tilestored [r10 + r11 + 64], tmm1"
            "tilestored [r10 + r11 + 128], tmm2"
        ]
        two_by_one: ["tilezero tmm0" "tilezero tmm1"] [
            "tileloadd tmm4, [rsi + r8]" "tileloadd tmm6, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm5, [rdi + r8]" "tdpbf16ps tmm1, tmm5, tmm6"
        ] [
            "tilestored [r10 + r11], tmm0"
            "tilestored [r10 + r11 + 16 * 192], tmm1"
        ]
        two_by_two: ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"] [
            "tileloadd tmm4, [rsi + r8]" "tileloadd tmm6, [rdx + r9]" "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [rdx + r9 + 64]" "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [rdi + r8]" "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
        ] [
            "tilestored [r10 + r11], tmm0"
            "tilestored [r10 + r11 + 64], tmm1"
            "tilestored [r10 + r11 + 16 * 192], tmm2"
            "tilestored [r10 + r11 + 16 * 192 + 64], tmm3"
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

    fn multiply(self, factors: Factors<'_>, sums: &mut Sums) {
        let Factors { left, left_stride, right, right_stride, .. } = factors;
        let number = |word: f32, place: u32| f32::from_bits(word.to_bits() >> (16 * place) << 16);
        for (left, sums) in left.chunks_exact(left_stride).zip(sums) {
            for (column, sum) in sums[..right_stride].iter_mut().enumerate() {
                *sum = 0.0;
                let right = right[column..].iter().step_by(right_stride);
                let words: Vec<_> = left.iter().zip(right).collect();
                for tile in words.chunks(SIDE) {
                    let chain = |place| {
                        let products =
                            tile.iter().map(|(a, b)| [number(**a, place), number(**b, place)]);
                        products.fold(0.0, |sum: f32, [a, b]| a.mul_add(b, sum))
                    };
                    *sum += chain(0) + chain(1);
                }
            }
        }
    }
}
