//! JSON that is taken apart only where it must be: what is not looked at goes on with its bytes and order.
//!
//! The order of a schema's properties is the order in which a model writes them, and a number's digits may be more
//! than a float holds, so that a translation through a tree of values would lose something.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::Refusal;

/// Where a translation puts what only some backends understand; see [`super::HINTS`].
pub(super) type Hints<'a> = BTreeMap<String, &'a RawValue>;

/// An object that is being read: its fields in order, unread, and where it stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Object<'a> {
    path: String,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    if fields.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!("the field {key:?} is there twice")));
                    }
                    fields.push((key, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// `base.key`, or `key` at the top.
pub(super) fn join(base: &str, key: &str) -> String {
    if base.is_empty() { key.to_owned() } else { format!("{base}.{key}") }
}

/// The value as a type; wrong ones are refused by their place.
pub(super) fn read_as<T: DeserializeOwned>(raw: &RawValue, path: &str, what: &str) -> Result<T, Refusal> {
    serde_json::from_str(raw.get()).map_err(|_| Refusal::at(path, format!("is not {what}")))
}

/// The members of an array, unread.
pub(super) fn members<'a>(raw: &'a RawValue, path: &str) -> Result<Vec<&'a RawValue>, Refusal> {
    serde_json::from_str(raw.get()).map_err(|_| Refusal::at(path, "is not an array"))
}

/// A string, borrowed where it has no escapes.
pub(super) fn text<'a>(raw: &'a RawValue, path: &str) -> Result<Cow<'a, str>, Refusal> {
    serde_json::from_str::<Key<'_>>(raw.get()).map(|key| key.0).map_err(|_| Refusal::at(path, "is not a string"))
}

/// Whether the value is a string.
pub(super) fn is_text(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

impl<'a> Object<'a> {
    /// Reads a body: an object and nothing else.
    pub(super) fn body(body: &'a [u8]) -> Result<Self, Refusal> {
        let whole = |message: String| Refusal { message, param: None };
        let text = std::str::from_utf8(body).map_err(|_| whole("the body is not UTF-8".to_owned()))?;
        if text.trim_ascii().is_empty() {
            return Err(whole("the body is empty: send a JSON object".to_owned()));
        }
        match serde_json::from_str::<Fields<'_>>(text) {
            Ok(Fields(fields)) => Ok(Self { path: String::new(), fields }),
            Err(error) if error.is_data() => Err(whole(format!("the body cannot be used: {error}"))),
            Err(error) => Err(whole(format!("the body is not valid JSON: {error}"))),
        }
    }

    /// Reads an object that stands at `path`, with what was put aside for it.
    pub(super) fn read(raw: &'a RawValue, path: impl Into<String>, hints: &Hints<'a>) -> Result<Self, Refusal> {
        let path = path.into();
        let Fields(mut fields) = serde_json::from_str(raw.get()).map_err(|error| {
            Refusal::at(
                &path,
                if error.is_data() && !raw.get().starts_with('{') {
                    "is not an object".to_owned()
                } else {
                    format!("cannot be used: {error}")
                },
            )
        })?;
        if let Some(aside) = hints.get(&path)
            && let Ok(Fields(aside)) = serde_json::from_str(aside.get())
        {
            fields.extend(aside);
        }
        Ok(Self { path, fields })
    }

    /// Where a field of it is.
    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// A field, left where it is; `null` counts as not there.
    pub(super) fn peek(&self, key: &str) -> Option<&'a RawValue> {
        let (_, value) = self.fields.iter().find(|(known, _)| known == key)?;
        (value.get() != "null").then_some(value)
    }

    /// Takes a field out; `null` counts as not there.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a RawValue> {
        let at = self.fields.iter().position(|(known, _)| known == key)?;
        let (_, value) = self.fields.remove(at);
        (value.get() != "null").then_some(value)
    }

    /// Adds what was put aside for it.
    pub(super) fn add(&mut self, aside: &'a RawValue) {
        if let Ok(Fields(aside)) = serde_json::from_str(aside.get()) {
            self.fields.extend(aside);
        }
    }

    pub(super) fn need(&mut self, key: &str) -> Result<&'a RawValue, Refusal> {
        self.take(key).ok_or_else(|| Refusal::at(&self.at(key), "is missing"))
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
        self.take(key).map(|raw| text(raw, &self.at(key))).transpose()
    }

    pub(super) fn need_text(&mut self, key: &str) -> Result<Cow<'a, str>, Refusal> {
        let raw = self.need(key)?;
        text(raw, &self.at(key))
    }

    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>, Refusal> {
        self.take(key).map(|raw| read_as(raw, &self.at(key), "true or false")).transpose()
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>, Refusal> {
        self.take(key).map(|raw| read_as(raw, &self.at(key), "a number")).transpose()
    }

    pub(super) fn count(&mut self, key: &str) -> Result<Option<u64>, Refusal> {
        self.take(key).map(|raw| read_as(raw, &self.at(key), "a whole number")).transpose()
    }

    /// A whole number that is not zero.
    pub(super) fn positive(&mut self, key: &str) -> Result<Option<NonZeroU64>, Refusal> {
        self.take(key).map(|raw| read_as(raw, &self.at(key), "a whole number above zero")).transpose()
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, Refusal> {
        self.take(key).map(|raw| read_as(raw, &self.at(key), "an array of strings")).transpose()
    }

    /// Members of an array, each with its place.
    pub(super) fn list(&mut self, key: &str) -> Result<Option<Vec<(String, &'a RawValue)>>, Refusal> {
        let Some(raw) = self.take(key) else { return Ok(None) };
        let path = self.at(key);
        let members = members(raw, &path)?;
        Ok(Some(members.into_iter().enumerate().map(|(index, raw)| (format!("{path}[{index}]"), raw)).collect()))
    }

    pub(super) fn object(&mut self, key: &str, hints: &Hints<'a>) -> Result<Option<Self>, Refusal> {
        self.take(key).map(|raw| Self::read(raw, self.at(key), hints)).transpose()
    }

    /// Refuses a field that is there and cannot be expressed.
    pub(super) fn refuse(&mut self, key: &str, why: &str) -> Result<(), Refusal> {
        match self.take(key) {
            None => Ok(()),
            Some(_) => Err(Refusal::at(&self.at(key), why)),
        }
    }

    /// What has not been taken.
    pub(super) fn rest(self) -> impl Iterator<Item = (Cow<'a, str>, &'a RawValue)> {
        self.fields.into_iter().filter(|(_, value)| value.get() != "null")
    }
}

/// JSON that is being written: in the order in which it is put together.
#[derive(Debug, Clone)]
pub(super) enum Json<'a> {
    /// As it came.
    Raw(&'a RawValue),
    /// Already JSON.
    Done(Box<RawValue>),
    Text(Cow<'a, str>),
    Bool(bool),
    Count(u64),
    Number(f64),
    Null,
    List(Vec<Json<'a>>),
    Object(Entries<'a>),
}

/// The fields of an object that is being written.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries<'a> {
    fields: Vec<(Cow<'a, str>, Json<'a>)>,
    /// Fields that only some backends understand.
    aside: Vec<(Cow<'a, str>, Json<'a>)>,
}

impl<'a> Entries<'a> {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn put(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) -> &mut Self {
        self.fields.push((key.into(), value.into()));
        self
    }

    pub(super) fn with(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) -> Self {
        self.put(key, value);
        self
    }

    /// Puts all of another one behind.
    pub(super) fn extend(&mut self, other: Self) {
        self.fields.extend(other.fields);
        self.aside.extend(other.aside);
    }

    /// Puts it when it is there.
    pub(super) fn maybe(&mut self, key: &'static str, value: Option<impl Into<Json<'a>>>) -> &mut Self {
        if let Some(value) = value {
            self.put(key, value);
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == key)
    }

    /// Adds the fields that nobody here knows.
    pub(super) fn put_rest(&mut self, object: Object<'a>) -> Result<(), Refusal> {
        for (key, value) in object.rest() {
            if key == "n" && value.get() != "1" {
                return Err(Refusal::at("n", "asks for several answers, and by this API there is one"));
            }
            if self.has(&key) {
                return Err(Refusal::at(&key, "is no field of this API, and another field says the same"));
            }
            self.put(key, value);
        }
        Ok(())
    }

    /// Takes a field out again.
    pub(super) fn take_out(&mut self, key: &str) -> Option<Json<'a>> {
        let at = self.fields.iter().position(|(known, _)| known == key)?;
        Some(self.fields.remove(at).1)
    }

    /// Puts something aside: see [`super::HINTS`].
    pub(super) fn put_aside(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) {
        self.aside.push((key.into(), value.into()));
    }

    /// Takes over what another one has put aside.
    pub(super) fn take_aside(&mut self, other: &mut Self) {
        self.aside.append(&mut other.aside);
    }

    /// Puts all aside that was not understood of an object.
    pub(super) fn put_rest_aside(&mut self, object: Object<'a>) {
        for (key, value) in object.rest() {
            self.put_aside(key, value);
        }
    }

    /// Gathers what was put aside, at any depth, by its place.
    fn gather(&mut self, path: &str, gathered: &mut Vec<Json<'a>>) {
        if !self.aside.is_empty() {
            let fields = Entries { fields: std::mem::take(&mut self.aside), aside: Vec::new() };
            gathered.push(Entries::new().with("at", path.to_owned()).with("fields", fields).into());
        }
        for (key, value) in &mut self.fields {
            value.gather(&join(path, key), gathered);
        }
    }

    /// The body: with what was put aside as its last field.
    pub(super) fn into_body(mut self, member: &'static str) -> Vec<u8> {
        let mut gathered = Vec::new();
        self.gather("", &mut gathered);
        if !gathered.is_empty() {
            self.put(member, gathered);
        }
        Json::from(self).to_bytes()
    }
}

impl<'a> Json<'a> {
    fn gather(&mut self, path: &str, gathered: &mut Vec<Json<'a>>) {
        match self {
            Json::Object(entries) => entries.gather(path, gathered),
            Json::List(members) => {
                for (index, member) in members.iter_mut().enumerate() {
                    member.gather(&format!("{path}[{index}]"), gathered);
                }
            }
            _ => {}
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a tree with string keys is always JSON")
    }
}

/// What was put aside in a body by [`Entries::into_body`].
pub(super) fn hints<'a>(raw: &'a RawValue) -> Hints<'a> {
    #[derive(Deserialize)]
    struct Aside<'a> {
        at: String,
        #[serde(borrow)]
        fields: &'a RawValue,
    }
    // Whoever sends nonsense here gets none of it.
    let list: Vec<Aside<'_>> = serde_json::from_str(raw.get()).unwrap_or_default();
    list.into_iter().map(|aside| (aside.at, aside.fields)).collect()
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Raw(raw) => raw.serialize(serializer),
            Json::Done(raw) => raw.serialize(serializer),
            Json::Text(text) => serializer.serialize_str(text),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Count(count) => serializer.serialize_u64(*count),
            Json::Number(number) => serializer.serialize_f64(*number),
            Json::Null => serializer.serialize_unit(),
            Json::List(members) => {
                let mut seq = serializer.serialize_seq(Some(members.len()))?;
                for member in members {
                    seq.serialize_element(member)?;
                }
                seq.end()
            }
            Json::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.fields.len()))?;
                for (key, value) in &entries.fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

macro_rules! into_json {
    ($($from:ty => $make:expr),+ $(,)?) => {
        $(impl<'a> From<$from> for Json<'a> {
            fn from(value: $from) -> Self {
                $make(value)
            }
        })+
    };
}

into_json! {
    &'a RawValue => Json::Raw,
    Box<RawValue> => Json::Done,
    &'a str => |text| Json::Text(Cow::Borrowed(text)),
    Cow<'a, str> => Json::Text,
    String => |text| Json::Text(Cow::Owned(text)),
    bool => Json::Bool,
    u64 => Json::Count,
    f64 => Json::Number,
    Vec<Json<'a>> => Json::List,
    Entries<'a> => Json::Object,
}

impl From<Vec<String>> for Json<'_> {
    fn from(texts: Vec<String>) -> Self {
        Json::List(texts.into_iter().map(Json::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_looked_at_keeps_its_bytes_and_order() {
        let body = br#"{"z": 1.50, "a": {"y":12345678901234567890123, "x" : "\u00e9"}, "n": null}"#;
        let object = Object::body(body).expect("an object");
        let mut out = Entries::new();
        for (key, value) in object.rest() {
            out.put(key, value);
        }
        let written = String::from_utf8(Json::from(out).to_bytes()).expect("UTF-8");
        assert_eq!(written, r#"{"z":1.50,"a":{"y":12345678901234567890123, "x" : "\u00e9"}}"#);
    }

    #[test]
    fn what_is_put_aside_comes_back_where_it_was() {
        let raw: Box<RawValue> = serde_json::from_str(r#"{"t":"e"}"#).expect("JSON");
        let mut part = Entries::new().with("type", "text");
        part.put_aside("cache_control", &*raw);
        let message = Entries::new().with("content", vec![Json::from("x"), part.into()]);
        let body = Entries::new().with("messages", vec![Json::from(message)]).into_body("aside");
        let mut read = Object::body(&body).expect("an object");
        let hints = hints(read.take("aside").expect("hints"));
        let (path, message) = read.list("messages").expect("a list").expect("there")[0].clone();
        let mut message = Object::read(message, path, &hints).expect("a message");
        let (path, part) = message.list("content").expect("a list").expect("there")[1].clone();
        let mut part = Object::read(part, path, &hints).expect("a part");
        assert_eq!(part.take("cache_control").expect("back").get(), r#"{"t":"e"}"#);
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_place() {
        let param = |result: Result<Option<bool>, Refusal>| result.expect_err("wrong").param;
        let mut object = Object::body(br#"{"a":{"b":3}}"#).expect("an object");
        let mut inner = object.object("a", &Hints::new()).expect("fine").expect("there");
        assert_eq!(param(inner.boolean("b")).as_deref(), Some("a.b"));
        for bad in ["", "[]", "{", "{\"a\":1,\"a\":2}", "{\"a\":1} x", "null", "\u{feff}{}"] {
            assert!(Object::body(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Object::body(&[b'{', 0xff, b'}']).is_err());
    }
}
