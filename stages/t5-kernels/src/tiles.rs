//! Products by tiles: matrices of sixteen rows of sixteen words that stand in registers, as AMX has them. A word is a pair
//! of bf16, or four whole numbers.
//!
//! An element of a product of bf16 is summed up tile after tile: the first numbers of the pairs of a tile in one chain, the
//! second in another, and the sum of the two is added to what the tiles before gave. So it is in any batch and on any
//! number of threads, but not what multiply-adds of vectors give, to the bit. Sums of whole numbers are exact.

use std::mem::MaybeUninit;

use super::part::Part;

/// Rows of a tile, and words of a row.
pub(super) const SIDE: usize = super::simd::LANES;

/// What [`Tiles::multiply`] multiplies.
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

    /// The same into rows that lie one after another.
    #[expect(unsafe_code, reason = "what is written is initialized")]
    fn product<'a>(self, factors: Factors<'_>, out: &'a mut [MaybeUninit<f32>]) -> &'a mut [f32] {
        self.multiply(factors, Part::whole(out, factors.right_stride));
        // SAFETY: the line above has written all of it.
        unsafe { out.assume_init_mut() }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use self::amx::{of_bytes, of_halves};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use self::absent::{of_bytes, of_halves};

/// Of processors without tiles.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent {
    use super::{Factors, Part, Tiles};

    #[derive(Clone, Copy)]
    pub(in super::super) enum Absent {}

    impl Tiles for Absent {
        fn with_registers(self, _: impl FnOnce()) {
            match self {}
        }
        fn multiply(self, _: Factors<'_>, _: Part<'_>) {
            match self {}
        }
    }

    pub(in super::super) fn of_halves() -> Option<Absent> {
        None
    }

    pub(in super::super) fn of_bytes() -> Option<Absent> {
        None
    }
}

/// Intel's instructions for tiles, from the processors of 2023 on.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod amx {
    use std::arch::{asm, x86_64::__cpuid_count};
    use std::sync::LazyLock;

    use super::super::part::Part;
    use super::{Factors, SIDE, Tiles};

    /// What the processor says of itself, in the seventh of its answers.
    const TILES: u32 = 1 << 24;
    const PRODUCTS_OF_HALVES: u32 = 1 << 22;
    const PRODUCTS_OF_BYTES: u32 = 1 << 25;

    /// Products of pairs of bf16, summed up in f32.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Halves(());

    pub(in super::super) fn of_halves() -> Option<Halves> {
        static THERE: LazyLock<bool> = LazyLock::new(|| is_there(PRODUCTS_OF_HALVES));
        THERE.then_some(Halves(()))
    }

    /// Products of four numbers of 8 bits, those on the left with a sign, summed up in 32 bits.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Bytes(());

    pub(in super::super) fn of_bytes() -> Option<Bytes> {
        static THERE: LazyLock<bool> = LazyLock::new(|| is_there(PRODUCTS_OF_BYTES));
        THERE.then_some(Bytes(()))
    }

    /// Whether the processor has tiles and such products, and the kernel saves the registers.
    fn is_there(products: u32) -> bool {
        let wanted = TILES | products;
        __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & wanted == wanted && is_permitted()
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
            // SAFETY: there are tiles, so there is the instruction.
            unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
        }
    }

    #[inline(always)]
    fn with_registers(work: impl FnOnce()) {
        // SAFETY: only what is there when there are tiles calls this. Nothing but the loops uses these registers.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(readonly, nostack, preserves_flags));
        }
        let _release = Release;
        work();
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

    impl Pointers {
        /// Those of a product, of so many tiles.
        fn new(factors: Factors<'_>, out: &mut Part<'_>) -> (Self, [usize; 2]) {
            let Factors { left, left_stride, right, right_stride, next } = factors;
            let (rows, columns) = (left.len() / left_stride / SIDE, right_stride / SIDE);
            assert!(left_stride.is_multiple_of(SIDE) && left.len() == rows * SIDE * left_stride);
            assert!(right_stride.is_multiple_of(SIDE) && right.len() >= left_stride * right_stride);
            assert!(out.rows() == rows * SIDE && out.columns() == columns * SIDE);
            let pointers = Self {
                left: left.as_ptr(),
                right: right.as_ptr(),
                out: out.first(),
                left_stride: left_stride * size_of::<f32>(),
                right_stride: right_stride * size_of::<f32>(),
                out_stride: out.stride() * size_of::<f32>(),
                steps: left_stride / SIDE,
                next: next.unwrap_or(std::ptr::null()),
            };
            (pointers, [rows, columns])
        }
    }

    /// The text of a line; of one that multiplies, with the instruction.
    macro_rules! line {
        ($instruction:literal, multiply, $text:literal) => {
            concat!($instruction, " ", $text)
        };
        ($instruction:literal, $what:ident, $text:literal) => {
            $text
        };
    }

    /// A loop over the depth. The left-hand tiles are in tmm4 and, of two, tmm5; the right-hand ones after them.
    macro_rules! over_depth {
        ($pointers:ident, $instruction:literal:
            [$($zero:literal)*] [$($what:ident $step:literal)*] [$($store:literal)*]) => {{
            let pointers: Pointers = $pointers;
            let left_below = pointers.left.wrapping_byte_add(SIDE * pointers.left_stride);
            let out_below = pointers.out.wrapping_byte_add(SIDE * pointers.out_stride);
            // SAFETY: the pointers are good for so many tiles, and the registers are set up. A step goes on by the sixteen
            // words of a left-hand tile, and by the sixteen rows of a right-hand one.
            unsafe {
                asm!(
                    $($zero,)*
                    "2:",
                    $(line!($instruction, $what, $step),)*
                    "add rsi, 64",
                    "add rdi, 64",
                    "add rdx, rax",
                    "dec rcx",
                    "jnz 2b",
                    $($store,)*
                    inout("rsi") pointers.left => _,
                    inout("rdi") left_below => _,
                    inout("rdx") pointers.right => _,
                    inout("rcx") pointers.steps => _,
                    inout("r12") pointers.next => _,
                    in("rax") SIDE * pointers.right_stride,
                    in("r8") pointers.left_stride,
                    in("r9") pointers.right_stride,
                    in("r10") pointers.out,
                    in("r11") pointers.out_stride,
                    in("r13") out_below,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }};
    }

    /// The loop for tiles of which two are beside each other, with and without asking for what comes next: for sixteen cache
    /// lines a step, so that those of 64 rows ask for the whole of the next panel.
    macro_rules! with_next {
        ($pointers:ident, $instruction:literal:
            [$($zero:literal)*] [$($what:ident $step:literal)*] [$($store:literal)*]) => {
            if $pointers.next.is_null() {
                over_depth!($pointers, $instruction: [$($zero)*] [$($what $step)*] [$($store)*])
            } else {
                over_depth!($pointers, $instruction: [$($zero)*] [
                    $($what $step)*
                    ask "prefetcht1 [r12]" ask "prefetcht1 [r12 + 64]"
                    ask "prefetcht1 [r12 + 128]" ask "prefetcht1 [r12 + 192]"
                    ask "prefetcht1 [r12 + 256]" ask "prefetcht1 [r12 + 320]"
                    ask "prefetcht1 [r12 + 384]" ask "prefetcht1 [r12 + 448]"
                    ask "prefetcht1 [r12 + 512]" ask "prefetcht1 [r12 + 576]"
                    ask "prefetcht1 [r12 + 640]" ask "prefetcht1 [r12 + 704]"
                    ask "prefetcht1 [r12 + 768]" ask "prefetcht1 [r12 + 832]"
                    ask "prefetcht1 [r12 + 896]" ask "prefetcht1 [r12 + 960]"
                    ask "add r12, 1024"
                ] [$($store)*])
            }
        };
    }

    macro_rules! tiles {
        ($($name:ident: $instruction:literal)*) => {$(
            impl Tiles for $name {
                #[inline(always)]
                fn with_registers(self, work: impl FnOnce()) {
                    with_registers(work);
                }

                fn multiply(self, factors: Factors<'_>, mut out: Part<'_>) {
                    let (pointers, tiles) = Pointers::new(factors, &mut out);
                    match tiles {
                        [1, 1] => over_depth!(pointers, $instruction: ["tilezero tmm0"] [
                            load "tileloadd tmm4, [rsi + r8]"
                            load "tileloadd tmm5, [rdx + r9]" multiply "tmm0, tmm4, tmm5"
                        ] ["tilestored [r10 + r11], tmm0"]),
                        [2, 1] => over_depth!(pointers, $instruction: ["tilezero tmm0" "tilezero tmm1"] [
                            load "tileloadd tmm4, [rsi + r8]"
                            load "tileloadd tmm6, [rdx + r9]" multiply "tmm0, tmm4, tmm6"
                            load "tileloadd tmm5, [rdi + r8]" multiply "tmm1, tmm5, tmm6"
                        ] [
                            "tilestored [r10 + r11], tmm0"
                            "tilestored [r13 + r11], tmm1"
                        ]),
                        [1, 2] => with_next!(pointers, $instruction: ["tilezero tmm0" "tilezero tmm1"] [
                            load "tileloadd tmm4, [rsi + r8]"
                            load "tileloadd tmm5, [rdx + r9]" multiply "tmm0, tmm4, tmm5"
                            load "tileloadd tmm6, [rdx + r9 + 64]" multiply "tmm1, tmm4, tmm6"
                        ] [
                            "tilestored [r10 + r11], tmm0"
                            "tilestored [r10 + r11 + 64], tmm1"
                        ]),
                        [2, 2] => with_next!(pointers, $instruction:
                        ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"] [
                            load "tileloadd tmm4, [rsi + r8]"
                            load "tileloadd tmm6, [rdx + r9]" multiply "tmm0, tmm4, tmm6"
                            load "tileloadd tmm7, [rdx + r9 + 64]" multiply "tmm1, tmm4, tmm7"
                            load "tileloadd tmm5, [rdi + r8]" multiply "tmm2, tmm5, tmm6"
                            multiply "tmm3, tmm5, tmm7"
                        ] [
                            "tilestored [r10 + r11], tmm0"
                            "tilestored [r10 + r11 + 64], tmm1"
                            "tilestored [r13 + r11], tmm2"
                            "tilestored [r13 + r11 + 64], tmm3"
                        ]),
                        [rows, columns] => unreachable!("{rows} by {columns} tiles"),
                    }
                }
            }
        )*};
    }

    tiles! {
        Halves: "tdpbf16ps"
        Bytes: "tdpbsud"
    }
}

/// The same sums by ordinary arithmetic.
#[cfg(test)]
pub(super) mod emulated {
    use super::{Factors, Part, SIDE, Tiles};

    #[derive(Clone, Copy)]
    pub(in super::super) struct Halves;

    #[derive(Clone, Copy)]
    pub(in super::super) struct Bytes;

    impl Tiles for Halves {
        fn with_registers(self, work: impl FnOnce()) {
            work();
        }

        fn multiply(self, factors: Factors<'_>, out: Part<'_>) {
            let number =
                |word: f32, place: u32| f32::from_bits(word.to_bits() >> (16 * place) << 16);
            each(factors, out, |words| {
                words.chunks(SIDE).fold(0.0, |sum, tile| {
                    let chain = |place| {
                        let products =
                            tile.iter().map(|(a, b)| [number(*a, place), number(*b, place)]);
                        products.fold(0.0, |sum: f32, [a, b]| a.mul_add(b, sum))
                    };
                    sum + (chain(0) + chain(1))
                })
            });
        }
    }

    impl Tiles for Bytes {
        fn with_registers(self, work: impl FnOnce()) {
            work();
        }

        fn multiply(self, factors: Factors<'_>, out: Part<'_>) {
            each(factors, out, |words| {
                let product = |(a, b): &(f32, f32)| -> i32 {
                    let pairs =
                        a.to_bits().to_le_bytes().into_iter().zip(b.to_bits().to_le_bytes());
                    pairs.map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b)).sum()
                };
                let sum = words.iter().map(product).fold(0, i32::wrapping_add);
                f32::from_bits(sum.cast_unsigned())
            });
        }
    }

    /// Each element of the product, from the words of its row and its column.
    fn each(factors: Factors<'_>, mut out: Part<'_>, f: impl Fn(&[(f32, f32)]) -> f32) {
        let Factors { left, left_stride, right, right_stride, .. } = factors;
        for (row, left) in left.chunks_exact(left_stride).enumerate() {
            for (column, out) in out.row(row).iter_mut().enumerate() {
                let right = right[column..].iter().step_by(right_stride);
                let words: Vec<_> = left.iter().copied().zip(right.copied()).collect();
                out.write(f(&words));
            }
        }
    }
}
