use proptest::prelude::*;
use serde_json::json;

use super::*;

fn chat_of(value: &serde_json::Value) -> Request {
    chat(value.to_string().as_bytes()).expect("a good body")
}

#[test]
fn a_chat_tells_what_it_needs() {
    let read = chat_of(&json!({
        "model": "llama3.2", "stream": true, "temperature": 0.2, "made_up": {"deep": [1, {"model": 2}]},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]},
            {"role": "user", "content": [
                {"type": "text", "text": "What is \"this\"?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "hologram", "hologram": 3},
            ]},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "response_format": {"type": "json_schema", "json_schema": {}},
        "logprobs": true, "max_tokens": 10, "max_completion_tokens": 20.0,
    }));
    assert_eq!(read.model.as_deref(), Some("llama3.2"));
    assert_eq!(read.query.as_deref(), Some("What is \"this\"?"));
    let needs = read.requirements;
    assert!(needs.stream);
    assert_eq!(needs.modalities, ModalitySet::of(&[Modality::Text, Modality::Image]));
    let features = [Feature::Streaming, Feature::Tools, Feature::JsonSchema, Feature::Logprobs];
    assert_eq!(needs.features, FeatureSet::of(&features));
    assert_eq!(needs.max_output_tokens, Some(20));
    assert!((768..900).contains(&needs.prompt_tokens), "{}", needs.prompt_tokens);
}

#[test]
fn what_is_null_or_empty_asks_for_nothing() {
    let read = chat_of(&json!({
        "model": null, "stream": null, "tools": [], "tool_choice": null, "response_format": {"type": "text"},
        "logprobs": false, "max_tokens": -1, "messages": [{"role": "user"}],
    }));
    assert_eq!((read.model, read.query), (None, None));
    assert_eq!(read.requirements.features, FeatureSet::EMPTY);
    assert_eq!(read.requirements.max_output_tokens, None);
}

#[test]
fn a_long_question_is_its_head_and_tail() {
    let long = format!("Summarise this: {} Which is it?", "ü\n".repeat(4000));
    let read = chat_of(&json!({"messages": [{"role": "user", "content": long}]}));
    let query = read.query.expect("a query");
    assert!(query.len() <= 2 * super::super::view::QUERY_BYTES, "{}", query.len());
    assert!(query.starts_with("Summarise this:") && query.ends_with("Which is it?"));
    assert!(read.requirements.prompt_tokens > 2000);
}

#[test]
fn a_bad_body_names_the_field() {
    let ok = r#""messages":[{"role":"user","content":"hi"}]"#;
    for (body, param) in [
        (r#"{"model":"m"}"#.to_owned(), Some("messages")),
        (r#"{"messages":null}"#.to_owned(), Some("messages")),
        (r#"{"messages":[]}"#.to_owned(), Some("messages")),
        (r#"{"messages":"hi"}"#.to_owned(), Some("messages")),
        (r#"{"messages":["hi"]}"#.to_owned(), Some("messages[0]")),
        (r#"{"messages":[["user","hi"]]}"#.to_owned(), Some("messages[0]")),
        (r#"{"messages":[{"content":"hi"}]}"#.to_owned(), Some("messages[0]")),
        (r#"{"messages":[{"role":1}]}"#.to_owned(), Some("messages[0].role")),
        (r#"{"messages":[{"role":"user","content":7}]}"#.to_owned(), Some("messages[0].content")),
        (r#"{"messages":[{"role":"user","content":[7]}]}"#.to_owned(), Some("messages[0].content[0]")),
        (r#"{"messages":[{"role":"user","content":[{"type":3}]}]}"#.to_owned(), Some("messages[0].content[0].type")),
        (format!(r#"{{"model":7,{ok}}}"#), Some("model")),
        (format!(r#"{{"model":"a","model":"b",{ok}}}"#), Some("model")),
        (format!(r#"{{"stream":"yes",{ok}}}"#), Some("stream")),
        (format!(r#"{{"tools":{{}},{ok}}}"#), Some("tools")),
        (format!(r#"{{"tools":[{{"a":[1]}}],{ok},"model":7}}"#), Some("model")),
        (format!(r#"{{"response_format":"json",{ok}}}"#), Some("response_format")),
        (format!(r#"{{"max_tokens":1.5,{ok}}}"#), Some("max_tokens")),
        ("[]".to_owned(), None),
        (r#""hi""#.to_owned(), None),
        (String::new(), None),
        ("{".to_owned(), None),
        (format!("{{{ok}}} x"), None),
    ] {
        let bad = chat(body.as_bytes()).expect_err(&body);
        assert_eq!(bad.param.as_deref(), param, "{body}: {}", bad.message);
    }
    assert_eq!(chat(b"{\"messages\":\xff}").expect_err("not UTF-8").message, "the body is not UTF-8");
}

#[test]
fn completions_and_embeddings_take_text_and_tokens() {
    for (prompt, query, tokens) in [
        (json!("a prompt of some words"), Some("a prompt of some words"), 5),
        (json!(["one", "two"]), Some("one"), 1),
        (json!([1, 2, 3]), None, 3),
        (json!([[1, 2], [3]]), None, 3),
    ] {
        let read = completion(json!({"prompt": prompt}).to_string().as_bytes()).expect("a good body");
        assert_eq!((read.query.as_deref(), read.requirements.prompt_tokens), (query, tokens), "{prompt}");
        let read = embedding(json!({"input": prompt, "model": "e"}).to_string().as_bytes()).expect("a good body");
        assert_eq!(read.query, None);
    }
    let read = completion(br#"{"prompt":"a","suffix":"b","logprobs":2}"#).expect("a good body");
    assert_eq!(read.requirements.features, FeatureSet::of(&[Feature::Insert, Feature::Logprobs]));
    for bad in [r#"{"input":true}"#, r#"{"input":[null]}"#, r#"{"input":[["a"]]}"#, r#"{"input":1}"#, "{}"] {
        let bad = embedding(bad.as_bytes()).expect_err(bad);
        assert!(bad.param.is_some_and(|param| param.starts_with("input")));
    }
}

#[test]
fn a_body_to_judge_is_known_by_its_fields() {
    for (body, stands_for) in [
        (json!({"messages": []}), Judged::As(Operation::Chat)),
        (json!({"input": "x"}), Judged::As(Operation::Embed)),
        (json!({"prompt": "x"}), Judged::Prompt),
        (json!({"prompt": "x", "model": "m"}), Judged::Prompt),
        (json!({"prompt": "x", "suffix": "y"}), Judged::As(Operation::Complete)),
        (json!({"prompt": [1, 2]}), Judged::As(Operation::Complete)),
        (json!({"prompt": "x", "operation": "complete"}), Judged::As(Operation::Complete)),
    ] {
        assert_eq!(judged(body.to_string().as_bytes()), Ok(stands_for), "{body}");
    }
    for bad in ["{}", r#"{"operation":"dance","prompt":"x"}"#] {
        assert!(judged(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(prompt_as_chat(br#"{"prompt":"hello there"}"#).expect("fine").query.as_deref(), Some("hello there"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (chat(&body), completion(&body), embedding(&body), judged(&body));
    }

    #[test]
    fn no_text_of_a_message_changes_what_is_read_of_it(text in ".{0,3000}", model in "[a-z0-9:/@.-]{1,40}") {
        let read = chat_of(&json!({"model": model, "messages": [{"role": "user", "content": text}]}));
        prop_assert_eq!(read.model, Some(model));
        if !text.trim().is_empty() && text.len() <= super::super::view::QUERY_BYTES {
            prop_assert_eq!(read.query, Some(text));
        }
    }
}
