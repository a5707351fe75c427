//! Aliases: names for a wish rather than for a model, such as `best-code`. Each is a filter and a scoring rule.
//!
//! The owner may add some, or replace the built-in ones, in the configuration. A model that has an alias's
//! name wins over the alias: an exact name always means itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capability::{FeatureSet, Kind, ModalitySet, Preference};

/// A filter and a scoring rule with a name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alias {
    /// Kinds that it prefers. A general chat model stands in where the mesh has none of them. Empty: any
    /// general model will do.
    pub kinds: Vec<Kind>,
    /// Features that it insists on.
    pub features: FeatureSet,
    /// Modalities that it insists on.
    pub modalities: ModalitySet,
    /// Models or projects that it stands for, best first. When given, no others are taken.
    pub models: Vec<String>,
    /// What the order is by.
    pub prefer: Prefer,
}

/// What the order of an alias's candidates is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// A fair trade of time and quality.
    #[default]
    Balanced,
    /// The soonest answer.
    Latency,
    /// The best answer.
    Accuracy,
    /// This node, or one close by.
    Location,
    /// No money, then little.
    Cost,
}

impl Prefer {
    /// Every one.
    pub const ALL: &[Self] = &[Self::Balanced, Self::Latency, Self::Accuracy, Self::Location, Self::Cost];

    /// Its name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Latency => "latency",
            Self::Accuracy => "accuracy",
            Self::Location => "location",
            Self::Cost => "cost",
        }
    }
}

impl From<Preference> for Prefer {
    fn from(preference: Preference) -> Self {
        match preference {
            Preference::Balanced => Self::Balanced,
            Preference::Latency => Self::Latency,
            Preference::Accuracy => Self::Accuracy,
            Preference::Location => Self::Location,
        }
    }
}

/// All aliases of a node by name, in lower case.
#[derive(Debug, Clone)]
pub struct Aliases(BTreeMap<String, Alias>);

impl Default for Aliases {
    fn default() -> Self {
        Self::with(BTreeMap::new())
    }
}

impl Aliases {
    /// The built-in aliases, and the owner's over them.
    #[must_use]
    pub fn with(own: BTreeMap<String, Alias>) -> Self {
        let mut all: BTreeMap<_, _> = built_in().into_iter().map(|(name, alias)| (name.to_owned(), alias)).collect();
        all.extend(own.into_iter().map(|(name, alias)| (name.trim().to_lowercase(), alias)));
        Self(all)
    }

    /// The alias of this name, and its name as it is kept.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(&str, &Alias)> {
        self.0.get_key_value(name.trim().to_lowercase().as_str()).map(|(name, alias)| (name.as_str(), alias))
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Names that `name` may have been meant for: those that begin like it, or hold it, or are held by it.
    pub fn near<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        /// Letters in common from the start that are no accident: all of `best`, most of `fast`.
        const COMMON: usize = 4;
        let name = name.trim().to_lowercase();
        self.names().filter(move |alias| {
            let common = alias.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
            common >= COMMON || (name.len() >= COMMON && alias.contains(&name)) || name.contains(alias)
        })
    }
}

fn built_in() -> [(&'static str, Alias); 6] {
    let of = |kinds: &[Kind], prefer| Alias { kinds: kinds.to_vec(), prefer, ..Alias::default() };
    [
        ("best-chat", of(&[Kind::LLM_CHAT], Prefer::Accuracy)),
        ("best-code", of(&[Kind::LLM_CODE], Prefer::Accuracy)),
        ("best-reasoning", of(&[Kind::LLM_REASONING], Prefer::Accuracy)),
        (
            "best-vision",
            Alias { modalities: ModalitySet::of(&[crate::capability::Modality::Image]), ..of(&[], Prefer::Accuracy) },
        ),
        ("fast", of(&[], Prefer::Latency)),
        ("cheap", of(&[], Prefer::Cost)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_alias_replaces_the_built_in_one() {
        let own = Alias { models: vec!["qwen3:8b".into()], ..Alias::default() };
        let aliases = Aliases::with(BTreeMap::from([("Best-Code".to_owned(), own.clone())]));
        assert_eq!(aliases.get("best-code"), Some(("best-code", &own)));
        assert!(aliases.get("BEST-chat").is_some());
        assert!(aliases.get("best").is_none());
    }

    #[test]
    fn a_misspelt_alias_is_near_its_own() {
        let aliases = Aliases::default();
        assert!(aliases.near("best-coder").any(|name| name == "best-code"));
        assert_eq!(aliases.near("cheapest").collect::<Vec<_>>(), ["cheap"]);
        assert_eq!(aliases.near("llama3").count(), 0);
    }

    #[test]
    fn an_alias_reads_from_configuration() {
        let alias: Alias =
            toml::from_str("kinds = [\"llm/code\"]\nfeatures = [\"tools\"]\nprefer = \"latency\"").expect("an alias");
        assert_eq!(alias.kinds, [Kind::LLM_CODE]);
        assert_eq!(alias.prefer, Prefer::Latency);
        assert!(toml::from_str::<Alias>("prefers = \"latency\"").is_err());
    }
}
