//! `router.aliases`: names of the owner's own, each for models by name or for a wish.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::fields::near;
use super::parse;
use super::problem::Fault;
use crate::capability::{Feature, Kind, Modality};
use crate::router::{Alias, Prefer};

const KEYS: &[&str] = &["models", "kinds", "features", "modalities", "prefer"];

/// Kinds of models that chat. The list of kinds is open, so that these only help with a slip of the pen.
const KINDS: &[Kind] = &[Kind::LLM_CHAT, Kind::LLM_CODE, Kind::LLM_REASONING, Kind::LLM_SUMMARIZE];

/// Reads all aliases, and everything that is wrong with them.
pub(super) fn aliases(value: &Value) -> (BTreeMap<String, Alias>, Vec<Fault>) {
    let (mut aliases, mut faults) = (BTreeMap::new(), Vec::new());
    let whole = |message: String| Fault { at: String::new(), value: Some(parse::shown(value)), message };
    let table = match value {
        Value::Dict(_, table) => table.clone(),
        Value::String(_, text) => match from_text(text) {
            Ok(table) => table,
            Err(message) => return (aliases, vec![whole(message)]),
        },
        _ => {
            let message = "not a table; write aliases = { best-code = [\"qwen2.5-coder:7b\"] }".into();
            return (aliases, vec![whole(message)]);
        }
    };
    for (spelled, value) in &table {
        let name = spelled.trim();
        let at = format!(".{spelled}");
        let before = faults.len();
        if let Err(message) = check_name(name) {
            faults.push(Fault { at: at.clone(), value: None, message });
        }
        if aliases.keys().any(|other: &String| other.eq_ignore_ascii_case(name)) {
            let message = "given twice, as case makes no difference; keep one of them".into();
            faults.push(Fault { at: at.clone(), value: None, message });
        }
        let alias = match value {
            Value::Dict(_, table) => from_table(table, &at, &mut faults),
            list => {
                let models = read(list, &at, &mut faults, parse::list);
                Alias { models: models.unwrap_or_default(), ..Alias::default() }
            }
        };
        if faults.len() == before {
            match check(name, &alias) {
                Ok(()) => drop(aliases.insert(name.to_owned(), alias)),
                Err(message) => faults.push(Fault { at, value: None, message }),
            }
        }
    }
    (aliases, faults)
}

/// `alias=model,model;other=model`, as it stands in an environment variable.
fn from_text(text: &str) -> Result<Dict, String> {
    let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| match part.split_once('=') {
        Some((name, models)) => Ok((name.trim().to_owned(), Value::from(models))),
        None => Err(format!("{part:?} has no `=`; write \"alias=model,model;other=model\"")),
    };
    parts.map(pair).collect()
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("empty or with a blank in it; give it a plain name".into());
    }
    if name.contains(['@', '/']) {
        return Err("has `@` or `/` in it, as `model@node` and `namespace/project` do; give it a plain name".into());
    }
    if name.eq_ignore_ascii_case("auto") {
        return Err("`auto` is what the router decides by itself; give it another name".into());
    }
    Ok(())
}

/// What is wrong with an alias whose parts are each right.
fn check(name: &str, alias: &Alias) -> Result<(), String> {
    if *alias == Alias::default() {
        return Err(
            "stands for nothing; give it at least one model, or one of kinds, features, modalities, prefer".into()
        );
    }
    if alias.models.iter().any(|model| model.eq_ignore_ascii_case(name)) {
        return Err("stands for itself; give it a model".into());
    }
    if !alias.models.is_empty() && !alias.kinds.is_empty() {
        return Err("has `models`, beside which `kinds` says nothing; keep one of them".into());
    }
    Ok(())
}

fn read<T>(value: &Value, at: &str, faults: &mut Vec<Fault>, read: impl Fn(&Value) -> Result<T, String>) -> Option<T> {
    read(value)
        .map_err(|message| faults.push(Fault { at: at.to_owned(), value: Some(parse::shown(value)), message }))
        .ok()
}

fn from_table(table: &Dict, at: &str, faults: &mut Vec<Fault>) -> Alias {
    for key in table.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        let hint = near(key, KEYS.iter().copied())
            .map_or_else(|| format!("an alias has {}", KEYS.join(", ")), |near| format!("did you mean `{near}`?"));
        faults.push(Fault { at: format!("{at}.{key}"), value: None, message: format!("unknown key; {hint}") });
    }
    fn part<T>(
        (table, at): (&Dict, &str),
        key: &str,
        faults: &mut Vec<Fault>,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        read(table.get(key)?, &format!("{at}.{key}"), faults, parse)
    }
    let of = (table, at);
    let prefer = |value: &Value| {
        named("preference", &parse::text(value)?, Prefer::ALL.iter().map(|prefer| (prefer.as_str(), *prefer)))
    };
    let features = |value: &Value| {
        let known = || Feature::ALL.iter().map(|feature| (feature.as_str(), *feature));
        parse::list(value)?.iter().map(|name| named("feature", name, known())).collect()
    };
    let modalities = |value: &Value| {
        let known = || Modality::ALL.iter().map(|modality| (modality.as_str(), *modality));
        parse::list(value)?.iter().map(|name| named("modality", name, known())).collect()
    };
    let kinds = |value: &Value| parse::list(value)?.iter().map(|text| kind(text)).collect();
    Alias {
        models: part(of, "models", faults, parse::list).unwrap_or_default(),
        kinds: part(of, "kinds", faults, kinds).unwrap_or_default(),
        features: part(of, "features", faults, features).unwrap_or_default(),
        modalities: part(of, "modalities", faults, modalities).unwrap_or_default(),
        prefer: part(of, "prefer", faults, prefer).unwrap_or_default(),
    }
}

/// The one of `known` that is called so.
fn named<'a, T>(what: &str, name: &str, known: impl Iterator<Item = (&'a str, T)> + Clone) -> Result<T, String> {
    if let Some((_, found)) = known.clone().find(|(called, _)| called.eq_ignore_ascii_case(name)) {
        return Ok(found);
    }
    let names: Vec<_> = known.map(|(called, _)| called).collect();
    let hint = near(name, names.iter().copied()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(format!("{name:?} is not a {what}{hint} (known: {})", names.join(", ")))
}

/// A kind. One that is nobody's and looks like a known one is a slip of the pen.
fn kind(text: &str) -> Result<Kind, String> {
    /// All kinds of one category look alike; this much only a wrong letter or two.
    const SLIP: f64 = 0.95;
    let kind: Kind = text.parse().map_err(|error| format!("{error}"))?;
    let slip = |known: &&Kind| strsim::jaro_winkler(known.as_str(), kind.as_str()) >= SLIP;
    match KINDS.iter().find(slip) {
        Some(meant) if *meant != kind => Err(format!("{text:?} is not a kind of model; did you mean {meant}?")),
        _ => Ok(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{FeatureSet, ModalitySet};
    use proptest::prelude::*;

    #[test]
    fn an_environment_variable_lists_models() {
        let (aliases, faults) = aliases(&Value::from("best-code=a,b; mine = c"));
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(aliases["best-code"].models, ["a", "b"]);
        assert_eq!(aliases["mine"].models, ["c"]);
        for bad in ["a", "a=a", "a=", "=b", "auto=b", "a@b=c", "a=b;A=c"] {
            assert_eq!(super::aliases(&Value::from(bad)).1.len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_alias_may_be_a_wish() {
        let table = |pairs: Vec<(&str, Value)>| Value::from(pairs.into_iter().collect::<BTreeMap<_, _>>());
        let wish = table(vec![
            ("kinds", Value::from(vec!["llm/code"])),
            ("features", Value::from(vec!["tools", "JSON_SCHEMA"])),
            ("modalities", Value::from("image")),
            ("prefer", Value::from("latency")),
        ]);
        let (aliases, faults) = aliases(&table(vec![("quick-code", wish)]));
        assert!(faults.is_empty(), "{faults:?}");
        let alias = &aliases["quick-code"];
        assert_eq!(alias.kinds, [Kind::LLM_CODE]);
        assert_eq!(alias.features, FeatureSet::of(&[Feature::Tools, Feature::JsonSchema]));
        assert_eq!(alias.modalities, ModalitySet::of(&[Modality::Image]));
        assert_eq!(alias.prefer, Prefer::Latency);
    }

    #[test]
    fn a_kind_of_the_owners_own_is_no_slip() {
        assert!(kind("tool/camera").is_ok() && kind("llm/translate").is_ok());
        for (slip, meant) in [("llm/cod", "llm/code"), ("llm/coder", "llm/code"), ("llm/resoning", "llm/reasoning")] {
            assert!(kind(slip).expect_err(slip).contains(&format!("did you mean {meant}?")));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = aliases(&Value::from(text));
        }
    }
}
