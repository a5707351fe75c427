//! Parse, run, exit code.

use std::process::ExitCode;

use atmosphere::cli::{self, Announce};
use atmosphere::config::Config;
use futures::future::BoxFuture;

fn main() -> ExitCode {
    // One provider of cryptography for everybody. An error means that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    ExitCode::from(cli::run(start))
}

fn start(
    config: Config,
    announce: Announce,
) -> BoxFuture<'static, Result<(), Box<dyn std::error::Error + Send + Sync>>> {
    // Replaced when the node is merged.
    drop(announce);
    Box::pin(async move { Err(format!("this build has no node to start {:?} with", config.name).into()) })
}
