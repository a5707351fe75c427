//! What can go wrong for a verb, and the exit code that a script sees.

use std::io;

use crate::config::ConfigError;

/// Why a verb failed. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The request was made, and failed.
    #[error("{0}")]
    Failed(String),
    /// The node does not take the request.
    #[error("{0}")]
    Refused(String),
    /// A flag or a value is wrong.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No node answers.
    #[error("{0}")]
    NotReachable(String),
    /// There is no such model or node.
    #[error("{0}")]
    NotFound(String),
    /// Nobody can do it now.
    #[error("{0}")]
    Unavailable(String),
    /// It works, and there are problems. They have been shown.
    #[error("there are problems")]
    Unhealthy,
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// The exit code, as `--help` documents it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // `atmosphere nodes | head -1` is no failure: the reader has what it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Failed(_) | Self::Refused(_) | Self::Output(_) | Self::Unhealthy => 1,
            Self::Usage(_) | Self::Config(_) => 2,
            Self::NotReachable(_) => 3,
            Self::NotFound(_) => 4,
            Self::Unavailable(_) => 5,
        }
    }

    /// Whether there is nothing more to say: a closed pipe is nobody's business, and problems have been shown.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        match self {
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Self::Unhealthy => true,
            _ => false,
        }
    }
}
