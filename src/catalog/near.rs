//! Names that look like a name that nobody has, for "did you mean".

use crate::capability::normalise_name;

/// Jaro-Winkler similarity below which two names do not look alike: unrelated model names reach 0.65, one typed
/// wrong letter leaves 0.9.
const ALIKE: f64 = 0.78;

/// A name that contains the other is as near as one with a wrong letter.
const CONTAINED: f64 = 0.88;

/// A name that begins with the other is nearer than that.
const BEGINS: f64 = 0.93;

/// Another tag or namespace of the same model is nearest of all.
const SAME_BASE: f64 = 0.97;

/// Letters without which "contains" says nothing.
const CONTAINED_CHARS: usize = 3;

/// Longest name that is compared, in bytes: the comparison takes the square of it.
const NAME_BYTES: usize = 96;

/// Up to `count` of the names, nearest first, as they are spelled.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>, count: usize) -> Vec<String> {
    let wanted = Shape::new(wanted);
    let mut near: Vec<(f64, &str)> = names
        .filter_map(|name| {
            let alike = wanted.likeness(&Shape::new(name));
            (alike >= ALIKE).then_some((alike, name))
        })
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.len().cmp(&b.1.len())).then_with(|| a.1.cmp(b.1)));
    near.dedup_by(|a, b| a.1 == b.1);
    near.into_iter().take(count).map(|(_, name)| name.to_owned()).collect()
}

/// A name as it is compared.
struct Shape {
    whole: String,
    /// Where the name without namespace begins and without tag ends.
    base: std::ops::Range<usize>,
    /// Which letters and digits it has.
    letters: u64,
}

impl Shape {
    fn new(name: &str) -> Self {
        let mut whole = normalise_name(name);
        whole.truncate(whole.floor_char_boundary(NAME_BYTES));
        let start = whole.rfind('/').map_or(0, |slash| slash + 1);
        let end = whole[start..].find([':', '@']).map_or(whole.len(), |tag| start + tag);
        let letters = whole.bytes().fold(0_u64, |letters, byte| letters | 1 << (byte & 63));
        Self { base: start..end, letters, whole }
    }

    fn base(&self) -> &str {
        &self.whole[self.base.clone()]
    }

    fn likeness(&self, other: &Self) -> f64 {
        let (short, long) = if self.base.len() <= other.base.len() { (self, other) } else { (other, self) };
        if self.base.is_empty() || other.base.is_empty() {
            return 0.0;
        }
        if self.base() == other.base() {
            // Among the tags of one model, the one that is spelled most alike.
            return SAME_BASE + 0.02 * strsim::jaro_winkler(&self.whole, &other.whole);
        }
        // Most pairs share few letters, and are not worth the comparison.
        if (self.letters & other.letters).count_ones() * 2 < self.letters.count_ones().min(other.letters.count_ones()) {
            return 0.0;
        }
        let spelled =
            strsim::jaro_winkler(self.base(), other.base()).max(strsim::jaro_winkler(&self.whole, &other.whole));
        let contained = match long.base().find(short.base()) {
            _ if short.base.len() < CONTAINED_CHARS => 0.0,
            Some(0) => BEGINS,
            Some(_) => CONTAINED,
            None => 0.0,
        };
        spelled.max(contained).min(SAME_BASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 10] = [
        "llama3.2:1b",
        "llama3.2:3b",
        "qwen2.5-coder:7b",
        "qwen3:8b",
        "mistral-small",
        "nomic-embed-text",
        "phi4",
        "farm/camelid-care",
        "gpt-4o-mini",
        "gemma3:4b",
    ];

    #[test]
    fn a_slip_is_understood() {
        for (wanted, first) in [
            ("lama3.2", "llama3.2:1b"),
            ("llama3.2:3", "llama3.2:3b"),
            ("LLAMA3.2", "llama3.2:1b"),
            ("qwen2.5-code", "qwen2.5-coder:7b"),
            ("qwen-coder", "qwen2.5-coder:7b"),
            ("minstral-small", "mistral-small"),
            ("camelid-care", "farm/camelid-care"),
            ("camelids/camelid-care", "farm/camelid-care"),
            ("gpt-4o", "gpt-4o-mini"),
            ("embed-text", "nomic-embed-text"),
            ("phi-4", "phi4"),
        ] {
            assert_eq!(nearest(wanted, NAMES.into_iter(), 3).first().map(String::as_str), Some(first), "{wanted}");
        }
    }

    #[test]
    fn what_looks_like_nothing_has_no_near_names() {
        for wanted in ["whisper", "claude-opus", "", "x", "💡"] {
            assert_eq!(nearest(wanted, NAMES.into_iter(), 3), [""; 0], "{wanted}");
        }
    }

    #[test]
    fn no_more_than_asked_for_and_each_once() {
        assert_eq!(nearest("llama3.2", NAMES.into_iter().chain(NAMES), 3), ["llama3.2:1b", "llama3.2:3b"]);
        assert_eq!(nearest("llama3.2", NAMES.into_iter(), 1).len(), 1);
        assert_eq!(nearest(&"é".repeat(500), NAMES.into_iter(), 1).len(), 0);
    }
}
