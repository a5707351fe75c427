//! Phrases that stand for each kind of thing that people ask a machine for, and for none of them: `assets/phrases/`.
//!
//! They are examples of form and not of subject: whoever adds some should keep them apart from the fields that projects
//! have. Those of `llm/chat` are what a specialist must beat. A file is a list of kinds in brackets, each followed by lines of a
//! language and a phrase. `ml/embed` has none: no words tell it from `llm/embed`.

use std::sync::LazyLock;

use crate::capability::Kind;

const FILES: [&str; 7] = [
    include_str!("../../assets/phrases/llm.txt"),
    include_str!("../../assets/phrases/vision.txt"),
    include_str!("../../assets/phrases/audio.txt"),
    include_str!("../../assets/phrases/agent.txt"),
    include_str!("../../assets/phrases/tool.txt"),
    include_str!("../../assets/phrases/ml.txt"),
    include_str!("../../assets/phrases/none.txt"),
];

/// The heading of phrases that ask for nothing that a machine of the mesh can do.
const NONE: &str = "none";

/// One way to ask for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phrase {
    /// What it asks for; `None`: nothing that a machine of the mesh can do.
    pub kind: Option<Kind>,
    /// Two letters of ISO 639-1.
    pub language: &'static str,
    /// As people write it.
    pub text: &'static str,
}

/// All phrases, those of a kind together.
#[must_use]
pub fn phrases() -> &'static [Phrase] {
    static PHRASES: LazyLock<Vec<Phrase>> = LazyLock::new(|| FILES.into_iter().flat_map(read).collect());
    &PHRASES
}

/// The phrases of a file. A test sees to it that no line is left out.
fn read(file: &'static str) -> impl Iterator<Item = Phrase> {
    let mut kind = None;
    file.lines().filter_map(move |line| {
        if let Some(heading) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            kind = if heading == NONE { None } else { heading.parse().ok() };
            return None;
        }
        let (language, text) = line.split_once(": ")?;
        Some(Phrase { kind: kind.clone(), language, text: text.trim() })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_line_is_a_heading_or_a_phrase() {
        let (mut headings, mut lines) = (0, 0);
        for line in FILES.iter().flat_map(|file| file.lines()).filter(|line| !line.is_empty()) {
            match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                Some(NONE) => headings += 1,
                Some(kind) => {
                    assert!(kind.parse::<Kind>().is_ok(), "{kind:?} is no kind");
                    headings += 1;
                }
                None => {
                    let (language, text) = line.split_once(": ").expect(line);
                    assert!(language.len() == 2 && language.bytes().all(|b| b.is_ascii_lowercase()), "{line:?}");
                    assert!(!text.trim().is_empty() && text == text.trim(), "{line:?}");
                    lines += 1;
                }
            }
        }
        assert_eq!((headings, lines), (25, phrases().len()));
    }

    #[test]
    fn each_kind_has_thirty_to_sixty_phrases_in_five_languages_or_more() {
        let mut kinds: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
        for phrase in phrases() {
            let (count, languages) = kinds.entry(phrase.kind.as_ref().map_or(NONE, Kind::as_str)).or_default();
            *count += 1;
            languages.insert(phrase.language);
        }
        let expected = "agent/monitor agent/research agent/workflow audio/generate audio/identify audio/transcribe llm/chat \
            llm/code llm/embed llm/reasoning llm/summarize ml/anomaly ml/classify ml/cluster ml/forecast none tool/api \
            tool/camera tool/file tool/iot vision/classify vision/detect vision/generate vision/ocr vision/segment";
        assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>());
        for (kind, (count, languages)) in kinds {
            assert!((30..=60).contains(&count), "{kind} has {count}");
            assert!(languages.len() >= 5, "{kind}: {languages:?}");
        }
    }

    #[test]
    fn no_phrase_comes_twice() {
        let mut seen = BTreeSet::new();
        let plain = |text: &str| text.to_lowercase().split(|c: char| !c.is_alphanumeric()).collect::<String>();
        for phrase in phrases() {
            // Three dots have no letters.
            let plain = plain(phrase.text);
            assert!(plain.is_empty() || seen.insert(plain), "{phrase:?} is there already");
        }
    }
}
