//! Whether a JSON schema may be asked to be kept to strictly.

use serde_json::Value;
use serde_json::value::RawValue;

/// Whether OpenAI takes this schema with `strict`: every object names all that it has, requires it, and allows no more. To
/// ask it of another one is an error there, while a model still follows a schema that is not strict.
pub(super) fn may_be_strict(schema: &RawValue) -> bool {
    serde_json::from_str(schema.get()).is_ok_and(|schema: Value| is_closed(&schema))
}

fn is_closed(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let is_object =
                fields.get("type").is_some_and(|kind| kind == "object") || fields.contains_key("properties");
            let names = fields.get("properties").and_then(Value::as_object);
            let required = |name: &String| {
                let list = fields.get("required").and_then(Value::as_array);
                list.is_some_and(|list| list.iter().any(|known| known == name.as_str()))
            };
            let closed = fields.get("additionalProperties") == Some(&Value::Bool(false))
                && names.is_none_or(|names| names.keys().all(required));
            (!is_object || closed) && fields.values().all(is_closed)
        }
        Value::Array(list) => list.iter().all(is_closed),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_closed_schemas_are_strict() {
        for (schema, strict) in [
            (
                r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}"#,
                true,
            ),
            (r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}"#, false),
            (r#"{"type":"object","properties":{"a":{}},"required":[],"additionalProperties":false}"#, false),
            (r#"{"type":"array","items":{"type":"object","properties":{}}}"#, false),
            (r#"{"type":"array","items":{"type":"string"}}"#, true),
            (r#"{"type":"object"}"#, false),
        ] {
            let schema: Box<RawValue> = serde_json::from_str(schema).expect("JSON");
            assert_eq!(may_be_strict(&schema), strict, "{schema}");
        }
    }
}
