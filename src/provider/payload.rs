//! Puts the provider's own model name into a request body and leaves every other byte as it is, but for the
//! [`HINTS`] of a translation, which are for adapters that understand them.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::capability::{ErrorClass, Failure};
use crate::dialect::HINTS;

/// The body with `model` as its model name. JSON objects and multipart forms have one; any other media type
/// cannot carry one.
///
/// # Errors
///
/// When the body is not what its media type says: the caller's mistake.
pub(crate) fn with_model(payload: &Bytes, content_type: &str, model: &str) -> Result<Bytes, Failure> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "multipart/form-data" => form_with_model(payload, content_type, model),
        "" | "application/json" => json_with_model(payload, model),
        other if other.ends_with("+json") => json_with_model(payload, model),
        other => {
            let mut failure =
                request(format!("a request body of type {other:?} cannot be read: send application/json"));
            failure.status = 415;
            Err(failure)
        }
    }
}

fn request(message: String) -> Failure {
    Failure::new(ErrorClass::Request, message)
}

fn json_with_model(payload: &Bytes, model: &str) -> Result<Bytes, Failure> {
    let Places { models: places, hints } =
        places(payload).map_err(|cause| request(format!("the request body is not a JSON object: {cause}")))?;
    if let Some(range) = hints.last().and_then(|&(from, to)| member(payload, from, to)) {
        let mut rest = BytesMut::with_capacity(payload.len());
        rest.put_slice(&payload[..range.start]);
        rest.put_slice(&payload[range.end..]);
        return json_with_model(&rest.freeze(), model);
    }
    let name = serde_json::to_string(model).expect("a string is always JSON");
    if !places.is_empty() && places.iter().all(|(from, to)| payload[*from..*to] == *name.as_bytes()) {
        return Ok(payload.clone());
    }
    let mut spliced = BytesMut::with_capacity(payload.len() + name.len() + 16);
    let mut copied = 0;
    for (from, to) in &places {
        spliced.put_slice(&payload[copied..*from]);
        spliced.put_slice(name.as_bytes());
        copied = *to;
    }
    if places.is_empty() {
        let open = memchr::memchr(b'{', payload).map_or(0, |at| at + 1);
        let bare = payload[open..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
        spliced.put_slice(&payload[..open]);
        spliced.put_slice(b"\"model\":");
        spliced.put_slice(name.as_bytes());
        spliced.put_slice(if bare { b"" } else { b"," });
        copied = open;
    }
    spliced.put_slice(&payload[copied..]);
    Ok(spliced.freeze())
}

/// Where the values of some top-level members begin and end. More than one of a name is odd but some parsers take the
/// first and some the last, so all of them count.
#[derive(Default)]
struct Places {
    models: Vec<(usize, usize)>,
    hints: Vec<(usize, usize)>,
}

fn places(payload: &[u8]) -> Result<Places, serde_json::Error> {
    struct PlacesVisitor(usize);

    impl<'de> Visitor<'de> for PlacesVisitor {
        type Value = Places;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut places = Places::default();
            while let Some(key) = map.next_key_seed(Known)? {
                let list = match key {
                    Key::Model => &mut places.models,
                    Key::Hints => &mut places.hints,
                    Key::Other => {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                };
                let value: &'de RawValue = map.next_value()?;
                let from = value.get().as_ptr() as usize - self.0;
                list.push((from, from + value.get().len()));
            }
            Ok(places)
        }
    }

    enum Key {
        Model,
        Hints,
        Other,
    }

    struct Known;

    impl<'de> DeserializeSeed<'de> for Known {
        type Value = Key;

        fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
            deserializer.deserialize_str(self)
        }
    }

    impl Visitor<'_> for Known {
        type Value = Key;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a member name")
        }

        fn visit_str<E>(self, key: &str) -> Result<Key, E> {
            Ok(match key {
                "model" => Key::Model,
                HINTS => Key::Hints,
                _ => Key::Other,
            })
        }
    }

    let mut reader = serde_json::Deserializer::from_slice(payload);
    let places = serde::Deserializer::deserialize_map(&mut reader, PlacesVisitor(payload.as_ptr() as usize))?;
    reader.end()?;
    Ok(places)
}

/// The whole of the hints' member, one comma of its included, when its value begins and ends there. `None` when its
/// name is spelled with escapes, which no translation does.
fn member(payload: &[u8], from: usize, to: usize) -> Option<std::ops::Range<usize>> {
    let name = payload[..from].trim_ascii_end().strip_suffix(b":")?.trim_ascii_end();
    let before = name.strip_suffix(b"\"")?.strip_suffix(HINTS.as_bytes())?.strip_suffix(b"\"")?.trim_ascii_end();
    if let Some(before) = before.strip_suffix(b",") {
        return Some(before.len()..to);
    }
    let after = payload[to..].trim_ascii_start();
    let end = if after.starts_with(b",") { payload.len() - after.len() + 1 } else { to };
    Some(before.len()..end)
}

/// Most header bytes of a form's part; those of real clients have about a hundred.
const PART_HEADER_BYTES: usize = 16 * 1024;

fn form_with_model(payload: &Bytes, content_type: &str, model: &str) -> Result<Bytes, Failure> {
    if model.contains(['\r', '\n']) {
        return Err(Failure::new(ErrorClass::Internal, "a model name with a line break does not fit into a form"));
    }
    let bad = |what: &str| request(format!("the multipart form cannot be read: {what}"));
    let boundary = boundary_of(content_type).ok_or_else(|| bad("its Content-Type names no boundary"))?;
    let delimiter = format!("--{boundary}");
    let between = format!("\r\n{delimiter}");
    if !payload.starts_with(delimiter.as_bytes()) && memchr::memmem::find(payload, between.as_bytes()).is_none() {
        return Err(bad("its boundary does not occur in it"));
    }
    let mut at = memchr::memmem::find(payload, delimiter.as_bytes()).unwrap_or_default() + delimiter.len();
    let first_part = at;
    while payload[at..].starts_with(b"\r\n") {
        let head = &payload[at + 2..];
        let head_len = memchr::memmem::find(&head[..head.len().min(PART_HEADER_BYTES)], b"\r\n\r\n")
            .ok_or_else(|| bad("a part has no headers"))?;
        let body = at + 2 + head_len + 4;
        let end = memchr::memmem::find(&payload[body..], between.as_bytes())
            .map(|len| body + len)
            .ok_or_else(|| bad("its last boundary is missing"))?;
        if is_model_part(&head[..head_len]) {
            let mut spliced = BytesMut::with_capacity(payload.len() + model.len());
            spliced.put_slice(&payload[..body]);
            spliced.put_slice(model.as_bytes());
            spliced.put_slice(&payload[end..]);
            return Ok(spliced.freeze());
        }
        at = end + between.len();
    }
    let part = format!("\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}{between}");
    let mut spliced = BytesMut::with_capacity(payload.len() + part.len());
    spliced.put_slice(&payload[..first_part]);
    spliced.put_slice(part.as_bytes());
    spliced.put_slice(&payload[first_part..]);
    Ok(spliced.freeze())
}

fn boundary_of(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("boundary") && !value.is_empty()).then_some(value)
    })
}

fn is_model_part(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    head.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("content-disposition")
                && value.split(';').any(|part| matches!(part.trim(), "name=\"model\"" | "name=model"))
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(body: &str, model: &str) -> Result<String, Failure> {
        with_model(&Bytes::copy_from_slice(body.as_bytes()), "application/json; charset=utf-8", model)
            .map(|bytes| String::from_utf8(bytes.to_vec()).expect("UTF-8"))
    }

    #[test]
    fn only_the_model_changes() {
        let table = [
            (r#"{"model":"a","x":1}"#, r#"{"model":"q:7b","x":1}"#),
            (r#"{ "x" : 1.50 , "model" : null }"#, r#"{ "x" : 1.50 , "model" : "q:7b" }"#),
            (r#"{"m":{"model":"deep"},"model":"a\"b"}"#, r#"{"m":{"model":"deep"},"model":"q:7b"}"#),
            (r#"{"model":"a","model":"b"}"#, r#"{"model":"q:7b","model":"q:7b"}"#),
            (r#"{"mode\u006c":"a"}"#, r#"{"mode\u006c":"q:7b"}"#),
            (r#"{"x":"ü"}"#, r#"{"model":"q:7b","x":"ü"}"#),
            ("{ }", r#"{"model":"q:7b" }"#),
            (" {\n\"x\":[1,2]}\n", " {\"model\":\"q:7b\",\n\"x\":[1,2]}\n"),
        ];
        for (body, wanted) in table {
            assert_eq!(json(body, "q:7b").as_deref(), Ok(wanted), "{body}");
        }
    }

    #[test]
    fn what_a_translation_put_aside_does_not_reach_a_backend() {
        let table = [
            (r#"{"model":"a","x":1,"x_atmosphere":[{"at":"","fields":{}}]}"#, r#"{"model":"q","x":1}"#),
            (r#"{"x_atmosphere":[], "x":1}"#, r#"{"model":"q", "x":1}"#),
            (
                r#"{"x" : 1 , "x_atmosphere" : 7 , "y":{"x_atmosphere":1}}"#,
                r#"{"model":"q","x" : 1  , "y":{"x_atmosphere":1}}"#,
            ),
            (r#"{"x_atmosphere":1,"x_atmosphere":2}"#, r#"{"model":"q"}"#),
        ];
        for (body, wanted) in table {
            assert_eq!(json(body, "q").as_deref(), Ok(wanted), "{body}");
        }
    }

    #[test]
    fn a_body_that_is_right_already_is_not_copied() {
        let body = Bytes::from_static(br#"{"model":"q","x":1}"#);
        let same = with_model(&body, "application/json", "q").expect("a body");
        assert_eq!(same.as_ptr(), body.as_ptr());
    }

    #[test]
    fn a_body_that_is_no_object_is_the_callers_mistake() {
        for body in ["", "[]", "1", "{\"a\":", "{\"model\":\"a\"} x", "\"model\"", "{\"a\":1,}"] {
            assert_eq!(json(body, "q").expect_err(body).class, ErrorClass::Request, "{body}");
        }
        let failure = with_model(&Bytes::new(), "text/plain", "q").expect_err("not JSON");
        assert_eq!((failure.class, failure.status), (ErrorClass::Request, 415));
    }

    #[test]
    fn a_form_gets_the_model_too() {
        let form = |model: &str| {
            Bytes::from(format!(
                "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\0\r\n\r\n\u{ff}\r\n{model}--B--\r\n"
            ))
        };
        let part = |name: &str| format!("--B\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{name}\r\n");
        let kind = "multipart/form-data; boundary=\"B\"";
        assert_eq!(with_model(&form(&part("old")), kind, "new"), Ok(form(&part("new"))));
        let added = with_model(&form(""), kind, "new").expect("a form");
        assert!(memchr::memmem::find(&added, b"name=\"model\"\r\n\r\nnew\r\n--B\r\n").is_some(), "{added:?}");
        for (body, kind) in [("--B\r\n", kind), ("nothing", kind), ("--B--", "multipart/form-data")] {
            assert!(with_model(&Bytes::from(body), kind, "m").is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_object_keeps_its_other_members(
            members in proptest::collection::btree_map("[a-z]{1,6}", any::<Option<f64>>(), 0..6),
            model in "\\PC{0,20}",
        ) {
            let body = serde_json::to_string(&members).expect("JSON");
            let spliced: serde_json::Value = serde_json::from_str(&json(&body, &model).expect("a body")).expect("JSON");
            let mut wanted: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            wanted["model"] = model.into();
            prop_assert_eq!(spliced, wanted);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), form in any::<bool>()) {
            let kind = if form { "multipart/form-data; boundary=B" } else { "application/json" };
            let _ = with_model(&Bytes::from(bytes), kind, "m");
        }
    }
}
