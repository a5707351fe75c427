//! Anthropic's protocol behind the provider's front: what is sent, and what becomes of each kind of answer.

use serde_json::{Value, json};

use super::testing::{Double, Scripted, Then, call, collect};
use super::{Anthropic, BackendSpec, Provider, Secret};
use crate::capability::{Capability, ErrorClass, Failure, Feature, Frame, Modality, Operation, Usage};

const MESSAGES: &str = "POST /v1/messages";
const CHAT: &str = r#"{"model":"x","max_tokens":9,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;
const START: &[u8] = b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"claude\",\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n";
const TEXT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hé𝄞\"}}\n\n";
const END: &[u8] = b"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

async fn account(scripted: Scripted) -> (Double, Anthropic, Capability) {
    let list = json!({"has_more": false, "data": [{
        "type": "model", "id": "claude-x", "display_name": "X", "max_input_tokens": 200_000, "max_tokens": 64_000,
        "capabilities": {"thinking": {"supported": true, "types": {"adaptive": {"supported": true}}},
            "image_input": {"supported": true}, "structured_outputs": {"supported": false}}}]});
    let models = Scripted::json(200, &list.to_string());
    let double = Double::start(&[("GET /v1/models", models), (MESSAGES, scripted)]).await;
    let spec = BackendSpec { key: Some(Secret::new("sk-ant-secret")), ..double.spec("anthropic") };
    let provider = Anthropic::new("anthropic", &spec).expect("a provider");
    let capability = provider.discover().await.expect("a list").remove(0);
    (double, provider, capability)
}

async fn ask(scripted: Scripted, stream: bool, body: &str) -> (Vec<Frame>, String) {
    let (_double, provider, capability) = account(scripted).await;
    collect(provider.call(call(&capability.id, Operation::Chat, stream, body))).await
}

fn failure(frames: &[Frame]) -> Failure {
    match frames.last() {
        Some(Frame::Error(failure)) => failure.clone(),
        other => unreachable!("no failure: {other:?}"),
    }
}

#[tokio::test]
async fn its_models_are_what_the_list_says_and_its_owners_own() {
    let (double, provider, model) = account(Scripted::json(200, "{}")).await;
    assert_eq!((model.name.as_str(), model.context_length), ("claude-x", Some(200_000)));
    assert!(model.features.contains(Feature::Thinking) && model.features.contains(Feature::Tools));
    assert!(!model.features.contains(Feature::JsonSchema) && model.modalities.contains(Modality::Image));
    assert!(!provider.shared(), "an account is shared only when its owner says so");
    let shared = BackendSpec { shared: Some(true), ..double.spec("anthropic") };
    assert!(Anthropic::new("a", &shared).expect("a provider").shared());
    let seen = double.last("GET /v1/models");
    assert_eq!(
        (seen.headers["x-api-key"].as_str(), seen.headers["anthropic-version"].as_str()),
        ("sk-ant-secret", "2023-06-01")
    );
    assert!(!seen.headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_stream_is_translated_as_it_comes() {
    let text = TEXT.as_bytes();
    let at = TEXT.find('𝄞').expect("there") + 2;
    let (double, provider, model) = account(Scripted::events(&[START, &text[..at], &text[at..], END], Then::End)).await;
    let (frames, bytes) = collect(provider.call(call(&model.id, Operation::Chat, true, CHAT))).await;
    let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: Some(0) });
    assert_eq!(frames.last(), Some(&Frame::End { usage, load: None }));
    assert!(bytes.contains("\"content\":\"hé𝄞\"") && bytes.ends_with("data: [DONE]\n\n"), "{bytes}");
    let sent: Value = serde_json::from_str(&double.last(MESSAGES).body).expect("JSON");
    let asked =
        json!({"model": "claude-x", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(sent, asked);
}

#[tokio::test]
async fn a_whole_answer_is_translated() {
    let message = r#"{"id":"msg_1","type":"message","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"max_tokens","usage":{"input_tokens":3,"output_tokens":2}}"#;
    let (frames, bytes) = ask(Scripted::json(200, message), false, &CHAT.replace("true", "false")).await;
    let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: Some(0) });
    assert_eq!(frames.last(), Some(&Frame::End { usage, load: None }));
    let told: Value = serde_json::from_str(&bytes).expect("JSON");
    assert_eq!(
        (&told["choices"][0]["message"]["content"], &told["choices"][0]["finish_reason"]),
        (&"hi".into(), &"length".into())
    );
}

#[tokio::test]
async fn tokens_are_counted_where_the_model_is() {
    let (double, provider, model) = account(Scripted::json(200, "{}")).await;
    double.set("POST /v1/messages/count_tokens", Scripted::json(200, "{\"input_tokens\":42}"));
    assert!(model.operations.contains(Operation::CountTokens));
    let (frames, bytes) = collect(provider.call(call(&model.id, Operation::CountTokens, false, CHAT))).await;
    assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
    assert_eq!(bytes, "{\"input_tokens\":42}");
    let sent: Value = serde_json::from_str(&double.last("POST /v1/messages/count_tokens").body).expect("JSON");
    assert_eq!(sent, json!({"model": "claude-x", "messages": [{"role": "user", "content": "hi"}]}));
}

#[tokio::test]
async fn failures_say_whose_they_are_in_openais_shape() {
    let error = |kind: &str| json!({"type": "error", "error": {"type": kind, "message": "no"}}).to_string();
    for (status, kind, class) in [
        (400, "invalid_request_error", ErrorClass::Request),
        (429, "rate_limit_error", ErrorClass::Overloaded),
        (529, "overloaded_error", ErrorClass::Overloaded),
        (500, "api_error", ErrorClass::Backend),
    ] {
        let failure = failure(&ask(Scripted::json(status, &error(kind)), true, CHAT).await.0);
        assert_eq!((failure.class, failure.status), (class, status), "{kind}");
        let body: Value = serde_json::from_slice(&failure.body.expect("a body").0).expect("JSON");
        assert_eq!((&body["error"]["message"], &body["error"]["code"]), (&"no".into(), &kind.into()));
    }
    let refused = failure(&ask(Scripted::json(401, &error("authentication_error")), true, CHAT).await.0);
    assert!(refused.body.is_none() && refused.message.contains("its key is refused"), "{refused}");
}

#[tokio::test]
async fn a_stream_that_fails_is_never_complete() {
    let error =
        b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n";
    let before = failure(&ask(Scripted::events(&[START, error], Then::End), true, CHAT).await.0);
    assert_eq!((before.class, before.status), (ErrorClass::Overloaded, 529));
    let (frames, bytes) = ask(Scripted::events(&[START, TEXT.as_bytes(), error], Then::End), true, CHAT).await;
    assert_eq!(failure(&frames).class, ErrorClass::Interrupted);
    assert!(bytes.contains("hé𝄞") && !bytes.contains("[DONE]"), "{bytes}");
    for then in [Then::End, Then::Break] {
        let (frames, bytes) = ask(Scripted::events(&[START, TEXT.as_bytes(), b"event: mess"], then), true, CHAT).await;
        assert_eq!(failure(&frames).class, ErrorClass::Interrupted, "{then:?}");
        assert!(!bytes.contains("[DONE]"), "{bytes}");
    }
}

#[tokio::test]
async fn what_it_cannot_express_is_the_callers_mistake_and_never_sent() {
    let (double, provider, model) = account(Scripted::json(200, "{}")).await;
    let body = CHAT.replace("\"max_tokens\":9", "\"n\":2");
    let refused = failure(&collect(provider.call(call(&model.id, Operation::Chat, true, &body))).await.0);
    assert_eq!((refused.class, refused.status), (ErrorClass::Request, 400));
    let told: Value = serde_json::from_slice(&refused.body.expect("a body").0).expect("JSON");
    assert_eq!(told["error"]["param"], "n");
    assert!(double.seen(MESSAGES).is_empty());
}

#[tokio::test]
async fn dropping_the_answer_closes_the_connection() {
    let (double, provider, model) = account(Scripted::events(&[START, TEXT.as_bytes()], Then::Hang)).await;
    let mut stream = provider.call(call(&model.id, Operation::Chat, true, CHAT));
    while !matches!(futures::StreamExt::next(&mut stream).await, Some(Frame::Chunk(_))) {}
    double.until_hanging(1).await;
    drop(stream);
    double.until_hanging(0).await;
}
