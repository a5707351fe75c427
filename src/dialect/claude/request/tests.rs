//! A chat becomes a request for a message: which field goes where, and what is refused.

use serde_json::{Value, json};

use super::*;

fn asked(chat: &Value) -> Result<Value, Refusal> {
    let limits = Limits { max_tokens: Some(64_000), adaptive: false };
    request(chat.to_string().as_bytes(), "claude", limits).map(|body| serde_json::from_slice(&body).expect("JSON"))
}

#[test]
fn every_field_has_its_place() {
    let chat = json!({
        "model": "x", "max_completion_tokens": 9000, "temperature": 0.5, "top_p": 0.9, "stop": "END", "stream": true, "n": 1,
        "stream_options": {"include_usage": true}, "user": "u", "service_tier": "default", "presence_penalty": 0,
        "reasoning_effort": "low", "parallel_tool_calls": false, "made_up": 1, "seed": null, "logprobs": false,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Really."},
            {"role": "user", "content": [
                {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}},
                {"type": "image_url", "image_url": {"url": "https://h/a.png"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="}}]},
            {"role": "assistant", "content": "", "reasoning_content": "unsigned", "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
                {"id": "t2", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "t1", "content": "1"},
            {"role": "tool", "tool_call_id": "t2", "content": [{"type": "text", "text": "2"}]},
            {"role": "user", "content": "and?"},
            {"role": "assistant", "content": "yes"},
            {"role": "system", "content": "hurry"},
        ],
    });
    assert_eq!(
        asked(&chat).expect("a request"),
        json!({
            "model": "claude", "max_tokens": 9000, "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["END"], "stream": true,
            "metadata": {"user_id": "u"}, "service_tier": "standard_only", "made_up": 1,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Really."}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}},
                    {"type": "image", "source": {"type": "url", "url": "https://h/a.png"}},
                    {"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "QQ=="}}]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                    {"type": "tool_use", "id": "t2", "name": "f", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "1"},
                    {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "2"}]},
                    {"type": "text", "text": "and?"}]},
                {"role": "assistant", "content": "yes"},
                {"role": "system", "content": "hurry"},
            ],
        })
    );
}

#[test]
fn how_long_to_think_and_to_write() {
    let think = |adaptive: bool, effort: &str, max: Option<u64>| {
        let mut chat = json!({"reasoning_effort": effort, "messages": [{"role": "user", "content": "hi"}]});
        if let Some(max) = max {
            chat["max_tokens"] = max.into();
        }
        let limits = Limits { max_tokens: Some(20_000), adaptive };
        let body = request(chat.to_string().as_bytes(), "c", limits).expect("a request");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        (body["thinking"].clone(), body["output_config"]["effort"].clone(), body["max_tokens"].as_u64())
    };
    let enabled = |budget: u64| json!({"type": "enabled", "budget_tokens": budget});
    for (adaptive, effort, max, thinking, told, tokens) in [
        (false, "none", None, json!({"type": "disabled"}), Value::Null, 8192),
        (false, "minimal", None, enabled(1024), Value::Null, 9216),
        (false, "high", None, enabled(24_576), Value::Null, 20_000),
        (false, "high", Some(4096), enabled(2048), Value::Null, 4096),
        (false, "high", Some(1000), Value::Null, Value::Null, 1000),
        (true, "xhigh", None, json!({"type": "adaptive"}), "xhigh".into(), 8192),
        (true, "minimal", Some(10), json!({"type": "adaptive"}), "low".into(), 10),
    ] {
        assert_eq!(think(adaptive, effort, max), (thinking, told, Some(tokens)), "{adaptive} {effort} {max:?}");
    }
}

#[test]
fn a_count_asks_for_no_answer() {
    let chat = json!({"max_tokens": 9, "stop": "x", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]});
    let body = count_request(chat.to_string().as_bytes(), "c").expect("a request");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body, json!({"model": "c", "system": "s", "messages": [{"role": "user", "content": "hi"}]}));
}

#[test]
fn what_a_message_cannot_be_is_refused_by_name() {
    for (field, value, param) in [
        ("n", json!(2), "n"),
        ("logprobs", json!(true), "logprobs"),
        ("seed", json!(7), "seed"),
        ("presence_penalty", json!(0.5), "presence_penalty"),
        ("logit_bias", json!({"1": 2}), "logit_bias"),
        ("response_format", json!({"type": "json_object"}), "response_format.type"),
        ("modalities", json!(["text", "audio"]), "modalities"),
        ("functions", json!([]), "functions"),
        ("tool_choice", json!("odd"), "tool_choice"),
        ("service_tier", json!("flex"), "service_tier"),
        ("reasoning_effort", json!("odd"), "reasoning_effort"),
        ("messages", json!([{"role": "user", "content": [{"type": "input_audio"}]}]), "messages[0].content[0].type"),
        ("messages", json!([{"role": "function", "content": ""}]), "messages[0].role"),
        (
            "messages",
            json!([{"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "no"}}]}]),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ] {
        let mut chat = json!({"messages": [{"role": "user", "content": "hi"}]});
        chat[field] = value;
        assert_eq!(asked(&chat).expect_err("refused").param.as_deref(), Some(param), "{chat}");
    }
}
