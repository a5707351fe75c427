//! What an owner says about their backends: where they are, what they are, who may use them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use url::{Host, Url};

use super::secret::Secret;
use crate::capability::Cost;
use crate::embedding::Embedder;

/// What the registry needs to know.
#[derive(Clone, Default)]
pub struct Settings {
    /// Backends that the owner named.
    pub backends: Vec<BackendSpec>,
    /// Whether to look for local backends at their default ports, and for a cloud key in the environment.
    pub probe: bool,
    /// The built-in embedder; without one the node offers no embeddings of its own.
    pub embedder: Option<Arc<dyn Embedder>>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("backends", &self.backends)
            .field("probe", &self.probe)
            .field("embedder", &self.embedder.as_ref().map(|embedder| Arc::clone(embedder.space())))
            .finish()
    }
}

/// One backend: a server whose models this node offers.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendSpec {
    /// What it is; `None`: find out.
    pub kind: Option<BackendKind>,
    /// Where it is. A trailing `/v1` may be there or not.
    pub url: Url,
    /// Its API key.
    pub key: Option<Secret>,
    /// The provider's name on this node; `None`: made from kind and URL.
    pub name: Option<String>,
    /// Models to offer; empty: all that it lists.
    pub models: Vec<String>,
    /// LlamaFarm namespaces to offer; LlamaFarm cannot list them.
    pub namespaces: Vec<String>,
    /// Whether other nodes may use it; `None`: yes for servers of one's own, no for cloud accounts.
    pub shared: Option<bool>,
    /// How many calls it runs at once, when the owner knows better than the backend tells.
    pub concurrency: Option<u32>,
    /// The field of knowledge of all its models, such as `medicine`.
    pub domain: Option<String>,
    /// What calls cost; `None`: nothing for servers of one's own, a nominal price for cloud accounts.
    pub cost: Option<Cost>,
}

impl BackendSpec {
    /// A backend at this URL of which nothing else is known.
    #[must_use]
    pub const fn new(url: Url) -> Self {
        Self {
            kind: None,
            url,
            key: None,
            name: None,
            models: Vec::new(),
            namespaces: Vec::new(),
            shared: None,
            concurrency: None,
            domain: None,
            cost: None,
        }
    }

    /// Reads `URL` or `kind=URL`. A URL without scheme is taken for `http://`.
    ///
    /// # Errors
    ///
    /// When the kind is unknown or the URL is none that a backend can be reached at.
    pub fn parse(text: &str) -> Result<Self, BackendSpecError> {
        let text = text.trim();
        // A '=' may also stand in a URL's query, so what is before it must look like a word.
        let (kind, rest) = match text.split_once('=') {
            Some((kind, rest)) if !kind.contains(['/', ':', '?']) => (Some(kind.parse()?), rest.trim()),
            _ => (None, text),
        };
        if rest.is_empty() {
            return Err(BackendSpecError::Empty);
        }
        let spelled = if rest.contains("://") { rest.to_owned() } else { format!("http://{rest}") };
        let url = Url::parse(&spelled).map_err(|cause| BackendSpecError::Url(cause.to_string()))?;
        Self { kind, ..Self::new(url) }.validated()
    }

    /// Checks what was put together by hand.
    ///
    /// # Errors
    ///
    /// When the URL is none that a backend can be reached at.
    pub fn validated(self) -> Result<Self, BackendSpecError> {
        if !matches!(self.url.scheme(), "http" | "https") {
            return Err(BackendSpecError::Scheme(self.url.scheme().to_owned()));
        }
        if self.url.host().is_none() {
            return Err(BackendSpecError::Url("it names no host".into()));
        }
        if self.url.query().is_some() || self.url.fragment().is_some() {
            return Err(BackendSpecError::Query);
        }
        Ok(self)
    }

    /// Whether other nodes may use it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.unwrap_or_else(|| is_own_network(&self.url))
    }

    /// What its calls cost. A stranger's server is paid for by somebody: without a price from the owner it
    /// counts as [`NOMINAL_PRICE`], so that one's own hardware comes first where cost matters.
    #[must_use]
    pub fn price(&self) -> Cost {
        self.cost.unwrap_or_else(|| if is_own_network(&self.url) { Cost::default() } else { NOMINAL_PRICE })
    }
}

/// The price of a cloud model whose price nobody told: the order of a middling model's list price.
pub const NOMINAL_PRICE: Cost = Cost { input: 1.0, output: 4.0 };

/// Whether a URL's host is this machine or one of the owner's network, as far as the name tells: loopback,
/// private, link-local and shared (overlay networks') addresses, single-label names and local domains.
#[must_use]
pub fn is_own_network(url: &Url) -> bool {
    match url.host() {
        None => false,
        Some(Host::Ipv4(ip)) => {
            let [a, b, ..] = ip.octets();
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            !name.contains('.')
                || [".local", ".lan", ".home", ".internal", ".home.arpa", ".localhost", ".ts.net"]
                    .iter()
                    .any(|end| name.ends_with(end))
        }
    }
}

/// What a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendKind {
    /// Any server with OpenAI's API, and OpenAI itself.
    OpenAi,
    /// llama.cpp's server.
    LlamaCpp,
    /// vLLM.
    Vllm,
    /// LM Studio.
    LmStudio,
    /// SGLang.
    Sglang,
    /// LocalAI.
    LocalAi,
    /// Lemonade.
    Lemonade,
    /// Ollama.
    Ollama,
    /// LlamaFarm's server, which serves projects.
    LlamaFarm,
    /// LlamaFarm's Universal Runtime.
    Universal,
    /// Anthropic.
    Anthropic,
}

impl BackendKind {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::OpenAi,
        Self::LlamaCpp,
        Self::Vllm,
        Self::LmStudio,
        Self::Sglang,
        Self::LocalAi,
        Self::Lemonade,
        Self::Ollama,
        Self::LlamaFarm,
        Self::Universal,
        Self::Anthropic,
    ];

    /// How it is written in `kind=URL`, and how its provider is called.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::LlamaCpp => "llamacpp",
            Self::Vllm => "vllm",
            Self::LmStudio => "lmstudio",
            Self::Sglang => "sglang",
            Self::LocalAi => "localai",
            Self::Lemonade => "lemonade",
            Self::Ollama => "ollama",
            Self::LlamaFarm => "llamafarm",
            Self::Universal => "universal",
            Self::Anthropic => "anthropic",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BackendKind {
    type Err = BackendSpecError;

    fn from_str(text: &str) -> Result<Self, BackendSpecError> {
        let word: String = text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| BackendSpecError::Kind(text.chars().take(40).collect()))
    }
}

/// Why a backend could not be read. The URL itself is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendSpecError {
    /// There is no URL.
    #[error("a backend needs a URL, such as \"http://localhost:8080\" or \"ollama=http://gpu:11434\"")]
    Empty,
    /// The kind is unknown.
    #[error("{0:?} is not a kind of backend: expected one of {list}, or only the URL to have it found out", list = kinds())]
    Kind(String),
    /// The URL is not one.
    #[error("the backend's URL cannot be read: {0}; expected something like \"http://localhost:8080\"")]
    Url(String),
    /// The scheme is not HTTP.
    #[error("a backend is reached by http or https, not by {0:?}")]
    Scheme(String),
    /// There is a query or fragment.
    #[error("a backend's URL has no '?' or '#' part: give its key in the configuration's \"key\" instead")]
    Query,
}

fn kinds() -> String {
    BackendKind::ALL.map(BackendKind::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_url_or_kind_and_url() {
        let parse = |text: &str| BackendSpec::parse(text).map(|spec| (spec.kind, spec.url.to_string()));
        assert_eq!(parse("http://gpu:8080"), Ok((None, "http://gpu:8080/".into())));
        assert_eq!(parse("gpu:8080/v1"), Ok((None, "http://gpu:8080/v1".into())));
        assert_eq!(parse(" llama.cpp = https://x/v1 "), Ok((Some(BackendKind::LlamaCpp), "https://x/v1".into())));
        for kind in BackendKind::ALL {
            assert_eq!(parse(&format!("{kind}=h:1")), Ok((Some(kind), "http://h:1/".into())));
        }
    }

    #[test]
    fn what_cannot_be_a_backend_is_refused_without_its_password() {
        assert_eq!(BackendSpec::parse("ollama="), Err(BackendSpecError::Empty));
        assert!(matches!(BackendSpec::parse("olama=http://h"), Err(BackendSpecError::Kind(_))));
        assert!(matches!(BackendSpec::parse("ftp://h"), Err(BackendSpecError::Scheme(_))));
        assert!(matches!(BackendSpec::parse("http://"), Err(BackendSpecError::Url(_))));
        assert_eq!(BackendSpec::parse("http://h/?key=secret"), Err(BackendSpecError::Query));
        let error = BackendSpec::parse("http://me:secret@:99999").expect_err("no URL").to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn a_cloud_account_is_its_owners_own_until_they_say_so() {
        let spec = |text: &str| BackendSpec::parse(text).expect("a backend");
        for own in ["localhost:1", "10.1.2.3:1", "[::1]:1", "gpu:1", "nas.local:1", "192.168.0.2", "100.100.1.1"] {
            assert!(spec(own).is_shared(), "{own}");
            assert_eq!(spec(own).price(), Cost::default(), "{own}");
        }
        let cloud = spec("https://api.openai.com/v1");
        assert!(!cloud.is_shared());
        assert!(cloud.price().output > 0.0);
        assert!(BackendSpec { shared: Some(true), ..cloud }.is_shared());
    }
}
