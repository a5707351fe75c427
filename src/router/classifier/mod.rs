//! What a text is about: one of some classes, each given by a few texts, and how probable that is.
//!
//! A class is a kind, with the phrases of the project's own collection, or what a capability is about, with its
//! description, topics and examples. Both are the same here.
//!
//! ```text
//! score of a class = head + 2 * likeness
//!   head     = a linear cut through the text's vector (centred, about unit length) and its hashed words and
//!              pieces of words (tf-idf, unit length), trained against all other classes
//!   likeness = half the cosine to the class's nearest text, half that to the centroid of its texts
//! ```
//!
//! With few texts of a class the likeness says most, with many the head does; the sum is better than either with any
//! number. Accuracy in percent on CLINC150's validation set, out of scope told apart by the highest score (AUROC, %):
//!
//! | texts a class | likeness alone | head alone, no vector | head alone | sum |
//! |---|---|---|---|---|
//! | name and 5 | 77.2, 94.9 | 74.5, 90.2 | 80.6, 88.4 | 81.0, 93.9 |
//! | name and 10 | 82.7, 95.7 | 82.1, 92.7 | 86.4, 92.5 | 86.8, 95.9 |
//! | name and 100 | 89.3, 97.1 | | 94.5, 96.2 | 94.3, 97.8 |
//!
//! *None* of the classes is learnt from texts that mean nothing in particular. How probable it is that the best class is the
//! right one is calibrated on texts that were held back in training.

mod calibrate;
mod features;
mod linear;
mod shelf;

use std::sync::Arc;

use crate::embedding::Embedder;

use calibrate::{Calibration, Outcome, SIGNS};
use features::{BUCKETS, Sparse};
use linear::{Head, Row};
use shelf::Shelf;

/// What the likeness counts against the head. Flat between 1 and 3.
const LIKENESS: f32 = 2.0;

/// Parts into which the texts are split for calibration; each is judged by a classifier of the others.
const PARTS: usize = 5;

/// Texts times classes that calibration may cost in all: where there are more, not all parts are judged.
const CALIBRATION_WORK: usize = 1_500_000;

/// Share of what people ask that is about none of the classes: an assumption, on which calibration depends. Texts
/// about nothing are given so much weight in it.
const NONE_SHARE: f32 = 1.0 / 6.0;

/// Classes whose nearest text is looked for: those that are best by head and centroid.
const LOOKED_AT: usize = 10;

/// A text of a class, read: the same text need not be read again for the next training.
#[derive(Debug, Clone)]
pub struct Text {
    /// Empty without an embedder.
    vector: Arc<[f32]>,
    features: Arc<[(u16, f32)]>,
}

impl Text {
    /// Reads a text. `vector` is what the embedder says of it; empty where there is none.
    #[must_use]
    pub fn new(text: &str, vector: Vec<f32>) -> Self {
        Self { vector: vector.into(), features: features::features(text).into() }
    }

    /// Reads a text with this embedder.
    #[must_use]
    pub fn read(text: &str, embedder: Option<&dyn Embedder>) -> Self {
        Self::new(text, embedder.map(|embedder| embedder.embed(text)).unwrap_or_default())
    }
}

/// What a text was taken for.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The best of the classes that are available, and its score; `None` when nothing is.
    pub best: Option<(usize, f32)>,
    /// Probability that the best is right, 0 to 1.
    pub probability: f32,
    /// The best of the rest, available or not, and its score. It is better than the best when it is not available.
    pub rival: Option<(usize, f32)>,
    /// Probability that the rival is right.
    pub rival_probability: f32,
    /// By class: the score, in no unit.
    pub scores: Vec<f32>,
    /// By class: how alike the class and the text are by their vectors, -1 to 1. Of classes far from being the best, the
    /// centroid's part.
    pub likeness: Vec<f32>,
}

/// Tells classes of texts apart. Immutable; trained anew when the classes change.
#[derive(Debug)]
pub struct Classifier {
    /// Number of classes, without *none*.
    classes: usize,
    space: Space,
    head: Head,
    shelf: Shelf,
    calibration: Calibration,
    /// Of those texts held back whose best class was wrong, the share whose second was right.
    rival_share: f32,
    /// Of those texts held back that are about one of the classes, the share whose best class was right.
    right_of_held: f32,
}

/// How texts become rows of numbers.
#[derive(Debug)]
struct Space {
    /// What all vectors have in common.
    center: Box<[f32]>,
    /// Brings centred vectors to unit length on the average.
    stretch: f32,
    /// By bucket: how rare it is.
    rarity: Box<[f32]>,
}

impl Space {
    fn new<'a>(texts: impl Iterator<Item = &'a Text> + Clone) -> Self {
        let count = texts.clone().count() as f32;
        let dim = texts.clone().map(|text| text.vector.len()).max().unwrap_or(0);
        let mut frequency = vec![0.0_f32; BUCKETS];
        let mut center = vec![0.0_f32; dim];
        let with_vector = || texts.clone().filter(|text| text.vector.iter().any(|x| *x != 0.0));
        for text in texts.clone() {
            text.features.iter().for_each(|(bucket, _)| frequency[usize::from(*bucket)] += 1.0);
        }
        for text in with_vector() {
            center.iter_mut().zip(&*text.vector).for_each(|(sum, x)| *sum += x);
        }
        let vectors = with_vector().count().max(1) as f32;
        center.iter_mut().for_each(|x| *x /= vectors);
        let square = |text: &Text| text.vector.iter().zip(&center).map(|(x, c)| (x - c) * (x - c)).sum::<f32>();
        let usual = (with_vector().map(square).sum::<f32>() / vectors).sqrt();
        // Vectors that hardly differ tell nothing, and must not be blown up until they do.
        let stretch = if usual > 1e-3 { usual.recip() } else { 0.0 };
        let rarity = frequency.into_iter().map(|n| ((1.0 + count) / (1.0 + n)).ln() + 1.0).collect();
        Self { center: center.into(), stretch, rarity }
    }

    fn row(&self, text: &Text) -> Row {
        let mut sparse: Sparse = text.features.iter().map(|&(b, x)| (b, x * self.rarity[usize::from(b)])).collect();
        features::normalise(&mut sparse);
        // A text of unknown words has no direction, and not the one away from the centre.
        let known = text.vector.len() == self.center.len() && text.vector.iter().any(|x| *x != 0.0);
        let dense = if known {
            text.vector.iter().zip(&self.center).map(|(x, c)| (x - c) * self.stretch).collect()
        } else {
            vec![0.0; self.center.len()].into()
        };
        Row { dense, sparse }
    }
}

/// What is trained on, of whatever part.
struct Trained {
    head: Head,
    shelf: Shelf,
}

impl Trained {
    fn new(rows: &[(&Row, usize)], classes: usize, unwanted: &impl Fn() -> bool) -> Option<Self> {
        // None is a class for the head alone: nothing is like nothing in particular.
        let head = Head::train(rows, classes + 1, unwanted)?;
        let shelf = Shelf::new(rows.iter().copied().filter(|(_, class)| *class < classes), classes);
        Some(Self { head, shelf })
    }
}

/// The scores of one row.
struct Scored {
    /// By class; the last is none's.
    heads: Vec<f32>,
    /// By class: `head + 2 * likeness`.
    scores: Vec<f32>,
    likeness: Vec<f32>,
    /// The classes that may be the best, whose likeness is exact.
    looked_at: Vec<usize>,
}

fn score(head: &Head, shelf: &Shelf, classes: usize, row: &Row, available: impl Fn(usize) -> bool) -> Scored {
    let mut heads = vec![0.0; head.width()];
    head.scores(row, &mut heads);
    heads.truncate(classes + 1);
    let mut likeness = vec![0.0; classes];
    let query = shelf.query(row);
    shelf.centroids(&query, &mut likeness);
    let mut scores: Vec<f32> = heads.iter().zip(&likeness).map(|(head, like)| head + LIKENESS * like).collect();
    let mut looked_at: Vec<usize> = (0..classes).collect();
    if classes > LOOKED_AT {
        // Among them are the best whether they are available or not, and the best of those that are.
        let mut can = best_of(&mut looked_at, LOOKED_AT, &scores);
        can.retain(|class| available(*class));
        best_of(&mut can, LOOKED_AT / 2, &scores);
        looked_at.extend(can);
    }
    let mut products = Vec::new();
    for &class in &looked_at {
        likeness[class] = 0.5 * likeness[class] + 0.5 * shelf.nearest(&query, class, &mut products);
        scores[class] = heads[class] + LIKENESS * likeness[class];
    }
    Scored { heads, scores, likeness, looked_at }
}

/// Leaves the `count` classes with the highest scores, in no order, and gives the others.
fn best_of(classes: &mut Vec<usize>, count: usize, scores: &[f32]) -> Vec<usize> {
    if classes.len() <= count {
        return Vec::new();
    }
    classes.select_nth_unstable_by(count, |a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    classes.split_off(count)
}

impl Scored {
    /// Best first; equal ones in the order of the classes, so that the same question gives the same answer.
    fn ranked(&self) -> Vec<(usize, f32)> {
        let mut ranked: Vec<_> = self.looked_at.iter().map(|&class| (class, self.scores[class])).collect();
        ranked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked
    }

    /// What tells how sure a guess is.
    fn signs(&self, score: f32, rival: Option<f32>, likeness: f32, row: &Row) -> [f32; SIGNS] {
        let none = self.heads.get(self.scores.len()).copied().unwrap_or(0.0);
        [score, rival.map_or(1.0, |rival| score - rival), (row.sparse.len() as f32).sqrt(), likeness, none]
    }
}

impl Classifier {
    /// Trains on texts and the class of each: a number below `classes`, or `None` for a text that is about none of them.
    ///
    /// Takes time in proportion to texts times classes: up to a second for a thousand texts of 25. `None` when `unwanted`
    /// says so meanwhile.
    #[must_use]
    pub fn train(texts: &[(Text, Option<usize>)], classes: usize, unwanted: impl Fn() -> bool) -> Option<Self> {
        let space = Space::new(texts.iter().map(|(text, _)| text));
        let rows: Vec<Row> = texts.iter().map(|(text, _)| space.row(text)).collect();
        let class_of = |at: usize| texts[at].1.filter(|class| *class < classes).unwrap_or(classes);
        let all: Vec<(&Row, usize)> = rows.iter().enumerate().map(|(at, row)| (row, class_of(at))).collect();

        // Every fifth text of a class is held back in turn. One that has a single text would be unknown without it.
        let mut sizes = vec![0_usize; classes + 1];
        let turns: Vec<usize> = all
            .iter()
            .map(|(_, class)| {
                sizes[*class] += 1;
                (sizes[*class] - 1) % PARTS
            })
            .collect();
        let parts = (CALIBRATION_WORK / (all.len() * (classes + 1)).max(1)).clamp(1, PARTS);
        let mut held = Held::default();
        for part in 0..parts {
            let is_held = |at: usize| turns[at] == part && sizes[all[at].1] > 1;
            let rest: Vec<_> = (0..all.len()).filter(|at| !is_held(*at)).map(|at| all[at]).collect();
            let trained = Trained::new(&rest, classes, &unwanted)?;
            for (row, class) in (0..all.len()).filter(|at| is_held(*at)).map(|at| all[at]) {
                let scored = score(&trained.head, &trained.shelf, classes, row, |_| false);
                held.take(&scored, row, class, classes);
            }
        }
        let Trained { head, shelf } = Trained::new(&all, classes, &unwanted)?;
        let (rival_share, right_of_held) = (held.rival_share(), held.right_share());
        let calibration = Calibration::fit(&held.weighed());
        Some(Self { classes, space, head, shelf, calibration, rival_share, right_of_held })
    }

    /// Of the texts that were held back in training and are about one of the classes, the share whose best class was right.
    /// Says of two classifiers of the same texts, read by different embedders, which tells them apart better.
    #[must_use]
    pub const fn right_of_held(&self) -> f32 {
        self.right_of_held
    }

    /// What a text is about, among the classes that are available.
    ///
    /// One that is not available is never the best, but when it would be, the best is improbable.
    #[must_use]
    pub fn judge(&self, text: &Text, available: impl Fn(usize) -> bool) -> Judgement {
        let row = self.space.row(text);
        let mut scored = score(&self.head, &self.shelf, self.classes, &row, &available);
        let mut ranked = scored.ranked();
        let best = ranked.iter().position(|(class, _)| available(*class)).map(|at| ranked.remove(at));
        let rival = ranked.first().copied();
        let (mut probability, mut rival_probability) = (0.0, 0.0);
        if let Some((class, score)) = best {
            let signs = scored.signs(score, rival.map(|(_, score)| score), scored.likeness[class], &row);
            probability = self.calibration.probability(&signs);
            rival_probability = (1.0 - probability) * self.rival_share;
        }
        scored.scores.truncate(self.classes);
        Judgement { best, probability, rival, rival_probability, scores: scored.scores, likeness: scored.likeness }
    }
}

/// What became of the texts that were held back.
#[derive(Default)]
struct Held {
    /// With whether the text is about none of the classes.
    outcomes: Vec<(Outcome, bool)>,
    wrong: usize,
    second_right: usize,
}

impl Held {
    fn take(&mut self, scored: &Scored, row: &Row, class: usize, classes: usize) {
        let ranked = scored.ranked();
        let Some(&(best, score)) = ranked.first() else { return };
        let (right, second) = (best == class, ranked.get(1));
        let signs = scored.signs(score, second.map(|(_, score)| *score), scored.likeness[best], row);
        self.outcomes.push((Outcome { signs, right, weight: 1.0 }, class == classes));
        if !right && class < classes {
            self.wrong += 1;
            self.second_right += usize::from(second.is_some_and(|(second, _)| *second == class));
        }
    }

    fn rival_share(&self) -> f32 {
        self.second_right as f32 / self.wrong.max(1) as f32
    }

    fn right_share(&self) -> f32 {
        let about_one = self.outcomes.iter().filter(|(_, none)| !none);
        let right = about_one.clone().filter(|(outcome, _)| outcome.right).count();
        right as f32 / about_one.count().max(1) as f32
    }

    fn weighed(self) -> Vec<Outcome> {
        let nones = self.outcomes.iter().filter(|(_, none)| *none).count() as f32;
        let others = self.outcomes.len() as f32 - nones;
        let weight = if nones > 0.0 { NONE_SHARE / (1.0 - NONE_SHARE) * others / nones } else { 1.0 };
        let weigh = |(mut outcome, none): (Outcome, bool)| {
            outcome.weight = if none { weight } else { 1.0 };
            outcome
        };
        self.outcomes.into_iter().map(weigh).collect()
    }
}

#[cfg(test)]
mod tests;
