//! Which texts of a capability stand for what it is about.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::capability::{Capability, Kind, VectorSource, limits};

/// All texts that say what a capability is about, for whoever learns from words: more than have vectors.
#[must_use]
pub fn texts_of(capability: &Capability) -> Vec<String> {
    all(capability).into_iter().map(|(_, text)| text).collect()
}

/// Equal for capabilities with the same texts, whatever they are called.
pub(super) fn subject(capability: &Capability) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts_of(capability).hash(&mut hasher);
    hasher.finish()
}

/// The texts to be embedded, at most [`limits::VECTORS`]: description, topics with the domain, examples.
///
/// A capability always has a first text. One that nobody described is described by its kind and its name, so that
/// a general model is found by what such models are for.
pub(super) fn texts(capability: &Capability) -> Vec<(VectorSource, String)> {
    let mut texts = all(capability);
    texts.truncate(limits::VECTORS);
    texts
}

fn all(capability: &Capability) -> Vec<(VectorSource, String)> {
    let mut texts = Vec::with_capacity(2 + capability.examples.len());
    let description = capability.description.trim();
    let description = if description.is_empty() { made_up(capability) } else { description.to_owned() };
    texts.push((VectorSource::Description, description));
    let topics: Vec<&str> = capability
        .domain
        .iter()
        .chain(&capability.topics)
        .map(|topic| topic.trim())
        .filter(|t| !t.is_empty())
        .collect();
    if !topics.is_empty() {
        texts.push((VectorSource::Topics, topics.join(", ")));
    }
    let examples = capability.examples.iter().map(|example| example.trim()).filter(|example| !example.is_empty());
    texts.extend(examples.map(|example| (VectorSource::Example, example.to_owned())));
    texts
}

/// Whether two capabilities mean the same, whatever else changed: load state and limits change often.
pub(super) fn same_meaning(a: &Capability, b: &Capability) -> bool {
    (&a.kind, &a.name, &a.project, &a.domain, &a.topics, &a.description, &a.examples, &a.meaning)
        == (&b.kind, &b.name, &b.project, &b.domain, &b.topics, &b.description, &b.examples, &b.meaning)
}

fn made_up(capability: &Capability) -> String {
    let name = capability.project.as_deref().unwrap_or(&capability.name);
    format!("{}: {}", purpose(&capability.kind), spoken(name))
}

/// What capabilities of a kind are for, in the words that people ask with.
fn purpose(kind: &Kind) -> String {
    let known = match kind.as_str() {
        "llm/chat" => "general assistant for conversation, questions, explanations and writing",
        "llm/reasoning" => "thinks step by step about hard problems in mathematics, logic and planning",
        "llm/code" => "writes, explains, reviews and debugs program code",
        "llm/summarize" => "summarizes documents, articles and conversations",
        "llm/embed" | "ml/embed" => "turns text into embedding vectors for semantic search",
        "vision/classify" => "says what an image shows",
        "vision/detect" => "finds and counts objects in images",
        "vision/ocr" => "reads the text in images and scanned documents",
        "vision/segment" => "cuts out objects from images",
        "vision/generate" => "draws images and pictures from a description",
        "audio/transcribe" => "transcribes speech and audio recordings to text",
        "audio/generate" => "reads text aloud and generates speech",
        "audio/identify" => "recognizes speakers, music and sounds",
        "agent/research" => "researches a question on the web and reports with sources",
        "agent/workflow" => "carries out tasks in several steps",
        "agent/monitor" => "watches something and reports changes",
        "tool/camera" => "takes photos and video with a camera",
        "tool/iot" => "controls lights, switches and sensors at home",
        "tool/file" => "finds, reads and writes files",
        "ml/anomaly" => "detects anomalies and outliers in data and sensor readings",
        "ml/classify" => "assigns labels to rows of data or texts",
        "ml/cluster" => "groups similar rows of data into clusters",
        "ml/forecast" => "forecasts the future of a time series",
        _ => return format!("{} {}", kind.category(), kind.type_name()).replace(['-', '_'], " "),
    };
    known.to_owned()
}

/// A name as words: `qwen2.5-coder:7b` says "qwen coder" to an embedder, and its numbers say nothing.
fn spoken(name: &str) -> String {
    let words =
        name.split(|c: char| !c.is_alphanumeric()).map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit()));
    let words: Vec<&str> = words
        .filter(|word| word.chars().count() > 1 && !word.starts_with(|c: char| c.is_ascii_digit()))
        .filter(|word| !word.eq_ignore_ascii_case("latest"))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_words() {
        for (name, words) in [
            ("qwen2.5-coder:7b", "qwen coder"),
            ("farm/camelid_care", "farm camelid care"),
            ("llama3.2:latest", "llama"),
            ("7b", ""),
        ] {
            assert_eq!(spoken(name), words, "{name}");
        }
    }

    #[test]
    fn every_capability_has_a_first_text_and_no_more_than_may_be_sent() {
        let mut capability = Capability::new("ollama", Kind::LLM_CODE, "qwen2.5-coder:7b");
        assert_eq!(
            texts(&capability),
            [(VectorSource::Description, "writes, explains, reviews and debugs program code: qwen coder".to_owned())]
        );
        capability.kind = "tool/coffee-machine".parse().expect("a kind");
        assert_eq!(texts(&capability)[0].1, "tool coffee machine: qwen coder");
        capability.description = " Brews. ".into();
        capability.domain = Some("coffee".into());
        capability.topics = vec!["espresso".into(), " ".into()];
        capability.examples = vec!["one more".into(); 40];
        let texts = texts(&capability);
        assert_eq!(texts.len(), limits::VECTORS);
        assert_eq!(texts[0], (VectorSource::Description, "Brews.".to_owned()));
        assert_eq!(texts[1], (VectorSource::Topics, "coffee, espresso".to_owned()));
    }
}
