//! Which events a client wants: patterns of kinds. Pure.

use crate::telemetry::EVENT_KINDS;

/// Patterns of one subscription, more than there are kinds.
const MAX_PATTERNS: usize = 64;

/// Which events a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter(Vec<String>);

/// A pattern that no event can match.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    #[error("there are no events {0:?}; there are {kinds}, and patterns such as \"node.*\" and \"*\"", kinds = kinds())]
    Kind(String),
    #[error("a subscription has {MAX_PATTERNS} patterns at the most")]
    TooMany,
}

fn kinds() -> String {
    EVENT_KINDS.iter().map(|(kind, _)| *kind).collect::<Vec<_>>().join(", ")
}

impl Default for Filter {
    /// All events.
    fn default() -> Self {
        Self(vec!["*".to_owned()])
    }
}

impl Filter {
    /// Those of these kinds: `decision`, `node.*`, `*`. None without any.
    pub(super) fn of(patterns: Vec<String>) -> Result<Self, Unknown> {
        if patterns.len() > MAX_PATTERNS {
            return Err(Unknown::TooMany);
        }
        match patterns.iter().find(|pattern| !EVENT_KINDS.iter().any(|(kind, _)| matches(pattern, kind))) {
            Some(unknown) => Err(Unknown::Kind(unknown.chars().take(40).collect())),
            None => Ok(Self(patterns)),
        }
    }

    /// The same, with commas between the patterns, as in an address.
    pub(super) fn of_list(list: &str) -> Result<Self, Unknown> {
        Self::of(list.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect())
    }

    /// Whether it takes events of this kind.
    pub(super) fn takes(&self, kind: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, kind))
    }

    /// Whether it takes none at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its patterns.
    pub(super) fn patterns(&self) -> &[String] {
        &self.0
    }
}

fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        // Whole words only: `node.*`, not `no*`.
        Some(group) => group.ends_with('.') && kind.starts_with(group),
        None => pattern == kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_kinds() {
        for (list, takes, leaves) in [
            ("*", &["decision", "node.left", "mesh.identity_clash"][..], &[][..]),
            ("decision", &["decision"], &["call.end"]),
            ("node.*, call.end", &["node.joined", "node.left", "call.end"], &["call.progress", "decision"]),
            ("", &[], &["decision"]),
        ] {
            let filter = Filter::of_list(list).expect("known");
            assert!(takes.iter().all(|kind| filter.takes(kind)), "{list}");
            assert!(!leaves.iter().any(|kind| filter.takes(kind)), "{list}");
            assert_eq!(filter.is_empty(), takes.is_empty());
        }
        assert_eq!(Filter::default().patterns(), ["*"]);
    }

    #[test]
    fn a_pattern_that_nothing_can_match_is_a_mistake() {
        for bad in ["nodes", "node", "no*", "node.*.x", "Decision", "x.*"] {
            let error = Filter::of_list(bad).expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains("provider.down"), "{error}");
        }
        assert_eq!(Filter::of(vec!["*".to_owned(); 65]), Err(Unknown::TooMany));
    }
}
