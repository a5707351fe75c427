//! What can be typed. The flags of `start` are texts: the configuration checks them together with file and environment.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueHint};

/// Headings that stand out, on a terminal only.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// What stands below the help of a verb: its examples, and the exit codes that it has.
macro_rules! below {
    ($examples:literal, asks) => {
        concat!(
            below!($examples),
            "
  3  no atmosphere node answers there
  4  no such model or node
  5  nobody can do it now: unavailable or overloaded"
        )
    };
    ($examples:literal) => {
        concat!(
            "Examples:\n",
            $examples,
            "\n\nExit codes:
  0  it worked
  1  it failed
  2  wrong usage: a flag, a value or the configuration"
        )
    };
}

/// One local OpenAI-compatible API for everything that your machines can do.
#[derive(Debug, Parser)]
#[command(name = "atmosphere", bin_name = "atmosphere", version, styles = STYLES, arg_required_else_help = true,
    subcommand_required = true, max_term_width = 110, after_help = below!("  atmosphere start                                  on each machine of your network
  atmosphere start --seed-peer 192.168.1.20:11450   where they do not find each other
  atmosphere chat \"How do I care for my llama?\"
  atmosphere route \"write a quicksort in Rust\"      who would answer, and why", asks))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a node on this machine.
    #[command(after_help = below!("  atmosphere start
  atmosphere start --seed-peer 192.168.1.20:11450
  atmosphere start --backend http://localhost:8080 --backend ollama=http://nas:11434
  a second node on this machine:
    atmosphere start --port 21451 --gossip-port 21450 --data-dir ~/.atmosphere-2
  an API for the whole network, which wants a key:
    openssl rand -hex 24 > api-key
    ATMOSPHERE_API_KEYS_FILE=api-key atmosphere start --bind 0.0.0.0
  a file instead of flags:
    atmosphere start --example-config > atmosphere.toml
    atmosphere start --config atmosphere.toml"))]
    Start(Box<StartArgs>),
    /// Show how the node on this machine is: its mesh, its backends, and what needs attention.
    #[command(after_help = below!("  atmosphere status\n  atmosphere status --json | jq .status", asks))]
    Status(ClientArgs),
    /// List the nodes of the mesh.
    #[command(after_help = below!("  atmosphere nodes\n  atmosphere nodes --json | jq -r '.nodes[].name'", asks))]
    Nodes(ClientArgs),
    /// List what the mesh can do, and with which models.
    #[command(after_help = below!("  atmosphere capabilities
  atmosphere capabilities --type llm/chat
  atmosphere capabilities --type llm --domain medicine --json", asks))]
    Capabilities(CapabilitiesArgs),
    /// Explain who would answer a prompt, and why, without running it.
    #[command(after_help = below!("  atmosphere route \"write a quicksort in Rust\"
  atmosphere route \"hello\" --model llama3.2@gpu", asks))]
    Route(RouteArgs),
    /// Ask the mesh, and see the answer as it comes.
    #[command(after_help = below!("  atmosphere chat \"How do I care for my llama?\"
  atmosphere chat \"Say hi\" --model llama3.2 --system \"You are a pirate.\"
  git diff | atmosphere chat - --model best-code --system \"Review this change.\"
  atmosphere chat \"Say hi\" -v          who answered is said on stderr", asks))]
    Chat(ChatArgs),
    /// Watch what happens: decisions, calls, nodes that come and go.
    #[command(after_help = below!("  atmosphere watch
  atmosphere watch --events 'decision,call.*'
  atmosphere watch --json | jq -r 'select(.event == \"node.left\").data.name'

It goes on when the node restarts; Ctrl-C ends it.", asks))]
    Watch(WatchArgs),
    /// Find out what hinders this node, why, and what to do about it.
    #[command(after_help = "Examples:
  atmosphere doctor
  atmosphere doctor gpu                 whether this node and gpu reach each other
  atmosphere doctor --json | jq '.findings[] | select(.verdict == \"problem\")'

Exit codes:
  0  healthy
  1  there are problems, and it says which
  2  wrong usage: a flag, a value or the configuration
  3  no atmosphere node answers there, and nothing hinders one
  4  no such node")]
    Doctor(DoctorArgs),
    /// Join a mesh: a closed one with an invite or a spoken code, an open one by the address of one of its nodes.
    #[command(after_help = below!("  atmosphere join atmo1...                    what `atmosphere invite` printed; a node need not run
  atmosphere join 7-otter-lamp                what `atmosphere invite --nearby` shows; a node need not run
  atmosphere join 7-otter-lamp --peer 192.168.1.20:11450      where mDNS does not find it
  atmosphere join 192.168.1.20:11450
  atmosphere join /dns4/gpu.example.net/tcp/11450", asks))]
    Join(JoinArgs),
    /// Invite a machine to the closed mesh of this node, which must be one of its admins.
    #[command(after_help = below!("  atmosphere invite
  atmosphere invite --role client --expires 1h
  atmosphere invite --nearby                    a short code to read out, for a machine of this network
  atmosphere invite --uses 10 > invite.txt      only the token, for a script", asks))]
    Invite(InviteArgs),
    /// List the members of the closed mesh, their roles, and who was revoked.
    #[command(after_help = below!("  atmosphere members\n  atmosphere members --json | jq -r '.members[] | select(.status == \"revoked\").node'", asks))]
    Members(ClientArgs),
    /// End the membership of a node, on all nodes and for good. An invite can begin a new one.
    #[command(after_help = below!("  atmosphere revoke old-laptop --reason \"sold\"
  atmosphere revoke 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", asks))]
    Revoke(RevokeArgs),
    /// Make a closed mesh, or leave one.
    #[command(subcommand, after_help = below!("  atmosphere mesh create home\n  atmosphere mesh leave"))]
    Mesh(MeshCommand),
    /// Print a completion script for a shell.
    #[command(after_help = below!("  atmosphere completions bash > ~/.local/share/bash-completion/completions/atmosphere
  atmosphere completions zsh > ~/.zfunc/_atmosphere
  atmosphere completions fish > ~/.config/fish/completions/atmosphere.fish"))]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What can be done with a mesh as a whole.
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Make a closed mesh with this node as its first admin; a node need not run.
    #[command(after_help = below!("  atmosphere mesh create home", asks))]
    Create(MeshCreateArgs),
    /// Leave the closed mesh, and be in an open one again; the membership and the root key are set aside, not deleted.
    #[command(after_help = below!("  atmosphere mesh leave", asks))]
    Leave(ClientArgs),
}

/// The flags of `start`. Each is also an environment variable and a key of the file.
#[derive(Debug, Args, Default)]
pub struct StartArgs {
    /// What people call this node [env: ATMOSPHERE_NAME] [default: the machine's name].
    #[arg(long)]
    pub name: Option<String>,
    /// A node to join by, as host:port or multiaddr, or an invite; may be repeated [env: ATMOSPHERE_SEED_PEERS].
    #[arg(long = "seed-peer", value_name = "ADDR", value_hint = ValueHint::Hostname, help_heading = "The mesh")]
    pub seed_peers: Vec<String>,
    /// Do not look for nodes on the local network [env: ATMOSPHERE_NO_MDNS].
    #[arg(long, help_heading = "The mesh")]
    pub no_mdns: bool,
    /// Name of the mesh; nodes of another name are strangers [env: ATMOSPHERE_MESH_NAME] [default: atmosphere].
    #[arg(long, value_name = "NAME", help_heading = "The mesh")]
    pub mesh: Option<String>,
    /// Make a closed mesh of that name on the first start, with this node as its admin [env: ATMOSPHERE_MESH_PRIVATE].
    #[arg(long, help_heading = "The mesh")]
    pub private: bool,
    /// Let everybody in who reaches the gossip port, not only private addresses [env: ATMOSPHERE_MESH_ADMIT=everybody].
    #[arg(long, help_heading = "The mesh")]
    pub admit_everybody: bool,
    /// UDP and TCP port of the mesh [env: ATMOSPHERE_GOSSIP_PORT] [default: 11450].
    #[arg(long, value_name = "PORT", help_heading = "The mesh")]
    pub gossip_port: Option<String>,
    /// Addresses that the mesh listens on, with commas [env: ATMOSPHERE_GOSSIP_BIND] [default: 0.0.0.0,::].
    #[arg(long, value_name = "IP", help_heading = "The mesh")]
    pub gossip_bind: Option<String>,
    /// A backend to use, as URL or kind=URL; may be repeated [env: ATMOSPHERE_BACKENDS].
    #[arg(long = "backend", value_name = "[KIND=]URL", value_hint = ValueHint::Url, help_heading = "Backends")]
    pub backends: Vec<String>,
    /// Do not look for backends at their default ports [env: ATMOSPHERE_NO_PROBE].
    #[arg(long, help_heading = "Backends")]
    pub no_probe: bool,
    /// TCP port of the API [env: ATMOSPHERE_PORT] [default: 11451].
    #[arg(long, help_heading = "The API")]
    pub port: Option<String>,
    /// TCP port for clients that speak only Ollama's API, such as 11434 [env: ATMOSPHERE_OLLAMA_PORT] [default: none].
    #[arg(long, value_name = "PORT", help_heading = "The API")]
    pub ollama_port: Option<String>,
    /// Address that the API listens on; any but loopback wants API keys [env: ATMOSPHERE_BIND] [default: 127.0.0.1].
    #[arg(long, value_name = "IP", help_heading = "The API")]
    pub bind: Option<String>,
    /// Let everybody use the API who reaches --bind, without a key [env: ATMOSPHERE_API_ALLOW_NO_AUTH].
    #[arg(long, help_heading = "The API")]
    pub allow_no_auth: bool,
    /// Configuration file [env: ATMOSPHERE_CONFIG] [default: config.toml in the data directory].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Where identity and snapshots live [env: ATMOSPHERE_HOME] [default: ~/.atmosphere].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<String>,
    /// What to log, such as debug or info,atmosphere::mesh=debug [env: ATMOSPHERE_LOG].
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// human or json [env: ATMOSPHERE_LOG_FORMAT] [default: human].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Print the configuration in force, with the origin of each value and without secrets, and stop.
    #[arg(long)]
    pub print_config: bool,
    /// Print a configuration file with every setting explained, and stop.
    #[arg(long, exclusive = true)]
    pub example_config: bool,
}

/// What every verb takes that talks to a running node.
#[derive(Debug, Args, Default)]
pub struct ClientArgs {
    /// Print the API's JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the node is [default: the node that runs on this machine, or else http://127.0.0.1:11451].
    #[arg(long, env = "ATMOSPHERE_URL", hide_env_values = true, value_hint = ValueHint::Url)]
    pub url: Option<String>,
    /// The node's API key, when it wants one.
    #[arg(long, env = "ATMOSPHERE_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// The data directory of the node that is meant, when several run on this machine [env: ATMOSPHERE_HOME].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
}

/// The flags of `capabilities`.
#[derive(Debug, Args)]
pub struct CapabilitiesArgs {
    /// Only this kind, such as llm/chat, or this category, such as llm.
    #[arg(long = "type", value_name = "KIND")]
    pub kind: Option<String>,
    /// Only this field of knowledge.
    #[arg(long)]
    pub domain: Option<String>,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `route`.
#[derive(Debug, Args)]
pub struct RouteArgs {
    /// The prompt; - reads it from stdin.
    pub prompt: String,
    /// A model, model@node, namespace/project, alias, or auto.
    #[arg(long, short, default_value = "auto")]
    pub model: String,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The prompt; - reads it from stdin.
    pub prompt: String,
    /// A model, model@node, namespace/project, alias, or auto.
    #[arg(long, short, default_value = "auto")]
    pub model: String,
    /// Instructions that come before the prompt.
    #[arg(long, short)]
    pub system: Option<String>,
    /// Wait for the whole answer.
    #[arg(long)]
    pub no_stream: bool,
    /// Say on stderr who answers.
    #[arg(long, short)]
    pub verbose: bool,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only these events, such as decision or node.*; with commas, or repeated [default: all].
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub events: Vec<String>,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Only together with this node, by name or id [default: all neighbours].
    pub node: Option<String>,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// An invite (token or atmosphere:// link), a spoken code such as 7-otter-lamp, or the address of a node: host:port or
    /// multiaddr; - reads it from stdin.
    #[arg(value_name = "INVITE|CODE|ADDRESS")]
    pub peer: String,
    /// With a code: where the other machine is, as host:port or multiaddr, where mDNS does not find it; may be repeated.
    #[arg(long = "peer", value_name = "ADDR", value_hint = ValueHint::Hostname)]
    pub peers: Vec<String>,
    /// With a code: say yes without asking.
    #[arg(long)]
    pub yes: bool,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `invite`.
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// Show a short code to read out for a machine of this network, and ask on both screens before it is let in.
    #[arg(long)]
    pub nearby: bool,
    /// How long it can be used [default: 24h; with --nearby 5m].
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// How many machines it lets in [default: 1].
    #[arg(long, value_name = "COUNT")]
    pub uses: Option<u32>,
    /// What they may do: member (call and offer), client (call only), relay (carry traffic only) or admin (invite and revoke, too).
    #[arg(long, default_value = "member")]
    pub role: String,
    /// With --nearby: say yes without asking.
    #[arg(long, requires = "nearby")]
    pub yes: bool,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Name or id of the node, or the end of its id.
    pub node: String,
    /// Why, for the list of members.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// When the node is an admin: revoke the nodes that it let in as well, instead of letting them stay.
    #[arg(long)]
    pub with_admitted: bool,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `mesh create`.
#[derive(Debug, Args)]
pub struct MeshCreateArgs {
    /// What people call the mesh.
    pub name: String,
    /// Which node, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}
