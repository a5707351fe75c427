//! A chat becomes a request for a message.
//!
//! Refused: what Anthropic's messages have no word for (several answers, log probabilities, seeds, penalties, a JSON object
//! without a schema, sound). What is only a wish about caches or storage is left out.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::dialect::json::{Entries, Hints, Json, Object, hints, is_text, text};
use crate::dialect::{HINTS, OWN_CONTENT, Refusal};

/// Tokens of an answer when the caller names no limit, since this API wants one. Every current model can write as many.
const DEFAULT_MAX_TOKENS: u64 = 8192;
/// The least budget of thinking that this API takes.
const LEAST_BUDGET: u64 = 1024;

/// What is known of the model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// The most tokens that it writes.
    pub(crate) max_tokens: Option<u64>,
    /// Whether it decides by itself how long to think; older ones are given a budget.
    pub(crate) adaptive: bool,
}

/// The body of a chat as a request for a message of this model.
///
/// # Errors
///
/// When it is no chat, or asks for what a message cannot be.
pub(crate) fn request(body: &[u8], model: &str, limits: Limits) -> Result<Vec<u8>, Refusal> {
    let mut chat = Object::body(body)?;
    let aside = chat.take(HINTS).map(hints).unwrap_or_default();
    if let Some(raw) = aside.get("") {
        chat.add(raw);
    }
    chat.take("model");
    refuse(&mut chat)?;
    let mut out = Entries::new().with("model", model.to_owned());
    let asked = chat.count("max_completion_tokens")?.or(chat.count("max_tokens")?);
    think(&mut chat, asked, limits, &aside, &mut out)?;
    for same in ["temperature", "top_p", "top_k"] {
        out.maybe(same, chat.take(same));
    }
    if let Some(raw) = chat.take("stop") {
        let stops = if is_text(raw) { Json::List(vec![raw.into()]) } else { raw.into() };
        out.put("stop_sequences", stops);
    }
    if chat.boolean("stream")? == Some(true) {
        out.put("stream", true);
    }
    // Whether usage is told is for whoever writes chat's chunks; it is always told here.
    chat.take("stream_options");
    let user = chat.text("user")?.or(chat.text("safety_identifier")?);
    if let Some(user) = user {
        out.put("metadata", Entries::new().with("user_id", user));
    }
    if let Some(tier) = chat.text("service_tier")? {
        match &*tier {
            "auto" => out.put("service_tier", "auto"),
            "default" => out.put("service_tier", "standard_only"),
            _ => return Err(Refusal::at("service_tier", "is neither auto nor default, which this model's API has")),
        };
    }
    if let Some(tools) = chat.list("tools")? {
        let tools = tools.into_iter().map(|(path, raw)| tool(raw, path, &aside)).collect::<Result<Vec<_>, _>>()?;
        out.maybe("tools", Some(tools).filter(|tools| !tools.is_empty()));
    }
    tool_choice(&mut chat, &mut out)?;
    messages(&mut chat, &aside, &mut out)?;
    for (key, value) in chat.rest() {
        if !out.has(&key) {
            out.put(key, value);
        }
    }
    Ok(Json::from(out).to_bytes())
}

/// The body of a chat as a request to count its tokens: without what is said of the answer.
///
/// # Errors
///
/// See [`request`].
pub(crate) fn count_request(body: &[u8], model: &str) -> Result<Vec<u8>, Refusal> {
    let whole = request(body, model, Limits::default())?;
    let mut whole = Object::body(&whole)?;
    let mut out = Entries::new();
    for counted in ["model", "messages", "system", "tools", "tool_choice", "thinking"] {
        out.maybe(counted, whole.take(counted));
    }
    Ok(Json::from(out).to_bytes())
}

/// Refuses what cannot be expressed, and drops what says nothing about the answer.
fn refuse(chat: &mut Object<'_>) -> Result<(), Refusal> {
    if chat.count("n")?.is_some_and(|count| count != 1) {
        return Err(Refusal::at("n", "is not 1, and this model's API gives one answer to a request"));
    }
    for (name, neutral) in [("presence_penalty", "0"), ("frequency_penalty", "0"), ("logit_bias", "{}")] {
        if let Some(raw) = chat.take(name)
            && raw.get() != neutral
            && raw.get().parse::<f64>() != Ok(0.0)
        {
            return Err(Refusal::at(name, "is not known to this model's API"));
        }
    }
    for name in ["logprobs", "store", "audio", "functions", "function_call", "prediction", "web_search_options", "seed"]
    {
        if let Some(raw) = chat.take(name)
            && raw.get() != "false"
        {
            return Err(Refusal::at(name, "is not known to this model's API"));
        }
    }
    if let Some(raw) = chat.take("top_logprobs")
        && raw.get() != "0"
    {
        return Err(Refusal::at("top_logprobs", "is not known to this model's API"));
    }
    if chat.texts("modalities")?.is_some_and(|modalities| modalities.iter().any(|modality| modality != "text")) {
        return Err(Refusal::at("modalities", "is more than text, and this model writes text"));
    }
    if let Some(verbosity) = chat.text("verbosity")?
        && verbosity != "medium"
    {
        return Err(Refusal::at("verbosity", "is not known to this model's API"));
    }
    // Stored completions only: `store` is not set. The others are about OpenAI's caches.
    for moot in ["metadata", "prompt_cache_key", "prompt_cache_retention"] {
        chat.take(moot);
    }
    Ok(())
}

/// How long to think, in which form to answer, and how long the answer may be.
fn think<'a>(
    chat: &mut Object<'a>,
    asked: Option<u64>,
    limits: Limits,
    aside: &Hints<'a>,
    out: &mut Entries<'a>,
) -> Result<(), Refusal> {
    let mut config = Entries::new();
    let mut budget = 0;
    let said = chat.take("thinking");
    let said_config = chat.object("output_config", aside)?;
    let effort = chat.text("reasoning_effort")?;
    if let Some(raw) = said {
        let mut thinking = Object::read(raw, "thinking", aside)?;
        budget = thinking.count("budget_tokens")?.unwrap_or_default();
        out.put("thinking", raw);
    } else if let Some(effort) = effort.filter(|_| said_config.is_none()) {
        match (&*effort, limits.adaptive) {
            ("none", _) => {
                out.put("thinking", Entries::new().with("type", "disabled"));
            }
            (effort, true) => {
                out.put("thinking", Entries::new().with("type", "adaptive"));
                config.put("effort", if effort == "minimal" { "low".to_owned() } else { effort.to_owned() });
            }
            (effort, false) => {
                // The middles of what `anthropic` takes for each effort.
                let wanted = match effort {
                    "minimal" => LEAST_BUDGET,
                    "low" => 2048,
                    "medium" => 8192,
                    "high" | "xhigh" => 24_576,
                    _ => {
                        return Err(Refusal::at(
                            "reasoning_effort",
                            "is none of none, minimal, low, medium, high and xhigh",
                        ));
                    }
                };
                // Thoughts count among the answer's tokens; an answer that is to be shorter than the least thought
                // leaves no room for one.
                budget = asked.map_or(wanted, |asked| wanted.min(asked / 2));
                if budget >= LEAST_BUDGET {
                    let thinking = Entries::new().with("type", "enabled").with("budget_tokens", budget);
                    out.put("thinking", thinking);
                }
            }
        }
    }
    if let Some(said) = said_config {
        for (key, value) in said.rest() {
            config.put(key, value);
        }
    }
    if let Some(mut format) = chat.object("response_format", aside)? {
        let kind = format.need_text("type")?;
        match &*kind {
            "text" => {}
            "json_schema" => {
                let mut schema = format
                    .object("json_schema", aside)?
                    .ok_or_else(|| Refusal::at("response_format.json_schema", "is missing"))?;
                let schema = schema.need("schema")?;
                config.put("format", Entries::new().with("type", "json_schema").with("schema", schema));
            }
            _ => {
                return Err(Refusal::at(
                    "response_format.type",
                    "is not known to this model's API: send a json_schema",
                ));
            }
        }
    }
    if !config.is_empty() {
        out.put("output_config", config);
    }
    let most = limits.max_tokens.unwrap_or(u64::MAX);
    out.put("max_tokens", asked.unwrap_or((DEFAULT_MAX_TOKENS + budget).min(most)));
    Ok(())
}

fn tool<'a>(raw: &'a RawValue, path: String, aside: &Hints<'a>) -> Result<Json<'a>, Refusal> {
    let mut tool = Object::read(raw, path, aside)?;
    if tool.need_text("type")? != "function" {
        return Err(Refusal::at(&tool.at("type"), "is not function"));
    }
    let mut function =
        tool.object("function", aside)?.ok_or_else(|| Refusal::at(&tool.at("function"), "is missing"))?;
    let mut out = Entries::new().with("name", function.need_text("name")?);
    out.maybe("description", function.take("description"));
    match function.take("parameters") {
        Some(parameters) => out.put("input_schema", parameters),
        None => out.put("input_schema", Entries::new().with("type", "object")),
    };
    out.maybe("strict", function.take("strict"));
    for (key, value) in tool.rest() {
        out.put(key, value);
    }
    Ok(out.into())
}

fn tool_choice<'a>(chat: &mut Object<'a>, out: &mut Entries<'a>) -> Result<(), Refusal> {
    let parallel = chat.boolean("parallel_tool_calls")?;
    let none = chat.peek("tool_choice").is_some_and(|raw| raw.get() == "\"none\"");
    let mut choice = match chat.take("tool_choice") {
        None => None,
        Some(raw) if is_text(raw) => Some(Entries::new().with(
            "type",
            match &*text(raw, "tool_choice")? {
                "auto" => "auto",
                "required" => "any",
                "none" => "none",
                _ => return Err(Refusal::at("tool_choice", "is none of auto, required and none")),
            },
        )),
        Some(raw) => {
            let mut choice = Object::read(raw, "tool_choice", &Hints::new())?;
            if choice.need_text("type")? != "function" {
                return Err(Refusal::at("tool_choice.type", "is not function"));
            }
            let mut function = choice
                .object("function", &Hints::new())?
                .ok_or_else(|| Refusal::at("tool_choice.function", "is missing"))?;
            Some(Entries::new().with("type", "tool").with("name", function.need_text("name")?))
        }
    };
    if let Some(parallel) = parallel
        && out.has("tools")
    {
        // With none there is nothing to run in parallel, and the field is refused.
        if !none {
            let choice = choice.get_or_insert_with(|| Entries::new().with("type", "auto"));
            choice.put("disable_parallel_tool_use", !parallel);
        }
    }
    out.maybe("tool_choice", choice);
    Ok(())
}

/// The user's side of a conversation that is being put together: results of tools first, as they must be.
#[derive(Default)]
struct Turns<'a> {
    done: Vec<Json<'a>>,
    results: Vec<Json<'a>>,
}

impl<'a> Turns<'a> {
    fn push(&mut self, role: &'static str, content: Json<'a>) {
        let content = if self.results.is_empty() {
            content
        } else if role == "user" {
            let mut blocks = std::mem::take(&mut self.results);
            blocks.extend(as_blocks(content));
            Json::List(blocks)
        } else {
            self.flush();
            content
        };
        self.done.push(Entries::new().with("role", role).with("content", content).into());
    }

    fn flush(&mut self) {
        let results = std::mem::take(&mut self.results);
        if !results.is_empty() {
            self.done.push(Entries::new().with("role", "user").with("content", results).into());
        }
    }
}

fn as_blocks(content: Json<'_>) -> Vec<Json<'_>> {
    match content {
        Json::List(blocks) => blocks,
        text => vec![Entries::new().with("type", "text").with("text", text).into()],
    }
}

fn messages<'a>(chat: &mut Object<'a>, aside: &Hints<'a>, out: &mut Entries<'a>) -> Result<(), Refusal> {
    let Some(list) = chat.list("messages")? else { return Err(Refusal::at("messages", "is missing")) };
    let (mut system, mut turns) = (Vec::new(), Turns::default());
    for (path, raw) in list {
        let mut message = Object::read(raw, path, aside)?;
        let role = message.need_text("role")?;
        match &*role {
            "system" | "developer" => {
                let content = content(&mut message, aside)?.unwrap_or(Json::Text(Cow::Borrowed("")));
                let content = marked(content, message);
                // Those in front have a place of their own.
                if turns.done.is_empty() && turns.results.is_empty() {
                    system.push(content);
                } else {
                    turns.push("system", content);
                }
            }
            "user" => {
                let content =
                    content(&mut message, aside)?.ok_or_else(|| Refusal::at(&message.at("content"), "is missing"))?;
                // There is no field for it, and some clients send it with every message.
                message.take("name");
                turns.push("user", marked(content, message));
            }
            "assistant" => {
                let blocks = assistant(message, aside)?;
                turns.push("assistant", blocks);
            }
            "tool" => {
                let mut block = Entries::new().with("type", "tool_result");
                block.put("tool_use_id", message.need_text("tool_call_id")?);
                let own = message.take(OWN_CONTENT);
                let told = content(&mut message, aside)?;
                block.maybe("content", own.map(Json::from).or(told));
                message.take("name");
                for (key, value) in message.rest() {
                    block.put(key, value);
                }
                turns.results.push(block.into());
            }
            _ => {
                return Err(Refusal::at(&message.at("role"), "is none of system, developer, user, assistant and tool"));
            }
        }
    }
    turns.flush();
    match system.len() {
        0 => {}
        1 => {
            out.put("system", system.remove(0));
        }
        _ => {
            out.put("system", Json::List(system.into_iter().flat_map(as_blocks).collect()));
        }
    }
    out.put("messages", turns.done);
    Ok(())
}

/// Content with what was said of the message itself, such as where a cache may cut: that is for its last block.
fn marked<'a>(content: Json<'a>, message: Object<'a>) -> Json<'a> {
    let rest: Vec<_> = message.rest().collect();
    if rest.is_empty() {
        return content;
    }
    let mut blocks = as_blocks(content);
    if let Some(Json::Object(last)) = blocks.last_mut() {
        for (key, value) in rest {
            last.put(key, value);
        }
    }
    Json::List(blocks)
}

/// A string, or blocks; `None` when there is none.
fn content<'a>(message: &mut Object<'a>, aside: &Hints<'a>) -> Result<Option<Json<'a>>, Refusal> {
    let Some(raw) = message.take("content") else { return Ok(None) };
    let path = message.at("content");
    if is_text(raw) {
        return Ok(Some(raw.into()));
    }
    let list: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| Refusal::at(&path, "is neither a string nor an array of parts"))?;
    let parts = list
        .into_iter()
        .enumerate()
        .map(|(index, raw)| part(Object::read(raw, format!("{path}[{index}]"), aside)?, aside));
    Ok(Some(Json::List(parts.collect::<Result<_, _>>()?)))
}

fn part<'a>(mut part: Object<'a>, aside: &Hints<'a>) -> Result<Json<'a>, Refusal> {
    let kind = part.need_text("type")?;
    let mut block = match &*kind {
        "text" => Entries::new().with("type", "text").with("text", part.need("text")?),
        "refusal" => Entries::new().with("type", "text").with("text", part.need("refusal")?),
        "image_url" => {
            let mut image =
                part.object("image_url", aside)?.ok_or_else(|| Refusal::at(&part.at("image_url"), "is missing"))?;
            let url = image.need_text("url")?;
            let source = match data_of(&url) {
                Some((kind, data)) => base64(kind, data),
                None if url.starts_with("http") => Entries::new().with("type", "url").with("url", url),
                None => return Err(Refusal::at(&image.at("url"), "is neither a URL nor base64 data")),
            };
            Entries::new().with("type", "image").with("source", source)
        }
        "file" => {
            let mut file = part.object("file", aside)?.ok_or_else(|| Refusal::at(&part.at("file"), "is missing"))?;
            file.refuse("file_id", "is a file of another server: send its data")?;
            let data = file.need_text("file_data")?;
            let (kind, data) =
                data_of(&data).ok_or_else(|| Refusal::at(&file.at("file_data"), "is no data URL in base64"))?;
            let mut block = Entries::new().with("type", "document").with("source", base64(kind, data));
            block.maybe("title", file.take("filename"));
            block
        }
        _ => return Err(Refusal::at(&part.at("type"), format!("{kind:?} cannot be read by this model's API"))),
    };
    for (key, value) in part.rest() {
        block.put(key, value);
    }
    Ok(block.into())
}

fn base64<'a>(kind: &str, data: &str) -> Entries<'a> {
    Entries::new().with("type", "base64").with("media_type", kind.to_owned()).with("data", data.to_owned())
}

/// The media type and the base64 of a data URL.
fn data_of(url: &str) -> Option<(&str, &str)> {
    let (kind, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
    Some((kind, data))
}

fn assistant<'a>(mut message: Object<'a>, aside: &Hints<'a>) -> Result<Json<'a>, Refusal> {
    for other in ["function_call", "audio"] {
        message.refuse(other, "is not known to this model's API")?;
    }
    if let Some(own) = message.list(OWN_CONTENT)? {
        return Ok(Json::List(own.into_iter().map(|(_, raw)| Json::from(raw)).collect()));
    }
    let mut blocks = Vec::new();
    // Thoughts without a signature are another model's: this API takes only its own, and unsigned.
    message.take("reasoning_content");
    message.take("reasoning");
    for (path, raw) in message.list("thinking_blocks")?.unwrap_or_default() {
        let mut thought = Object::read(raw, path, aside)?;
        let signed = thought.text("signature")?.is_some_and(|signature| !signature.is_empty());
        if signed || thought.take("data").is_some() {
            blocks.push(Json::from(raw));
        }
    }
    let said = content(&mut message, aside)?;
    let refused = message.take("refusal");
    let calls = message.list("tool_calls")?.unwrap_or_default();
    message.take("name");
    let mut rest: Vec<_> = message.rest().collect();
    match said {
        // A plain text stays one.
        Some(text) if blocks.is_empty() && calls.is_empty() && rest.is_empty() && refused.is_none() => return Ok(text),
        // This API takes no empty text beside others.
        Some(Json::Raw(raw)) if raw.get() == "\"\"" => {}
        Some(content) => {
            let mut texts = as_blocks(content);
            if let Some(Json::Object(last)) = texts.last_mut() {
                for (key, value) in rest.drain(..) {
                    last.put(key, value);
                }
            }
            blocks.extend(texts);
        }
        None => {}
    }
    if let Some(refused) = refused {
        blocks.push(Entries::new().with("type", "text").with("text", refused).into());
    }
    for (path, raw) in calls {
        blocks.push(call(Object::read(raw, path, aside)?, aside)?);
    }
    Ok(Json::List(blocks))
}

fn call<'a>(mut call: Object<'a>, aside: &Hints<'a>) -> Result<Json<'a>, Refusal> {
    call.take("type");
    let mut block = Entries::new().with("type", "tool_use").with("id", call.need_text("id")?);
    let mut function =
        call.object("function", aside)?.ok_or_else(|| Refusal::at(&call.at("function"), "is missing"))?;
    block.put("name", function.need_text("name")?);
    let arguments = function.text("arguments")?.unwrap_or_default();
    let arguments = if arguments.trim_ascii().is_empty() { "{}" } else { arguments.trim_ascii() };
    let input = arguments.starts_with('{').then(|| RawValue::from_string(arguments.to_owned()).ok()).flatten();
    block.put("input", input.ok_or_else(|| Refusal::at(&function.at("arguments"), "are no JSON object"))?);
    for (key, value) in call.rest() {
        if key != "index" {
            block.put(key, value);
        }
    }
    Ok(block.into())
}

#[cfg(test)]
mod tests;
