//! One straight cut per class through the space of features: a support vector machine each, all trained at once.
//!
//! The solver is dual coordinate descent for the squared hinge loss (Hsieh et al., *A Dual Coordinate Descent Method for
//! Large-scale Linear SVM*, ICML 2008), which is what LIBLINEAR and scikit-learn's `LinearSVC` do. Here one step is made for
//! all classes together: the weights of a feature for all classes lie side by side, so that scores and updates are runs
//! over memory in its order, as wide as the processor's registers.

use pulp::{Arch, Simd, WithSimd};

use super::features::{BUCKETS, Sparse};

/// What a mistake costs against what a steep cut costs. Flat around one: 80.6 and 80.3 % of CLINC150's validation set with 1
/// and 0.3 at five examples a class, 94.5 and 94.2 % with all.
const COST: f32 = 1.0;

/// Most passes over all examples.
const PASSES: usize = 20;

/// Training ends when no example of a pass changed a weight's multiplier by more than this.
const SETTLED: f32 = 0.1;

/// How many passes an example sits out that is settled.
const REST: u8 = 3;

/// Classes are padded to a multiple of this: one register of the widest that are common.
const LANES: usize = 16;

/// A text as numbers: its vector, which may be empty, and its weighed features.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) dense: Box<[f32]>,
    pub(super) sparse: Sparse,
}

impl Row {
    fn square(&self) -> f32 {
        let dense = self.dense.iter().map(|x| x * x).sum::<f32>();
        dense + self.sparse.iter().map(|(_, x)| x * x).sum::<f32>()
    }
}

/// The weights of all classes.
#[derive(Debug)]
pub(super) struct Head {
    classes: usize,
    /// Classes, padded.
    stride: usize,
    /// `stride` numbers each for: the bias, each number of the vector, each bucket that is in use.
    weights: Box<[f32]>,
    /// By bucket: the place of its weights; 0 for one that no example has.
    places: Box<[u16]>,
    dim: usize,
}

impl Head {
    /// Trains on rows and the class of each. `None` when `unwanted` says so meanwhile.
    pub(super) fn train(rows: &[(&Row, usize)], classes: usize, unwanted: impl Fn() -> bool) -> Option<Self> {
        let dim = rows.first().map_or(0, |(row, _)| row.dense.len());
        let stride = classes.next_multiple_of(LANES).max(LANES);
        let mut places = vec![0_u16; BUCKETS];
        let mut used = 0_u16;
        for (bucket, _) in rows.iter().flat_map(|(row, _)| &row.sparse) {
            if let Some(place @ 0) = places.get_mut(usize::from(*bucket)) {
                used += 1;
                *place = used;
            }
        }
        let weights = vec![0.0; stride * (1 + dim + usize::from(used))].into();
        let mut head = Self { classes, stride, weights, places: places.into(), dim };
        let mut multipliers = vec![0.0_f32; rows.len() * stride];
        let squares: Vec<f32> = rows.iter().map(|(row, _)| 1.0 + row.square() + 1.0 / (2.0 * COST)).collect();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let (mut random, mut change) = (Random(0x5eed), vec![0.0_f32; stride]);
        // Passes that an example may sit out because the last step for it changed next to nothing.
        let mut rests = vec![0_u8; rows.len()];
        for _ in 0..PASSES {
            random.shuffle(&mut order);
            let mut largest = 0.0_f32;
            for (step, &at) in order.iter().enumerate() {
                if step % 256 == 0 && unwanted() {
                    return None;
                }
                if let Some(less) = rests[at].checked_sub(1) {
                    rests[at] = less;
                    continue;
                }
                let (row, class) = rows[at];
                let multipliers = &mut multipliers[at * stride..(at + 1) * stride];
                let by = head.step(row, class, squares[at], multipliers, &mut change);
                rests[at] = if by < SETTLED { REST } else { 0 };
                largest = largest.max(by);
            }
            if largest < SETTLED {
                break;
            }
        }
        Some(head)
    }

    /// Makes one step for one example. Gives the largest change of a multiplier.
    fn step(&mut self, row: &Row, class: usize, square: f32, multipliers: &mut [f32], change: &mut [f32]) -> f32 {
        self.scores(row, change);
        let mut largest = 0.0_f32;
        let mut moved = 0;
        for (c, (change, multiplier)) in change.iter_mut().zip(multipliers).enumerate() {
            let sign = if c == class { 1.0 } else { -1.0 };
            let slope = sign * *change - 1.0 + *multiplier / (2.0 * COST);
            let next = if c < self.classes { (*multiplier - slope / square).max(0.0) } else { 0.0 };
            let by = next - *multiplier;
            *multiplier = next;
            *change = sign * by;
            largest = largest.max(by.abs());
            moved += usize::from(by != 0.0);
        }
        if moved > 0 {
            self.add(row, change);
        }
        largest
    }

    /// The score of each class. `scores` is as long as the padded classes; the padding stays about zero.
    pub(super) fn scores(&self, row: &Row, scores: &mut [f32]) {
        Arch::new().dispatch(Scores { head: self, row, scores });
    }

    /// Adds the row to the weights of each class, as often as `times` says.
    fn add(&mut self, row: &Row, times: &[f32]) {
        Arch::new().dispatch(Add { head: self, row, times });
    }

    /// As many numbers as [`scores`](Self::scores) fills in.
    pub(super) const fn width(&self) -> usize {
        self.stride
    }
}

/// [`Head::scores`]. A closure would be compiled for the least that all processors have: only what is inlined by force gets
/// the wide instructions.
struct Scores<'a> {
    head: &'a Head,
    row: &'a Row,
    scores: &'a mut [f32],
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head, row, scores } = self;
        let stride = head.stride;
        scores.copy_from_slice(&head.weights[..stride]);
        for (&x, weights) in row.dense.iter().zip(head.weights[stride..].chunks_exact(stride).take(head.dim)) {
            add_times(simd, x, weights, scores);
        }
        for &(bucket, x) in &row.sparse {
            let place = usize::from(head.places[usize::from(bucket)]);
            if place > 0 {
                let start = (head.dim + place) * stride;
                add_times(simd, x, &head.weights[start..start + stride], scores);
            }
        }
    }
}

/// [`Head::add`].
struct Add<'a> {
    head: &'a mut Head,
    row: &'a Row,
    times: &'a [f32],
}

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head, row, times } = self;
        let (stride, dim) = (head.stride, head.dim);
        let (bias, dense) = head.weights.split_at_mut(stride);
        add_times(simd, 1.0, times, bias);
        for (&x, weights) in row.dense.iter().zip(dense.chunks_exact_mut(stride)) {
            add_times(simd, x, times, weights);
        }
        for &(bucket, x) in &row.sparse {
            let start = (dim + usize::from(head.places[usize::from(bucket)])) * stride;
            add_times(simd, x, times, &mut head.weights[start..start + stride]);
        }
    }
}

/// Adds `x` times each number of `from` to those of `to`.
#[inline(always)]
fn add_times<S: Simd>(simd: S, x: f32, from: &[f32], to: &mut [f32]) {
    let times = simd.splat_f32s(x);
    let (from, from_rest) = S::as_simd_f32s(from);
    let (to, to_rest) = S::as_mut_simd_f32s(to);
    for (to, from) in to.iter_mut().zip(from) {
        *to = simd.mul_add_e_f32s(times, *from, *to);
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to += x * from;
    }
}

/// The same shuffle on every run, so that the same examples give the same classifier: xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            order.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dense: &[f32], sparse: &[(u16, f32)]) -> Row {
        Row { dense: dense.into(), sparse: sparse.into() }
    }

    fn scores(head: &Head, row: &Row) -> Vec<f32> {
        let mut scores = vec![0.0; head.width()];
        head.scores(row, &mut scores);
        scores
    }

    #[test]
    fn classes_that_can_be_told_apart_are() {
        let rows = [
            row(&[1.0, 0.0], &[(7, 0.5)]),
            row(&[0.9, 0.1], &[(7, 0.5), (9, 0.1)]),
            row(&[0.0, 1.0], &[(9, 0.7)]),
            row(&[0.1, 0.9], &[(9, 0.7)]),
            row(&[0.5, 0.5], &[(16_383, 1.0)]),
        ];
        let classes = [0, 0, 1, 1, 2];
        let labelled: Vec<_> = rows.iter().zip(classes).collect();
        let head = Head::train(&labelled, 3, || false).expect("wanted");
        for (row, class) in &labelled {
            let scores = scores(&head, row);
            assert!((0..3).all(|other| other == *class || scores[other] < scores[*class]), "{class}: {scores:?}");
            assert!(scores[3..].iter().all(|padding| padding.abs() < 1e-6));
        }
        assert!(Head::train(&labelled, 3, || true).is_none());
        let unseen = scores(&head, &row(&[0.0, 0.0], &[(3, 1.0)]));
        assert!(unseen.iter().all(|score| score.is_finite()));
    }

    #[test]
    fn nothing_to_learn_from_is_no_failure() {
        let head = Head::train(&[], 0, || false).expect("wanted");
        assert_eq!(scores(&head, &row(&[], &[(1, 1.0)])), [0.0; LANES]);
    }
}
