//! The verbs of the command line. `start` runs a node; each other one talks to a running node over its HTTP API.
//!
//! What was asked for goes to standard output, and what is said about it to standard error. For a person there are
//! tables and colours; scripts take `--json`, which is what the API sent, and the exit code. One file for each verb.

mod args;
mod banner;
mod capabilities;
mod chat;
mod client;
mod doctor;
mod error;
mod happening;
mod invite;
mod join;
mod members;
mod meshes;
mod nearby;
mod nodes;
mod offline;
mod output;
mod route;
mod shapes;
mod socket;
mod sse;
mod start;
mod status;
mod watch;

use std::io::{self, Read, Write};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

pub use args::{
    CapabilitiesArgs, ChatArgs, Cli, ClientArgs, Command, DoctorArgs, InviteArgs, JoinArgs, MeshCommand,
    MeshCreateArgs, RevokeArgs, RouteArgs, StartArgs, WatchArgs,
};
pub use banner::{Banner, FoundBackend};
pub use error::CliError;
pub use output::{Look, Output};

/// Longest prompt from stdin: as much as the API takes by default.
const MAX_STDIN_BYTES: u64 = 32 << 20;

/// Parses the command line, does what it says and returns the exit code.
#[must_use]
pub fn run() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Who types the name alone wants to know what there is, and has made no mistake.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = writeln!(anstream::stdout(), "{}", error.render().ansi());
            return 0;
        }
        Err(error) => {
            // Help and version go to stdout and are no failure; a closed pipe is nobody's business.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let mut out = anstream::stdout();
    let mut err = anstream::stderr();
    let mut output = Output { out: &mut out, err: &mut err, look: Look::of_streams() };
    let done = execute(cli.command, &mut io::stdin(), &mut output);
    let flushed = out.flush().map_err(CliError::from);
    match done.and(flushed) {
        Ok(()) => 0,
        Err(error) => {
            if !error.is_silent() {
                // When stderr is gone too, the exit code is all that is left.
                let _ = writeln!(err, "error: {error}");
            }
            error.exit_code()
        }
    }
}

/// Does what the command says.
///
/// # Errors
///
/// With what to tell the owner and the exit code that scripts see.
pub fn execute(command: Command, stdin: &mut dyn Read, output: &mut Output<'_>) -> Result<(), CliError> {
    match command {
        Command::Start(args) => start::run(*args, output),
        Command::Completions { shell } => {
            // Into memory first: the generator panics when its output is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "atmosphere", &mut script);
            Ok(output.out.write_all(&script)?)
        }
        Command::Status(args) => block_on(status::run(&args, output)),
        Command::Nodes(args) => block_on(nodes::run(&args, output)),
        Command::Capabilities(args) => block_on(capabilities::run(&args, output)),
        Command::Route(args) => {
            let prompt = prompt(&args.prompt, stdin)?;
            block_on(route::run(&args, &prompt, output))
        }
        Command::Chat(args) => {
            let prompt = prompt(&args.prompt, stdin)?;
            block_on(chat::run(&args, &prompt, output))
        }
        Command::Watch(args) => block_on(watch::run(&args, output)),
        Command::Doctor(args) => block_on(doctor::run(&args, output)),
        Command::Join(args) => {
            let peer = if args.peer == "-" { prompt("-", stdin)? } else { args.peer.clone() };
            block_on(join::run(&args, peer.trim(), output))
        }
        Command::Invite(args) => block_on(invite::run(&args, output)),
        Command::Members(args) => block_on(members::list(&args, output)),
        Command::Revoke(args) => block_on(members::revoke(&args, output)),
        Command::Mesh(MeshCommand::Create(args)) => block_on(meshes::create(&args, output)),
        Command::Mesh(MeshCommand::Leave(args)) => block_on(meshes::leave(&args, output)),
    }
}

/// A verb that asks a node needs no worker threads.
fn block_on(verb: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot set up networking: {error}")))?;
    runtime.block_on(verb)
}

/// The prompt as it was typed, or all of stdin for `-`.
fn prompt(typed: &str, stdin: &mut dyn Read) -> Result<String, CliError> {
    let text = if typed == "-" {
        let mut bytes = Vec::new();
        stdin
            .take(MAX_STDIN_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| CliError::Failed(format!("cannot read the prompt from stdin: {error}")))?;
        if bytes.len() as u64 > MAX_STDIN_BYTES {
            return Err(CliError::Usage(format!("stdin has more than {} MiB", MAX_STDIN_BYTES >> 20)));
        }
        String::from_utf8(bytes).map_err(|_| CliError::Usage("stdin is not UTF-8 text".to_owned()))?
    } else {
        typed.to_owned()
    };
    if text.trim().is_empty() {
        return Err(CliError::Usage("the prompt is empty; write one in quotes, or - to read stdin".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
