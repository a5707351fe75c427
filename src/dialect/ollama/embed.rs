//! Vectors by Ollama's two routes.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::request::model_of;
use super::writer::{Moment, nanos};
use crate::dialect::json::{Entries, Json, Object, text};
use crate::dialect::{Refusal, Told};

/// A request for vectors as OpenAI's embeddings.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// The body.
    pub(crate) body: Vec<u8>,
    /// The model that was asked for.
    pub(crate) model: String,
    /// Whether it came by the old route, which has one prompt and one vector.
    single: bool,
}

/// Reads a request of `/api/embed`.
pub(crate) fn embed(body: &[u8]) -> Result<Embedded, Refusal> {
    read(body, "input", false)
}

/// Reads a request of `/api/embeddings`.
pub(crate) fn embedding(body: &[u8]) -> Result<Embedded, Refusal> {
    read(body, "prompt", true)
}

fn read(body: &[u8], field: &str, single: bool) -> Result<Embedded, Refusal> {
    let mut body = Object::body(body)?;
    let model = model_of(&mut body)?;
    let mut out = Entries::new().with("model", model.clone());
    let input = body.need(field)?;
    if single {
        // It has one vector.
        text(input, field)?;
    }
    out.put("input", input);
    out.put("encoding_format", "float");
    out.maybe("dimensions", body.take("dimensions"));
    // How a model is loaded and kept is its own node's business, and no input is ever cut.
    for moot in ["options", "keep_alive", "truncate"] {
        body.take(moot);
    }
    out.put_rest(body)?;
    let model = model.into_owned();
    Ok(Embedded { body: Json::from(out).to_bytes(), model, single })
}

#[derive(Deserialize)]
struct List {
    data: Vec<Vector>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Vector {
    #[serde(default)]
    index: u64,
    embedding: Box<RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
}

impl Embedded {
    /// The answer as Ollama's clients expect it.
    ///
    /// # Errors
    ///
    /// When it is no list of embeddings.
    pub(crate) fn told(&self, answer: &[u8], now: &Moment) -> Result<Vec<u8>, Told> {
        let mut list: List = serde_json::from_slice(answer)
            .map_err(|_| Told::backend("the backend answers with what is no list of embeddings"))?;
        list.data.sort_by_key(|vector| vector.index);
        if self.single {
            let vector = list.data.into_iter().next();
            let vector = vector.ok_or_else(|| Told::backend("the backend answers without an embedding"))?;
            return Ok(Json::from(Entries::new().with("embedding", vector.embedding)).to_bytes());
        }
        let vectors: Vec<Json<'_>> = list.data.into_iter().map(|vector| vector.embedding.into()).collect();
        let told = Entries::new()
            .with("model", self.model.as_str())
            .with("embeddings", vectors)
            .with("total_duration", nanos(now.elapsed))
            .with("load_duration", 0_u64)
            .with("prompt_eval_count", list.usage.map_or(0, |usage| usage.prompt_tokens));
        Ok(Json::from(told).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn vectors_keep_their_digits_and_come_in_order() {
        let asked =
            embed(br#"{"model":"e","input":["a","b"],"truncate":true,"dimensions":2,"keep_alive":0}"#).expect("fine");
        assert_eq!(asked.body, br#"{"model":"e","input":["a","b"],"encoding_format":"float","dimensions":2}"#);
        let answer = br#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[0.10,-2e-3]}],"usage":{"prompt_tokens":5}}"#;
        let now = Moment { at: String::new(), elapsed: Duration::from_micros(3) };
        assert_eq!(
            String::from_utf8(asked.told(answer, &now).expect("vectors")).expect("UTF-8"),
            r#"{"model":"e","embeddings":[[0.10,-2e-3],[3,4]],"total_duration":3000,"load_duration":0,"prompt_eval_count":5}"#
        );
        let old = embedding(br#"{"model":"e","prompt":"a"}"#).expect("fine");
        assert_eq!(old.body, br#"{"model":"e","input":"a","encoding_format":"float"}"#);
        assert_eq!(old.told(answer, &now).expect("a vector"), br#"{"embedding":[0.10,-2e-3]}"#);
        assert!(old.told(br#"{"data":[]}"#, &now).is_err() && old.told(b"{", &now).is_err());
        assert_eq!(embed(br#"{"model":"e"}"#).expect_err("refused").param.as_deref(), Some("input"));
        let several = embedding(br#"{"model":"e","prompt":["a","b"]}"#);
        assert_eq!(several.expect_err("it has one vector").param.as_deref(), Some("prompt"));
    }
}
