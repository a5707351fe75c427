//! A chat or a completion for an Ollama server by its own API, where its OpenAI API would leave something out.
//!
//! | chat | Ollama |
//! |---|---|
//! | `messages`, images in them, `tool_calls` | `messages`, `images`, `tool_calls` with their arguments as objects |
//! | `reasoning_content` of earlier turns | `thinking` |
//! | `temperature`, `stop`, `seed` and the like, `max_tokens` | `options` |
//! | `response_format` | `format` |
//! | `reasoning_effort` | `think` |
//!
//! What neither of Ollama's two APIs knows (`user`, `parallel_tool_calls`, …) is left out, as Ollama does.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::Form;
use crate::dialect::json::{Entries, Hints, Json, Object, hints, is_text, members, text};
use crate::dialect::{HINTS, RAW, Refusal};

/// Options of sampling that only Ollama's own API has.
const OWN: &[&str] =
    &["top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "mirostat", "mirostat_eta", "mirostat_tau"];
/// Those that both have.
const SHARED: &[&str] = &["temperature", "top_p", "seed", "frequency_penalty", "presence_penalty"];

/// By which of Ollama's own routes this body must go to lose nothing; `None` when its OpenAI API does as well.
pub(crate) fn form_of(body: &[u8]) -> Option<Form> {
    let mut chat = Object::body(body).ok()?;
    if chat.peek("messages").is_none() {
        let aside = chat.take(HINTS).map(hints).unwrap_or_default();
        let fields = aside.get("").and_then(|raw| Object::read(raw, String::new(), &Hints::new()).ok());
        let raw = fields.and_then(|mut fields| fields.boolean(RAW).ok().flatten()) == Some(true);
        return (raw && chat.peek("prompt").is_some_and(is_text)).then_some(Form::Generate);
    }
    let said = |key: &&str| chat.peek(key).is_some_and(|value| value.get() != "null");
    let thought = memchr::memmem::find(body, b"\"reasoning_content\"").is_some();
    (thought || OWN.iter().any(said) || said(&"max_completion_tokens")).then_some(Form::Chat)
}

/// The body of `/api/chat` or `/api/generate` for this chat or completion.
pub(crate) fn request(body: &[u8], model: &str, form: Form) -> Result<Vec<u8>, Refusal> {
    let mut chat = Object::body(body)?;
    let none = Hints::new();
    let mut out = Entries::new().with("model", model.to_owned());
    out.put("stream", chat.boolean("stream")?.unwrap_or(false));
    let mut options = Entries::new();
    for key in SHARED.iter().chain(OWN) {
        options.maybe(key, chat.take(key));
    }
    let most = chat.take("max_completion_tokens");
    options.maybe("num_predict", chat.take("max_tokens").or(most));
    if let Some(stop) = chat.take("stop") {
        let stops = if is_text(stop) { vec![Json::from(stop)] } else { raw_list(stop, "stop")? };
        options.put("stop", stops);
    }
    if !options.is_empty() {
        out.put("options", options);
    }
    if let Some(format) = chat.object("response_format", &none)? {
        response_format(format, &none, &mut out)?;
    }
    if let Some(effort) = chat.text("reasoning_effort")? {
        // Only some models have levels, and Ollama refuses to ask one of others.
        let has_levels = model.contains("gpt-oss");
        out.put(
            "think",
            if has_levels && effort != "none" { Json::Text(effort) } else { Json::from(effort != "none") },
        );
    }
    out.maybe("logprobs", chat.take("logprobs"));
    out.maybe("top_logprobs", chat.take("top_logprobs"));
    match form {
        Form::Generate => {
            out.put("prompt", chat.need("prompt")?).put("raw", true);
        }
        Form::Chat => {
            let forbidden = chat.take("tool_choice").is_some_and(|choice| choice.get() == "\"none\"");
            out.maybe("tools", chat.take("tools").filter(|_| !forbidden));
            let mut names = BTreeMap::new();
            let turns = chat.list("messages")?.unwrap_or_default();
            let turns = turns.into_iter().map(|(path, raw)| turn(Object::read(raw, path, &none)?, &none, &mut names));
            out.put("messages", turns.collect::<Result<Vec<_>, _>>()?);
        }
    }
    Ok(Json::from(out).to_bytes())
}

fn raw_list<'a>(raw: &'a RawValue, path: &str) -> Result<Vec<Json<'a>>, Refusal> {
    Ok(members(raw, path)?.into_iter().map(Json::from).collect())
}

fn response_format<'a>(mut format: Object<'a>, none: &Hints<'a>, out: &mut Entries<'a>) -> Result<(), Refusal> {
    match &*format.need_text("type")? {
        "text" => {}
        "json_object" => {
            out.put("format", "json");
        }
        "json_schema" => {
            let schema = format.object("json_schema", none)?.map(|mut schema| schema.take("schema"));
            match schema.flatten() {
                Some(schema) => out.put("format", schema),
                None => out.put("format", "json"),
            };
        }
        _ => return Err(Refusal::at(&format.at("type"), "is none of text, json_object and json_schema")),
    }
    Ok(())
}

/// One message. `names` are those of the calls so far, by their ids.
fn turn<'a>(
    mut turn: Object<'a>,
    none: &Hints<'a>,
    names: &mut BTreeMap<String, Cow<'a, str>>,
) -> Result<Json<'a>, Refusal> {
    let role = turn.need_text("role")?;
    let mut message = Entries::new().with("role", if role == "developer" { Cow::Borrowed("system") } else { role });
    let mut images = Vec::new();
    match turn.take("content") {
        None => message.put("content", ""),
        Some(raw) if is_text(raw) => message.put("content", raw),
        Some(raw) => message.put("content", parts(raw, &turn.at("content"), none, &mut images)?),
    };
    message.maybe("images", Some(images).filter(|images| !images.is_empty()));
    let thought = turn.take("reasoning");
    message.maybe("thinking", turn.take("reasoning_content").or(thought).filter(|raw| is_text(raw)));
    let mut calls = Vec::new();
    for (path, raw) in turn.list("tool_calls")?.unwrap_or_default() {
        let mut call = Object::read(raw, path, none)?;
        let id = call.text("id")?;
        let mut function =
            call.object("function", none)?.ok_or_else(|| Refusal::at(&call.at("function"), "is missing"))?;
        let name = function.need_text("name")?;
        let arguments = function.text("arguments")?.unwrap_or_default();
        let arguments = if arguments.trim_ascii().is_empty() { "{}".to_owned() } else { arguments.into_owned() };
        let arguments = RawValue::from_string(arguments)
            .ok()
            .filter(|raw| raw.get().starts_with('{'))
            .ok_or_else(|| Refusal::at(&function.at("arguments"), "is no JSON object"))?;
        if let Some(id) = &id {
            names.insert(id.to_string(), name.clone());
        }
        let mut told = Entries::new();
        told.maybe("id", id);
        let function = Entries::new().with("name", name).with("arguments", Json::Done(arguments));
        calls.push(Json::from(told.with("function", function)));
    }
    message.maybe("tool_calls", Some(calls).filter(|calls| !calls.is_empty()));
    if let Some(id) = turn.text("tool_call_id")? {
        message.maybe("tool_name", names.get(&*id).cloned());
        message.put("tool_call_id", id);
    }
    Ok(message.into())
}

/// The texts of a message as one, and its images.
fn parts<'a>(raw: &'a RawValue, path: &str, none: &Hints<'a>, images: &mut Vec<Json<'a>>) -> Result<Json<'a>, Refusal> {
    let mut texts: Vec<Cow<'a, str>> = Vec::new();
    for (index, raw) in members(raw, path)?.into_iter().enumerate() {
        let mut part = Object::read(raw, format!("{path}[{index}]"), none)?;
        match &*part.need_text("type")? {
            "text" => texts.push(part.need_text("text")?),
            "refusal" => texts.push(part.need_text("refusal")?),
            "image_url" => {
                let image = part.need("image_url")?;
                let url = match part.at("image_url") {
                    path if is_text(image) => text(image, &path)?,
                    path => Object::read(image, path, none)?.need_text("url")?,
                };
                let data = url.split_once(";base64,").filter(|(kind, _)| kind.starts_with("data:"));
                let Some((_, data)) = data else {
                    return Err(Refusal::at(
                        &part.at("image_url"),
                        "is no base64 data, which is all that Ollama takes",
                    ));
                };
                images.push(Json::from(data.to_owned()));
            }
            _ => return Err(Refusal::at(&part.at("type"), "is neither text nor an image, and Ollama takes no other")),
        }
    }
    Ok(Json::from(texts.join("\n")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn native(body: &Value) -> Value {
        let body = body.to_string();
        let form = form_of(body.as_bytes()).expect("only Ollama's own API can say it");
        serde_json::from_slice(&request(body.as_bytes(), "m", form).expect("a request")).expect("JSON")
    }

    #[test]
    fn what_openais_api_can_say_goes_by_it() {
        for body in [
            json!({"model": "m", "messages": [], "temperature": 0.5, "max_tokens": 3, "stop": ["x"], "seed": 1}),
            json!({"model": "m", "messages": [], "top_k": null}),
            json!({"model": "m", "prompt": "x"}),
            json!({"model": "m", "input": "x"}),
            json!([]),
        ] {
            assert_eq!(form_of(body.to_string().as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn everything_has_its_place() {
        let body = json!({
            "model": "x", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.25, "top_p": 0.5, "seed": 7,
            "top_k": 20, "min_p": 0.05, "repeat_penalty": 1.5, "max_completion_tokens": 9, "stop": "END", "user": "u",
            "reasoning_effort": "high", "logprobs": true, "top_logprobs": 2, "parallel_tool_calls": false,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "text", "text": "this"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}]},
                {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                    {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{\"z\":1,\"a\":2}"}}]},
                {"role": "tool", "tool_call_id": "t", "content": "7"},
            ],
        });
        assert_eq!(
            native(&body),
            json!({
                "model": "m", "stream": true, "think": true, "logprobs": true, "top_logprobs": 2, "format": {"type": "object"},
                "options": {"temperature": 0.25, "top_p": 0.5, "seed": 7, "top_k": 20, "min_p": 0.05, "repeat_penalty": 1.5,
                    "num_predict": 9, "stop": ["END"]},
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "see\nthis", "images": ["QQ=="]},
                    {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                        {"id": "t", "function": {"name": "f", "arguments": {"z": 1, "a": 2}}}]},
                    {"role": "tool", "content": "7", "tool_name": "f", "tool_call_id": "t"},
                ],
            })
        );
        let plain = native(
            &json!({"messages": [], "top_k": 1, "reasoning_effort": "none", "tool_choice": "none", "tools": [1]}),
        );
        assert_eq!(
            plain,
            json!({"model": "m", "stream": false, "think": false, "options": {"top_k": 1}, "messages": []})
        );
    }

    #[test]
    fn a_level_of_thinking_is_for_models_that_have_levels() {
        let body = br#"{"messages":[],"top_k":1,"reasoning_effort":"low"}"#;
        let think = |model: &str| {
            let told = request(body, model, Form::Chat).expect("a request");
            serde_json::from_slice::<Value>(&told).expect("JSON")["think"].clone()
        };
        assert_eq!((think("gpt-oss:20b"), think("qwen3:8b")), (json!("low"), json!(true)));
    }

    #[test]
    fn a_raw_prompt_stays_one() {
        let body = json!({"prompt": "<|x|>", "max_tokens": 3, "x_atmosphere": [{"at": "", "fields": {"raw": true}}]});
        assert_eq!(
            native(&body),
            json!({"model": "m", "stream": false, "options": {"num_predict": 3}, "prompt": "<|x|>", "raw": true})
        );
    }

    #[test]
    fn what_ollama_cannot_take_is_refused_by_name() {
        let message = |content: Value| json!({"top_k": 1, "messages": [{"role": "user", "content": content}]});
        for (body, param) in [
            (message(json!([{"type": "input_audio"}])), "messages[0].content[0].type"),
            (
                message(json!([{"type": "image_url", "image_url": {"url": "http://h/a.png"}}])),
                "messages[0].content[0].image_url",
            ),
            (
                json!({"top_k": 1, "messages": [{"role": "assistant", "tool_calls": [
                    {"id": "t", "function": {"name": "f", "arguments": "{oops"}}]}]}),
                "messages[0].tool_calls[0].function.arguments",
            ),
            (json!({"top_k": 1, "messages": [{}]}), "messages[0].role"),
            (json!({"top_k": 1, "messages": [], "response_format": {"type": "xml"}}), "response_format.type"),
        ] {
            let refusal = request(body.to_string().as_bytes(), "m", Form::Chat).expect_err("refused");
            assert_eq!(refusal.param.as_deref(), Some(param), "{body}");
        }
    }
}
