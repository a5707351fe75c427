//! A request for a response becomes a chat.
//!
//! | responses | chat |
//! |---|---|
//! | `instructions` | a system message in front |
//! | message items, `input_text`, `input_image`, `input_file`, `input_audio` | messages and their parts |
//! | `function_call`, `function_call_output` | `tool_calls`, a message of the role `tool` |
//! | `reasoning` items | `reasoning_content` of what follows |
//! | function tools, `tool_choice` | the same, nested |
//! | `text.format`, `text.verbosity` | `response_format`, `verbosity` |
//! | `reasoning.effort` | `reasoning_effort`, for models that think |
//! | `max_output_tokens`, `top_logprobs` | `max_tokens`, `logprobs` and `top_logprobs` |
//!
//! Refused: everything that OpenAI's servers do by themselves (web and file search, code, computers, MCP, images), stored
//! prompts and files, and what [the front](super) says of memory.

use std::borrow::Cow;
use std::num::NonZeroU64;

use serde_json::value::RawValue;

use crate::dialect::Refusal;
use crate::dialect::json::{Entries, Hints, Json, Object, is_text, text};

/// What a response repeats of its request.
const REPEATED: &[&str] = &[
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
];

/// A request for a response, as a chat.
#[derive(Debug)]
pub(crate) struct Request {
    /// The chat's body.
    pub(crate) chat: Vec<u8>,
    /// Whether the answer shall be streamed.
    pub(crate) stream: bool,
    /// The model that was asked for; empty when none was.
    pub(crate) model: String,
    /// What the response repeats.
    pub(crate) repeated: Vec<(&'static str, Box<RawValue>)>,
}

/// An assistant's message that is being put together from several items.
#[derive(Default)]
struct Draft<'a> {
    content: Option<Json<'a>>,
    thinking: String,
    calls: Vec<Json<'a>>,
}

impl<'a> Draft<'a> {
    /// Ends it, when there is one.
    fn flush(&mut self, messages: &mut Vec<Json<'a>>) {
        let Draft { content, thinking, calls } = std::mem::take(self);
        if content.is_none() && calls.is_empty() {
            // Thoughts that led to nothing are nobody's.
            return;
        }
        let mut message = Entries::new().with("role", "assistant").with("content", content.unwrap_or(Json::Null));
        message.maybe("reasoning_content", Some(thinking).filter(|thinking| !thinking.is_empty()));
        message.maybe("tool_calls", Some(calls).filter(|calls| !calls.is_empty()));
        messages.push(message.into());
    }
}

impl Request {
    /// Reads the body of a request for a response. `thinks`: whether a model of that name is known to think, or not to.
    ///
    /// # Errors
    ///
    /// When it is none, or asks for what a chat cannot express.
    pub(crate) fn read(body: &[u8], thinks: impl Fn(&str) -> Option<bool>) -> Result<Self, Refusal> {
        let mut body = Object::body(body)?;
        let hints = Hints::new();
        let repeated = REPEATED.iter().filter_map(|name| Some((*name, body.peek(name)?.to_owned()))).collect();
        refuse_memory(&mut body)?;
        let mut chat = Entries::new();
        let model = body.text("model")?;
        let thinks = model.as_deref().and_then(thinks);
        let named = model.as_deref().unwrap_or_default().to_owned();
        chat.maybe("model", model);
        chat.maybe("max_tokens", body.positive("max_output_tokens")?.map(NonZeroU64::get));
        let same = [
            "temperature",
            "top_p",
            "parallel_tool_calls",
            "user",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
        ];
        for same in same {
            chat.maybe(same, body.take(same));
        }
        let stream = body.boolean("stream")?.unwrap_or(false);
        if stream {
            chat.put("stream", true);
            chat.put("stream_options", Entries::new().with("include_usage", true));
        }
        let included = body.texts("include")?.unwrap_or_default();
        let top_logprobs = body.take("top_logprobs");
        if top_logprobs.is_some() || included.iter().any(|what| what == "message.output_text.logprobs") {
            chat.put("logprobs", true);
            chat.maybe("top_logprobs", top_logprobs);
        }
        if let Some(mut reasoning) = body.object("reasoning", &hints)?
            && let Some(effort) = reasoning.text("effort")?
        {
            match thinks {
                Some(true) => {
                    chat.put("reasoning_effort", effort);
                }
                // As OpenAI does.
                Some(false) if !matches!(&*effort, "none" | "minimal") => {
                    return Err(Refusal::at("reasoning.effort", "is asked of a model that is not known to think"));
                }
                // An alias may lead to a model that does not think, and many servers refuse to ask that of one.
                _ => {}
            }
        }
        if let Some(mut format) = body.object("text", &hints)? {
            chat.maybe("verbosity", format.take("verbosity"));
            if let Some(format) = format.object("format", &hints)? {
                response_format(format, &mut chat)?;
            }
        }
        if let Some(tools) = body.list("tools")? {
            let tools = tools.into_iter().map(|(path, raw)| tool(raw, path)).collect::<Result<Vec<_>, _>>()?;
            if !tools.is_empty() {
                chat.put("tools", tools);
            }
        }
        if let Some(choice) = body.take("tool_choice") {
            tool_choice(choice, &mut chat)?;
        }
        let mut messages = Vec::new();
        if let Some(instructions) = body.text("instructions")? {
            messages.push(Entries::new().with("role", "system").with("content", instructions).into());
        }
        let input = body.need("input")?;
        if is_text(input) {
            messages.push(Entries::new().with("role", "user").with("content", input).into());
        } else {
            items(input, &mut messages)?;
        }
        chat.put("messages", messages);
        // About the response itself, its tools or its streaming: nothing that a model is told.
        for moot in ["metadata", "max_tool_calls", "stream_options"] {
            body.take(moot);
        }
        chat.put_rest(body)?;
        Ok(Self { chat: Json::from(chat).to_bytes(), stream, model: named, repeated })
    }
}

fn refuse_memory(body: &mut Object<'_>) -> Result<(), Refusal> {
    for (field, instead) in [
        ("store", "nothing is stored here: leave it out, or say false"),
        ("background", "nothing runs without its client: leave it out, or say false, and stream"),
    ] {
        if body.boolean(field)? == Some(true) {
            return Err(Refusal::at(field, format!("cannot be true: {instead}")));
        }
    }
    for (field, instead) in [
        ("previous_response_id", "no response is stored here: send the items that came before as the input"),
        ("conversation", "no conversation is stored here: send its items as the input"),
        ("prompt", "no prompt is stored here: send its text as the instructions"),
        ("context_management", "nothing is left out of what is sent"),
        ("moderation", "nobody here judges what is said"),
    ] {
        body.refuse(field, format!("cannot be used: {instead}").as_str())?;
    }
    if body.text("truncation")?.is_some_and(|truncation| truncation != "disabled") {
        return Err(Refusal::at("truncation", "can only be disabled: nothing is left out of what is sent"));
    }
    Ok(())
}

fn response_format<'a>(mut format: Object<'a>, chat: &mut Entries<'a>) -> Result<(), Refusal> {
    let kind = format.need_text("type")?;
    match &*kind {
        "text" => {}
        "json_object" => {
            chat.put("response_format", Entries::new().with("type", "json_object"));
        }
        "json_schema" => {
            let mut schema = Entries::new().with("name", format.need_text("name")?);
            for same in ["description", "schema", "strict"] {
                schema.maybe(same, format.take(same));
            }
            chat.put("response_format", Entries::new().with("type", "json_schema").with("json_schema", schema));
        }
        _ => return Err(Refusal::at(&format.at("type"), "is none of text, json_object and json_schema")),
    }
    Ok(())
}

fn tool<'a>(raw: &'a RawValue, path: String) -> Result<Json<'a>, Refusal> {
    let mut tool = Object::read(raw, path, &Hints::new())?;
    let kind = tool.need_text("type")?;
    if kind != "function" {
        let why = format!("{kind:?} is a tool of OpenAI's own servers: the mesh can offer a model only functions");
        return Err(Refusal::at(&tool.at("type"), why));
    }
    let mut function = Entries::new().with("name", tool.need_text("name")?);
    for same in ["description", "parameters", "strict"] {
        function.maybe(same, tool.take(same));
    }
    Ok(Entries::new().with("type", "function").with("function", function).into())
}

fn tool_choice<'a>(raw: &'a RawValue, chat: &mut Entries<'a>) -> Result<(), Refusal> {
    if is_text(raw) {
        chat.put("tool_choice", raw);
        return Ok(());
    }
    let mut choice = Object::read(raw, "tool_choice", &Hints::new())?;
    if choice.need_text("type")? != "function" {
        return Err(Refusal::at("tool_choice.type", "is not function, the only kind of tool here"));
    }
    let function = Entries::new().with("name", choice.need_text("name")?);
    chat.put("tool_choice", Entries::new().with("type", "function").with("function", function));
    Ok(())
}

fn items<'a>(input: &'a RawValue, messages: &mut Vec<Json<'a>>) -> Result<(), Refusal> {
    let list: Vec<&RawValue> = serde_json::from_str(input.get())
        .map_err(|_| Refusal::at("input", "is neither a string nor an array of items"))?;
    if list.is_empty() {
        return Err(Refusal::at("input", "is empty: a response needs one item at least"));
    }
    let mut draft = Draft::default();
    for (index, raw) in list.into_iter().enumerate() {
        let mut item = Object::read(raw, format!("input[{index}]"), &Hints::new())?;
        let kind = item.text("type")?.unwrap_or(Cow::Borrowed("message"));
        match &*kind {
            "message" => message(item, &mut draft, messages)?,
            "reasoning" => {
                if draft.content.is_some() || !draft.calls.is_empty() {
                    draft.flush(messages);
                }
                draft.thinking.push_str(&thoughts(item)?);
            }
            "function_call" => {
                let id = item.need_text("call_id")?;
                let function = Entries::new()
                    .with("name", item.need_text("name")?)
                    .with("arguments", item.need_text("arguments")?);
                let call = Entries::new().with("id", id).with("type", "function").with("function", function);
                draft.calls.push(call.into());
            }
            "function_call_output" => {
                draft.flush(messages);
                let id = item.need_text("call_id")?;
                let output = item.need("output")?;
                let content = content(output, &item.at("output"))?;
                messages
                    .push(Entries::new().with("role", "tool").with("tool_call_id", id).with("content", content).into());
            }
            "item_reference" => {
                return Err(Refusal::at(
                    &item.at("type"),
                    "refers to a stored item, and none is stored here: send the item",
                ));
            }
            _ => {
                let why = format!("{kind:?} cannot be put to a model of the mesh");
                return Err(Refusal::at(&item.at("type"), why));
            }
        }
    }
    draft.flush(messages);
    Ok(())
}

fn message<'a>(mut item: Object<'a>, draft: &mut Draft<'a>, messages: &mut Vec<Json<'a>>) -> Result<(), Refusal> {
    let role = item.need_text("role")?;
    let said = item.need("content")?;
    let content = content(said, &item.at("content"))?;
    if role == "assistant" {
        if draft.content.is_some() || !draft.calls.is_empty() {
            draft.flush(messages);
        }
        draft.content = Some(content);
        return Ok(());
    }
    draft.flush(messages);
    let role = match &*role {
        "user" => "user",
        // A developer's word is the system's; few templates know the newer name.
        "system" | "developer" => "system",
        _ => return Err(Refusal::at(&item.at("role"), "is none of user, assistant, system and developer")),
    };
    messages.push(Entries::new().with("role", role).with("content", content).into());
    Ok(())
}

/// The text of a reasoning item: its own, or what was told of it.
fn thoughts(mut item: Object<'_>) -> Result<String, Refusal> {
    let hints = Hints::new();
    for field in ["content", "summary"] {
        let mut all = String::new();
        for (path, raw) in item.list(field)?.unwrap_or_default() {
            all.push_str(&Object::read(raw, path, &hints)?.need_text("text")?);
        }
        if !all.is_empty() {
            return Ok(all);
        }
    }
    Ok(String::new())
}

/// A string or parts. A single text is a string, which every server understands.
fn content<'a>(raw: &'a RawValue, path: &str) -> Result<Json<'a>, Refusal> {
    if is_text(raw) {
        return Ok(raw.into());
    }
    let list: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| Refusal::at(path, "is neither a string nor an array of parts"))?;
    let (mut parts, mut texts) = (Vec::new(), 0);
    for (index, raw) in list.into_iter().enumerate() {
        let mut part = Object::read(raw, format!("{path}[{index}]"), &Hints::new())?;
        let kind = part.need_text("type")?;
        parts.push(match &*kind {
            "input_text" | "output_text" | "text" => {
                texts += 1;
                let said = part.need("text")?;
                text(said, &part.at("text"))?;
                Entries::new().with("type", "text").with("text", said)
            }
            "refusal" => Entries::new().with("type", "refusal").with("refusal", part.need_text("refusal")?),
            "input_image" => {
                part.refuse("file_id", "is a file of OpenAI's servers: send the image itself as image_url")?;
                let mut image = Entries::new().with("url", part.need_text("image_url")?);
                image.maybe("detail", part.take("detail"));
                Entries::new().with("type", "image_url").with("image_url", image)
            }
            "input_file" => {
                part.refuse("file_id", "is a file of OpenAI's servers: send its data")?;
                part.refuse("file_url", "cannot be fetched from here: send its data")?;
                let mut file = Entries::new();
                file.maybe("filename", part.take("filename"));
                file.put("file_data", part.need("file_data")?);
                Entries::new().with("type", "file").with("file", file)
            }
            "input_audio" => Entries::new().with("type", "input_audio").with("input_audio", part.need("input_audio")?),
            _ => {
                let why = format!("{kind:?} cannot be put to a model of the mesh");
                return Err(Refusal::at(&part.at("type"), why));
            }
        });
    }
    if texts == 1 && parts.len() == 1 {
        return Ok(parts.remove(0).take_out("text").unwrap_or(Json::Null));
    }
    Ok(Json::List(parts.into_iter().map(Json::from).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &Value) -> Result<Request, Refusal> {
        Request::read(body.to_string().as_bytes(), |model| (model != "auto").then_some(model == "thinker"))
    }

    fn chat(body: Value) -> Value {
        serde_json::from_slice(&read(&body).expect("a chat").chat).expect("JSON")
    }

    #[test]
    fn every_field_has_its_place() {
        let body = json!({
            "model": "thinker", "input": "hi", "instructions": "Be brief.", "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.9,
            "stream": true, "store": false, "metadata": {"a": "b"}, "user": "u", "truncation": "disabled", "made_up": 1,
            "include": ["reasoning.encrypted_content"], "top_logprobs": 2, "reasoning": {"effort": "low", "summary": "auto"},
            "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}},
            "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": false}],
            "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false,
        });
        assert_eq!(
            chat(body.clone()),
            json!({
                "model": "thinker", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stream": true, "user": "u", "made_up": 1,
                "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 2, "reasoning_effort": "low",
                "verbosity": "low", "parallel_tool_calls": false,
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}},
                "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}, "strict": false}}],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
            })
        );
        let repeated = read(&body).expect("a chat").repeated;
        assert!(repeated.iter().any(|(name, raw)| *name == "metadata" && raw.get() == r#"{"a":"b"}"#));
        for (model, effort) in [("m", "none"), ("auto", "high")] {
            let told = chat(json!({"model": model, "input": "x", "reasoning": {"effort": effort}}));
            assert!(told.get("reasoning_effort").is_none(), "{told}");
        }
    }

    #[test]
    fn items_become_messages() {
        let input = json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "data:x", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:y"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": "calling", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "lost"}]},
            {"role": "user", "content": "and?"},
        ]);
        assert_eq!(
            chat(json!({"input": input}))["messages"],
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:y"}}]},
                {"role": "assistant", "content": "calling", "reasoning_content": "hm", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{\"a\":1}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "1"},
                {"role": "tool", "tool_call_id": "c2", "content": "2"},
                {"role": "user", "content": "and?"},
            ])
        );
    }

    #[test]
    fn what_cannot_be_expressed_is_refused_by_name() {
        for (mut body, param) in [
            (json!({"input": null}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": 3}), "input"),
            (json!({"store": true}), "store"),
            (json!({"model": "m", "reasoning": {"effort": "high"}}), "reasoning.effort"),
            (json!({"max_output_tokens": 0}), "max_output_tokens"),
            (json!({"max_output_tokens": -1}), "max_output_tokens"),
            (json!({"max_output_tokens": "a"}), "max_output_tokens"),
            (json!({"max_output_tokens": 9, "max_tokens": 7}), "max_tokens"),
            (json!({"n": 2}), "n"),
            (json!({"background": true}), "background"),
            (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
            (json!({"conversation": "c"}), "conversation"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
            (json!({"truncation": "auto"}), "truncation"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
            (json!({"tool_choice": {"type": "mcp"}}), "tool_choice.type"),
            (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
            (json!({"input": [{"type": "item_reference", "id": "i"}]}), "input[0].type"),
            (json!({"input": [{"type": "web_search_call"}]}), "input[0].type"),
            (json!({"input": [{"role": "bot", "content": ""}]}), "input[0].role"),
            (
                json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
                "input[0].content[0].file_id",
            ),
        ] {
            if body.get("input").is_none() {
                body["input"] = "hi".into();
            }
            let refusal = read(&body).expect_err("refused");
            assert_eq!(refusal.param.as_deref(), Some(param), "{body}");
        }
    }
}
