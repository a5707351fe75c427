//! How alike a text and the texts of each class are, by their vectors.

use crate::capability::VectorSource;
use crate::embedding::quantise::{dots, quantise, unit_scale};

use super::linear::Row;

/// The vectors of all classes, in bytes.
#[derive(Debug)]
pub(super) struct Shelf {
    dim: usize,
    /// `dim` bytes each, class after class.
    values: Box<[i8]>,
    /// By vector.
    scales: Box<[f32]>,
    /// By class: its vectors.
    spans: Box<[(u32, u32)]>,
    /// `dim` bytes a class.
    centroids: Box<[i8]>,
    /// By class; 0 where there is none.
    centroid_scales: Box<[f32]>,
}

/// A text's vector in bytes. Its scale is 0 when it has no direction.
pub(super) struct Query {
    values: Box<[i8]>,
    scale: f32,
}

impl Shelf {
    /// The vectors of rows and their classes.
    pub(super) fn new<'a>(rows: impl Iterator<Item = (&'a Row, usize)>, classes: usize) -> Self {
        let mut by_class: Vec<Vec<&[f32]>> = vec![Vec::new(); classes];
        let mut dim = 0;
        for (row, class) in rows {
            if let Some(of_class) = by_class.get_mut(class)
                && row.dense.iter().any(|x| *x != 0.0)
            {
                dim = row.dense.len();
                of_class.push(&row.dense);
            }
        }
        let (mut values, mut scales, mut spans) = (Vec::new(), Vec::new(), Vec::with_capacity(classes));
        let (mut centroids, mut centroid_scales) = (Vec::with_capacity(classes * dim), Vec::with_capacity(classes));
        let bytes = |vector: &[f32], into: &mut Vec<i8>| {
            let bytes = quantise(vector, VectorSource::Example).values;
            into.extend_from_slice(&bytes);
            unit_scale(&bytes)
        };
        for vectors in by_class {
            let start = scales.len() as u32;
            let mut sum = vec![0.0_f32; dim];
            for vector in vectors {
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x / length);
                scales.push(bytes(vector, &mut values));
            }
            spans.push((start, scales.len() as u32));
            centroid_scales.push(bytes(&sum, &mut centroids));
        }
        Self {
            dim,
            values: values.into(),
            scales: scales.into(),
            spans: spans.into(),
            centroids: centroids.into(),
            centroid_scales: centroid_scales.into(),
        }
    }

    pub(super) fn query(&self, row: &Row) -> Query {
        let bytes = quantise(&row.dense, VectorSource::Example).values;
        let scale = if bytes.len() == self.dim { unit_scale(&bytes) } else { 0.0 };
        Query { values: bytes.iter().copied().collect(), scale }
    }

    /// The cosine to the centroid of each class.
    pub(super) fn centroids(&self, query: &Query, out: &mut [f32]) {
        if query.scale == 0.0 {
            return;
        }
        let mut products = vec![0; out.len()];
        dots(&query.values, &self.centroids, &mut products);
        for ((out, product), scale) in out.iter_mut().zip(products).zip(&self.centroid_scales) {
            *out = product as f32 * scale * query.scale;
        }
    }

    /// The cosine to the nearest text of a class; 0 when it has none. `products` is room to work in.
    pub(super) fn nearest(&self, query: &Query, class: usize, products: &mut Vec<i32>) -> f32 {
        let Some(&(start, end)) = self.spans.get(class).filter(|(start, end)| start < end && query.scale > 0.0) else {
            return 0.0;
        };
        let (start, end) = (start as usize, end as usize);
        products.clear();
        products.resize(end - start, 0);
        dots(&query.values, &self.values[start * self.dim..end * self.dim], products);
        let all = products.iter().zip(&self.scales[start..end]).map(|(&product, scale)| product as f32 * scale);
        all.fold(-1.0_f32, |best, x| best.max(x * query.scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dense: &[f32]) -> Row {
        Row { dense: dense.into(), sparse: Box::default() }
    }

    #[test]
    fn likeness_is_the_cosine_to_centroid_and_nearest() {
        let rows = [row(&[1.0, 0.0]), row(&[0.0, 3.0]), row(&[-2.0, 0.0]), row(&[0.0, 0.0])];
        let shelf = Shelf::new(rows.iter().zip([0, 0, 1, 2]), 3);
        let query = shelf.query(&row(&[0.5, 0.0]));
        let mut out = vec![0.0; 3];
        shelf.centroids(&query, &mut out);
        let near = |a: f32, b: f32| (a - b).abs() < 0.01;
        assert!(near(out[0], std::f32::consts::FRAC_1_SQRT_2) && near(out[1], -1.0) && out[2] == 0.0, "{out:?}");
        let mut room = Vec::new();
        let nearest: Vec<_> = (0..4).map(|class| shelf.nearest(&query, class, &mut room)).collect();
        assert!(near(nearest[0], 1.0) && near(nearest[1], -1.0) && nearest[2..] == [0.0, 0.0], "{nearest:?}");
    }

    #[test]
    fn without_vectors_nothing_is_alike() {
        let shelf = Shelf::new([(&row(&[]), 0)].into_iter(), 1);
        let query = shelf.query(&row(&[]));
        let mut out = vec![0.0];
        shelf.centroids(&query, &mut out);
        assert_eq!((out[0], shelf.nearest(&query, 0, &mut Vec::new())), (0.0, 0.0));
    }
}
