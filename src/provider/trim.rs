//! Holds what a provider found to the bounds of an advert: texts are cut, lists shortened, and what cannot be
//! cut without becoming something else is left out.

use std::collections::HashSet;

use crate::capability::{Capability, limits};

/// `found` within the limits, and what was done to it, for the log.
pub(crate) fn trim(found: Vec<Capability>) -> (Vec<Capability>, Vec<String>) {
    let mut ids = HashSet::new();
    let mut notes = Vec::new();
    let mut kept = Vec::new();
    for mut it in found {
        let odd = |text: &str| text.is_empty() || text.len() > limits::NAME_BYTES || text.chars().any(char::is_control);
        if odd(&it.name) || odd(it.id.as_str()) || it.project.as_deref().is_some_and(odd) {
            notes.push(format!("{:?} left out: its name is too long or holds odd characters", excerpt(&it.name)));
            continue;
        }
        if !ids.insert(it.id.clone()) {
            notes.push(format!("{} left out: it is there twice", it.id));
            continue;
        }
        if kept.len() == limits::CAPABILITIES {
            notes.push(format!("{} and what follows left out: {} is the most", it.id, limits::CAPABILITIES));
            break;
        }
        let before = (it.description.len(), it.topics.len() + it.aliases.len() + it.examples.len());
        it.aliases.retain(|alias| !odd(alias));
        it.topics.retain(|topic| !odd(topic));
        it.examples.retain(|example| !example.is_empty());
        it.domain = it.domain.filter(|domain| !odd(domain));
        it.quantization = it.quantization.filter(|text| !odd(text));
        it.digest = it.digest.filter(|text| !odd(text));
        for list in [&mut it.aliases, &mut it.topics, &mut it.examples] {
            list.truncate(limits::LIST);
        }
        cut(&mut it.description);
        it.examples.iter_mut().for_each(cut);
        if before != (it.description.len(), it.topics.len() + it.aliases.len() + it.examples.len()) {
            notes.push(format!("{}: texts shortened", it.id));
        }
        kept.push(it);
    }
    (kept, notes)
}

fn cut(text: &mut String) {
    let mut end = limits::TEXT_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

fn excerpt(name: &str) -> String {
    name.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Kind;

    #[test]
    fn what_is_too_much_is_cut_and_what_cannot_be_cut_is_left_out() {
        let mut long = Capability::new("p", Kind::LLM_CHAT, "long");
        long.description = "ä".repeat(limits::TEXT_BYTES);
        long.topics = vec!["t".into(); 99];
        long.aliases = vec![String::new(), "a".repeat(999), "ok".into()];
        let fine = Capability::new("p", Kind::LLM_CHAT, "fine");
        let odd = Capability::new("p", Kind::LLM_CHAT, "a\nb");
        let huge = Capability::new("p", Kind::LLM_CHAT, &"x".repeat(300));
        let (kept, notes) = trim(vec![fine.clone(), fine.clone(), odd, huge, long]);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[0], fine);
        assert_eq!((kept[1].description.len(), kept[1].topics.len()), (limits::TEXT_BYTES, limits::LIST));
        assert_eq!(kept[1].aliases, ["ok"]);
        assert_eq!(notes.len(), 4);
        let many = (0..600).map(|index| Capability::new("p", Kind::LLM_CHAT, &index.to_string())).collect();
        assert_eq!(trim(many).0.len(), limits::CAPABILITIES);
    }
}
