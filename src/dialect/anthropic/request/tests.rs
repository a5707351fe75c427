//! A request for a message becomes a chat: which field goes where, and what is refused.

use serde_json::{Value, json};

use super::*;

fn chat(body: Value) -> Value {
    let read = Messages::read(body.to_string().as_bytes(), |model| model == "thinker").expect("a chat");
    serde_json::from_slice(&read.chat).expect("JSON")
}

fn with(messages: Value) -> Value {
    chat(json!({"model": "m", "max_tokens": 9, "messages": messages}))
}

#[test]
fn every_field_has_its_place() {
    let body = json!({
        "model": "thinker", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stream": true,
        "stop_sequences": ["END"], "system": "Be brief.", "metadata": {"user_id": "u"}, "service_tier": "standard_only",
        "thinking": {"type": "enabled", "budget_tokens": 5000}, "min_p": 0.1,
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
        "messages": [{"role": "user", "content": "hi"}],
    });
    assert_eq!(
        chat(body),
        json!({
            "model": "thinker", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stream": true,
            "stream_options": {"include_usage": true}, "stop": ["END"], "user": "u", "service_tier": "default",
            "reasoning_effort": "medium", "min_p": 0.1,
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": false, "schema": {"type": "object"}}},
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
            "x_atmosphere": [
                {"at": "", "fields": {"thinking": {"type": "enabled", "budget_tokens": 5000}}},
                {"at": "tools[0]", "fields": {"cache_control": {"type": "ephemeral"}}},
            ],
        })
    );
}

#[test]
fn how_hard_to_think_is_asked_of_models_that_think() {
    let effort = |model: &str, thinking: Value, config: Value| {
        let mut body = json!({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
        body["thinking"] = thinking;
        body["output_config"] = config;
        chat(body)["reasoning_effort"].as_str().map(str::to_owned)
    };
    let enabled = |budget: u64| json!({"type": "enabled", "budget_tokens": budget});
    for (thinking, config, told) in [
        (enabled(1024), Value::Null, Some("low")),
        (enabled(32_000), Value::Null, Some("high")),
        (enabled(32_000), json!({"effort": "low"}), Some("low")),
        (json!({"type": "disabled"}), json!({"effort": "low"}), Some("none")),
        (json!({"type": "adaptive"}), Value::Null, None),
        (json!({"type": "adaptive"}), json!({"effort": "max"}), Some("high")),
        (Value::Null, Value::Null, None),
    ] {
        assert_eq!(effort("thinker", thinking.clone(), config.clone()).as_deref(), told, "{thinking} {config}");
        assert_eq!(effort("m", thinking, config), None);
    }
}

#[test]
fn messages_become_messages() {
    let pdf = json!({"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "QQ=="}});
    let table = [
        (
            json!([{"role": "user", "content": [
                {"type": "text", "text": "see"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}},
                {"type": "image", "source": {"type": "url", "url": "http://h/a.png"}},
                pdf,
                {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
            ]}]),
            json!([{"role": "user", "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}},
                {"type": "image_url", "image_url": {"url": "http://h/a.png"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="}},
                {"type": "text", "text": "T\n\nD"},
            ]}]),
        ),
        (
            json!([
                {"role": "user", "content": [{"type": "text", "text": "one"}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "calling"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"b": 1, "a": 2}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "1"},
                    {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "2"}]},
                    {"type": "text", "text": "and?"},
                ]},
                {"role": "system", "content": "hurry"},
            ]),
            json!([
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "calling", "reasoning_content": "hm", "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":2,\"b\":1}"}},
                    {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ]},
                {"role": "tool", "tool_call_id": "t1", "content": "1"},
                {"role": "tool", "tool_call_id": "t2", "content": "2"},
                {"role": "user", "content": "and?"},
                {"role": "system", "content": "hurry"},
            ]),
        ),
        (
            json!([{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]),
            json!([{"role": "assistant", "content": null, "tool_calls": [
                {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}]),
        ),
    ];
    for (from, to) in table {
        let chat = with(from.clone());
        assert_eq!(chat["messages"], to, "{from}");
        assert!(chat.get("x_atmosphere").is_none(), "{chat}");
    }
}

#[test]
fn what_only_one_side_has_is_put_aside() {
    let mark = json!({"type": "ephemeral"});
    let chat = with(json!([
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": mark}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "redacted_thinking", "data": "x"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "direct"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": true},
            {"type": "text", "text": "b"}, {"type": "text", "text": "c", "cache_control": mark}]},
    ]));
    assert_eq!(chat["messages"][0]["content"], "a");
    assert_eq!(
        chat["x_atmosphere"],
        json!([
            {"at": "messages[0]", "fields": {"cache_control": mark}},
            {"at": "messages[1]", "fields": {"thinking_blocks": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "redacted_thinking", "data": "x"}]}},
            {"at": "messages[1].tool_calls[0]", "fields": {"caller": {"type": "direct"}}},
            {"at": "messages[2]", "fields": {"is_error": true, "own_content": "no"}},
            {"at": "messages[3].content[1]", "fields": {"cache_control": mark}},
        ])
    );
}

#[test]
fn a_tool_that_failed_says_so_in_its_text() {
    let part = |text: &str| json!({"type": "text", "text": text});
    for (content, told) in [
        (json!("no such city"), json!("Error: no such city")),
        (json!("error: 7"), json!("error: 7")),
        (json!(" "), json!("Error")),
        (json!(null), json!("Error")),
        (json!([part("no")]), json!("Error: no")),
        (json!([part("a"), part("b")]), json!([part("Error:"), part("a"), part("b")])),
    ] {
        let result = |failed: bool| {
            let block = json!({"type": "tool_result", "tool_use_id": "t", "content": content, "is_error": failed});
            with(json!([{"role": "user", "content": [block]}]))["messages"][0]["content"].clone()
        };
        assert_eq!(result(true), told, "{content}");
        assert!(!result(false).to_string().contains("Error"), "{content}");
    }
}

#[test]
fn what_a_chat_cannot_express_is_refused_by_name() {
    let user = json!([{"role": "user", "content": "hi"}]);
    let block = |block: Value| json!({"max_tokens": 9, "messages": [{"role": "user", "content": [block]}]});
    for (body, param) in [
        (json!({"messages": user}), "max_tokens"),
        (json!({"max_tokens": 9}), "messages"),
        (json!({"max_tokens": -5, "messages": user}), "max_tokens"),
        (json!({"max_tokens": 9, "messages": user, "n": 2}), "n"),
        (json!({"max_tokens": 9, "messages": user, "stop_sequences": ["a"], "stop": "b"}), "stop"),
        (json!({"max_tokens": 9, "messages": user, "thinking": {"type": "zz"}}), "thinking.type"),
        (json!({"max_tokens": 9, "messages": user, "thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (json!({"max_tokens": 9, "messages": []}), "messages"),
        (json!({"max_tokens": 9, "messages": [3]}), "messages[0]"),
        (json!({"max_tokens": 9, "messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"max_tokens": 9, "messages": [{"role": "bot", "content": ""}]}), "messages[0].role"),
        (
            json!({"max_tokens": 9, "messages": user, "tools": [{"type": "web_search_20250305", "name": "w"}]}),
            "tools[0].type",
        ),
        (json!({"max_tokens": 9, "messages": user, "tools": [{"name": "w"}]}), "tools[0].input_schema"),
        (json!({"max_tokens": 9, "messages": user, "tool_choice": {"type": "odd"}}), "tool_choice.type"),
        (json!({"max_tokens": 9, "messages": user, "mcp_servers": []}), "mcp_servers"),
        (json!({"max_tokens": 9, "messages": user, "container": "c"}), "container"),
        (json!({"max_tokens": 9, "messages": user, "stream": 1}), "stream"),
        (json!({"max_tokens": 9, "messages": user, "stop_sequences": "x"}), "stop_sequences"),
        (
            block(json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
            "messages[0].content[0].source.type",
        ),
        (block(json!({"type": "search_result"})), "messages[0].content[0].type"),
        (block(json!({"type": "document", "citations": {"enabled": true}})), "messages[0].content[0].citations"),
    ] {
        let refusal = Messages::read(body.to_string().as_bytes(), |_| true).expect_err("refused");
        assert_eq!(refusal.param.as_deref(), Some(param), "{body}");
        assert!(refusal.message.contains(param), "{refusal}");
    }
}
