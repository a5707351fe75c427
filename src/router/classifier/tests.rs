//! The classifier on small sets that can be checked by eye; `scripts/bench meaning` measures it on large ones.

use super::*;
use crate::embedding::StaticEmbedder;

const BREAD: usize = 0;
const BIKES: usize = 1;
const RENT: usize = 2;

const LABELLED: &[(&str, Option<usize>)] = &[
    ("why does my sourdough not rise", Some(BREAD)),
    ("how long do I knead the dough", Some(BREAD)),
    ("bread recipe with rye flour", Some(BREAD)),
    ("which oven temperature for baguettes", Some(BREAD)),
    ("my starter smells of vinegar", Some(BREAD)),
    ("the chain of my bicycle slips", Some(BIKES)),
    ("how do I change a tyre on a racing bike", Some(BIKES)),
    ("adjust the gears of a bicycle", Some(BIKES)),
    ("squeaking disc brakes on my mountain bike", Some(BIKES)),
    ("which pump for tubeless tyres", Some(BIKES)),
    ("my landlord keeps the deposit", Some(RENT)),
    ("how much notice must I give to end the lease", Some(RENT)),
    ("may the rent be raised twice a year", Some(RENT)),
    ("who pays for repairs in a rented flat", Some(RENT)),
    ("eviction notice, what now", Some(RENT)),
    ("tell me a joke", None),
    ("what is the capital of Peru", None),
    ("hello", None),
    ("turn on the lights", None),
    ("who won the match yesterday", None),
    ("play some music", None),
];

fn texts(embedder: Option<&dyn Embedder>) -> Vec<(Text, Option<usize>)> {
    LABELLED.iter().map(|(text, class)| (Text::read(text, embedder), *class)).collect()
}

fn trained(embedder: Option<&dyn Embedder>) -> Classifier {
    Classifier::train(&texts(embedder), 3, || false).expect("wanted")
}

#[test]
fn unseen_questions_find_their_class_and_the_rest_is_improbable() {
    let builtin = StaticEmbedder::builtin();
    for embedder in [Some(&builtin as &dyn Embedder), None] {
        let classifier = trained(embedder);
        let judge = |text: &str| classifier.judge(&Text::read(text, embedder), |_| true);
        for (text, class) in [
            ("my dough does not rise, is the starter dead?", BREAD),
            ("the gears of my bike do not shift", BIKES),
            ("can the landlord raise my rent in the lease", RENT),
        ] {
            let judgement = judge(text);
            assert_eq!(judgement.best.map(|(class, _)| class), Some(class), "{text}: {judgement:?}");
            let nothing = judge("what time is it in Tokyo").probability;
            assert!(judgement.probability > nothing, "{text}: {} {nothing}", judgement.probability);
        }
    }
}

#[test]
fn what_is_not_available_is_never_the_best_and_makes_the_best_improbable() {
    let embedder = StaticEmbedder::builtin();
    let classifier = trained(Some(&embedder));
    let text = Text::read("how long do I knead the dough of a rye bread", Some(&embedder));
    let (with, without) = (classifier.judge(&text, |_| true), classifier.judge(&text, |class| class != BREAD));
    assert_eq!(with.best.map(|(class, _)| class), Some(BREAD));
    assert_eq!(without.rival.map(|(class, _)| class), Some(BREAD));
    assert!(without.best.is_some_and(|(class, _)| class != BREAD));
    assert!(without.probability < with.probability / 2.0, "{} {}", without.probability, with.probability);
    let nobody = classifier.judge(&text, |_| false);
    assert!(nobody.best.is_none() && nobody.probability == 0.0);
}

#[test]
fn the_same_texts_give_the_same_classifier() {
    let embedder = StaticEmbedder::builtin();
    let (a, b) = (trained(Some(&embedder)), trained(Some(&embedder)));
    for (text, _) in LABELLED {
        let text = Text::read(text, Some(&embedder));
        assert_eq!(a.judge(&text, |_| true), b.judge(&text, |_| true));
    }
}

#[test]
fn odd_input_is_no_failure() {
    let none = Classifier::train(&[], 0, || false).expect("wanted");
    assert_eq!(none.judge(&Text::new("", Vec::new()), |_| true).best, None);
    assert!(Classifier::train(&texts(None), 3, || true).is_none(), "not wanted any more");
    let classifier = trained(None);
    for vector in [vec![], vec![0.0; 256], vec![f32::NAN; 3]] {
        let judgement = classifier.judge(&Text::new("\u{0} \u{ffff}", vector), |_| true);
        assert!(judgement.best.is_some() && (0.0..=1.0).contains(&judgement.probability), "{judgement:?}");
    }
    // One text for each of two classes, equal ones, and an empty one.
    let few = [("same", Some(0)), ("same", Some(1)), ("", None)];
    let few: Vec<_> = few.into_iter().map(|(text, class)| (Text::read(text, None), class)).collect();
    let judgement = Classifier::train(&few, 2, || false).expect("wanted").judge(&few[0].0, |_| true);
    assert!(judgement.probability.is_finite());
}
