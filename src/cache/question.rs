//! What a request asks, in a form that can be compared: two bodies that mean the same have the same hash. Pure.
//!
//! The order of members, blanks, escapes, and whether a whole number is written `1` or `1.0` make no difference; nor does
//! a member of the body that is `null`, which in OpenAI's protocol is one that is not there. A body that says a thing twice means
//! different things to different backends, so nothing is kept of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use crate::capability::{Operation, Tenant};

/// Members that do not change an answer: who asks, in which form it comes, how it is billed and traced; and the model,
/// which the key has as the router found it.
const IRRELEVANT: [&str; 10] = [
    "model",
    "stream",
    "stream_options",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Whole numbers up to this size are told apart in every JSON parser.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// In which form an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// In one piece.
    Whole,
    /// As events.
    Stream {
        /// Whether the usage comes at their end (`stream_options.include_usage`).
        usage: bool,
    },
}

/// What a request asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    body: blake3::Hash,
    /// Whether the same answer can be expected each time.
    pub(super) repeatable: bool,
    pub(super) form: Form,
}

/// Names an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Question {
    /// What this body asks. `None`: its answer must not be kept.
    pub(super) fn of(operation: Operation, body: &[u8], streamed: bool) -> Option<Self> {
        if !matches!(operation, Operation::Chat | Operation::Complete | Operation::Embed) {
            return None;
        }
        let Ok(Canon::Object(mut members)) = serde_json::from_slice(body) else { return None };
        // It shall be kept where the answer is made, and what searches the web finds something new tomorrow.
        if members.get("store") == Some(&Canon::Bool(true)) || members.contains_key("web_search_options") {
            return None;
        }
        let usage = match members.get("stream_options") {
            Some(Canon::Object(options)) => options.get("include_usage") == Some(&Canon::Bool(true)),
            _ => false,
        };
        let cold = members.get("temperature") == Some(&Canon::Whole(0));
        let seeded = matches!(members.get("seed"), Some(Canon::Whole(_)));
        let repeatable = operation == Operation::Embed || cold || seeded;
        members.retain(|name, value| *value != Canon::Null && !IRRELEVANT.contains(&name.as_str()));
        let mut hasher = blake3::Hasher::new();
        Canon::Object(members).hash(&mut hasher);
        let form = if streamed { Form::Stream { usage } } else { Form::Whole };
        Some(Self { body: hasher.finalize(), repeatable, form })
    }

    /// The name of the answer that this model gives this tenant.
    pub(super) fn key(&self, tenant: &Tenant, operation: Operation, model: &str) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(tenant).update(self.body.as_bytes());
        hasher.update(operation.as_str().as_bytes()).update(b"\0").update(model.as_bytes());
        Key(hasher.finalize().into())
    }
}

/// A JSON value, without what makes no difference.
#[derive(Debug, Clone, PartialEq)]
enum Canon {
    Null,
    Bool(bool),
    Whole(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Canon>),
    Object(BTreeMap<String, Canon>),
}

impl Canon {
    /// Each value begins with its kind, and what has no fixed length with that, so that no two look alike.
    fn hash(&self, hasher: &mut blake3::Hasher) {
        let sized = |hasher: &mut blake3::Hasher, kind: u8, length: usize| {
            hasher.update(&[kind]).update(&(length as u64).to_le_bytes());
        };
        match self {
            Self::Null => {
                hasher.update(b"n");
            }
            Self::Bool(value) => {
                hasher.update(if *value { b"t" } else { b"f" });
            }
            Self::Whole(number) => {
                hasher.update(b"w").update(&number.to_le_bytes());
            }
            Self::Fraction(number) => {
                hasher.update(b"d").update(&number.to_bits().to_le_bytes());
            }
            Self::Text(text) => {
                sized(hasher, b's', text.len());
                hasher.update(text.as_bytes());
            }
            Self::List(items) => {
                sized(hasher, b'l', items.len());
                items.iter().for_each(|item| item.hash(hasher));
            }
            Self::Object(members) => {
                sized(hasher, b'o', members.len());
                for (name, value) in members {
                    sized(hasher, b's', name.len());
                    hasher.update(name.as_bytes());
                    value.hash(hasher);
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Canon {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> DeserializeSeed<'de> for Reading {
    type Value = Canon;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Canon, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading {
    type Value = Canon;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Canon, E> {
        Ok(Canon::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Canon, E> {
        Ok(Canon::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Canon, E> {
        Ok(Canon::Whole(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Canon, E> {
        Ok(Canon::Whole(number.into()))
    }

    #[allow(clippy::cast_possible_truncation)]
    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Canon, E> {
        if number.fract() != 0.0 {
            Ok(Canon::Fraction(number))
        } else if number.abs() < EXACT {
            Ok(Canon::Whole(number as i128))
        } else {
            // Digits were lost, so that two numbers may look like one.
            Err(E::custom("a number is too large to be compared"))
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<Canon, E> {
        Ok(Canon::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Canon, E> {
        Ok(Canon::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Canon, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Self)? {
            items.push(item);
        }
        Ok(Canon::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Canon, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = object.next_value_seed(Self)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(Canon::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(body: &str) -> Option<Question> {
        Question::of(Operation::Chat, body.as_bytes(), false)
    }

    fn same(a: &str, b: &str) -> bool {
        ask(a).expect("a question").body == ask(b).expect("a question").body
    }

    #[test]
    fn what_makes_no_difference_makes_none() {
        let plain = r#"{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":0}"#;
        for alike in [
            r#"{ "temperature" : 0.0, "messages":[{"content":"\u00e9", "role":"user"}] }"#,
            r#"{"model":"other","messages":[{"role":"user","content":"é"}],"temperature":0e0,"stream":true}"#,
            r#"{"messages":[{"role":"user","content":"é"}],"n":null,"temperature":0,"user":"u","metadata":{"a":1},"tools":null}"#,
        ] {
            assert!(same(plain, alike), "{alike}");
        }
        for other in [
            r#"{"messages":[{"role":"user","content":"e"}],"temperature":0}"#,
            r#"{"messages":[{"role":"user","content":"é"}],"temperature":0.1}"#,
            r#"{"messages":[{"role":"user","content":"é"}],"temperature":0,"top_k":1}"#,
            r#"{"messages":[{"role":"user","content":"é"}],"temperature":"0"}"#,
            r#"{"messages":[{"role":"user","content":"é","stream":true}],"temperature":0}"#,
            r#"{"messages":[{"role":"user","content":"é","name":null}],"temperature":0}"#,
        ] {
            assert!(!same(plain, other), "{other}");
        }
    }

    #[test]
    fn only_what_comes_out_the_same_is_repeatable() {
        for (body, repeatable) in [
            (r#"{"temperature":0}"#, true),
            (r#"{"seed":7,"temperature":1}"#, true),
            (r#"{"seed":null}"#, false),
            (r#"{"temperature":0.2}"#, false),
            ("{}", false),
        ] {
            assert_eq!(ask(body).expect("a question").repeatable, repeatable, "{body}");
        }
        assert!(Question::of(Operation::Embed, b"{}", false).expect("a question").repeatable);
    }

    #[test]
    fn what_must_not_be_kept_or_cannot_be_compared_is_no_question() {
        for body in [
            r#"{"store":true,"seed":1}"#,
            r#"{"web_search_options":{},"seed":1}"#,
            r#"{"seed":1,"seed":2}"#,
            r#"{"x":{"a":1,"a":1}}"#,
            r#"{"seed":36893488147419103232}"#,
            "[1]",
            "{",
        ] {
            assert!(ask(body).is_none(), "{body}");
        }
        assert!(Question::of(Operation::Speak, b"{}", false).is_none());
    }

    #[test]
    fn tenants_operations_and_models_have_answers_of_their_own() {
        let question = ask("{}").expect("a question");
        let keys = [
            question.key(&[0; 32], Operation::Chat, "m"),
            question.key(&[1; 32], Operation::Chat, "m"),
            question.key(&[0; 32], Operation::Complete, "m"),
            question.key(&[0; 32], Operation::Chat, "n"),
        ];
        for (place, key) in keys.iter().enumerate() {
            assert!(!keys[..place].contains(key), "{place}");
        }
    }

    proptest! {
        #[test]
        fn bodies_that_differ_have_other_hashes(
            a in proptest::collection::btree_map("[a-c]{1,2}", "[a-c:]{0,3}", 0..4),
            b in proptest::collection::btree_map("[a-c]{1,2}", "[a-c:]{0,3}", 0..4),
        ) {
            let text = |members| serde_json::to_string(members).expect("JSON");
            prop_assert_eq!(same(&text(&a), &text(&b)), a == b);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Question::of(Operation::Chat, &bytes, true);
        }
    }
}
