//! Unit vectors in a byte per component, and their products.
//!
//! A vector is scaled by its largest component, so that no component is off by more than half a step: for 256
//! dimensions this moves a cosine by some 0.002. The products are plain loops that the compiler turns into vector
//! instructions; run them inside [`pulp::Arch::dispatch`], which picks the widest that the processor has. They
//! wrap instead of checking for overflow, since a check at each step would keep the loops scalar: with bytes and
//! at most 4,096 components no sum can come near the limit of an `i32`. Only [`dots`], of which a search in a large
//! mesh makes ten thousands, is written for the processor. All bytes lie within ±127.

use crate::capability::{QuantizedVector, VectorSource, limits};

#[cfg(target_arch = "x86_64")]
mod wide;

/// 127² times the longest vector must fit.
const _: () = assert!(127 * 127 * limits::VECTOR_DIM < i32::MAX as usize);

/// The nearest bytes to a vector.
#[must_use]
pub fn quantise(vector: &[f32], source: VectorSource) -> QuantizedVector {
    let largest = vector.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return QuantizedVector { source, values: vec![0; vector.len()].into(), scale: 0.0 };
    }
    let steps = 127.0 / largest;
    // A float out of range saturates, and what is not a number becomes zero. To add a half and cut is to round, and one
    // instruction where `round` is a call; with a half that is a little small, what is a little less than one stays less.
    let values = vector.iter().map(|x| (x * steps + 0.499_999_97_f32.copysign(*x)) as i8).collect();
    QuantizedVector { source, values, scale: largest / 127.0 }
}

/// The vector that the bytes stand for.
#[must_use]
pub fn dequantise(vector: &QuantizedVector) -> Vec<f32> {
    vector.values.iter().map(|&value| f32::from(value) * vector.scale).collect()
}

/// The step at which bytes stand for a vector of unit length; zero when all are zero.
#[must_use]
pub fn unit_scale(values: &[i8]) -> f32 {
    let square = dot(values, values);
    if square == 0 { 0.0 } else { (square as f32).sqrt().recip() }
}

/// Sum of products of bytes, each at most 127 in size.
#[inline(always)]
#[must_use]
pub fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).fold(0_i32, |sum, (&a, &b)| sum.wrapping_add(i32::from(a).wrapping_mul(i32::from(b))))
}

/// The [`dot`] of a vector with each of the rows that follow each other in `rows`.
pub fn dots(vector: &[i8], rows: &[i8], out: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new()
            && wide::dots(simd, vector, rows, out)
        {
            return;
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return dots_avx2(simd, vector, rows, out);
        }
    }
    // A closure with nothing but these loops: a larger one is not compiled for the wide instructions, which
    // makes it three times slower.
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (row, out) in rows.chunks_exact(vector.len().max(1)).zip(out) {
                *out = dot(vector, row);
            }
        },
    );
}

/// Twice as fast as what the compiler makes of the loop, which widens every byte before it multiplies. This multiplies
/// bytes: unsigned by signed is what the processor has, so the sign of one is given to the other first. Two products
/// are added in 16 bits, which is why no byte may be -128: 2 * 127 * 127 just fits.
#[cfg(target_arch = "x86_64")]
fn dots_avx2(simd: pulp::x86::V3, vector: &[i8], rows: &[i8], out: &mut [i32]) {
    use std::arch::x86_64::__m256i;

    use pulp::bytemuck::cast;

    /// Bytes in a register.
    const WIDTH: usize = 32;
    /// Rows at a time: their sums are put together in one go.
    const ROWS: usize = 4;

    simd.vectorize(
        #[inline(always)]
        || {
            let (avx, avx2) = (simd.avx, simd.avx2);
            let ones = avx._mm256_set1_epi16(1);
            let add = |sum: &mut __m256i, size: __m256i, vector: __m256i, row: &[i8; WIDTH]| {
                let pairs = avx2._mm256_maddubs_epi16(size, avx2._mm256_sign_epi8(cast(*row), vector));
                *sum = avx2._mm256_add_epi32(*sum, avx2._mm256_madd_epi16(pairs, ones));
            };
            let (steps, rest) = vector.as_chunks::<WIDTH>();
            let dim = vector.len().max(1);
            let last = steps.len() * WIDTH;
            let count = out.len().min(rows.len() / dim);
            let (groups, left) = rows[..count * dim].split_at(count / ROWS * ROWS * dim);
            let (fours, out_left) = out[..count].as_chunks_mut::<ROWS>();
            for (group, out) in groups.chunks_exact(dim * ROWS).zip(fours) {
                let mut sums = [avx._mm256_setzero_si256(); ROWS];
                // Row after row, in the order of memory: reading four rows side by side took half as long again
                // for 80,000 rows (3.0 against 1.9 ms), which do not fit the near caches.
                for (sum, row) in sums.iter_mut().zip(group.chunks_exact(dim)) {
                    for (step, chunk) in steps.iter().zip(row.as_chunks().0) {
                        let vector: __m256i = cast(*step);
                        add(sum, avx2._mm256_abs_epi8(vector), vector, chunk);
                    }
                }
                let (ab, cd) = (avx2._mm256_hadd_epi32(sums[0], sums[1]), avx2._mm256_hadd_epi32(sums[2], sums[3]));
                let halves: [[i32; ROWS]; 2] = cast(avx2._mm256_hadd_epi32(ab, cd));
                for (at, row) in group.chunks_exact(dim).enumerate() {
                    out[at] = halves[0][at].wrapping_add(halves[1][at]);
                    if !rest.is_empty() {
                        out[at] = out[at].wrapping_add(dot(rest, &row[last..]));
                    }
                }
            }
            for (row, out) in left.chunks_exact(dim).zip(out_left) {
                *out = dot(vector, row);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_component_is_off_by_at_most_half_a_step(vector in prop::collection::vec(-1.0_f32..1.0, 0..300)) {
            let bytes = quantise(&vector, VectorSource::Example);
            prop_assert_eq!(bytes.values.len(), vector.len());
            for (before, after) in vector.iter().zip(dequantise(&bytes)) {
                prop_assert!((before - after).abs() <= bytes.scale * 0.5001, "{} {}", before, after);
            }
        }

        #[test]
        fn products_are_those_of_the_vectors(
            (a, b) in (1_usize..300).prop_flat_map(|n| (prop::collection::vec(-127_i8..=127, n), prop::collection::vec(-127_i8..=127, n)))
        ) {
            let expected: i64 = a.iter().zip(&b).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
            prop_assert_eq!(i64::from(dot(&a, &b)), expected);
        }
    }

    /// Any dimension, and those that have code of their own.
    fn dim() -> impl Strategy<Value = usize> {
        prop_oneof![1_usize..100, (1_usize..17).prop_map(|steps| 64 * steps)]
    }

    proptest! {
        #[test]
        fn rows_have_the_products_that_each_has_alone(
            (vector, rows) in (dim(), 0_usize..11).prop_flat_map(|(dim, count)| (
                prop::collection::vec(-127_i8..=127, dim), prop::collection::vec(-127_i8..=127, dim * count)
            ))
        ) {
            let mut out = vec![0; rows.len() / vector.len()];
            dots(&vector, &rows, &mut out);
            let expected: Vec<i32> = rows.chunks_exact(vector.len()).map(|row| dot(&vector, row)).collect();
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn the_largest_bytes_do_not_overflow() {
        for (a, b) in [(127, 127), (127, -127), (-127, 127), (-127, -127)] {
            let (vector, rows) = ([a; 256], [b; 256 * 5]);
            let mut out = [0; 5];
            dots(&vector, &rows, &mut out);
            assert_eq!(out, [256 * i32::from(a) * i32::from(b); 5]);
        }
    }

    #[test]
    fn rows_are_taken_one_after_the_other() {
        let mut out = [7; 3];
        dots(&[1, 2], &[1, 1, 2, -2], &mut out);
        assert_eq!(out, [3, -2, 7]);
        dots(&[], &[1], &mut out[..1]);
        assert_eq!(out[0], 0);
        let mut out = [7; 9];
        dots(&[1, 1], &[2; 12], &mut out);
        assert_eq!(out, [4, 4, 4, 4, 4, 4, 7, 7, 7]);
    }

    #[test]
    fn what_is_not_a_vector_has_no_direction() {
        for vector in [vec![0.0; 8], vec![f32::NAN; 8], vec![f32::INFINITY, 1.0], vec![]] {
            let bytes = quantise(&vector, VectorSource::Topics);
            assert!(bytes.values.iter().all(|value| *value == 0), "{vector:?}");
            assert_eq!(unit_scale(&bytes.values), 0.0);
        }
    }

    #[test]
    fn the_unit_scale_makes_unit_length() {
        let bytes = quantise(&[3.0, 4.0], VectorSource::Description);
        let unit = QuantizedVector { scale: unit_scale(&bytes.values), ..bytes };
        let length: f32 = dequantise(&unit).iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
}
