//! The kind of a capability: `category/type`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What sort of thing a capability is, such as `llm/chat` or `tool/camera`.
///
/// The list is open: a node keeps and shows kinds that a newer node made up.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kind(Cow<'static, str>);

impl Kind {
    /// General conversation.
    pub const LLM_CHAT: Self = Self(Cow::Borrowed("llm/chat"));
    /// Models that think before they answer.
    pub const LLM_REASONING: Self = Self(Cow::Borrowed("llm/reasoning"));
    /// Models made for programming.
    pub const LLM_CODE: Self = Self(Cow::Borrowed("llm/code"));
    /// Models made for summaries.
    pub const LLM_SUMMARIZE: Self = Self(Cow::Borrowed("llm/summarize"));
    /// Text to vector.
    pub const LLM_EMBED: Self = Self(Cow::Borrowed("llm/embed"));
    /// Text to image.
    pub const VISION_GENERATE: Self = Self(Cow::Borrowed("vision/generate"));
    /// Speech to text.
    pub const AUDIO_TRANSCRIBE: Self = Self(Cow::Borrowed("audio/transcribe"));
    /// Text to speech.
    pub const AUDIO_GENERATE: Self = Self(Cow::Borrowed("audio/generate"));
    /// Rows or text to vector, by the ML engine.
    pub const ML_EMBED: Self = Self(Cow::Borrowed("ml/embed"));
    /// Outliers in rows or series.
    pub const ML_ANOMALY: Self = Self(Cow::Borrowed("ml/anomaly"));
    /// Labels for rows or text.
    pub const ML_CLASSIFY: Self = Self(Cow::Borrowed("ml/classify"));
    /// Groups of rows.
    pub const ML_CLUSTER: Self = Self(Cow::Borrowed("ml/cluster"));
    /// The future of a series.
    pub const ML_FORECAST: Self = Self(Cow::Borrowed("ml/forecast"));

    /// Longest kind, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The part before the slash, such as `llm`.
    #[must_use]
    pub fn category(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(category, _)| category)
    }

    /// The part after the slash, such as `chat`.
    #[must_use]
    pub fn type_name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }

    /// `category/type`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Kind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        let part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        match text.split_once('/') {
            Some((category, name)) if text.len() <= Self::MAX_LEN && part(category) && part(name) => {
                Ok(Self(Cow::Owned(text.to_owned())))
            }
            _ => Err(KindError(text.chars().take(Self::MAX_LEN).collect())),
        }
    }
}

impl TryFrom<String> for Kind {
    type Error = KindError;

    fn try_from(text: String) -> Result<Self, KindError> {
        text.parse()
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.0.into_owned()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a kind: expected \"category/type\" in lower case, such as \"llm/chat\"")]
pub struct KindError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_category_and_type_in_lower_case() {
        let kind: Kind = "tool/camera".parse().expect("a kind");
        assert_eq!((kind.category(), kind.type_name()), ("tool", "camera"));
        assert_eq!("llm/chat".parse(), Ok(Kind::LLM_CHAT));
        for bad in ["", "llm", "/chat", "llm/", "LLM/chat", "a/b/c", "llm/ch at", &format!("llm/{}", "x".repeat(64))] {
            assert!(bad.parse::<Kind>().is_err(), "{bad:?}");
        }
    }
}
