//! `atmosphere start`: flags become a configuration, and the configuration a running node.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;

use super::args::StartArgs;
use super::banner::{Banner, FoundBackend};
use super::error::CliError;
use super::output::Output;
use crate::config::{self, Config, FlagValue, Sources};
use crate::mesh::Interfaces;
use crate::node::{self, StartError, Up};
use crate::telemetry;

pub(super) fn run(args: StartArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    if args.example_config {
        output.out.write_all(Config::example_toml().as_bytes())?;
        return Ok(());
    }
    let print_config = args.print_config;
    let loaded = config::load(&sources(args))?;
    for warning in &loaded.warnings {
        output.note(format!("warning: {warning}"));
    }
    if print_config {
        output.out.write_all(loaded.to_toml().as_bytes())?;
        return Ok(());
    }
    telemetry::init_logging(&loaded.config.log.filter, loaded.config.log.format)
        .map_err(|error| CliError::Failed(error.to_string()))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build().map_err(
            |error| CliError::Failed(format!("cannot start worker threads: {error}; is a limit set too low?")),
        )?;
    let colour = output.look.colour;
    let announce = move |up: &Up| {
        // A node is not worth less when nobody reads what it prints.
        let _ = write!(anstream::stdout(), "{}", banner(up).text(colour)).and_then(|()| anstream::stdout().flush());
    };
    runtime.block_on(node::run(loaded.config, announce)).map_err(|error| match error {
        StartError::Setting { .. } => CliError::Usage(error.to_string()),
        _ => CliError::Failed(with_causes(&error)),
    })
}

/// Threads that carry requests and packets. A request is passed on in microseconds, and a thread that wakes another one for
/// it costs as much again, so that few are better than many; half of the processors are left to the models in any case.
fn workers() -> usize {
    /// One carries tens of thousands of requests in a second.
    const MOST: usize = 4;
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).clamp(1, MOST))
}

fn banner(up: &Up) -> Banner {
    let found = up.backends.iter().cloned();
    Banner {
        name: up.name.clone(),
        node: up.node.to_base58(),
        mesh: up.mesh.clone(),
        role: up.membership.as_ref().map(|own| own.role),
        api_url: up.api_url.clone(),
        ollama_url: up.ollama_url.clone(),
        wants_key: up.wants_key,
        backends: found
            .map(|status| FoundBackend {
                name: status.id,
                url: status.url,
                models: status.capabilities,
                error: status.error,
            })
            .collect(),
        listening: up.listening.clone(),
        virtual_addresses: Interfaces::now().virtual_addresses(),
        is_found: up.mdns,
        data_dir: (config::default_data_dir().as_deref() != Some(&up.data_dir)).then(|| {
            let absolute = std::path::absolute(&up.data_dir).unwrap_or_else(|_| up.data_dir.clone());
            absolute.display().to_string()
        }),
    }
}

/// An error and its causes, without saying anything twice.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The flags by the settings that they set.
fn sources(args: StartArgs) -> Sources {
    let mut flags: BTreeMap<&'static str, FlagValue> = BTreeMap::new();
    let texts = [
        ("port", args.port),
        ("ollama_port", args.ollama_port),
        ("gossip_port", args.gossip_port),
        ("name", args.name),
        ("bind", args.bind),
        ("gossip_bind", args.gossip_bind),
        ("data_dir", args.data_dir),
        ("mesh.name", args.mesh),
        ("log.filter", args.log),
        ("log.format", args.log_format),
    ];
    flags.extend(texts.into_iter().filter_map(|(path, text)| Some((path, FlagValue::Text(text?)))));
    let lists = [("seed_peers", args.seed_peers), ("backends", args.backends)];
    let given = lists.into_iter().filter(|(_, items)| !items.is_empty());
    flags.extend(given.map(|(path, items)| (path, FlagValue::List(items))));
    let switches = [
        ("no_mdns", args.no_mdns),
        ("no_probe", args.no_probe),
        ("mesh.private", args.private),
        ("mesh.admit", args.admit_everybody),
        ("api.allow_no_auth", args.allow_no_auth),
    ];
    flags.extend(switches.into_iter().filter(|(_, on)| *on).map(|(path, _)| (path, FlagValue::Yes)));
    Sources::of_process(args.config, flags)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    #[test]
    fn each_flag_sets_its_setting() {
        let cli = Cli::try_parse_from([
            "atmosphere",
            "start",
            "--port",
            "1",
            "--gossip-port",
            "2",
            "--ollama-port",
            "3",
            "--seed-peer",
            "a:1",
            "--seed-peer",
            "b:2",
            "--backend",
            "http://c",
            "--name",
            "n",
            "--bind",
            "::1",
            "--data-dir",
            "/d",
            "--no-mdns",
            "--no-probe",
            "--mesh",
            "m",
            "--private",
            "--admit-everybody",
            "--allow-no-auth",
            "--log",
            "debug",
            "--log-format",
            "json",
        ])
        .expect("parses");
        let Command::Start(args) = cli.command else { panic!("start") };
        let mut sources = sources(*args);
        sources.env.clear();
        let config = config::load(&sources).expect("valid").config;
        assert_eq!((config.port, config.gossip_port, config.name.as_str()), (1, 2, "n"));
        assert_eq!(config.ollama_port, Some(3));
        assert_eq!(config.seed_peers.iter().map(crate::mesh::Seed::as_str).collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(config.backends[0].url.as_str(), "http://c/");
        assert_eq!((config.bind.to_string(), config.data_dir.to_str()), ("::1".into(), Some("/d")));
        assert!(config.no_mdns && config.no_probe && config.api.allow_no_auth);
        assert!(config.mesh.private);
        assert_eq!((config.mesh.name.as_str(), config.mesh.admit), ("m", config::Admit::Everybody));
        assert_eq!((config.log.filter.as_str(), config.log.format), ("debug", config::LogFormat::Json));
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        let inner = std::io::Error::other("port in use");
        let told = config::DataDirError::Create { path: "/d".into(), cause: inner };
        assert_eq!(with_causes(&told).matches("port in use").count(), 1);
    }
}
