//! Parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One provider of cryptography for everybody. An error means that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    ExitCode::from(atmosphere::cli::run())
}
