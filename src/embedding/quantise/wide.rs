//! [`dots`](super::dots) for processors with registers of 64 bytes: twice as fast as with 32.

use std::arch::x86_64::{__m256i, __m512i, __mmask64};

use pulp::bytemuck::cast;
use pulp::x86::V4;

/// Bytes in a register.
const WIDTH: usize = 64;

/// Rows at a time: their sums are put together in one go.
const ROWS: usize = 4;

/// Gives the products, if the vector is as long as those of usual embedders. `false`: nothing was done.
pub(super) fn dots(simd: V4, vector: &[i8], rows: &[i8], out: &mut [i32]) -> bool {
    match vector.as_chunks::<WIDTH>() {
        (steps, []) => match steps.len() {
            // 256, 384, 512, 768 and 1,024 dimensions.
            4 => each::<4>(simd, steps, rows, out),
            6 => each::<6>(simd, steps, rows, out),
            8 => each::<8>(simd, steps, rows, out),
            12 => each::<12>(simd, steps, rows, out),
            16 => each::<16>(simd, steps, rows, out),
            _ => false,
        },
        _ => false,
    }
}

/// The products of a vector with a row, in eight sums.
#[inline(always)]
fn product<const STEPS: usize>(
    simd: V4,
    sizes: &[__m512i; STEPS],
    negative: &[__mmask64; STEPS],
    row: &[[i8; WIDTH]; STEPS],
) -> __m256i {
    let (f, bw, avx2) = (simd.avx512f, simd.avx512bw, simd.avx2);
    let (zero, ones) = (f._mm512_setzero_si512(), cast([1_i16; WIDTH / 2]));
    let mut sum = zero;
    for at in 0..STEPS {
        let bytes: __m512i = cast(row[at]);
        let signed = bw._mm512_mask_sub_epi8(bytes, negative[at], zero, bytes);
        let pairs = bw._mm512_maddubs_epi16(sizes[at], signed);
        sum = f._mm512_add_epi32(sum, bw._mm512_madd_epi16(pairs, ones));
    }
    let [low, high]: [__m256i; 2] = cast(sum);
    avx2._mm256_add_epi32(low, high)
}

/// As in the narrower code, the sizes of the vector's bytes are multiplied by a row's bytes, which have been given the signs
/// of the vector's. The number of steps is fixed, so that sizes and signs stay in registers. Everything in here is a loop or
/// inlined by force: what is not is compiled without the wide instructions, and calls each of them.
fn each<const STEPS: usize>(simd: V4, steps: &[[i8; WIDTH]], rows: &[i8], out: &mut [i32]) -> bool {
    let Some(steps) = steps.first_chunk::<STEPS>() else { return false };
    simd.vectorize(
        #[inline(always)]
        || {
            let (bw, avx2) = (simd.avx512bw, simd.avx2);
            let (mut sizes, mut negative) = ([cast([0_i8; WIDTH]); STEPS], [0; STEPS]);
            for at in 0..STEPS {
                sizes[at] = bw._mm512_abs_epi8(cast(steps[at]));
                negative[at] = bw._mm512_movepi8_mask(cast(steps[at]));
            }
            let (rows, _) = rows.as_chunks::<WIDTH>();
            let (rows, _) = rows.as_chunks::<STEPS>();
            let count = out.len().min(rows.len());
            let (fours, rest) = rows[..count].as_chunks::<ROWS>();
            let (fours_out, rest_out) = out[..count].as_chunks_mut::<ROWS>();
            for (four, out) in fours.iter().zip(fours_out) {
                let (a, b) = (product(simd, &sizes, &negative, &four[0]), product(simd, &sizes, &negative, &four[1]));
                let (c, d) = (product(simd, &sizes, &negative, &four[2]), product(simd, &sizes, &negative, &four[3]));
                let sums = avx2._mm256_hadd_epi32(avx2._mm256_hadd_epi32(a, b), avx2._mm256_hadd_epi32(c, d));
                let [low, high]: [[i32; ROWS]; 2] = cast(sums);
                for at in 0..ROWS {
                    out[at] = low[at].wrapping_add(high[at]);
                }
            }
            for (row, out) in rest.iter().zip(rest_out) {
                let lanes: [i32; 8] = cast(product(simd, &sizes, &negative, row));
                *out = 0;
                for lane in lanes {
                    *out = out.wrapping_add(lane);
                }
            }
            true
        },
    )
}
