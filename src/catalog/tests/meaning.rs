//! What a query finds.

use super::*;
use crate::capability::{Meaning, VectorSource, limits};

/// What a home has: a project on camelids, models, a camera.
fn home() -> Vec<Capability> {
    let mut camelids = described(
        "camelid-care",
        Kind::LLM_CHAT,
        "Answers questions about keeping llamas, alpacas and other camelids, from the herd's own records and veterinary handbooks.",
        &["What should I feed a pregnant alpaca?", "How often are llamas shorn?", "My llama is limping, what now?"],
    );
    camelids.domain = Some("camelids".into());
    camelids.topics = vec!["llama".into(), "alpaca".into(), "animal husbandry".into()];
    let coder = described(
        "qwen2.5-coder:7b",
        Kind::LLM_CODE,
        "A model made for programming: writes, completes, explains and fixes code in Rust, Python, C++ and many other languages.",
        &["Implement a binary search in Go", "Why does this function not compile?", "Write a unit test for this class"],
    );
    let painter =
        described("flux", Kind::VISION_GENERATE, "Draws pictures from a description.", &["a castle at sunset"]);
    let general = Capability::new("p", Kind::LLM_CHAT, "llama3.2:3b");
    let scribe = Capability::new("p", Kind::AUDIO_TRANSCRIBE, "whisper-large");
    vec![camelids, coder, painter, general, scribe]
}

const QUESTIONS: [(&str, &str); 5] = [
    ("How do I care for my llama?", "camelid-care"),
    ("write a quicksort in Rust", "qwen2.5-coder:7b"),
    ("My alpaca is limping on its left leg", "camelid-care"),
    ("fix the borrow checker error in this function", "qwen2.5-coder:7b"),
    ("draw a picture of a horse", "flux"),
];

#[test]
fn a_question_finds_who_knows() {
    let catalog = catalog_of(Some(embedder()), home());
    let snapshot = catalog.snapshot();
    for (question, name) in QUESTIONS {
        let hits = snapshot.search(question, 5, |_| true);
        assert_eq!(found(&snapshot, question, 5)[0], name, "{question}: {hits:?}");
        assert!(hits[0].similarity > hits[1].similarity + 0.05, "{question}: {hits:?}");
    }
}

#[test]
fn what_nobody_described_is_found_by_what_it_is_for() {
    let catalog = catalog_of(Some(embedder()), home());
    let snapshot = catalog.snapshot();
    assert_eq!(found(&snapshot, "transcribe this recording of a meeting", 1), ["whisper-large"]);
    assert_eq!(found(&snapshot, "let us have a conversation, I have general questions", 1), ["llama3.2:3b"]);
}

#[test]
fn without_an_embedder_words_decide() {
    let catalog = catalog_of(None, home());
    let snapshot = catalog.snapshot();
    for (question, name) in QUESTIONS {
        assert_eq!(found(&snapshot, question, 1), [name], "{question}");
    }
    assert!(snapshot.search("zxqj", 5, |_| true).is_empty());
    assert!(snapshot.search("", 5, |_| true).is_empty());
}

#[test]
fn a_query_of_unknown_words_falls_back_to_words() {
    let mut capability = described("羊", Kind::LLM_CHAT, "\u{1F999} ตอบคำถามเกี่ยวกับอัลปากา", &[]);
    capability.topics = vec!["ოქრო".into()];
    let catalog = catalog_of(Some(embedder()), vec![capability, Capability::new("p", Kind::LLM_CODE, "coder")]);
    let query = "ოქრო";
    assert!(embedder().embed(query).iter().all(|x| *x == 0.0), "or the test tests nothing");
    assert_eq!(found(&catalog.snapshot(), query, 1), ["羊"]);
}

#[test]
fn the_filter_and_the_count_hold() {
    let catalog = catalog_of(Some(embedder()), home());
    let snapshot = catalog.snapshot();
    let hits = snapshot.search("How do I care for my llama?", 9, |entry| entry.capability.kind == Kind::LLM_CODE);
    assert_eq!(hits.len(), 1);
    assert_eq!(snapshot.search("llama", 2, |_| true).len(), 2);
    assert!(snapshot.search("llama", 0, |_| true).is_empty());
    assert!(snapshot.search("llama", 9, |_| false).is_empty());
    let vector = embedder().embed("How do I care for my llama?");
    assert_eq!(
        snapshot.search_vector(&vector, 3, |_| true),
        snapshot.search("How do I care for my llama?", 3, |_| true)
    );
    assert!(snapshot.search_vector(&vector[..3], 3, |_| true).is_empty());
    assert!(snapshot.search_vector(&[0.0; 256], 3, |_| true).is_empty());
}

#[test]
fn the_nearest_text_is_named() {
    let catalog = catalog_of(Some(embedder()), home());
    let hits = catalog.snapshot().search("How often are llamas shorn?", 1, |_| true);
    assert_eq!(hits[0].source, VectorSource::Example);
    assert!(hits[0].similarity > 0.8, "{hits:?}");
}

/// Another space: the builtin's vectors with the components in reverse.
struct Reversed(Arc<str>);

impl Embedder for Reversed {
    fn space(&self) -> &Arc<str> {
        &self.0
    }
    fn dim(&self) -> usize {
        256
    }
    fn embed(&self, text: &str) -> Vec<f32> {
        embedder().embed(text).into_iter().rev().collect()
    }
}

#[test]
fn meaning_crosses_spaces() {
    let senders: [Option<Arc<dyn Embedder>>; 3] = [Some(embedder()), Some(Arc::new(Reversed("reversed".into()))), None];
    for sender in senders {
        let sent = Catalog::new(sender.clone()).describe(home());
        let space = sender.as_ref().map_or("none".into(), |sender| Arc::clone(sender.space()));
        for capability in &sent {
            let meaning = capability.meaning.as_ref().expect("a meaning");
            assert_eq!((&meaning.space, meaning.vectors.is_empty()), (&space, sender.is_none()));
        }
        for receiver in [Some(embedder()), Some(Arc::new(Reversed("reversed".into())) as Arc<dyn Embedder>), None] {
            let catalog = Catalog::new(receiver);
            let node = PeerId::random();
            catalog.update(&Adverts::from([(node, advert(node, 1, sent.clone()))]));
            for (question, name) in QUESTIONS {
                assert_eq!(found(&catalog.snapshot(), question, 1), [name], "{question} from {space}");
            }
        }
    }
}

#[test]
fn vectors_of_the_same_space_are_used_as_they_came() {
    let catalog = Catalog::new(Some(embedder()));
    let mut sent = catalog.describe(home());
    // The camelid project lies: its vectors are those of the painter.
    let painter = sent[2].meaning.clone();
    Arc::make_mut(&mut sent[0]).meaning = painter;
    let node = PeerId::random();
    catalog.update(&Adverts::from([(node, advert(node, 1, sent))]));
    assert_eq!(found(&catalog.snapshot(), "draw a picture of a horse", 2), ["camelid-care", "flux"]);
}

#[test]
fn what_is_described_can_be_sent() {
    let mut rich = described("rich", Kind::LLM_CHAT, "Knows.", &[]);
    rich.examples = (0..limits::LIST).map(sentences::sentence).collect();
    let many: Vec<Capability> = (0..limits::CAPABILITIES)
        .map(|n| {
            let mut capability = rich.clone();
            capability.id = format!("p/llm/chat/{n}").as_str().into();
            capability.examples.truncate(4);
            capability
        })
        .collect();
    let catalog = Catalog::new(Some(embedder()));
    let vectors =
        |capability: &Capability| capability.meaning.as_ref().map_or(0, |meaning: &Meaning| meaning.vectors.len());
    assert_eq!(vectors(&catalog.describe(vec![rich])[0]), limits::VECTORS);
    let described = catalog.describe(many);
    assert_eq!(vectors(&described[0]), 5);
    assert_eq!(described.last().map(|last| vectors(last)), Some(0));
    let bytes: usize = described.iter().map(|capability| vectors(capability) * 256).sum();
    assert!(bytes > limits::BODY_BYTES / 3 && bytes < limits::BODY_BYTES / 2, "{bytes}");
    let body = crate::wire::body_to_wire(&described[..100]);
    assert_eq!(crate::wire::body_from_wire(&body).expect("sound").as_ref(), &described[..100]);
}
