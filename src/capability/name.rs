//! Names of models, and when two of them mean the same.

use std::fmt;

/// A model name in the form in which names are compared: lower case, without the default tag.
///
/// Ollama's rule: a name without a tag means `:latest`, so `llama3.2` and `Llama3.2:latest` are one name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(String);

impl ModelName {
    /// The name to compare by.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(normalise_name(name))
    }

    /// The compared form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// `name` in the form in which names are compared; see [`ModelName`].
#[must_use]
pub fn normalise_name(name: &str) -> String {
    let lower = name.trim().to_lowercase();
    match lower.strip_suffix(":latest") {
        Some(bare) if !bare.is_empty() => bare.to_owned(),
        _ => lower,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tag_means_latest_and_case_does_not_matter() {
        assert_eq!(ModelName::new("llama3.2"), ModelName::new(" Llama3.2:latest"));
        assert_ne!(ModelName::new("llama3.2:1b"), ModelName::new("llama3.2"));
        assert_eq!(normalise_name(":latest"), ":latest");
    }
}
