//! By which port a request came.

/// By which port a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    /// The API's.
    Api,
    /// That of Ollama's clients.
    Ollama,
}
