//! Small closed sets: what a capability serves, reads and is able to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Makes an enum with wire names and a bit set of it. Names that a newer node made up are dropped when a
/// set is read: a node can not use what it does not know.
macro_rules! named_set {
    (
        $(#[$doc:meta])* $name:ident,
        $(#[$set_doc:meta])* $set:ident,
        { $( $(#[$variant_doc:meta])* $variant:ident = $text:literal ),+ $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $( $(#[$variant_doc])* #[serde(rename = $text)] $variant ),+ }

        impl $name {
            /// Every one, in declaration order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),+ ];

            /// Its name in the API and on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text ),+ }
            }

            /// The one with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $( $text => Some(Self::$variant), )+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        $(#[$set_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(from = "Vec<String>", into = "Vec<String>")]
        pub struct $set(u32);

        impl $set {
            /// Without members.
            pub const EMPTY: Self = Self(0);

            /// With these members.
            #[must_use]
            pub fn of(members: &[$name]) -> Self {
                members.iter().copied().collect()
            }

            /// This set with one more member.
            #[must_use]
            pub const fn with(self, member: $name) -> Self {
                Self(self.0 | 1 << member as u32)
            }

            /// Adds a member.
            pub fn insert(&mut self, member: $name) {
                *self = self.with(member);
            }

            /// Whether it is a member.
            #[must_use]
            pub const fn contains(self, member: $name) -> bool {
                self.0 & (1 << member as u32) != 0
            }

            /// Whether there is no member.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Members of either.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// What `self` asks for and `other` lacks.
            #[must_use]
            pub const fn missing_in(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The members in declaration order.
            pub fn iter(self) -> impl Iterator<Item = $name> {
                $name::ALL.iter().copied().filter(move |member| self.contains(*member))
            }
        }

        impl FromIterator<$name> for $set {
            fn from_iter<I: IntoIterator<Item = $name>>(members: I) -> Self {
                members.into_iter().fold(Self::EMPTY, Self::with)
            }
        }

        impl From<Vec<String>> for $set {
            fn from(names: Vec<String>) -> Self {
                names.iter().filter_map(|name| $name::from_name(name)).collect()
            }
        }

        impl From<$set> for Vec<String> {
            fn from(set: $set) -> Self {
                set.iter().map(|member| member.as_str().to_owned()).collect()
            }
        }

        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_set().entries(self.iter().map($name::as_str)).finish()
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let names: Vec<_> = self.iter().map($name::as_str).collect();
                f.write_str(&names.join(", "))
            }
        }
    };
}

named_set! {
    /// An API operation: what a call asks a provider to do.
    Operation,
    /// The operations that a capability serves.
    OperationSet,
    {
        /// `POST /v1/chat/completions`.
        Chat = "chat",
        /// `POST /v1/completions`.
        Complete = "complete",
        /// `POST /v1/embeddings`.
        Embed = "embed",
        /// `POST /v1/images/generations`.
        GenerateImage = "generate_image",
        /// `POST /v1/audio/transcriptions`.
        Transcribe = "transcribe",
        /// `POST /v1/audio/speech`.
        Speak = "speak",
        /// `POST /v1/ml/*`.
        Ml = "ml",
        /// `POST /v1/tool/execute`.
        Tool = "tool",
        /// `POST /v1/agent/invoke`.
        Agent = "agent",
        /// `POST /v1/messages/count_tokens`; the payload is a chat.
        CountTokens = "count_tokens",
    }
}

named_set! {
    /// What a capability can read.
    Modality,
    /// A set of modalities.
    ModalitySet,
    {
        /// Text.
        Text = "text",
        /// Images.
        Image = "image",
        /// Sound.
        Audio = "audio",
    }
}

named_set! {
    /// An optional ability that a request may need.
    Feature,
    /// A set of features.
    FeatureSet,
    {
        /// Calls functions (`tools`).
        Tools = "tools",
        /// Keeps to a JSON schema (`response_format`).
        JsonSchema = "json_schema",
        /// Streams its answer.
        Streaming = "streaming",
        /// Reports its thinking.
        Thinking = "thinking",
        /// Continues a last assistant message that is given with `continue_final_message: true` and
        /// `add_generation_prompt: false`.
        Prefill = "prefill",
        /// Answers from the owner's documents.
        Rag = "rag",
        /// Fills in the middle (`suffix`).
        Insert = "insert",
        /// Reports log probabilities.
        Logprobs = "logprobs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_itself() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.as_str()), Some(*operation));
        }
        for feature in Feature::ALL {
            assert_eq!(Feature::from_name(feature.as_str()), Some(*feature));
        }
    }

    #[test]
    fn what_is_missing_is_what_is_asked_for_and_not_there() {
        let asked = FeatureSet::of(&[Feature::Tools, Feature::Streaming]);
        let there = FeatureSet::of(&[Feature::Streaming, Feature::Rag]);
        assert_eq!(asked.missing_in(there), FeatureSet::of(&[Feature::Tools]));
        assert_eq!(asked.to_string(), "tools, streaming");
    }

    #[test]
    fn names_of_a_newer_node_are_dropped() {
        let set: FeatureSet = serde_json::from_str(r#"["tools","telepathy"]"#).expect("a set");
        assert_eq!(set, FeatureSet::of(&[Feature::Tools]));
    }
}
