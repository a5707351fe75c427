//! Reads out of a body what routing needs, in one pass, without copying it or taking it apart.
//!
//! The body itself goes on byte for byte. Fields that are not named here are skipped, whatever they hold; those that
//! are must have the type that OpenAI documents, or the request is refused with the field's name.
//!
//! The number of prompt tokens is an estimate, for choosing who has room and who will be done first: a token per four
//! bytes of text (English has some 4.2, code and other languages fewer, which the context check leaves room for), four
//! for the frame of a message, [`IMAGE_TOKENS`] for an image and [`AUDIO_TOKENS`] for a recording.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::view::{Content, Count, End, Input, Items, Messages, Object, Text, clip, combine};
use crate::capability::{Feature, FeatureSet, Mark, Modality, ModalitySet, Operation, Requirements, limits};

/// What vision models make of a photograph: 256 to some 1,500; OpenAI's high detail takes 765 for a square one.
const IMAGE_TOKENS: usize = 768;
/// Half a minute of speech at the 25 to 50 tokens a second of common models.
const AUDIO_TOKENS: usize = 1024;
/// Role, separators and end of a message in common templates.
const MESSAGE_TOKENS: usize = 4;
/// A model's name and a node's, and the character between them.
const MODEL_BYTES: usize = 2 * limits::NAME_BYTES + 1;
/// See the module's header.
const BYTES_PER_TOKEN: usize = 4;

/// What routing needs of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) model: Option<String>,
    pub(super) query: Option<String>,
    pub(super) requirements: Requirements,
    /// The ends of its messages.
    pub(super) prefix: Vec<Mark>,
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadBody {
    pub(super) message: String,
    /// The field, such as `messages[2].content`.
    pub(super) param: Option<String>,
}

impl BadBody {
    fn missing(field: &str) -> Self {
        Self { message: format!("the field {field:?} is missing"), param: Some(field.to_owned()) }
    }
}

#[derive(Deserialize)]
struct ChatView<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    messages: Option<Messages<'a>>,
    stream: Option<bool>,
    tools: Option<Items>,
    functions: Option<Items>,
    #[serde(borrow)]
    response_format: Option<Object<FormatView<'a>>>,
    logprobs: Option<bool>,
    max_tokens: Option<Count>,
    max_completion_tokens: Option<Count>,
}

#[derive(Deserialize)]
struct FormatView<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct CompletionView<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    prompt: Option<Input<'a>>,
    #[serde(borrow)]
    suffix: Option<Text<'a>>,
    stream: Option<bool>,
    logprobs: Option<Count>,
    max_tokens: Option<Count>,
    #[serde(borrow)]
    response_format: Option<Object<FormatView<'a>>>,
}

#[derive(Deserialize)]
struct EmbeddingView<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<Input<'a>>,
}

#[derive(Deserialize)]
struct JudgedView<'a> {
    #[serde(borrow)]
    operation: Option<Text<'a>>,
    messages: Option<IgnoredAny>,
    input: Option<IgnoredAny>,
    #[serde(borrow)]
    prompt: Option<Input<'a>>,
    suffix: Option<IgnoredAny>,
    echo: Option<IgnoredAny>,
    best_of: Option<IgnoredAny>,
}

/// The same as chat with one user message; only ever judged, never run.
#[derive(Deserialize)]
struct PromptView<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    prompt: Option<Input<'a>>,
    stream: Option<bool>,
}

/// Reads the body of a chat.
pub(super) fn chat(body: &[u8]) -> Result<Request, BadBody> {
    let view: ChatView<'_> = read(body)?;
    let Some(messages) = view.messages else { return Err(BadBody::missing("messages")) };
    if messages.count == 0 {
        let message = "\"messages\" is empty: a chat needs one message at least".to_owned();
        return Err(BadBody { message, param: Some("messages".to_owned()) });
    }
    let stream = view.stream.unwrap_or(false);
    let tools = view.tools.unwrap_or_default().plus(view.functions.unwrap_or_default());
    let mut features = stream_features(stream);
    if tools.count > 0 {
        features.insert(Feature::Tools);
    }
    if wants_schema(view.response_format.as_ref()) {
        features.insert(Feature::JsonSchema);
    }
    if view.logprobs == Some(true) {
        features.insert(Feature::Logprobs);
    }
    let mut modalities = ModalitySet::of(&[Modality::Text]);
    if messages.images > 0 {
        modalities.insert(Modality::Image);
    }
    if messages.recordings > 0 {
        modalities.insert(Modality::Audio);
    }
    let tokens = (messages.text_bytes + tools.bytes) / BYTES_PER_TOKEN
        + messages.count * MESSAGE_TOKENS
        + messages.images * IMAGE_TOKENS
        + messages.recordings * AUDIO_TOKENS;
    // Templates put the tools before everything else.
    let mark = |end: &End| Mark {
        hash: combine(end.hash, tools.hash),
        tokens: small((end.text_bytes + tools.bytes) / BYTES_PER_TOKEN + end.messages * MESSAGE_TOKENS),
    };
    let prefix = messages.ends.iter().map(mark).collect();
    Ok(Request {
        prefix,
        model: model_name(view.model)?,
        query: messages.last_user.as_ref().and_then(Content::query),
        requirements: Requirements {
            modalities,
            features,
            prompt_tokens: small(tokens),
            max_output_tokens: view.max_completion_tokens.or(view.max_tokens).and_then(|count| count.0),
            stream,
            ..Requirements::default()
        },
    })
}

/// Reads the body of a completion.
pub(super) fn completion(body: &[u8]) -> Result<Request, BadBody> {
    let view: CompletionView<'_> = read(body)?;
    let Some(prompt) = view.prompt else { return Err(BadBody::missing("prompt")) };
    let stream = view.stream.unwrap_or(false);
    let mut features = stream_features(stream);
    if view.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        features.insert(Feature::Insert);
    }
    if view.logprobs.is_some() {
        features.insert(Feature::Logprobs);
    }
    if wants_schema(view.response_format.as_ref()) {
        features.insert(Feature::JsonSchema);
    }
    let suffix_bytes = view.suffix.as_ref().map_or(0, Text::len);
    Ok(Request {
        prefix: Vec::new(),
        model: model_name(view.model)?,
        query: prompt.query(),
        requirements: Requirements {
            modalities: ModalitySet::of(&[Modality::Text]),
            features,
            prompt_tokens: small(prompt_tokens(&prompt) + suffix_bytes / BYTES_PER_TOKEN),
            max_output_tokens: view.max_tokens.and_then(|count| count.0),
            stream,
            ..Requirements::default()
        },
    })
}

/// Reads the body of an embedding. It has no query: which model embeds is not a matter of what the text means.
pub(super) fn embedding(body: &[u8]) -> Result<Request, BadBody> {
    let view: EmbeddingView<'_> = read(body)?;
    let Some(input) = view.input else { return Err(BadBody::missing("input")) };
    // Inputs are embedded one by one, so that the longest must fit, not all together.
    let tokens = input.longest_bytes / BYTES_PER_TOKEN + input.longest_tokens;
    Ok(Request {
        prefix: Vec::new(),
        model: model_name(view.model)?,
        query: None,
        requirements: Requirements {
            modalities: ModalitySet::of(&[Modality::Text]),
            prompt_tokens: small(tokens),
            ..Requirements::default()
        },
    })
}

/// Reads a bare prompt that shall be judged as a chat.
pub(super) fn prompt_as_chat(body: &[u8]) -> Result<Request, BadBody> {
    let view: PromptView<'_> = read(body)?;
    let Some(prompt) = view.prompt else { return Err(BadBody::missing("prompt")) };
    let stream = view.stream.unwrap_or(false);
    Ok(Request {
        prefix: Vec::new(),
        model: model_name(view.model)?,
        query: prompt.query(),
        requirements: Requirements {
            modalities: ModalitySet::of(&[Modality::Text]),
            features: stream_features(stream),
            prompt_tokens: small(prompt_tokens(&prompt) + MESSAGE_TOKENS),
            stream,
            ..Requirements::default()
        },
    })
}

/// What a body that is only judged stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    /// The body of this operation's own route.
    As(Operation),
    /// A bare prompt: a chat with it as the one message.
    Prompt,
}

/// What a body that is only judged stands for.
///
/// `messages` is chat and `input` an embedding. `prompt` is chat as well, since that is what a person means who asks
/// where a prompt would go, unless a field that only completions have, or `"operation": "complete"`, says otherwise.
pub(super) fn judged(body: &[u8]) -> Result<Judged, BadBody> {
    let view: JudgedView<'_> = read(body)?;
    let bare = view.messages.is_none() && view.prompt.is_some();
    if let Some(operation) = view.operation {
        let operation = operation.into_string();
        return match Operation::from_name(&operation) {
            Some(known @ (Operation::Chat | Operation::Complete | Operation::Embed)) => {
                Ok(if known == Operation::Chat && bare { Judged::Prompt } else { Judged::As(known) })
            }
            _ => Err(BadBody {
                message: "\"operation\" is one of chat, complete and embed".to_owned(),
                param: Some("operation".to_owned()),
            }),
        };
    }
    let completion = view.suffix.is_some() || view.echo.is_some() || view.best_of.is_some();
    match (view.messages, view.input, view.prompt) {
        (Some(_), _, _) => Ok(Judged::As(Operation::Chat)),
        (_, Some(_), _) => Ok(Judged::As(Operation::Embed)),
        (_, _, Some(prompt)) if completion || prompt.count > 1 || prompt.total_tokens > 0 => {
            Ok(Judged::As(Operation::Complete))
        }
        (_, _, Some(_)) => Ok(Judged::Prompt),
        (None, None, None) => Err(BadBody {
            message: "nothing to judge: send the body of a chat, a completion or an embedding, or {\"prompt\": \"…\"}"
                .to_owned(),
            param: None,
        }),
    }
}

/// The name as it came. One that is too long for any model is not carried into decisions, logs and headers.
fn model_name(model: Option<Text<'_>>) -> Result<Option<String>, BadBody> {
    match model {
        Some(name) if name.len() > MODEL_BYTES => Err(BadBody {
            message: format!("the name of the model is longer than {MODEL_BYTES} bytes"),
            param: Some("model".to_owned()),
        }),
        model => Ok(model.map(Text::into_string)),
    }
}

fn stream_features(stream: bool) -> FeatureSet {
    if stream { FeatureSet::of(&[Feature::Streaming]) } else { FeatureSet::EMPTY }
}

fn wants_schema(format: Option<&Object<FormatView<'_>>>) -> bool {
    let kind = format.and_then(|format| format.0.kind.as_ref());
    kind.is_some_and(|kind| matches!(kind.as_str(), "json_schema" | "json_object"))
}

fn prompt_tokens(prompt: &Input<'_>) -> usize {
    prompt.total_bytes / BYTES_PER_TOKEN + prompt.total_tokens
}

fn small(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// Reads a JSON object, and says where it is wrong when it is.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BadBody> {
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(BadBody { message: "the body is not UTF-8".to_owned(), param: None });
    };
    if text.trim_ascii().is_empty() {
        return Err(BadBody { message: "the body is empty: send a JSON object".to_owned(), param: None });
    }
    match serde_json::from_str::<Object<T>>(text) {
        Ok(Object(view)) => Ok(view),
        Err(error) => Err(explain::<T>(text, &error)),
    }
}

/// Reads once more, slowly, to learn the name of the field.
fn explain<'a, T: Deserialize<'a>>(text: &'a str, error: &serde_json::Error) -> BadBody {
    let shown = clip(&error.to_string()).into_owned();
    if !error.is_data() {
        return BadBody { message: format!("the body is not valid JSON: {shown}"), param: None };
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let path = match serde_path_to_error::deserialize::<_, Object<T>>(&mut json) {
        Ok(_) => String::new(),
        Err(error) => error.path().to_string(),
    };
    // A field that is there twice is told at the object that it is in.
    let twice = shown.strip_prefix("duplicate field `").and_then(|rest| rest.split_once('`')).map(|(field, _)| field);
    let param = match (path.as_str(), twice) {
        ("" | ".", None) => None,
        ("" | ".", Some(field)) => Some(field.to_owned()),
        (path, Some(field)) if !path.ends_with(field) => Some(format!("{path}.{field}")),
        (path, _) => Some(path.to_owned()),
    };
    let message = match &param {
        Some(param) => format!("{param:?}: {shown}"),
        None => shown,
    };
    BadBody { message, param }
}

#[cfg(test)]
mod tests;
