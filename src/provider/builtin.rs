//! The embedder that every node has, as a provider with OpenAI's embeddings API.

use std::sync::Arc;

use base64::Engine;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Provider;
use super::models::{answered, failed};
use super::naming::{self, Role};
use crate::capability::{
    Call, Capability, CapabilityId, ErrorClass, Failure, FrameStream, Kind, Operation, Residency, Usage,
};
use crate::embedding::Embedder;

/// Its name on the node.
const ID: &str = "builtin";

/// The name that callers use.
const MODEL: &str = "atmosphere-embed";

/// Most inputs of a request: OpenAI's own limit.
const INPUTS: usize = 2048;

/// Texts that are embedded before others get a turn: some milliseconds of work at most.
const TURN: usize = 16;

/// The built-in engine.
pub struct Builtin {
    embedder: Arc<dyn Embedder>,
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builtin").field("space", self.embedder.space()).finish()
    }
}

impl Builtin {
    /// Offers this embedder.
    #[must_use]
    pub fn new(embedder: Arc<dyn Embedder>) -> Self {
        Self { embedder }
    }

    fn capability(&self) -> Capability {
        let mut it = naming::capability(ID, MODEL, Role::Embed);
        naming::describe(&mut it, Role::Embed, None);
        it.aliases = vec!["builtin-embed".into()];
        it.embedding_length = u32::try_from(self.embedder.dim()).ok();
        it.digest = Some(format!("space:{}", self.embedder.space()));
        it.residency = Residency::Warm;
        it
    }
}

impl Provider for Builtin {
    fn id(&self) -> &str {
        ID
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        let found = vec![self.capability()];
        Box::pin(async { Ok(found) })
    }

    fn call(&self, call: Call) -> FrameStream {
        let own = CapabilityId::new(ID, &Kind::LLM_EMBED, MODEL);
        if call.capability != own || call.operation != Operation::Embed {
            let message =
                format!("{} cannot do {:?}: the built-in engine embeds text", call.capability, call.operation.as_str());
            return failed(Failure::new(ErrorClass::Request, message));
        }
        let request = match Request::read(&call.payload, self.embedder.dim()) {
            Ok(request) => request,
            Err(failure) => return failed(failure),
        };
        let embedder = Arc::clone(&self.embedder);
        Box::pin(async_stream::stream! {
            let mut vectors = Vec::with_capacity(request.inputs.len());
            for (index, text) in request.inputs.iter().enumerate() {
                if index % TURN == TURN - 1 {
                    // Lets others run, and a caller who has left drop the work.
                    tokio::task::yield_now().await;
                }
                vectors.push(request.form(embedder.embed(text)));
            }
            let tokens = request.inputs.iter().map(|text| estimated_tokens(text)).sum();
            let (body, usage) = answer(vectors, tokens);
            for frame in answered(body.into(), Some(usage)) {
                yield frame;
            }
        })
    }
}

fn answer(vectors: Vec<Value>, tokens: u64) -> (String, Usage) {
    let data: Vec<Value> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, embedding)| json!({"object": "embedding", "index": index, "embedding": embedding}))
        .collect();
    let body = json!({
        "object": "list",
        "data": data,
        "model": MODEL,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    (body.to_string(), Usage { prompt_tokens: tokens, completion_tokens: 0, ..Usage::default() })
}

/// Tokens of a text by the usual rule of four bytes each; an embedder tells no number.
fn estimated_tokens(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX).div_ceil(4)
}

/// A request for embeddings, checked.
#[derive(Debug, PartialEq)]
struct Request {
    inputs: Vec<String>,
    base64: bool,
    dimensions: Option<usize>,
}

impl Request {
    fn read(payload: &[u8], dim: usize) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Body {
            input: Option<Value>,
            encoding_format: Option<Value>,
            dimensions: Option<Value>,
        }
        let body: Body = serde_json::from_slice(payload)
            .map_err(|cause| bad("", format!("the request body is not a JSON object: {cause}")))?;
        let text = |value: Value| match value {
            Value::String(text) if text.is_empty() => Err(bad("input", "'input' holds an empty text".into())),
            Value::String(text) => Ok(text),
            Value::Number(_) | Value::Array(_) => {
                Err(bad("input", format!("{MODEL} embeds text, not token ids: send strings as 'input'")))
            }
            _ => Err(bad("input", "'input' must be a string or an array of strings".into())),
        };
        let inputs = match body.input {
            None | Some(Value::Null) => {
                return Err(bad("input", "'input' is missing: send a string or an array of strings".into()));
            }
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(bad("input", "'input' is an empty array".into()));
            }
            Some(Value::Array(list)) if list.len() > INPUTS => {
                return Err(bad("input", format!("'input' holds {} texts; {INPUTS} is the most", list.len())));
            }
            Some(Value::Array(list)) => list.into_iter().map(text).collect::<Result<_, _>>()?,
            Some(value) => vec![text(value)?],
        };
        let base64 = match body.encoding_format {
            None | Some(Value::Null) => false,
            Some(Value::String(format)) if format == "float" => false,
            Some(Value::String(format)) if format == "base64" => true,
            Some(_) => return Err(bad("encoding_format", "'encoding_format' must be \"float\" or \"base64\"".into())),
        };
        let dimensions = match body.dimensions {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_u64().and_then(|length| usize::try_from(length).ok()) {
                Some(length) if (1..=dim).contains(&length) => Some(length),
                _ => return Err(bad("dimensions", format!("'dimensions' must be between 1 and {dim} for {MODEL}"))),
            },
        };
        Ok(Self { inputs, base64, dimensions })
    }

    /// A vector in the form that was asked for.
    fn form(&self, mut vector: Vec<f32>) -> Value {
        if let Some(length) = self.dimensions.filter(|length| *length < vector.len()) {
            vector.truncate(length);
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            if norm > 0.0 {
                vector.iter_mut().for_each(|x| *x /= norm);
            }
        }
        if self.base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        } else {
            vector.into()
        }
    }
}

fn bad(param: &str, message: String) -> Failure {
    let param = if param.is_empty() { Value::Null } else { param.into() };
    let body = json!({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": null}});
    let mut failure = Failure::new(ErrorClass::Request, message);
    failure.body = Some((body.to_string().into(), "application/json".into()));
    failure
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use futures::StreamExt;

    use super::*;
    use crate::capability::Frame;

    struct Fixed(Arc<str>);

    impl Embedder for Fixed {
        fn space(&self) -> &Arc<str> {
            &self.0
        }

        fn dim(&self) -> usize {
            4
        }

        fn embed(&self, text: &str) -> Vec<f32> {
            if text == "b" { vec![0.0, 0.0, 0.0, 1.0] } else { vec![0.6, 0.0, 0.8, 0.0] }
        }
    }

    async fn run(payload: &str) -> Result<(Value, Option<Usage>), Failure> {
        let provider = Builtin::new(Arc::new(Fixed("test/4".into())));
        let capability = provider.discover().await.expect("always there").remove(0);
        let call = Call {
            id: "1".into(),
            capability: capability.id,
            operation: Operation::Embed,
            payload: payload.to_owned().into(),
            content_type: "application/json".into(),
            stream: false,
            deadline: Duration::from_secs(5),
            headers: BTreeMap::new(),
        };
        let frames: Vec<Frame> = provider.call(call).collect().await;
        match &frames[..] {
            [Frame::Chunk(chunk), Frame::End { usage, .. }] => {
                Ok((serde_json::from_slice(&chunk.data).expect("JSON"), *usage))
            }
            [Frame::Error(failure)] => Err(failure.clone()),
            other => unreachable!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn one_text_and_many_are_embedded_in_order() {
        let (one, usage) = run(r#"{"input":"a","model":"x"}"#).await.expect("an answer");
        assert_eq!(one["data"][0]["embedding"].as_array().map(Vec::len), Some(4));
        assert_eq!((one["model"].as_str(), usage.map(|usage| usage.prompt_tokens)), (Some(MODEL), Some(1)));
        let texts: Vec<&str> = std::iter::repeat_n("a", 40).chain(["b"]).collect();
        let (many, _) = run(&json!({ "input": texts }).to_string()).await.expect("an answer");
        assert_eq!(
            (many["data"][40]["index"].as_u64(), many["data"][40]["embedding"][3].as_f64()),
            (Some(40), Some(1.0))
        );
    }

    #[tokio::test]
    async fn vectors_come_as_base64_and_shorter_when_asked() {
        let (short, _) = run(r#"{"input":"a","encoding_format":"base64","dimensions":2}"#).await.expect("an answer");
        let text = short["data"][0]["embedding"].as_str().expect("base64");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        assert_eq!(bytes, [1.0_f32.to_le_bytes(), 0.0_f32.to_le_bytes()].concat());
    }

    #[tokio::test]
    async fn what_cannot_be_embedded_is_the_callers_mistake() {
        for payload in [
            "",
            "[]",
            "{}",
            r#"{"input":[]}"#,
            r#"{"input":""}"#,
            r#"{"input":[1,2]}"#,
            r#"{"input":[[1,2]]}"#,
            r#"{"input":["a",""]}"#,
            r#"{"input":true}"#,
            r#"{"input":"a","encoding_format":"hex"}"#,
            r#"{"input":"a","dimensions":5}"#,
            r#"{"input":"a","dimensions":0}"#,
            r#"{"input":"a","dimensions":"2"}"#,
        ] {
            let failure = run(payload).await.expect_err(payload);
            assert_eq!((failure.class, failure.status), (ErrorClass::Request, 400), "{payload}");
        }
        let tokens = run(r#"{"input":[1,2]}"#).await.expect_err("tokens").message;
        assert!(tokens.contains("token ids"), "{tokens}");
    }
}
