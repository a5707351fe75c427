//! The HTTP client of the verbs: finds the running node, asks it, and turns every failure into words and an exit code.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::args::ClientArgs;
use super::error::CliError;
use crate::config::{ApiFile, DEFAULT_PORT, Secret, default_data_dir};

/// To a node on this machine it takes a millisecond; across the world two seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for a question that no model has to answer. Joining takes the longest: the node itself gives up after
/// a minute, and its words are better than ours.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(70);
/// Longest silence while a model answers. The node itself ends silent calls far sooner; this is for a node that hangs.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(300);
/// Largest answer: ten times the list of the largest mesh.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Asks a node.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<Secret>,
    /// The file that said where the node is.
    found_in: Option<PathBuf>,
    /// The directory of a node that does not run.
    absent: Option<PathBuf>,
}

impl Client {
    /// For the node that the flags name, or else the one that runs on this machine.
    pub(super) fn new(args: &ClientArgs) -> Result<Self, CliError> {
        let usual = || format!("http://127.0.0.1:{DEFAULT_PORT}");
        let (url, found_in, absent) = match &args.url {
            Some(url) => (url.clone(), None, None),
            None => {
                let dir = args.data_dir.clone().or_else(default_data_dir);
                match dir.and_then(|dir| Some((ApiFile::read(&dir)?.url, dir))) {
                    Some((url, dir)) => (url, Some(dir), None),
                    // Who names one node does not mean another.
                    None => (usual(), None, args.data_dir.clone()),
                }
            }
        };
        let url = base_url(&url)?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("atmosphere/", env!("CARGO_PKG_VERSION")))
            // A node is on this machine or in the mesh; a proxy for the web knows neither.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .tcp_nodelay(true)
            // That is what nodes speak, and what a WebSocket begins with.
            .http1_only()
            .build()
            .map_err(|error| CliError::Failed(format!("cannot set up HTTP: {error}")))?;
        Ok(Self { http, url, key: args.api_key.as_deref().map(Secret::new), found_in, absent })
    }

    /// Where the node is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Asks with `GET`.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, CliError> {
        let request = self.http.get(format!("{}{path}", self.url)).timeout(QUESTION_TIMEOUT);
        read(self.send(request).await?).await
    }

    /// Asks with `POST`, within the time for questions.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Bytes, CliError> {
        let request = self.http.post(format!("{}{path}", self.url)).timeout(QUESTION_TIMEOUT).json(body);
        // What a node does not take of a question is a value of the command line.
        let refused = |error| match error {
            CliError::Refused(said) => CliError::Usage(said),
            other => other,
        };
        read(self.send(request).await.map_err(refused)?).await
    }

    /// Lets a model work: as long as the node says something within [`SILENCE_TIMEOUT`].
    pub(super) async fn run(&self, path: &str, body: &Value) -> Result<reqwest::Response, CliError> {
        self.send(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// Opens a connection on which both sides speak when they like, in the protocol that `headers` ask for. What comes first
    /// is the node's answer to that.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(reqwest::header::HeaderMap, reqwest::Upgraded), CliError> {
        let mut request = self.http.get(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let late = || CliError::NotReachable(format!("the node at {} does not answer in time", self.url));
        let opening = async {
            let response = self.send(request).await?;
            if response.status() != reqwest::StatusCode::SWITCHING_PROTOCOLS {
                let url = &self.url;
                let message =
                    format!("{url} has no live events; is something else than an atmosphere node listening there?");
                return Err(CliError::Failed(message));
            }
            let answer = response.headers().clone();
            let upgraded = response.upgrade().await.map_err(|error| self.unreachable(&error))?;
            Ok((answer, upgraded))
        };
        tokio::time::timeout(QUESTION_TIMEOUT, opening).await.map_err(|_| late())?
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, CliError> {
        if let Some(dir) = &self.absent {
            let dir = dir.display();
            return Err(CliError::NotReachable(format!(
                "no atmosphere node runs with the data directory {dir}; start it with `atmosphere start --data-dir {dir}`, \
                 or say where another one is with --url"
            )));
        }
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() || status.is_informational() { Ok(response) } else { Err(self.refused(response).await) }
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let url = &self.url;
        let from = self.found_in.as_ref().map_or_else(String::new, |dir| {
            format!(
                " (the address is from {}; a node that was killed leaves it behind)",
                dir.join("api.json").display()
            )
        });
        if error.is_builder() {
            return CliError::Usage(format!("the request cannot be made: {}", root_cause(error)));
        }
        let cause = if error.is_timeout() { "no answer in time".to_owned() } else { root_cause(error) };
        CliError::NotReachable(format!(
            "no atmosphere node answers at {url}: {cause}{from}; start one with `atmosphere start`, or say where one is \
             with --url"
        ))
    }

    /// The node's own words about why not, and the exit code that fits.
    async fn refused(&self, response: reqwest::Response) -> CliError {
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u64>().ok());
        // Every answer of a node has one.
        let is_a_node = response.headers().contains_key("x-request-id");
        let body = read(response).await.unwrap_or_default();
        let said = error_message(&body).unwrap_or_else(|| format!("{} answers HTTP {status}", self.url));
        match status.as_u16() {
            401 => CliError::Failed(format!("{said}; give a key with --api-key or ATMOSPHERE_API_KEY")),
            400 => CliError::Refused(said),
            404 if is_a_node => CliError::NotFound(said),
            404 => CliError::NotReachable(format!(
                "{} does not answer as an atmosphere node does ({said}); is something else listening there?",
                self.url
            )),
            429 | 503 | 504 => CliError::Unavailable(match retry_after {
                Some(seconds) => format!("{said}; try again in {seconds} s"),
                None => said,
            }),
            _ => CliError::Failed(said),
        }
    }
}

/// The message in an OpenAI-shaped error.
pub(super) fn error_message(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let error = value.get("error")?;
    let message = error.get("message").and_then(Value::as_str).or_else(|| error.as_str())?;
    Some(super::output::name(message))
}

/// Reads an answer whole, within bounds.
pub(super) async fn read(response: reqwest::Response) -> Result<Bytes, CliError> {
    let mut body = BytesMut::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| broken_off(&error))?;
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(CliError::Failed(format!("the answer is larger than {} MiB", MAX_ANSWER_BYTES >> 20)));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The words for an answer that did not end as it should.
pub(super) fn broken_off(error: &reqwest::Error) -> CliError {
    CliError::Failed(if error.is_timeout() {
        "the node fell silent in the middle of its answer; `atmosphere status` shows whether it is well".to_owned()
    } else {
        format!("the node's answer broke off: {}; `atmosphere status` shows whether it is well", root_cause(error))
    })
}

/// Reads an answer into a shape. What is `null` counts as missing, since other versions may know what this one does not.
pub(super) fn parse<T: DeserializeOwned>(client: &Client, body: &[u8]) -> Result<T, CliError> {
    let whole = serde_json::from_slice(body).map(without_nulls);
    whole.and_then(serde_json::from_value).map_err(|error| {
        let url = client.url();
        CliError::Failed(format!(
            "{url} does not answer as an atmosphere node does ({error}); is something else listening there?"
        ))
    })
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// The innermost cause, which is the one that says something.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// `http://host:port` of what the owner wrote, without `/v1` and slashes at the end.
fn base_url(text: &str) -> Result<String, CliError> {
    let spelled = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let wrong = |why: &str| {
        let shown = crate::config::without_userinfo(text);
        CliError::Usage(format!("--url {shown:?} {why}; give one such as http://127.0.0.1:{DEFAULT_PORT}"))
    };
    let url = url::Url::parse(&spelled).map_err(|error| wrong(&format!("is not a URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is neither http nor https"));
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    Ok(format!("{}{path}", url.origin().ascii_serialization()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_read_as_people_write_it() {
        for (text, base) in [
            ("http://127.0.0.1:11451", "http://127.0.0.1:11451"),
            ("gpu:11451/", "http://gpu:11451"),
            ("http://gpu:11451/v1/", "http://gpu:11451"),
            ("https://me:pw@x.net/atmosphere/v1", "https://x.net/atmosphere"),
        ] {
            assert_eq!(base_url(text).expect(text), base);
        }
        for bad in ["", "ftp://x", "http://"] {
            assert_eq!(base_url(bad).expect_err(bad).exit_code(), 2);
        }
    }
}
