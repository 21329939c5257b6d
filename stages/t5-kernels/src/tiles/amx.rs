//! AMX, Intel's matrix extension, since Sapphire Rapids (2023).
#![expect(unsafe_code, reason = "instructions that not every processor has")]

use std::arch::{asm, x86_64::__cpuid_count};
use std::sync::LazyLock;

use super::{Factors, SIDE, Tiles};
use crate::submatrix::SubMatrixMut;

// Bits of `edx` of leaf 7 of `cpuid`.
const AMX_TILE: u32 = 1 << 24;
const AMX_BF16: u32 = 1 << 22;
const AMX_INT8: u32 = 1 << 25;

/// Products of bf16 pairs, with sums in f32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16(());

pub(crate) fn bf16_tiles() -> Option<Bf16> {
    static THERE: LazyLock<bool> = LazyLock::new(|| is_there(AMX_BF16));
    THERE.then_some(Bf16(()))
}

/// Products of bytes, signed on the left and unsigned on the right, with sums in 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Int8(());

pub(crate) fn int8_tiles() -> Option<Int8> {
    static THERE: LazyLock<bool> = LazyLock::new(|| is_there(AMX_INT8));
    THERE.then_some(Int8(()))
}

/// Whether the processor has tiles and this kind of product, and the kernel saves the registers.
fn is_there(products: u32) -> bool {
    let wanted = AMX_TILE | products;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & wanted == wanted && is_permitted()
}

/// Asks Linux for the tile registers, as every process has to: they take 8 KiB of each signal's stack.
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two integers and changes nothing but what the process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight registers are whole tiles.
static WHOLE: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Releases the registers, also on a panic.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        // SAFETY: a processor with tiles has the instruction.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

#[inline(always)]
fn configured(work: impl FnOnce()) {
    // SAFETY: only types that exist where there are tiles call this. Nothing but the loops below uses these registers.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(readonly, nostack, preserves_flags));
    }
    let _release = Release;
    work();
}

/// The operands of a loop; strides are in bytes.
struct Pointers {
    lhs: *const f32,
    rhs: *const f32,
    out: *mut f32,
    lhs_stride: usize,
    rhs_stride: usize,
    out_stride: usize,
    steps: usize,
    next: *const f32,
}

impl Pointers {
    /// The operands of a product, and how many tiles it has.
    fn new(factors: Factors<'_>, out: &mut SubMatrixMut<'_>) -> (Self, [usize; 2]) {
        let Factors { lhs, lhs_stride, rhs, rhs_stride, next } = factors;
        let (rows, columns) = (lhs.len() / lhs_stride / SIDE, rhs_stride / SIDE);
        assert!(lhs_stride.is_multiple_of(SIDE) && lhs.len() == rows * SIDE * lhs_stride);
        assert!(rhs_stride.is_multiple_of(SIDE) && rhs.len() >= lhs_stride * rhs_stride);
        assert!(out.rows() == rows * SIDE && out.columns() == columns * SIDE);
        let pointers = Self {
            lhs: lhs.as_ptr(),
            rhs: rhs.as_ptr(),
            out: out.first(),
            lhs_stride: lhs_stride * size_of::<f32>(),
            rhs_stride: rhs_stride * size_of::<f32>(),
            out_stride: out.stride() * size_of::<f32>(),
            steps: lhs_stride / SIDE,
            next: next.unwrap_or(std::ptr::null()),
        };
        (pointers, [rows, columns])
    }
}

/// A line of assembly; one that multiplies gets the instruction.
macro_rules! line {
    ($instruction:literal, multiply, $text:literal) => {
        concat!($instruction, " ", $text)
    };
    ($instruction:literal, $what:ident, $text:literal) => {
        $text
    };
}

/// A loop over the depth. Left-hand tiles are in tmm4 and tmm5, right-hand ones in the registers after them.
macro_rules! over_depth {
    ($pointers:ident, $instruction:literal:
        [$($zero:literal)*] [$($what:ident $step:literal)*] [$($store:literal)*]) => {{
        let pointers: Pointers = $pointers;
        let lhs_below = pointers.lhs.wrapping_byte_add(SIDE * pointers.lhs_stride);
        let out_below = pointers.out.wrapping_byte_add(SIDE * pointers.out_stride);
        // SAFETY: `Pointers::new` has checked that the operands have so many tiles, and the registers are configured. A step
        // advances by the 16 words of a left-hand tile, and by the 16 rows of a right-hand one.
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
                inout("rsi") pointers.lhs => _,
                inout("rdi") lhs_below => _,
                inout("rdx") pointers.rhs => _,
                inout("rcx") pointers.steps => _,
                inout("r12") pointers.next => _,
                in("rax") SIDE * pointers.rhs_stride,
                in("r8") pointers.lhs_stride,
                in("r9") pointers.rhs_stride,
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

/// The loop for two right-hand tiles, with and without prefetching: 16 cache lines a step, so that two products (64 rows) prefetch
/// all of the next panel.
macro_rules! with_prefetch {
    ($pointers:ident, $instruction:literal:
        [$($zero:literal)*] [$($what:ident $step:literal)*] [$($store:literal)*]) => {
        if $pointers.next.is_null() {
            over_depth!($pointers, $instruction: [$($zero)*] [$($what $step)*] [$($store)*])
        } else {
            over_depth!($pointers, $instruction: [$($zero)*] [
                $($what $step)*
                prefetch "prefetcht1 [r12]" prefetch "prefetcht1 [r12 + 64]"
                prefetch "prefetcht1 [r12 + 128]" prefetch "prefetcht1 [r12 + 192]"
                prefetch "prefetcht1 [r12 + 256]" prefetch "prefetcht1 [r12 + 320]"
                prefetch "prefetcht1 [r12 + 384]" prefetch "prefetcht1 [r12 + 448]"
                prefetch "prefetcht1 [r12 + 512]" prefetch "prefetcht1 [r12 + 576]"
                prefetch "prefetcht1 [r12 + 640]" prefetch "prefetcht1 [r12 + 704]"
                prefetch "prefetcht1 [r12 + 768]" prefetch "prefetcht1 [r12 + 832]"
                prefetch "prefetcht1 [r12 + 896]" prefetch "prefetcht1 [r12 + 960]"
                prefetch "add r12, 1024"
            ] [$($store)*])
        }
    };
}

macro_rules! tiles {
    ($($name:ident: $instruction:literal)*) => {$(
        impl Tiles for $name {
            #[inline(always)]
            fn configured(self, work: impl FnOnce()) {
                configured(work);
            }

            fn multiply(self, factors: Factors<'_>, mut out: SubMatrixMut<'_>) {
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
                    [1, 2] => with_prefetch!(pointers, $instruction: ["tilezero tmm0" "tilezero tmm1"] [
                        load "tileloadd tmm4, [rsi + r8]"
                        load "tileloadd tmm5, [rdx + r9]" multiply "tmm0, tmm4, tmm5"
                        load "tileloadd tmm6, [rdx + r9 + 64]" multiply "tmm1, tmm4, tmm6"
                    ] [
                        "tilestored [r10 + r11], tmm0"
                        "tilestored [r10 + r11 + 64], tmm1"
                    ]),
                    [2, 2] => with_prefetch!(pointers, $instruction:
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
    Bf16: "tdpbf16ps"
    Int8: "tdpbsud"
}
