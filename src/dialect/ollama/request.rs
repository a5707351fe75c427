//! What an Ollama client asks becomes a chat, or a completion where the client wants no template around its prompt.
//!
//! | Ollama | chat |
//! |---|---|
//! | `options` | fields of the same name; `num_predict` is `max_tokens` |
//! | `format` | `response_format`: `json_object`, or `json_schema` with the schema |
//! | `think` | `reasoning_effort`: true is medium, false none |
//! | `images` of a message | `image_url` parts |
//! | `tool_calls` with arguments as an object | with arguments as text, and an id each |
//! | a tool's answer by `tool_name` | by `tool_call_id` of the call that it answers |
//! | `raw`, `suffix` | a completion instead of a chat |
//!
//! `keep_alive` and options of how a model is loaded (`num_ctx`, `num_gpu`, …) are taken and have no effect: whoever has
//! the model loaded it already, and nothing is cut off silently. Refused: `template`, `context`, pictures to be made.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::capability::Operation;
use crate::dialect::json::{Entries, Hints, Json, Object, is_text, text};
use crate::dialect::schema::may_be_strict;
use crate::dialect::{HINTS, RAW, Refusal};

/// What was asked.
#[derive(Debug)]
pub(crate) enum Asked {
    /// An answer.
    Ask(Ask),
    /// That a model be loaded, or unloaded: a request without a prompt.
    Load {
        /// The model.
        model: String,
        /// Unload it.
        unload: bool,
        /// In which form to say so.
        form: Form,
    },
}

/// A request for an answer.
#[derive(Debug)]
pub(crate) struct Ask {
    /// A chat or a completion.
    pub(crate) operation: Operation,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Whether the answer shall be streamed.
    pub(crate) stream: bool,
    /// The model that was asked for.
    pub(crate) model: String,
    /// The form of the answer.
    pub(crate) form: Form,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// With a `message`.
    Chat,
    /// With a `response`.
    Generate,
}

/// How a model is loaded, which is its own node's business.
const LOADING: &[&str] = &[
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "use_mmap",
    "use_mlock",
    "num_thread",
    "numa",
    "num_keep",
    "vocab_only",
    "logits_all",
    "embedding_only",
    "f16_kv",
    "penalize_newline",
    "tfs_z",
];
/// What an option must not set.
const OWN: &[&str] =
    &["model", "messages", "prompt", "suffix", "stream", "stream_options", "tools", "response_format", "n"];

/// Reads a request of `/api/chat`. `thinks`: whether a model of that name is known to think, or not to.
pub(crate) fn chat(body: &[u8], thinks: impl Fn(&str) -> Option<bool>) -> Result<Asked, Refusal> {
    let mut body = Object::body(body)?;
    let hints = Hints::new();
    let model = model_of(&mut body)?;
    let unload = unloads(&mut body)?;
    let turns = body.list("messages")?.unwrap_or_default();
    if turns.is_empty() {
        return Ok(Asked::Load { model: model.into_owned(), unload, form: Form::Chat });
    }
    let mut chat = Entries::new().with("model", model.clone());
    let stream = common(&mut body, &model, thinks, &mut chat)?;
    if let Some(tools) = body.take("tools")
        && tools.get() != "[]"
    {
        chat.put("tools", tools);
    }
    let mut messages = Vec::new();
    let mut calls = Calls::default();
    for (path, raw) in turns {
        messages.push(Json::from(turn(Object::read(raw, path, &hints)?, &mut calls)?));
    }
    chat.put("messages", messages);
    chat.put_rest(body)?;
    Ok(Asked::Ask(Ask {
        operation: Operation::Chat,
        body: Json::from(chat).to_bytes(),
        stream,
        model: model.into_owned(),
        form: Form::Chat,
    }))
}

/// Reads a request of `/api/generate`; see [`chat`].
pub(crate) fn generate(body: &[u8], thinks: impl Fn(&str) -> Option<bool>) -> Result<Asked, Refusal> {
    let mut body = Object::body(body)?;
    let model = model_of(&mut body)?;
    let unload = unloads(&mut body)?;
    for picture in ["width", "height", "steps"] {
        body.refuse(picture, "is for making pictures, which nobody in the mesh does by this route")?;
    }
    if let Some(template) = body.text("template")?
        && !template.is_empty()
    {
        return Err(Refusal::at("template", "cannot be set: a model's own node knows its template (use raw for none)"));
    }
    if let Some(raw) = body.take("context")
        && raw.get() != "[]"
    {
        return Err(Refusal::at("context", "are tokens of one server's own: send the messages to /api/chat instead"));
    }
    let prompt = body.take("prompt");
    let images = body.texts("images")?.unwrap_or_default();
    let suffix = body.text("suffix")?.filter(|suffix| !suffix.is_empty());
    let system = body.text("system")?.filter(|system| !system.is_empty());
    let bare = match prompt {
        Some(raw) => text(raw, "prompt")?.is_empty(),
        None => true,
    };
    if bare && images.is_empty() && suffix.is_none() {
        return Ok(Asked::Load { model: model.into_owned(), unload, form: Form::Generate });
    }
    let prompt = prompt.map_or(Json::from(""), Json::from);
    let raw = body.boolean("raw")?.unwrap_or(false);
    let complete = raw || suffix.is_some();
    let mut out = Entries::new().with("model", model.clone());
    if raw {
        out.put_aside(RAW, true);
    }
    let stream = common(&mut body, &model, thinks, &mut out)?;
    if complete {
        if !images.is_empty() {
            return Err(Refusal::at("images", "cannot go with a raw prompt or a suffix"));
        }
        if system.is_some() {
            return Err(Refusal::at("system", "cannot go with a raw prompt or a suffix: put it into the prompt"));
        }
        if body.boolean("logprobs")? == Some(true) {
            return Err(Refusal::at("logprobs", "cannot be told of a raw prompt or a suffix"));
        }
        out.put("prompt", prompt);
        out.maybe("suffix", suffix);
    } else {
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(Json::from(Entries::new().with("role", "system").with("content", system)));
        }
        let content = with_images(prompt, images);
        messages.push(Entries::new().with("role", "user").with("content", content).into());
        out.put("messages", messages);
    }
    out.put_rest(body)?;
    Ok(Asked::Ask(Ask {
        operation: if complete { Operation::Complete } else { Operation::Chat },
        body: out.into_body(HINTS),
        stream,
        model: model.into_owned(),
        form: Form::Generate,
    }))
}

pub(super) fn model_of<'a>(body: &mut Object<'a>) -> Result<Cow<'a, str>, Refusal> {
    // Old clients call it by its name.
    let model = body.text("model")?.or(body.text("name")?).filter(|model| !model.is_empty());
    model.ok_or_else(|| Refusal::at("model", "is missing"))
}

/// Whether the model shall be unloaded: it is kept for no time.
fn unloads(body: &mut Object<'_>) -> Result<bool, Refusal> {
    let Some(raw) = body.take("keep_alive") else { return Ok(false) };
    Ok(if is_text(raw) {
        let time = text(raw, "keep_alive")?;
        time.trim_end_matches(char::is_alphabetic) == "0"
    } else {
        raw.get().parse::<f64>().is_ok_and(|seconds| seconds == 0.0)
    })
}

/// What all requests have. Whether the answer shall be streamed: yes, unless it is said.
fn common<'a>(
    body: &mut Object<'a>,
    model: &str,
    thinks: impl Fn(&str) -> Option<bool>,
    out: &mut Entries<'a>,
) -> Result<bool, Refusal> {
    let hints = Hints::new();
    let stream = body.boolean("stream")?.unwrap_or(true);
    if stream {
        out.put("stream", true);
        out.put("stream_options", Entries::new().with("include_usage", true));
    }
    if let Some(mut options) = body.object("options", &hints)? {
        if let Some(count) = options.number("num_predict")?
            && count > 0.0
        {
            out.put("max_tokens", whole(count));
        }
        if let Some(stop) = options.take("stop")
            && stop.get() != "[]"
        {
            out.put("stop", stop);
        }
        for (key, value) in options.rest() {
            if OWN.contains(&&*key) || out.has(&key) {
                return Err(Refusal::at(&format!("options.{key}"), "is no option: say it beside the options"));
            }
            if !LOADING.contains(&&*key) {
                out.put(key, value);
            }
        }
    }
    if let Some(raw) = body.take("format") {
        format(raw, out)?;
    }
    if let Some(raw) = body.take("think") {
        let effort = match raw.get() {
            "true" => Cow::Borrowed("medium"),
            "false" => Cow::Borrowed("none"),
            _ => text(raw, "think").map_err(|_| Refusal::at("think", "is neither true, false nor a level"))?,
        };
        match thinks(model) {
            Some(true) => {
                out.put("reasoning_effort", effort);
            }
            Some(false) if effort != "none" => {
                return Err(Refusal::at("think", format!("is asked of {model:?}, which does not support thinking")));
            }
            // A model that does not think need not be told not to; and who will answer a wish is not known yet.
            _ => {}
        }
    }
    // A prompt that is too long is refused with the reason, and never cut.
    for moot in ["truncate", "shift"] {
        body.boolean(moot)?;
    }
    Ok(stream)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive, and the cast saturates")]
fn whole(count: f64) -> u64 {
    count as u64
}

fn format<'a>(raw: &'a RawValue, out: &mut Entries<'a>) -> Result<(), Refusal> {
    if raw.get().starts_with('{') {
        let schema = Entries::new().with("name", "answer").with("schema", raw).with("strict", may_be_strict(raw));
        out.put("response_format", Entries::new().with("type", "json_schema").with("json_schema", schema));
        return Ok(());
    }
    match text(raw, "format").as_deref() {
        Ok("") => {}
        Ok("json") => {
            out.put("response_format", Entries::new().with("type", "json_object"));
        }
        _ => return Err(Refusal::at("format", "is neither \"json\" nor a JSON schema")),
    }
    Ok(())
}

/// The calls that wait for their answers, and how many there were.
#[derive(Default)]
struct Calls {
    open: Vec<(String, String)>,
    count: usize,
}

fn turn<'a>(mut turn: Object<'a>, calls: &mut Calls) -> Result<Entries<'a>, Refusal> {
    let role = turn.need_text("role")?;
    let content = turn.take("content").map_or(Json::from(""), Json::from);
    if let Json::Raw(raw) = &content {
        text(raw, &turn.at("content"))?;
    }
    let images = turn.texts("images")?.unwrap_or_default();
    let mut message = Entries::new().with("role", role.clone());
    if role == "tool" {
        let named = turn.text("tool_name")?.or(turn.text("name")?);
        let id = match turn.text("tool_call_id")? {
            Some(id) => id.into_owned(),
            None => {
                let asked = |(_, name): &(String, String)| named.as_deref().is_none_or(|named| named == name);
                let Some(at) = calls.open.iter().position(asked) else {
                    return Err(Refusal::at(&turn.at("tool_name"), "answers no call of the messages before it"));
                };
                calls.open.remove(at).0
            }
        };
        message.put("tool_call_id", id);
    }
    message.put("content", with_images(content, images));
    if let Some(thinking) = turn.text("thinking")?.filter(|thinking| !thinking.is_empty()) {
        message.put("reasoning_content", thinking);
    }
    if let Some(asked) = turn.list("tool_calls")?.filter(|asked| !asked.is_empty()) {
        calls.open.clear();
        let mut written = Vec::new();
        for (path, raw) in asked {
            written.push(call(Object::read(raw, path, &Hints::new())?, calls)?);
        }
        message.put("tool_calls", written);
    }
    Ok(message)
}

fn call<'a>(mut call: Object<'a>, calls: &mut Calls) -> Result<Json<'a>, Refusal> {
    let id = call.text("id")?.map_or_else(|| format!("call_{}", calls.count), Cow::into_owned);
    calls.count += 1;
    let mut function =
        call.object("function", &Hints::new())?.ok_or_else(|| Refusal::at(&call.at("function"), "is missing"))?;
    let name = function.need_text("name")?;
    let arguments = match function.take("arguments") {
        None => Cow::Borrowed("{}"),
        Some(raw) if is_text(raw) => text(raw, &function.at("arguments"))?,
        Some(raw) if raw.get().starts_with('{') => Cow::Borrowed(raw.get()),
        Some(_) => return Err(Refusal::at(&function.at("arguments"), "are no object")),
    };
    calls.open.push((id.clone(), name.clone().into_owned()));
    let function = Entries::new().with("name", name).with("arguments", arguments);
    Ok(Entries::new().with("id", id).with("type", "function").with("function", function).into())
}

/// A text with pictures as parts.
fn with_images(content: Json<'_>, images: Vec<String>) -> Json<'_> {
    if images.is_empty() {
        return content;
    }
    let mut parts = vec![Json::from(Entries::new().with("type", "text").with("text", content))];
    for image in images {
        let url = Entries::new().with("url", data_url(image));
        parts.push(Entries::new().with("type", "image_url").with("image_url", url).into());
    }
    Json::List(parts)
}

/// A picture in base64 as a data URL; its first bytes tell its type.
fn data_url(image: String) -> String {
    if image.starts_with("data:") || image.starts_with("http://") || image.starts_with("https://") {
        return image;
    }
    let kind = match image.as_bytes() {
        [b'/', b'9', b'j', ..] => "image/jpeg",
        [b'R', b'0', b'l', b'G', ..] => "image/gif",
        [b'U', b'k', b'l', b'G', ..] => "image/webp",
        _ => "image/png",
    };
    format!("data:{kind};base64,{image}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn thinks(model: &str) -> Option<bool> {
        match model {
            "auto" => None,
            model => Some(model == "thinker"),
        }
    }

    fn asked(read: Result<Asked, Refusal>) -> (Value, Ask) {
        let Asked::Ask(ask) = read.expect("a request") else { panic!("it asks for an answer") };
        (serde_json::from_slice(&ask.body).expect("JSON"), ask)
    }

    #[test]
    fn a_chat_is_a_chat() {
        let body = json!({
            "model": "thinker", "keep_alive": "5m", "think": "high", "format": {"type": "object"}, "made_up": 1,
            "options": {"temperature": 0, "num_predict": 12, "stop": ["END"], "seed": 7, "num_ctx": 8192, "repeat_penalty": 1.1},
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "see", "images": ["/9j/4AAQ", "iVBORw0K"]},
                {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                    {"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g", "arguments": {}}}]},
                {"role": "tool", "tool_name": "g", "content": "2"},
                {"role": "tool", "content": "1"},
            ],
        });
        let (chat, ask) = asked(chat(body.to_string().as_bytes(), thinks));
        assert!(ask.stream && ask.operation == Operation::Chat && ask.form == Form::Chat);
        assert_eq!(
            chat,
            json!({
                "model": "thinker", "stream": true, "stream_options": {"include_usage": true}, "reasoning_effort": "high",
                "max_tokens": 12, "stop": ["END"], "temperature": 0, "seed": 7, "repeat_penalty": 1.1, "made_up": 1,
                "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": false}},
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [
                        {"type": "text", "text": "see"},
                        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}]},
                    {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [
                        {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                        {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "2"},
                    {"role": "tool", "tool_call_id": "call_0", "content": "1"},
                ],
            })
        );
    }

    #[test]
    fn a_prompt_is_a_chat_unless_it_is_raw() {
        let read = |body: Value| asked(generate(body.to_string().as_bytes(), thinks));
        let (chat, ask) = read(json!({"model": "m", "prompt": "hi", "system": "s", "stream": false, "format": "json"}));
        assert!(!ask.stream && ask.form == Form::Generate && ask.operation == Operation::Chat);
        assert_eq!(
            chat,
            json!({"model": "m", "response_format": {"type": "json_object"},
                "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]})
        );
        let (raw, ask) = read(json!({"model": "m", "prompt": "hi", "raw": true, "stream": false}));
        let aside = json!([{"at": "", "fields": {"raw": true}}]);
        let told = json!({"model": "m", "prompt": "hi", "x_atmosphere": aside});
        assert_eq!((raw, ask.operation), (told, Operation::Complete));
        let (fill, ask) = read(json!({"model": "m", "prompt": "a", "suffix": "c", "stream": false}));
        assert_eq!((fill, ask.operation), (json!({"model": "m", "prompt": "a", "suffix": "c"}), Operation::Complete));
    }

    #[test]
    fn no_prompt_loads_or_unloads() {
        for (body, unloads) in [
            (json!({"model": "m"}), false),
            (json!({"name": "m", "keep_alive": 0}), true),
            (json!({"model": "m", "prompt": "", "keep_alive": "0s"}), true),
            (json!({"model": "m", "keep_alive": "10m"}), false),
            (json!({"model": "m", "keep_alive": -1}), false),
        ] {
            let read = generate(body.to_string().as_bytes(), thinks).expect("fine");
            assert!(matches!(read, Asked::Load { unload, .. } if unload == unloads), "{body}");
        }
        assert!(matches!(chat(br#"{"model":"m","messages":[]}"#, thinks), Ok(Asked::Load { .. })));
    }

    #[test]
    fn thinking_is_asked_of_models_that_think() {
        let effort = |model: &str, think: Value| {
            let body = json!({"model": model, "think": think, "messages": [{"role": "user", "content": "hi"}]});
            chat(body.to_string().as_bytes(), thinks).map(|read| asked(Ok(read)).0["reasoning_effort"].clone())
        };
        assert_eq!(effort("thinker", json!(true)).expect("fine"), "medium");
        assert_eq!(effort("thinker", json!(false)).expect("fine"), "none");
        for (model, think) in [("m", json!(false)), ("auto", json!(true)), ("auto", json!(false))] {
            assert_eq!(effort(model, think).expect("fine"), Value::Null);
        }
        assert_eq!(effort("m", json!(true)).expect_err("refused").param.as_deref(), Some("think"));
    }

    #[test]
    fn what_cannot_be_expressed_is_refused_by_name() {
        let user = json!([{"role": "user", "content": "hi"}]);
        for (body, param) in [
            (json!({"messages": user}), "model"),
            (json!({"model": "m", "messages": user, "format": "xml"}), "format"),
            (json!({"model": "m", "messages": user, "options": {"tools": []}}), "options.tools"),
            (json!({"model": "m", "messages": user, "think": 3}), "think"),
            (json!({"model": "m", "messages": [{"role": "user", "content": [1]}]}), "messages[0].content"),
            (json!({"model": "m", "messages": [{"content": "x"}]}), "messages[0].role"),
            (json!({"model": "m", "messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_name"),
        ] {
            let refusal = chat(body.to_string().as_bytes(), thinks).expect_err("refused");
            assert_eq!(refusal.param.as_deref(), Some(param), "{body}");
        }
        for (body, param) in [
            (json!({"model": "m", "prompt": "x", "template": "{{.}}"}), "template"),
            (json!({"model": "m", "prompt": "x", "context": [1, 2]}), "context"),
            (json!({"model": "m", "prompt": "x", "raw": true, "images": ["a"]}), "images"),
            (json!({"model": "m", "prompt": "x", "width": 512}), "width"),
            (json!({"model": "m", "prompt": "x", "raw": true, "logprobs": true}), "logprobs"),
            (json!({"model": "m", "prompt": "x", "n": 2}), "n"),
        ] {
            let refusal = generate(body.to_string().as_bytes(), thinks).expect_err("refused");
            assert_eq!(refusal.param.as_deref(), Some(param), "{body}");
        }
    }
}
