//! A request for a message becomes a chat.
//!
//! | Anthropic | chat |
//! |---|---|
//! | `system` | a system message in front |
//! | text, image, PDF and text document | parts of a message: text, `image_url`, `file`, text |
//! | `tool_use`, `tool_result` | `tool_calls`, a message of the role `tool`; `is_error` as "Error: " before its text |
//! | `thinking`, and its signature | `reasoning_content`; the signature is put aside |
//! | `tools`, `tool_choice` | function tools, `tool_choice` and `parallel_tool_calls` |
//! | `thinking`, `output_config.effort` | `reasoning_effort`, for models that think; put aside for those that know more |
//! | `output_config.format` | `response_format` |
//! | `stop_sequences`, `metadata.user_id` | `stop`, `user` |
//! | `cache_control` and other fields of blocks | put aside |
//!
//! Refused: Anthropic's own tools and what they answered, files on its servers, citations, containers.

use std::borrow::Cow;
use std::num::NonZeroU64;

use serde_json::value::RawValue;

use crate::dialect::json::{Entries, Hints, Json, Object, is_text, text};
use crate::dialect::schema::may_be_strict;
use crate::dialect::{HINTS, OWN_CONTENT, Refusal};

/// Budgets of thinking below the first are low effort, below the second medium. OpenAI's efforts have no numbers; these
/// are what common gateways take.
const LOW_BUDGET: u64 = 4096;
const MEDIUM_BUDGET: u64 = 16_384;

/// A request for a message, as a chat.
#[derive(Debug)]
pub(crate) struct Messages {
    /// The chat's body.
    pub(crate) chat: Vec<u8>,
    /// Whether the answer shall be streamed.
    pub(crate) stream: bool,
    /// Texts that end the answer.
    pub(crate) stops: Vec<String>,
    /// The model that was asked for; empty when none was.
    pub(crate) model: String,
}

impl Messages {
    /// Reads the body of a request for a message. `thinks`: whether a model of that name is known to think.
    ///
    /// # Errors
    ///
    /// When it is none, or asks for what a chat cannot express.
    pub(crate) fn read(body: &[u8], thinks: impl Fn(&str) -> bool) -> Result<Self, Refusal> {
        Self::translate(Object::body(body)?, thinks, true)
    }

    /// Reads the body of a request to count tokens: the same without what is said of the answer.
    ///
    /// # Errors
    ///
    /// See [`Messages::read`].
    pub(crate) fn read_to_count(body: &[u8]) -> Result<Self, Refusal> {
        Self::translate(Object::body(body)?, |_| false, false)
    }

    fn translate(mut body: Object<'_>, thinks: impl Fn(&str) -> bool, answers: bool) -> Result<Self, Refusal> {
        let hints = Hints::new();
        let mut chat = Entries::new();
        let model = body.text("model")?;
        let thinks = model.as_deref().is_some_and(thinks);
        let named = model.as_deref().unwrap_or_default().to_owned();
        chat.maybe("model", model);
        let max_tokens = body.positive("max_tokens")?;
        if answers && max_tokens.is_none() {
            return Err(Refusal::at("max_tokens", "is missing"));
        }
        chat.maybe("max_tokens", max_tokens.map(NonZeroU64::get));
        for same in ["temperature", "top_p", "top_k"] {
            chat.maybe(same, body.take(same));
        }
        let stops = body.texts("stop_sequences")?.unwrap_or_default();
        if !stops.is_empty() {
            chat.put("stop", stops.clone());
        }
        let stream = body.boolean("stream")?.unwrap_or(false);
        if stream {
            chat.put("stream", true);
            // Usage is a part of every message, so that the last chunk must tell it.
            chat.put("stream_options", Entries::new().with("include_usage", true));
        }
        if let Some(mut metadata) = body.object("metadata", &hints)? {
            chat.maybe("user", metadata.text("user_id")?);
        }
        if let Some(tier) = body.text("service_tier")? {
            let tier = if tier == "standard_only" { Cow::Borrowed("default") } else { tier };
            chat.put("service_tier", tier);
        }
        if let Some(tools) = body.list("tools")? {
            let tools: Vec<Json<'_>> =
                tools.into_iter().map(|(path, raw)| tool(raw, path, &hints)).collect::<Result<_, _>>()?;
            if !tools.is_empty() {
                chat.put("tools", tools);
            }
        }
        if let Some(choice) = body.object("tool_choice", &hints)? {
            tool_choice(choice, &mut chat)?;
        }
        think(&mut body, thinks, &mut chat)?;
        for elsewhere in ["container", "mcp_servers", "inference_geo", "fallbacks"] {
            body.refuse(elsewhere, "is for Anthropic's own servers, and the mesh has no way to do it")?;
        }
        // Where a cache may cut, how old content is thinned out, whose account pays: none of it is about the answer.
        for aside in ["cache_control", "context_management", "speed", "user_profile_id", "workspace_id", "diagnostics"]
        {
            if let Some(raw) = body.take(aside) {
                chat.put_aside(aside, raw);
            }
        }
        let mut messages = Vec::new();
        if let Some(system) = body.take("system") {
            let (content, mut asides) = texts(system, "system", &hints)?;
            let mut message = Entries::new().with("role", "system").with("content", content);
            message.take_aside(&mut asides);
            messages.push(message);
        }
        let Some(turns) = body.list("messages")? else { return Err(Refusal::at("messages", "is missing")) };
        if turns.is_empty() {
            return Err(Refusal::at("messages", "is empty: a chat needs one message at least"));
        }
        for (path, raw) in turns {
            turn(Object::read(raw, path, &hints)?, &hints, &mut messages)?;
        }
        chat.put("messages", messages.into_iter().map(Json::from).collect::<Vec<_>>());
        chat.put_rest(body)?;
        Ok(Self { chat: chat.into_body(HINTS), stream, stops, model: named })
    }
}

fn think<'a>(body: &mut Object<'a>, thinks: bool, chat: &mut Entries<'a>) -> Result<(), Refusal> {
    let hints = Hints::new();
    let mut effort = None;
    if let Some(raw) = body.take("thinking") {
        let mut thinking = Object::read(raw, "thinking", &hints)?;
        let kind = thinking.need_text("type")?;
        effort = match &*kind {
            "disabled" => Some(Cow::Borrowed("none")),
            "enabled" => Some(Cow::Borrowed(match thinking.count("budget_tokens")? {
                None => return Err(Refusal::at("thinking.budget_tokens", "is missing")),
                Some(..LOW_BUDGET) => "low",
                Some(LOW_BUDGET..MEDIUM_BUDGET) => "medium",
                Some(_) => "high",
            })),
            "adaptive" => None,
            _ => return Err(Refusal::at("thinking.type", "is none of enabled, adaptive and disabled")),
        };
        chat.put_aside("thinking", raw);
    }
    let mut format = body.take("output_format");
    if let Some(mut config) = body.object("output_config", &hints)? {
        format = config.take("format").or(format);
        if let Some(told) = config.text("effort")? {
            chat.put_aside("output_config", Entries::new().with("effort", told.clone()));
            // The two that OpenAI's lists do not have everywhere are its highest.
            let told = if matches!(&*told, "xhigh" | "max") { Cow::Borrowed("high") } else { told };
            if effort.as_deref() != Some("none") {
                effort = Some(told.clone());
            }
        }
    }
    if let Some(effort) = effort.filter(|_| thinks) {
        chat.put("reasoning_effort", effort);
    }
    if let Some(raw) = format {
        let mut format = Object::read(raw, "output_config.format", &hints)?;
        if format.need_text("type")? != "json_schema" {
            return Err(Refusal::at("output_config.format.type", "is not json_schema, the only one that there is"));
        }
        let schema = format.need("schema")?;
        let schema = Entries::new().with("name", "answer").with("schema", schema).with("strict", may_be_strict(schema));
        chat.put("response_format", Entries::new().with("type", "json_schema").with("json_schema", schema));
    }
    Ok(())
}

fn tool<'a>(raw: &'a RawValue, path: String, hints: &Hints<'a>) -> Result<Json<'a>, Refusal> {
    let mut tool = Object::read(raw, path, hints)?;
    if let Some(kind) = tool.text("type")?
        && kind != "custom"
    {
        let why =
            format!("{kind:?} is one of Anthropic's own tools: the mesh can offer a model only tools with a schema");
        return Err(Refusal::at(&tool.at("type"), why));
    }
    let mut function = Entries::new().with("name", tool.need_text("name")?);
    function.maybe("description", tool.take("description"));
    function.put("parameters", tool.need("input_schema")?);
    function.maybe("strict", tool.take("strict"));
    let mut entry = Entries::new().with("type", "function").with("function", function);
    entry.put_rest_aside(tool);
    Ok(entry.into())
}

fn tool_choice<'a>(mut choice: Object<'a>, chat: &mut Entries<'a>) -> Result<(), Refusal> {
    let kind = choice.need_text("type")?;
    match &*kind {
        "auto" => chat.put("tool_choice", "auto"),
        "any" => chat.put("tool_choice", "required"),
        "none" => chat.put("tool_choice", "none"),
        "tool" => {
            let function = Entries::new().with("name", choice.need_text("name")?);
            chat.put("tool_choice", Entries::new().with("type", "function").with("function", function))
        }
        _ => return Err(Refusal::at(&choice.at("type"), "is none of auto, any, tool and none")),
    };
    if let Some(disabled) = choice.boolean("disable_parallel_tool_use")? {
        chat.put("parallel_tool_calls", !disabled);
    }
    Ok(())
}

/// One message: of a user it may become several, since each result of a tool is a message of its own.
fn turn<'a>(mut turn: Object<'a>, hints: &Hints<'a>, messages: &mut Vec<Entries<'a>>) -> Result<(), Refusal> {
    let role = turn.need_text("role")?;
    let content = turn.need("content")?;
    let path = turn.at("content");
    match &*role {
        "user" => user(content, &path, hints, messages)?,
        "assistant" => messages.push(assistant(content, &path, hints)?),
        "system" => {
            let (content, mut asides) = texts(content, &path, hints)?;
            let mut message = Entries::new().with("role", "system").with("content", content);
            message.take_aside(&mut asides);
            messages.push(message);
        }
        _ => return Err(Refusal::at(&turn.at("role"), "is none of user, assistant and system")),
    }
    if let Some(last) = messages.last_mut() {
        last.put_rest_aside(turn);
    }
    Ok(())
}

fn blocks<'a>(raw: &'a RawValue, path: &str, hints: &Hints<'a>) -> Result<Vec<Object<'a>>, Refusal> {
    let members: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| Refusal::at(path, "is neither a string nor an array of blocks"))?;
    members.into_iter().enumerate().map(|(index, raw)| Object::read(raw, format!("{path}[{index}]"), hints)).collect()
}

/// Parts of a message as its content: a single text is a string, which every server understands. What was put aside
/// for that text is for the message then.
fn content_of(mut parts: Vec<Entries<'_>>, lone_text: bool) -> (Json<'_>, Entries<'_>) {
    let mut asides = Entries::new();
    if lone_text && parts.len() == 1 {
        let mut part = parts.remove(0);
        asides.take_aside(&mut part);
        return (part.take_out("text").unwrap_or(Json::Text(Cow::Borrowed(""))), asides);
    }
    (Json::List(parts.into_iter().map(Json::from).collect()), asides)
}

/// A string or text blocks.
fn texts<'a>(raw: &'a RawValue, path: &str, hints: &Hints<'a>) -> Result<(Json<'a>, Entries<'a>), Refusal> {
    if is_text(raw) {
        return Ok((raw.into(), Entries::new()));
    }
    let mut parts = Vec::new();
    for mut block in blocks(raw, path, hints)? {
        let kind = block.need_text("type")?;
        if kind != "text" {
            return Err(Refusal::at(&block.at("type"), format!("{kind:?} is not text")));
        }
        parts.push(text_part(block)?);
    }
    Ok(content_of(parts, true))
}

fn text_part(mut block: Object<'_>) -> Result<Entries<'_>, Refusal> {
    let text = block.need("text")?;
    if !is_text(text) {
        return Err(Refusal::at(&block.at("text"), "is not a string"));
    }
    let mut part = Entries::new().with("type", "text").with("text", text);
    part.put_rest_aside(block);
    Ok(part)
}

fn user<'a>(
    content: &'a RawValue,
    path: &str,
    hints: &Hints<'a>,
    messages: &mut Vec<Entries<'a>>,
) -> Result<(), Refusal> {
    if is_text(content) {
        messages.push(Entries::new().with("role", "user").with("content", content));
        return Ok(());
    }
    let (mut parts, mut only_text, mut results) = (Vec::new(), true, 0);
    for mut block in blocks(content, path, hints)? {
        let kind = block.need_text("type")?;
        match &*kind {
            "tool_result" => {
                results += 1;
                messages.push(tool_result(block, hints)?);
            }
            _ => {
                only_text &= kind == "text";
                parts.push(part(&kind, block, hints)?);
            }
        }
    }
    if parts.is_empty() && results > 0 {
        return Ok(());
    }
    let (content, mut asides) = content_of(parts, only_text);
    let mut message = Entries::new().with("role", "user").with("content", content);
    message.take_aside(&mut asides);
    messages.push(message);
    Ok(())
}

/// A block of what a user or a tool says.
fn part<'a>(kind: &str, mut block: Object<'a>, hints: &Hints<'a>) -> Result<Entries<'a>, Refusal> {
    match kind {
        "text" => text_part(block),
        "image" => {
            let mut source = need_object(&mut block, "source", hints)?;
            let url = match &*source.need_text("type")? {
                "base64" => data_url(&mut source)?,
                "url" => source.need_text("url")?,
                _ => return Err(Refusal::at(&source.at("type"), "is neither base64 nor url")),
            };
            let mut part = Entries::new().with("type", "image_url").with("image_url", Entries::new().with("url", url));
            part.put_rest_aside(block);
            Ok(part)
        }
        "document" => document(block, hints),
        _ => Err(Refusal::at(&block.at("type"), format!("{kind:?} cannot be put to a model of the mesh"))),
    }
}

fn need_object<'a>(block: &mut Object<'a>, key: &str, hints: &Hints<'a>) -> Result<Object<'a>, Refusal> {
    block.object(key, hints)?.ok_or_else(|| Refusal::at(&block.at(key), "is missing"))
}

fn data_url<'a>(source: &mut Object<'a>) -> Result<Cow<'a, str>, Refusal> {
    let kind = source.need_text("media_type")?;
    let data = source.need_text("data")?;
    Ok(Cow::Owned(format!("data:{kind};base64,{data}")))
}

/// A PDF is a file; a text is a text, with its title above it.
fn document<'a>(mut block: Object<'a>, hints: &Hints<'a>) -> Result<Entries<'a>, Refusal> {
    if let Some(mut citations) = block.object("citations", hints)?
        && citations.boolean("enabled")? == Some(true)
    {
        return Err(Refusal::at(&block.at("citations"), "are asked for, and a chat has none"));
    }
    let title = block.text("title")?;
    let context = block.text("context")?;
    let mut source = need_object(&mut block, "source", hints)?;
    let kind = source.need_text("type")?;
    let mut part = match &*kind {
        "base64" => {
            if let Some(context) = context {
                block_aside_is_lost(&block, "context", &context)?;
            }
            let mut file = Entries::new();
            file.put("filename", title.unwrap_or(Cow::Borrowed("document.pdf")));
            file.put("file_data", data_url(&mut source)?);
            Entries::new().with("type", "file").with("file", file)
        }
        "text" => {
            let data = source.need_text("data")?;
            let above =
                [title, context].into_iter().flatten().fold(String::new(), |above, line| above + &line + "\n\n");
            let text = if above.is_empty() { data } else { Cow::Owned(above + &data) };
            Entries::new().with("type", "text").with("text", text)
        }
        _ => return Err(Refusal::at(&source.at("type"), "is neither base64 nor text")),
    };
    part.put_rest_aside(block);
    Ok(part)
}

fn block_aside_is_lost(block: &Object<'_>, key: &str, said: &str) -> Result<(), Refusal> {
    if said.is_empty() {
        Ok(())
    } else {
        Err(Refusal::at(&block.at(key), "cannot go along with a file: put it into a text block"))
    }
}

fn tool_result<'a>(mut block: Object<'a>, hints: &Hints<'a>) -> Result<Entries<'a>, Refusal> {
    let id = block.need_text("tool_use_id")?;
    let mut message = Entries::new().with("role", "tool").with("tool_call_id", id);
    let failed = block.boolean("is_error")?;
    if let Some(failed) = failed {
        message.put_aside("is_error", failed);
    }
    let content = block.take("content");
    if failed == Some(true)
        && let Some(raw) = content
    {
        message.put_aside(OWN_CONTENT, raw);
    }
    match content {
        None => {
            message.put("content", "");
        }
        Some(raw) if is_text(raw) => {
            message.put("content", raw);
        }
        Some(raw) => {
            let (mut parts, mut only_text) = (Vec::new(), true);
            for mut inner in blocks(raw, &block.at("content"), hints)? {
                let kind = inner.need_text("type")?;
                only_text &= kind == "text";
                parts.push(part(&kind, inner, hints)?);
            }
            if parts.is_empty() {
                message.put("content", "");
            } else {
                let (content, mut asides) = content_of(parts, only_text);
                message.put("content", content);
                message.take_aside(&mut asides);
            }
        }
    }
    if failed == Some(true)
        && let Some(content) = message.take_out("content")
    {
        message.put("content", told_as_error(content)?);
    }
    message.put_rest_aside(block);
    Ok(message)
}

/// A tool's result that says by itself that it is an error: chats have no other way to say so.
fn told_as_error(content: Json<'_>) -> Result<Json<'_>, Refusal> {
    let said = match content {
        Json::Text(said) => said,
        Json::Raw(raw) => text(raw, "content")?,
        Json::List(mut parts) => {
            parts.insert(0, Entries::new().with("type", "text").with("text", "Error:").into());
            return Ok(Json::List(parts));
        }
        other => return Ok(other),
    };
    Ok(match said.trim_ascii() {
        "" => Json::from("Error"),
        told if told.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error")) => Json::Text(said),
        _ => Json::from(format!("Error: {said}")),
    })
}

fn assistant<'a>(content: &'a RawValue, path: &str, hints: &Hints<'a>) -> Result<Entries<'a>, Refusal> {
    let mut message = Entries::new().with("role", "assistant");
    if is_text(content) {
        message.put("content", content);
        return Ok(message);
    }
    let (mut parts, mut calls, mut thinking, mut signed) = (Vec::new(), Vec::new(), String::new(), Vec::new());
    // A chat has thoughts, texts and calls in this order. Another one is kept for who knows it, if all thoughts are its own.
    let (mut ranks, mut unsigned) = (Vec::new(), false);
    for (raw, mut block) in raw_blocks(content, path, hints)? {
        let kind = block.need_text("type")?;
        ranks.push(match &*kind {
            "text" => 1,
            "tool_use" => 2,
            _ => 0,
        });
        match &*kind {
            "text" => parts.push(text_part(block)?),
            "thinking" => {
                thinking.push_str(&block.need_text("thinking")?);
                if block.text("signature")?.is_some_and(|signature| !signature.is_empty()) {
                    signed.push(Json::from(raw));
                } else {
                    unsigned = true;
                }
            }
            "redacted_thinking" => signed.push(Json::from(raw)),
            "tool_use" => {
                let id = block.need_text("id")?;
                let mut function = Entries::new().with("name", block.need_text("name")?);
                let input = block.need("input")?;
                if !input.get().starts_with('{') {
                    return Err(Refusal::at(&block.at("input"), "is not an object"));
                }
                function.put("arguments", input.get());
                let mut call = Entries::new().with("id", id).with("type", "function").with("function", function);
                call.put_rest_aside(block);
                calls.push(Json::from(call));
            }
            _ => {
                let why = format!("{kind:?} cannot be put to a model of the mesh");
                return Err(Refusal::at(&block.at("type"), why));
            }
        }
    }
    if parts.is_empty() {
        message.put("content", if calls.is_empty() { Json::from("") } else { Json::Null });
    } else {
        let (content, mut asides) = content_of(parts, true);
        message.put("content", content);
        message.take_aside(&mut asides);
    }
    if !unsigned && !ranks.is_sorted() {
        message.put_aside(OWN_CONTENT, content);
    }
    if !thinking.is_empty() {
        message.put("reasoning_content", thinking);
    }
    if !signed.is_empty() {
        message.put_aside("thinking_blocks", signed);
    }
    if !calls.is_empty() {
        message.put("tool_calls", calls);
    }
    Ok(message)
}

fn raw_blocks<'a>(
    raw: &'a RawValue,
    path: &str,
    hints: &Hints<'a>,
) -> Result<Vec<(&'a RawValue, Object<'a>)>, Refusal> {
    let raws: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
    Ok(raws.into_iter().zip(blocks(raw, path, hints)?).collect())
}

#[cfg(test)]
mod tests;
