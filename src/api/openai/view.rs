//! Borrowed views of the parts of a body: types that are read from JSON and keep only what is asked of them.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::marker::PhantomData;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::value::RawValue;

/// Bytes of a text that is matched by meaning: some 500 tokens, as much as the embedder makes use of. Of a longer one
/// the head and the tail are taken, where people say what they want.
pub(super) const QUERY_BYTES: usize = 2000;

/// The text, or its head and tail.
pub(super) fn clip(text: &str) -> Cow<'_, str> {
    if text.len() <= QUERY_BYTES {
        return Cow::Borrowed(text);
    }
    let head = text.floor_char_boundary(QUERY_BYTES / 2);
    let tail = text.ceil_char_boundary(text.len() - QUERY_BYTES / 2);
    Cow::Owned(format!("{}\n{}", &text[..head], &text[tail..]))
}

/// A hash that is the same for as long as this process lives.
fn hash_of(bytes: &[u8]) -> u64 {
    KEYS.hash_one(bytes)
}

/// The hash of one thing after another.
pub(super) fn combine(before: u64, after: u64) -> u64 {
    // The constant is 2^64 over the golden ratio: it spreads small differences over all bits.
    (before.rotate_left(23) ^ after).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Nobody can make texts collide who does not know them.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A JSON object, and nothing else: derived types alone would take an array of their fields as well.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A string: borrowed from the body, or clipped when it had to be unescaped.
#[derive(Debug)]
pub(super) struct Text<'a> {
    text: Cow<'a, str>,
    bytes: usize,
    /// Of the whole text.
    hash: u64,
}

impl Text<'_> {
    /// Its length before it was clipped.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn into_string(self) -> String {
        self.text.into_owned()
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text { text: Cow::Borrowed(text), bytes: text.len(), hash: hash_of(text.as_bytes()) })
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text { text: Cow::Owned(clip(text).into_owned()), bytes: text.len(), hash: hash_of(text.as_bytes()) })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A count, as JSON numbers come: `100`, `100.0`, or a negative one, by which some servers mean "no limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) Option<u32>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E>(self, count: u64) -> Result<Count, E> {
                Ok(Count(Some(u32::try_from(count).unwrap_or(u32::MAX))))
            }

            fn visit_i64<E>(self, count: i64) -> Result<Count, E> {
                Ok(Count(u32::try_from(count).ok()))
            }

            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            fn visit_f64<E: serde::de::Error>(self, count: f64) -> Result<Count, E> {
                if count.fract() == 0.0 {
                    // The cast saturates.
                    Ok(Count((count >= 0.0).then_some(count as u32)))
                } else {
                    Err(E::invalid_value(Unexpected::Float(count), &self))
                }
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }
}

/// An array of which only the size matters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Items {
    pub(super) count: usize,
    pub(super) bytes: usize,
    pub(super) hash: u64,
}

impl Items {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, bytes: self.bytes + other.bytes, hash: combine(self.hash, other.hash) }
    }
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
                let mut items = Items::default();
                while let Some(item) = seq.next_element::<&'de RawValue>()? {
                    items.count += 1;
                    items.bytes += item.get().len();
                    items.hash = combine(items.hash, hash_of(item.get().as_bytes()));
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

/// The messages of a chat, added up.
#[derive(Debug, Default)]
pub(super) struct Messages<'a> {
    pub(super) count: usize,
    pub(super) text_bytes: usize,
    pub(super) images: usize,
    pub(super) recordings: usize,
    /// What the user said last.
    pub(super) last_user: Option<Content<'a>>,
    /// Where each ends; of very many the first and the last.
    pub(super) ends: Vec<End>,
}

/// The end of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Of everything up to here.
    pub(super) hash: u64,
    pub(super) text_bytes: usize,
    pub(super) messages: usize,
}

/// Ends that are kept: more turns than a conversation goes back to.
const MAX_ENDS: usize = 24;

#[derive(Deserialize)]
struct MessageView<'a> {
    #[serde(borrow)]
    role: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Messages<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessagesVisitor;
        impl<'de> Visitor<'de> for MessagesVisitor {
            type Value = Messages<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut messages = Messages::default();
                let mut hash = 0;
                while let Some(Role(view)) = seq.next_element()? {
                    messages.count += 1;
                    hash = combine(hash, view.role.as_ref().map_or(0, |role| role.hash));
                    hash = combine(hash, view.content.as_ref().map_or(0, |content| content.hash));
                    let said = view.content.as_ref().map_or(0, |content| content.text_bytes);
                    if messages.ends.len() >= MAX_ENDS {
                        messages.ends.remove(1);
                    }
                    messages.ends.push(End { hash, text_bytes: messages.text_bytes + said, messages: messages.count });
                    let Some(content) = view.content else { continue };
                    messages.text_bytes += content.text_bytes;
                    messages.images += content.images;
                    messages.recordings += content.recordings;
                    if view.role.is_some_and(|role| role.as_str() == "user") {
                        messages.last_user = Some(content);
                    }
                }
                Ok(messages)
            }
        }
        deserializer.deserialize_seq(MessagesVisitor)
    }
}

/// A message that says whose it is.
struct Role<'a>(MessageView<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Role<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object(view) = Object::<MessageView<'a>>::deserialize(deserializer)?;
        if view.role.is_none() { Err(D::Error::missing_field("role")) } else { Ok(Self(view)) }
    }
}

/// What a message says: a string, or parts of several media.
#[derive(Debug, Default)]
pub(super) struct Content<'a> {
    texts: Vec<Text<'a>>,
    hash: u64,
    text_bytes: usize,
    images: usize,
    recordings: usize,
}

impl<'a> Content<'a> {
    /// Its text, clipped; `None` when it has none.
    pub(super) fn query(&self) -> Option<String> {
        let query = match self.texts.as_slice() {
            [one] => clip(one.as_str()).into_owned(),
            texts => {
                let joined: Vec<_> = texts.iter().map(Text::as_str).collect();
                clip(&joined.join("\n")).into_owned()
            }
        };
        (!query.trim().is_empty()).then_some(query)
    }

    fn add(&mut self, text: Text<'a>) {
        self.text_bytes += text.len();
        self.hash = combine(self.hash, text.hash);
        self.texts.push(text);
    }
}

#[derive(Deserialize)]
struct PartView<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                let mut content = Content::default();
                content.add(TextVisitor.visit_borrowed_str(text)?);
                Ok(content)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let mut content = Content::default();
                content.add(TextVisitor.visit_str(text)?);
                Ok(content)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut content = Content::default();
                while let Some(Object(part)) = seq.next_element::<Object<PartView<'de>>>()? {
                    match part.kind.as_ref().map(Text::as_str) {
                        Some("image_url" | "input_image" | "image") => content.images += 1,
                        Some("input_audio" | "audio_url" | "audio") => content.recordings += 1,
                        // Text, refusals, and what somebody makes up tomorrow.
                        _ => {}
                    }
                    if let Some(text) = part.text {
                        content.add(text);
                    }
                }
                Ok(content)
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// A prompt, or what is to be embedded: a string, strings, tokens, or arrays of tokens.
#[derive(Debug, Default)]
pub(super) struct Input<'a> {
    first: Option<Text<'a>>,
    /// How many inputs it is.
    pub(super) count: usize,
    pub(super) total_bytes: usize,
    pub(super) total_tokens: usize,
    pub(super) longest_bytes: usize,
    pub(super) longest_tokens: usize,
}

impl<'a> Input<'a> {
    /// The first text, clipped; `None` when there is none.
    pub(super) fn query(&self) -> Option<String> {
        let query = clip(self.first.as_ref()?.as_str());
        (!query.trim().is_empty()).then(|| query.into_owned())
    }

    fn add_text(&mut self, text: Text<'a>) {
        self.count += 1;
        self.total_bytes += text.len();
        self.longest_bytes = self.longest_bytes.max(text.len());
        self.first.get_or_insert(text);
    }

    fn add_tokens(&mut self, tokens: usize) {
        self.count += 1;
        self.total_tokens += tokens;
        self.longest_tokens = self.longest_tokens.max(tokens);
    }
}

/// One element of an array of inputs.
enum Item<'a> {
    Text(Text<'a>),
    Token,
    Tokens(usize),
    /// An object, which some servers take for multimodal inputs.
    Other,
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token or an array of tokens")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        TextVisitor.visit_borrowed_str(text).map(Item::Text)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        TextVisitor.visit_str(text).map(Item::Text)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Item::Token)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Item::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut tokens = 0;
        while seq.next_element::<u64>()?.is_some() {
            tokens += 1;
        }
        Ok(Item::Tokens(tokens))
    }
}

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Input<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;
        impl<'de> Visitor<'de> for InputVisitor {
            type Value = Input<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, or tokens")
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                let mut input = Input::default();
                input.add_text(TextVisitor.visit_borrowed_str(text)?);
                Ok(input)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let mut input = Input::default();
                input.add_text(TextVisitor.visit_str(text)?);
                Ok(input)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut input = Input::default();
                let mut own_tokens = 0;
                while let Some(item) = seq.next_element()? {
                    match item {
                        Item::Text(text) => input.add_text(text),
                        Item::Token => own_tokens += 1,
                        Item::Tokens(tokens) => input.add_tokens(tokens),
                        Item::Other => input.count += 1,
                    }
                }
                // Bare tokens are one input.
                if own_tokens > 0 {
                    input.add_tokens(own_tokens);
                }
                Ok(input)
            }
        }
        deserializer.deserialize_any(InputVisitor)
    }
}
