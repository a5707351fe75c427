//! The adapters and the registry against protocol doubles, through the same front that the node uses.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::testing::{Double, PATIENCE, Scripted, Then, call, collect, eventually};
use super::{BackendKind, BackendSpec, LlamaFarm, Ollama, OpenAi, Provider, Registry, Secret, Settings, Universal};
use crate::capability::{Capability, ErrorClass, Failure, Feature, Frame, Kind, Modality, Operation, Residency, Usage};
use crate::telemetry::EventBus;

const ROLE: &[u8] = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n";
const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hé𝄞\"},\"finish_reason\":null}]}\n\n";
const STOP: &[u8] = b"data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &[u8] = b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";
const CHAT: &str = "POST /v1/chat/completions";
const BODY: &str = r#"{"model":"whatever","messages":[{"role":"user","content":"hi"}],"odd":{"x":1.50}}"#;

/// An OpenAI-compatible server with one chat model that answers chat with `scripted`.
async fn server(scripted: Scripted) -> (Double, OpenAi, Capability) {
    let models = Scripted::json(200, r#"{"object":"list","data":[{"id":"org/tiny-7b","max_model_len":4096}]}"#);
    let double = Double::start(&[("GET /v1/models", models), (CHAT, scripted)]).await;
    let provider = OpenAi::new("test", BackendKind::OpenAi, &double.spec("openai")).expect("a provider");
    let capability = provider.discover().await.expect("a list").remove(0);
    (double, provider, capability)
}

async fn chat(scripted: Scripted, stream: bool) -> (Vec<Frame>, String) {
    let (_double, provider, capability) = server(scripted).await;
    collect(provider.call(call(&capability.id, Operation::Chat, stream, BODY))).await
}

fn failure(frames: &[Frame]) -> Failure {
    match frames.last() {
        Some(Frame::Error(failure)) => failure.clone(),
        other => unreachable!("no failure: {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_goes_through_untouched_and_only_the_model_changes() {
    let (double, provider, capability) =
        server(Scripted::events(&[ROLE, TEXT.as_bytes(), STOP, USAGE, DONE], Then::End)).await;
    let (frames, bytes) = collect(provider.call(call(&capability.id, Operation::Chat, true, BODY))).await;
    assert_eq!(bytes.as_bytes(), [ROLE, TEXT.as_bytes(), STOP, USAGE, DONE].concat());
    let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 2, ..Usage::default() });
    assert_eq!(frames.last(), Some(&Frame::End { usage, load: None }));
    let kinds: Vec<_> = frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::Chunk(chunk) => Some(chunk.content_type.clone()),
            _ => None,
        })
        .collect();
    assert!(kinds[0].as_deref() == Some("text/event-stream") && kinds[1..].iter().all(Option::is_none));
    let seen = double.last(CHAT);
    assert_eq!(seen.body, BODY.replace("whatever", "org/tiny-7b"));
    assert_eq!(seen.headers["x-request-id"], "call-1");
}

#[tokio::test]
async fn a_character_in_two_pieces_is_never_cut() {
    let text = TEXT.as_bytes();
    let at = TEXT.find('𝄞').expect("there") + 2;
    let (double, provider, capability) =
        server(Scripted::events(&[&text[..at], &text[at..], STOP, DONE], Then::End)).await;
    let mut stream = provider.call(call(&capability.id, Operation::Chat, true, BODY));
    while let Some(frame) = stream.next().await {
        if let Frame::Chunk(chunk) = frame {
            assert!(std::str::from_utf8(&chunk.data).is_ok() && chunk.data.ends_with(b"\n\n"));
        }
    }
    drop(double);
}

#[tokio::test]
async fn death_in_mid_stream_is_an_interruption() {
    for then in [Then::End, Then::Break] {
        let (frames, bytes) = chat(Scripted::events(&[ROLE, TEXT.as_bytes(), b"data: {\"cho"], then), true).await;
        assert_eq!(bytes.as_bytes(), [ROLE, TEXT.as_bytes()].concat(), "{then:?}");
        assert_eq!(failure(&frames).class, ErrorClass::Interrupted, "{then:?}");
    }
}

#[tokio::test]
async fn an_error_in_the_stream_fails_it_with_the_backends_words() {
    let error = b"data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"code\":500}}\n\n";
    let (frames, bytes) = chat(Scripted::events(&[ROLE, error, DONE], Then::End), true).await;
    let before = failure(&frames);
    assert_eq!((bytes.as_str(), before.class, before.status), ("", ErrorClass::Backend, 500));
    assert!(before.message.contains("out of memory"));
    let (frames, bytes) = chat(Scripted::events(&[TEXT.as_bytes(), error, DONE], Then::End), true).await;
    let after = failure(&frames);
    assert_eq!((bytes.as_str(), after.class), (TEXT, ErrorClass::Interrupted));
    let body: Value = serde_json::from_slice(&after.body.expect("a body").0).expect("JSON");
    assert_eq!(body["error"]["message"], "out of memory");
}

#[tokio::test]
async fn garbage_is_a_failure() {
    let garbage = Scripted::events(&[b"data: <html>oops</html>\n\n"], Then::End);
    assert_eq!(failure(&chat(garbage, true).await.0).class, ErrorClass::Interrupted);
    let endless = Scripted::events(&[&[b'x'; 100]], Then::End);
    assert_eq!(failure(&chat(endless, true).await.0).class, ErrorClass::Interrupted);
    for (body, kind) in [("{\"choices\":", "application/json"), ("hello", "text/plain"), ("<html>", "text/html")] {
        let answer = Scripted::json(200, body).header("content-type", kind);
        assert_eq!(failure(&chat(answer, false).await.0).class, ErrorClass::Backend, "{kind}");
    }
    let no_stream = Scripted::json(200, r#"{"choices":[]}"#);
    assert_eq!(failure(&chat(no_stream, true).await.0).class, ErrorClass::Backend);
}

#[tokio::test]
async fn an_answer_in_one_piece_goes_through_with_its_usage() {
    let body =
        r#"{ "choices":[{"message":{"content":"hi"}}], "usage":{"prompt_tokens":1,"completion_tokens":2}, "odd":1 }"#;
    let (frames, bytes) = chat(Scripted::json(200, body), false).await;
    assert_eq!(bytes, body);
    let usage = Some(Usage { prompt_tokens: 1, completion_tokens: 2, ..Usage::default() });
    assert_eq!(frames[1..], [Frame::End { usage, load: None }]);
}

#[tokio::test]
async fn a_refusal_says_when_to_come_again() {
    let body = r#"{"error":{"message":"slow down","type":"rate_limit","code":"rate"}}"#;
    let (frames, _) = chat(Scripted::json(429, body).header("retry-after", "7"), true).await;
    let refused = failure(&frames);
    assert_eq!((refused.class, refused.status), (ErrorClass::Overloaded, 429));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(refused.body, Some((body.into(), "application/json".into())));
}

#[tokio::test]
async fn the_callers_mistake_is_passed_on_and_the_owners_is_not() {
    let body = r#"{"error":{"message":"temperature is too high"}}"#;
    let wrong = failure(&chat(Scripted::json(400, body), false).await.0);
    assert_eq!((wrong.class, wrong.status, wrong.body.map(|b| b.0)), (ErrorClass::Request, 400, Some(body.into())));
    let key = failure(&chat(Scripted::json(401, r#"{"error":{"message":"bad key sk-1"}}"#), false).await.0);
    assert_eq!((key.class, key.status, key.body), (ErrorClass::Backend, 502, None));
}

#[tokio::test]
async fn a_caller_who_leaves_stops_the_backend() {
    for (scripted, stream) in
        [(Scripted::events(&[TEXT.as_bytes()], Then::Hang), true), (Scripted::events(&[], Then::HangBeforeHead), false)]
    {
        let (double, provider, capability) = server(scripted).await;
        let mut reply = provider.call(call(&capability.id, Operation::Chat, stream, BODY));
        let reading = tokio::spawn(async move { while reply.next().await.is_some() {} });
        double.until_hanging(1).await;
        reading.abort();
        double.until_hanging(0).await;
    }
}

#[tokio::test]
async fn a_backend_that_hangs_is_given_up_at_the_deadline() {
    let (_double, provider, capability) = server(Scripted::events(&[TEXT.as_bytes()], Then::Hang)).await;
    let mut late = call(&capability.id, Operation::Chat, true, BODY);
    late.deadline = Duration::from_millis(200);
    let (frames, bytes) = collect(provider.call(late)).await;
    assert_eq!((bytes.as_str(), failure(&frames).class), (TEXT, ErrorClass::Timeout));
}

#[tokio::test]
async fn a_backend_that_is_gone_is_unavailable() {
    let (double, provider, capability) = server(Scripted::json(200, "{}")).await;
    drop(double);
    eventually_refused(&provider).await;
    let (frames, _) = collect(provider.call(call(&capability.id, Operation::Chat, false, BODY))).await;
    assert!(matches!(failure(&frames).class, ErrorClass::Unavailable));
}

async fn eventually_refused(provider: &OpenAi) {
    while provider.discover().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn connections_are_used_again_after_a_stream() {
    let (_double, provider, capability) = server(Scripted::events(&[TEXT.as_bytes(), STOP, DONE], Then::End)).await;
    for _ in 0..10 {
        let (frames, _) = collect(provider.call(call(&capability.id, Operation::Chat, true, BODY))).await;
        assert!(matches!(frames.last(), Some(Frame::End { .. })));
    }
}

#[tokio::test]
async fn llama_cpp_tells_its_context_slots_and_abilities() {
    let models = json!({
        "models": [{"name": "/models/tiny-embed.gguf", "capabilities": ["completion"]}],
        "object": "list",
        "data": [{"id": "/models/qwen2.5-coder-7b-q4_k_m.gguf", "owned_by": "llamacpp", "created": 1,
                  "meta": {"n_params": 7_615_616_512_u64, "n_embd": 3584, "n_ctx_train": 32768}}],
    });
    let props = json!({
        "default_generation_settings": {"n_ctx": 8192}, "total_slots": 4,
        "chat_template": "{% if tools %}", "modalities": {"vision": true, "audio": false},
    });
    let unsupported = Scripted::json(501, r#"{"error":{"code":501,"message":"not supported"}}"#);
    let double = Double::start(&[
        ("GET /v1/models", Scripted::json(200, &models.to_string())),
        ("GET /props", Scripted::json(200, &props.to_string())),
        ("POST /v1/embeddings", unsupported.clone()),
        ("POST /completion", Scripted::json(400, r#"{"error":{"message":"no prompt"}}"#)),
        ("POST /apply-template", Scripted::json(200, r#"{"prompt":"<|im_start|>assistant\nOnce upon a"}"#)),
    ])
    .await;
    let provider = OpenAi::new("llamacpp", BackendKind::LlamaCpp, &double.spec("llamacpp")).expect("a provider");
    let it = provider.discover().await.expect("a list").remove(0);
    assert_eq!((it.name.as_str(), &it.kind), ("qwen2.5-coder-7b-q4_k_m.gguf", &Kind::LLM_CODE));
    assert_eq!((it.context_length, it.concurrency, provider.concurrency()), (Some(8192), Some(4), Some(4)));
    assert_eq!(it.parameter_count, Some(7_615_616_512));
    assert_eq!(it.quantization.as_deref(), Some("Q4_K_M"));
    assert!(it.features.contains(Feature::Tools) && it.modalities.contains(Modality::Image));
    assert!(!it.operations.contains(Operation::Embed) && it.operations.contains(Operation::Chat));
    assert!(it.aliases.contains(&"qwen2.5-coder-7b-q4_k_m".to_owned()));
    assert!(it.features.contains(Feature::Prefill), "it leaves a last assistant message open");
    // One that closes it, or refuses it because the model thinks first, does not continue it.
    for answer in [
        Scripted::json(200, r#"{"prompt":"Once upon a<|im_end|>\n<|im_start|>assistant\n"}"#),
        Scripted::json(400, r#"{"error":{"message":"incompatible with enable_thinking"}}"#),
    ] {
        double.set("POST /apply-template", answer);
        let provider = OpenAi::new("llamacpp", BackendKind::LlamaCpp, &double.spec("llamacpp")).expect("a provider");
        assert!(!provider.discover().await.expect("a list")[0].features.contains(Feature::Prefill));
    }
    // The same server, started for embeddings only: no chat, whatever the name says.
    double.set("POST /v1/embeddings", Scripted::json(400, r#"{"error":{"message":"no input"}}"#));
    double.set("POST /completion", unsupported);
    let provider = OpenAi::new("llamacpp", BackendKind::LlamaCpp, &double.spec("llamacpp")).expect("a provider");
    let it = provider.discover().await.expect("a list").remove(0);
    assert_eq!((&it.kind, it.embedding_length), (&Kind::LLM_EMBED, Some(3584)));
    assert!(!it.operations.contains(Operation::Chat) && it.operations.contains(Operation::Embed));
}

#[tokio::test]
async fn vllm_continues_a_partial_answer_when_its_tokens_say_so() {
    let closed = r#"{"prompt":"Once upon a<|im_end|>"}"#;
    for (text, continues) in [(r#"{"prompt":"<user>Tell me<assistant>Once upon a"}"#, true), (closed, false)] {
        let double = Double::start(&[
            ("GET /v1/models", Scripted::json(200, r#"{"data":[{"id":"m","owned_by":"vllm"}]}"#)),
            ("POST /tokenize", Scripted::json(200, r#"{"count":3,"max_model_len":4096,"tokens":[1,2,3]}"#)),
            ("POST /detokenize", Scripted::json(200, text)),
        ])
        .await;
        let provider = OpenAi::new("vllm", BackendKind::Vllm, &double.spec("vllm")).expect("a provider");
        let it = provider.discover().await.expect("a list").remove(0);
        assert_eq!(it.features.contains(Feature::Prefill), continues);
    }
}

#[tokio::test]
async fn lm_studio_tells_what_is_loaded() {
    let models = r#"{"data":[{"id":"a"},{"id":"b"},{"id":"c"}]}"#;
    let studio = json!({"data": [
        {"id": "a", "type": "vlm", "state": "loaded", "quantization": "Q8_0", "max_context_length": 32768,
         "loaded_context_length": 8192, "capabilities": ["tool_use"]},
        {"id": "b", "type": "embeddings", "state": "not-loaded", "max_context_length": 512},
    ]});
    let double = Double::start(&[
        ("GET /v1/models", Scripted::json(200, models)),
        ("GET /api/v0/models", Scripted::json(200, &studio.to_string())),
    ])
    .await;
    let provider = OpenAi::new("lmstudio", BackendKind::LmStudio, &double.spec("lmstudio")).expect("a provider");
    let found = provider.discover().await.expect("a list");
    let [a, b, c] = &found[..] else { unreachable!("{found:?}") };
    assert_eq!((a.residency, a.context_length, a.quantization.as_deref()), (Residency::Warm, Some(8192), Some("Q8_0")));
    assert!(a.modalities.contains(Modality::Image) && a.features.contains(Feature::Tools));
    assert_eq!((&b.kind, b.residency, b.context_length), (&Kind::LLM_EMBED, Residency::Cold, Some(512)));
    assert_eq!((&c.kind, c.residency), (&Kind::LLM_CHAT, Residency::Unknown));
}

#[tokio::test]
async fn only_models_that_the_owner_names_are_offered() {
    let (double, ..) = server(Scripted::json(200, "{}")).await;
    double.set("GET /v1/models", Scripted::json(200, r#"{"data":[{"id":"a"},{"id":"b"}]}"#));
    let spec = BackendSpec { models: vec!["B:latest".into()], domain: Some("law".into()), ..double.spec("openai") };
    let provider = OpenAi::new("test", BackendKind::OpenAi, &spec).expect("a provider");
    let found = provider.discover().await.expect("a list");
    assert_eq!((found.len(), found[0].name.as_str(), found[0].domain.as_deref()), (1, "b", Some("law")));
    // Without a list the owner's word is enough.
    double.set("GET /v1/models", Scripted::json(404, "{}"));
    assert_eq!(provider.discover().await.expect("their word")[0].name, "B:latest");
}

#[tokio::test]
async fn sound_goes_through_as_it_comes() {
    let (double, provider, capability) = server(Scripted::json(200, "{}")).await;
    let pieces: [&[u8]; 2] = [b"RIFF", b"wave"];
    double.set("POST /v1/audio/speech", Scripted::events(&pieces, Then::End).header("content-type", "audio/wav"));
    let speech = || provider.call(call(&capability.id, Operation::Speak, false, r#"{"input":"hi"}"#));
    let (frames, bytes) = collect(speech()).await;
    assert_eq!((bytes.as_str(), frames.last()), ("RIFFwave", Some(&Frame::End { usage: None, load: None })));
    double.set("POST /v1/audio/speech", Scripted::events(&pieces, Then::Break).header("content-type", "audio/wav"));
    assert_eq!(failure(&collect(speech()).await.0).class, ErrorClass::Interrupted);
}

#[tokio::test]
async fn an_error_with_the_status_of_success_is_a_failure() {
    let error = r#"{"error":{"message":"no memory","code":503}}"#;
    for stream in [false, true] {
        let failed = failure(&chat(Scripted::json(200, error), stream).await.0);
        assert_eq!((failed.class, failed.status), (ErrorClass::Overloaded, 503), "{stream}");
    }
}

#[tokio::test]
async fn a_key_is_sent_and_never_told() {
    let (double, ..) = server(Scripted::json(200, "{}")).await;
    let spec = BackendSpec { key: Some(Secret::new("sk-very-secret")), ..double.spec("openai") };
    let provider = OpenAi::new("test", BackendKind::OpenAi, &spec).expect("a provider");
    let found = provider.discover().await.expect("a list");
    assert_eq!(double.last("GET /v1/models").headers["authorization"], "Bearer sk-very-secret");
    let told = format!("{provider:?} {found:?} {}", serde_json::to_string(&found).expect("JSON"));
    assert!(!told.contains("very-secret"), "{told}");
}

#[tokio::test]
async fn a_nodes_own_api_is_refused() {
    let (double, ..) = server(Scripted::json(200, "{}")).await;
    let models = Scripted::json(200, r#"{"data":[{"id":"m"}]}"#).header("x-atmosphere-node", "12D3");
    double.set("GET /v1/models", models);
    let provider = OpenAi::new("test", BackendKind::OpenAi, &double.spec("openai")).expect("a provider");
    assert!(provider.discover().await.expect_err("refused").message.contains("Atmosphere node"));
    // Also when only its health gives it away.
    double.set("GET /v1/models", Scripted::json(200, r#"{"data":[{"id":"m"}]}"#));
    double.set("GET /v1/health", Scripted::json(200, r#"{"atmosphere":{"version":"1"}}"#));
    let registry = start(vec![double.spec("openai")]);
    registry.settled(PATIENCE).await;
    let status = registry.statuses().remove(0);
    assert!(!status.up && status.error.is_some_and(|error| error.contains("Atmosphere node")));
}

#[tokio::test]
async fn ollama_tells_what_its_models_can_do() {
    let tags = json!({"models": [
        {"name": "llama3.2:latest", "digest": "abc", "capabilities": ["completion", "tools"],
         "details": {"parameter_size": "3.2B", "quantization_level": "Q4_K_M", "context_length": 131072}},
        {"name": "nomic-embed-text:latest", "digest": "def", "details": {"parameter_size": "137M"}},
        {"name": "huge:cloud", "digest": "ghi", "capabilities": ["completion"], "remote_host": "https://ollama.com"},
        {"odd": true},
    ]});
    let show = json!({"capabilities": ["embedding"],
        "model_info": {"general.architecture": "bert", "bert.context_length": 2048, "bert.embedding_length": 768}});
    let answer = Scripted::json(200, r#"{"choices":[{"message":{"content":"hi"}}]}"#);
    let double = Double::start(&[
        ("GET /api/tags", Scripted::json(200, &tags.to_string())),
        ("GET /api/ps", Scripted::json(200, r#"{"models":[{"name":"llama3.2:latest","context_length":4096}]}"#)),
        ("POST /api/show", Scripted::json(200, &show.to_string())),
        (CHAT, answer),
    ])
    .await;
    let provider = Ollama::new("ollama", &double.spec("ollama")).expect("a provider");
    let found = provider.discover().await.expect("a list");
    let [llama, nomic] = &found[..] else { unreachable!("{found:?}") };
    assert_eq!((&llama.kind, llama.context_length, llama.residency), (&Kind::LLM_CHAT, Some(4096), Residency::Warm));
    assert_eq!((llama.parameter_count, llama.digest.as_deref()), (Some(3_200_000_000), Some("abc")));
    assert!(llama.features.contains(Feature::Tools) && !llama.features.contains(Feature::Thinking));
    assert_eq!((&nomic.kind, nomic.embedding_length, nomic.residency), (&Kind::LLM_EMBED, Some(768), Residency::Cold));
    assert_eq!(nomic.context_length, Some(2048));
    collect(provider.call(call(&llama.id, Operation::Chat, false, BODY))).await;
    assert!(double.last(CHAT).body.contains("\"model\":\"llama3.2:latest\""));
    // A model that runs elsewhere is offered when the owner names it, and is not free.
    let named = BackendSpec { models: vec!["huge:cloud".into()], ..double.spec("ollama") };
    let found = Ollama::new("ollama", &named).expect("a provider").discover().await.expect("a list");
    assert!(found.len() == 1 && found[0].name == "huge:cloud" && found[0].cost.output > 0.0, "{found:?}");
    // Its queue is full.
    double.set(CHAT, Scripted::json(503, r#"{"error":{"message":"server busy"}}"#));
    let (frames, _) = collect(provider.call(call(&llama.id, Operation::Chat, false, BODY))).await;
    assert_eq!(failure(&frames).class, ErrorClass::Overloaded);
}

async fn llamafarm() -> Double {
    let config = json!({
        "name": "camelid-expert", "namespace": "ranch",
        "prompts": [{"name": "p", "messages": [
            {"role": "system", "content": "You are an expert on llamas, alpacas and other camelids. {{extra}}"},
            {"role": "user", "content": "How do I shear an alpaca?"}]}],
        "rag": {"databases": [{"name": "herd_health"}]},
        "datasets": [{"name": "vet-notes"}],
        "runtime": {"default_model": "main", "models": [
            {"name": "small", "provider": "ollama", "model": "x"},
            {"name": "main", "provider": "openai", "model": "qwen3:8b", "description": "Care of camelids",
             "api_key": "sk-project-secret", "base_url": "http://me:pw-secret@inner", "tools": [{"name": "t"}]}]},
    });
    let list = json!({"total": 2, "projects": [
        {"namespace": "ranch", "name": "camelid-expert", "config": config},
        {"namespace": "ranch", "name": "broken", "config": {}, "validation_error": "bad"},
    ]});
    Double::start(&[
        ("GET /health/liveness", Scripted::json(200, r#"{"status":"alive"}"#)),
        ("GET /v1/projects/ranch", Scripted::json(200, &list.to_string())),
    ])
    .await
}

#[tokio::test]
async fn a_llamafarm_project_is_a_capability_without_its_secrets() {
    let double = llamafarm().await;
    let spec = BackendSpec { namespaces: vec!["ranch".into()], ..double.spec("llamafarm") };
    let provider = LlamaFarm::new("llamafarm", &spec).expect("a provider");
    let found = provider.discover().await.expect("a list");
    let [it] = &found[..] else { unreachable!("{found:?}") };
    assert_eq!((it.name.as_str(), it.project.as_deref()), ("ranch/camelid-expert", Some("ranch/camelid-expert")));
    assert_eq!((it.domain.as_deref(), it.parameter_count), (Some("camelid"), Some(8_000_000_000)));
    for topic in ["camelid", "vet", "herd"] {
        assert!(it.topics.iter().any(|known| known == topic), "{topic}: {:?}", it.topics);
    }
    assert!(it.description.contains("alpacas") && it.description.contains("Care of camelids"));
    assert_eq!(it.examples, ["How do I shear an alpaca?"]);
    assert!(it.features.contains(Feature::Rag) && it.features.contains(Feature::Tools));
    let told = serde_json::to_string(it).expect("JSON");
    assert!(!told.contains("secret"), "{told}");

    let path = "POST /v1/projects/ranch/camelid-expert/chat/completions";
    double.set(path, Scripted::events(&[TEXT.as_bytes(), STOP, DONE], Then::End));
    let (frames, _) = collect(provider.call(call(&it.id, Operation::Chat, true, BODY))).await;
    assert!(matches!(frames.last(), Some(Frame::End { .. })));
    let seen = double.last(path);
    assert!(seen.headers.contains_key("x-no-session") && seen.body.contains("\"model\":\"main\""));

    // [DONE] without a reason is how it fails.
    double.set(path, Scripted::events(&[TEXT.as_bytes(), DONE], Then::End));
    let (frames, bytes) = collect(provider.call(call(&it.id, Operation::Chat, true, BODY))).await;
    assert_eq!((failure(&frames).class, bytes.as_str()), (ErrorClass::Interrupted, TEXT));

    double.set(path, Scripted::json(404, r#"{"error":"ProjectNotFound","message":"no such project"}"#));
    let (frames, _) = collect(provider.call(call(&it.id, Operation::Chat, false, BODY))).await;
    let body: Value = serde_json::from_slice(&failure(&frames).body.expect("a body").0).expect("JSON");
    assert_eq!(
        (&body["error"]["message"], &body["error"]["code"]),
        (&json!("no such project"), &json!("ProjectNotFound"))
    );

    // Its catch-all answers with the page of its designer.
    double.set("GET /health/liveness", Scripted::json(200, "<html>").header("content-type", "text/html"));
    assert!(provider.discover().await.expect_err("a page").message.contains("web page"));
}

#[tokio::test]
async fn the_universal_runtime_offers_what_is_configured_and_never_its_own_names() {
    let double = Double::start(&[
        ("GET /health", Scripted::json(200, r#"{"status":"healthy","loaded_models":["language:x:ctxauto"]}"#)),
        ("GET /v1/models", Scripted::json(200, r#"{"data":[{"id":"language:x:ctxauto"}]}"#)),
    ])
    .await;
    let provider = Universal::new("universal", &double.spec("universal")).expect("a provider");
    assert_eq!(provider.discover().await, Ok(Vec::new()));
    let models = vec!["unsloth/Qwen3-1.7B-GGUF:Q4_K_M".to_owned(), "nomic-ai/nomic-embed-text-v1.5".to_owned()];
    let spec = BackendSpec { models, ..double.spec("universal") };
    let found = Universal::new("universal", &spec).expect("a provider").discover().await.expect("a list");
    let kinds: Vec<&Kind> = found.iter().map(|it| &it.kind).collect();
    assert_eq!(kinds, [&Kind::LLM_CHAT, &Kind::LLM_EMBED]);
}

fn start(backends: Vec<BackendSpec>) -> Arc<Registry> {
    let settings = Settings { backends, probe: false, embedder: None };
    Registry::start(settings, EventBus::default(), CancellationToken::new())
}

#[tokio::test]
async fn a_backend_that_goes_is_withdrawn_and_comes_back() {
    let (double, ..) = server(Scripted::json(200, "{}")).await;
    let address = double.address;
    // Its kind is found out.
    let spec = BackendSpec::parse(&format!("http://{address}")).expect("a backend");
    let twice = BackendSpec::parse(&format!("http://localhost:{}/v1", address.port())).expect("a backend");
    let registry = start(vec![spec, twice]);
    registry.settled(PATIENCE).await;
    let capabilities = registry.capabilities();
    eventually(|| capabilities.borrow().len() == 1).await;
    let status = registry.statuses();
    assert_eq!((status.len(), status[0].kind.as_str(), status[0].up), (1, "openai", true));
    let id = capabilities.borrow()[0].id.clone();
    assert!(id.as_str().starts_with(&format!("openai@127.0.0.1:{}/", address.port())) && registry.is_shared(&id));
    let resolved = registry.resolve(&id).expect("there");

    drop(double);
    // A failed call has it looked at again at once.
    eventually(|| std::net::TcpListener::bind(address).is_ok()).await;
    collect(resolved.provider.call(call(&id, Operation::Chat, false, BODY))).await;
    eventually(|| capabilities.borrow().is_empty()).await;
    assert!(registry.resolve(&id).is_none() && registry.statuses()[0].error.is_some());

    let models = Scripted::json(200, r#"{"data":[{"id":"org/tiny-7b"}]}"#);
    let _back = Double::start_at(address, &[("GET /v1/models", models)]).await;
    eventually(|| !capabilities.borrow().is_empty()).await;
    assert_eq!(registry.resolve(&id).expect("back").capability.name, "org/tiny-7b");
}

#[tokio::test]
async fn local_backends_are_found_by_what_they_answer_and_nodes_are_not_taken_for_one() {
    let ollama = Double::start(&[
        ("GET /api/version", Scripted::json(200, r#"{"version":"0.12.0"}"#)),
        ("GET /api/tags", Scripted::json(200, r#"{"models":[{"name":"llama3.2:latest"}]}"#)),
    ])
    .await;
    let models = Scripted::json(200, r#"{"data":[{"id":"m"}]}"#).header("server", "atmosphere");
    let node = Double::start(&[("GET /v1/models", models)]).await;
    let web =
        Double::start(&[("GET /v1/models", Scripted::json(200, "<html>").header("content-type", "text/html"))]).await;
    let ports = [&ollama, &node, &web].map(|double| double.address.port()).to_vec();
    let settings = Settings { backends: Vec::new(), probe: true, embedder: None };
    let events = EventBus::default();
    let mut watched = events.subscribe();
    let registry = Registry::start_at(settings, ports, events, CancellationToken::new());
    registry.settled(PATIENCE).await;
    let status = registry.statuses();
    assert_eq!(status.len(), 1, "{status:?}");
    assert_eq!((status[0].kind.as_str(), status[0].up, status[0].capabilities), ("ollama", true, 1));
    let event = watched.recv().await.expect("an event");
    assert_eq!((event.kind, &event.data["kind"]), ("provider.up", &json!("ollama")));
}

#[tokio::test]
async fn what_ollamas_openai_api_would_leave_out_goes_by_its_own() {
    let lines = concat!(
        r#"{"model":"m","message":{"role":"assistant","content":"hi"},"done":false}"#,
        "\n",
        r#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":3,"eval_count":2}"#,
        "\n"
    );
    let double = Double::start(&[
        ("GET /api/tags", Scripted::json(200, r#"{"models":[{"name":"llama3.2:latest"}]}"#)),
        ("POST /api/chat", Scripted::json(200, lines).header("content-type", "application/x-ndjson")),
        ("POST /api/generate", Scripted::json(404, r#"{"error":"model not found"}"#)),
        (CHAT, Scripted::events(&[ROLE, TEXT.as_bytes(), STOP, DONE], Then::End)),
    ])
    .await;
    let ollama = Ollama::new("ollama", &double.spec("ollama")).expect("a provider");
    let id = ollama.discover().await.expect("a list").remove(0).id;
    let own = r#"{"messages":[{"role":"user","content":"hi"}],"top_k":7,"stream":true,"stream_options":{"include_usage":true}}"#;
    let (frames, told) = collect(ollama.call(call(&id, Operation::Chat, true, own))).await;
    assert!(told.starts_with("data: {") && told.contains(r#""content":"hi""#) && told.ends_with("data: [DONE]\n\n"));
    let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 2, ..Usage::default() });
    assert_eq!(frames.last(), Some(&Frame::End { usage, load: None }));
    let sent: Value = serde_json::from_str(&double.last("POST /api/chat").body).expect("JSON");
    assert_eq!((&sent["model"], &sent["options"]), (&json!("llama3.2:latest"), &json!({"top_k": 7})));
    let (_, told) = collect(ollama.call(call(&id, Operation::Chat, true, BODY))).await;
    assert!(told.contains("hé𝄞"), "nothing of it is lost there: {told}");
    let raw = r#"{"prompt":"x","x_atmosphere":[{"at":"","fields":{"raw":true}}]}"#;
    let refused = failure(&collect(ollama.call(call(&id, Operation::Complete, false, raw))).await.0);
    let (body, _) = refused.body.expect("the server's own words");
    assert_eq!(serde_json::from_slice::<Value>(&body).expect("JSON")["error"]["message"], "model not found");
}

#[tokio::test]
async fn two_providers_never_share_a_name() {
    let (one, ..) = server(Scripted::json(200, "{}")).await;
    let (two, ..) = server(Scripted::json(200, "{}")).await;
    let named = |double: &Double| BackendSpec { name: Some("gpu".into()), ..double.spec("openai") };
    let registry = start(vec![named(&one), named(&two)]);
    let capabilities = registry.capabilities();
    eventually(|| capabilities.borrow().len() == 2).await;
    let ids: Vec<String> = registry.statuses().into_iter().map(|status| status.id).collect();
    assert_eq!(ids, ["gpu", "gpu-2"]);
}

#[tokio::test]
async fn the_tasks_end_with_the_registry() {
    let (double, ..) = server(Scripted::json(200, "{}")).await;
    let registry = start(vec![double.spec("openai")]);
    registry.settled(PATIENCE).await;
    let mut capabilities = registry.capabilities();
    drop(registry);
    // The table goes with the last task.
    let gone = tokio::time::timeout(PATIENCE, async { while capabilities.changed().await.is_ok() {} });
    assert!(gone.await.is_ok());
}

#[tokio::test]
async fn a_panicking_adapter_is_a_failure() {
    struct Panics;
    impl Provider for Panics {
        fn id(&self) -> &str {
            "panics"
        }
        fn discover(&self) -> futures::future::BoxFuture<'_, Result<Vec<Capability>, Failure>> {
            Box::pin(async { unreachable!("on purpose") })
        }
        fn call(&self, _: crate::capability::Call) -> crate::capability::FrameStream {
            Box::pin(futures::stream::empty())
        }
    }
    let registry = Registry::from_providers(vec![Arc::new(Panics)]).await;
    let status = registry.statuses().remove(0);
    assert!(!status.up && status.error.is_some_and(|error| error.contains("fault of atmosphere")));
}
