//! What `start` prints once the node is up: who it is, what it found, and what to type next.

use std::fmt::Write;
use std::net::IpAddr;

use super::output::{counted, name, short_id};
use crate::mesh::Role;

/// What there is to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Banner {
    /// The node's human name.
    pub name: String,
    /// The node's peer id.
    pub node: String,
    /// The mesh's name.
    pub mesh: String,
    /// This node's role, when the mesh is a closed one.
    pub role: Option<Role>,
    /// Where the API is, such as `http://127.0.0.1:11451`.
    pub api_url: String,
    /// Where clients of Ollama find the mesh, when they shall.
    pub ollama_url: Option<String>,
    /// Whether the API asks for a key.
    pub wants_key: bool,
    /// The backends that were found, and those that were named and are not there.
    pub backends: Vec<FoundBackend>,
    /// Multiaddresses that the mesh listens on.
    pub listening: Vec<String>,
    /// Addresses that no other machine is behind: bridges to containers and virtual machines.
    pub virtual_addresses: Vec<IpAddr>,
    /// Whether machines of this network find it by themselves.
    pub is_found: bool,
    /// Its data directory, where that is not the one that the verbs look in.
    pub data_dir: Option<String>,
}

/// A backend of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundBackend {
    /// Its name on this node.
    pub name: String,
    /// Where it is, without secrets; `None` for the built-in engine.
    pub url: Option<String>,
    /// Models that it offers.
    pub models: usize,
    /// Why it cannot be used now.
    pub error: Option<String>,
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%~".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        name(text)
    } else {
        format!("'{}'", name(text).replace('\'', "'\\''"))
    }
}

impl Banner {
    /// The text, ending with a line end.
    #[must_use]
    pub fn text(&self, colour: bool) -> String {
        let bold = |text: &str| if colour { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() };
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(text.trim_end());
            out.push('\n');
        };
        let mesh = match self.role {
            Some(role) => format!("closed mesh {} as {role}", name(&self.mesh)),
            None => format!("mesh {}", name(&self.mesh)),
        };
        line(format!("{} is up  ({}, {mesh})", bold(&name(&self.name)), short_id(&self.node)));
        line(String::new());
        line(format!("  API       {}", bold(&format!("{}/v1", self.api_url))));
        if let Some(url) = &self.ollama_url {
            line(format!("  Ollama    {}", bold(url)));
        }
        for (index, text) in self.mesh_lines().into_iter().enumerate() {
            line(format!("  {}{text}", if index == 0 { "mesh      " } else { "          " }));
        }
        for (index, text) in self.backend_lines().into_iter().enumerate() {
            line(format!("  {}{text}", if index == 0 { "backends  " } else { "          " }));
        }
        line(String::new());
        let of = self.data_dir.as_ref().map_or_else(String::new, |dir| format!(" --data-dir {}", quoted(dir)));
        match self.seed() {
            Some(_) if self.role.is_some_and(Role::issues) => {
                line("  To let the next machine in, print an invite here and use it there:".to_owned());
                line(format!("    {}", bold(&format!("atmosphere invite{of}"))));
                line(format!("    {}", bold("atmosphere start --seed-peer INVITE")));
            }
            Some(_) if self.role.is_some() => {
                line("  The next machine needs an invite from an admin of the mesh: atmosphere invite".to_owned());
            }
            Some(seed) => {
                let hint = if self.is_found { " (on this network --seed-peer is not needed)" } else { "" };
                line(format!("  On the next machine{hint}:"));
                line(format!("    {}", bold(&format!("atmosphere start --seed-peer {seed}"))));
            }
            None => {
                line("  No address here that another machine could reach: this node is alone on its machine.".into())
            }
        }
        line("  For any OpenAI client:".to_owned());
        let key = if self.wants_key { "<one of this node's keys>" } else { "none" };
        line(format!("    OPENAI_BASE_URL={}/v1 OPENAI_API_KEY={key}", self.api_url));
        line("  To try it, in another window (Ctrl-C stops this node):".to_owned());
        line(format!("    {}", bold(&format!("atmosphere chat{of} \"How do I care for my llama?\""))));
        out
    }

    /// Where other machines reach the mesh, the likeliest first: the addresses by port, since QUIC and TCP have the same.
    fn mesh_lines(&self) -> Vec<String> {
        let mut places: Vec<Place> = Vec::new();
        let mut others = Vec::new();
        for address in &self.listening {
            match place(address) {
                Some(found) if found.rank(&self.virtual_addresses).is_none() => {}
                Some(found) => match places.iter_mut().find(|known| (known.ip, known.port) == (found.ip, found.port)) {
                    Some(known) => (known.udp, known.tcp) = (known.udp || found.udp, known.tcp || found.tcp),
                    None => places.push(found),
                },
                None => others.push(name(address)),
            }
        }
        places.sort_by_key(|place| (place.rank(&self.virtual_addresses), place.ip));
        let mut lines: Vec<String> = places
            .iter()
            .map(|place| {
                let transports = match (place.udp, place.tcp) {
                    (true, true) => "UDP and TCP",
                    (true, false) => "UDP",
                    _ => "TCP",
                };
                format!("{} port {} {transports}", place.ip, place.port)
            })
            .collect();
        lines.append(&mut others);
        lines
    }

    fn backend_lines(&self) -> Vec<String> {
        if self.backends.is_empty() {
            return vec!["none found here; the mesh's are used (--backend URL names one)".to_owned()];
        }
        let width = self.backends.iter().map(|backend| backend.name.chars().count()).max().unwrap_or(0);
        self.backends
            .iter()
            .map(|backend| {
                let mut text = format!("{:width$}  ", name(&backend.name));
                // A String takes all that is written.
                let _ = match &backend.error {
                    Some(error) => write!(text, "not usable: {}", name(error)),
                    None => write!(text, "{}", counted(backend.models as u64, "model")),
                };
                if let Some(url) = backend.url.as_deref().filter(|url| !backend.name.contains(*url)) {
                    let _ = write!(text, "  {}", name(url));
                }
                text
            })
            .collect()
    }

    /// `ip:port` of this node for another machine: the IPv4 address that is most likely on a common network.
    #[must_use]
    pub fn seed(&self) -> Option<String> {
        self.listening
            .iter()
            .filter_map(|address| place(address).filter(|place| place.ip.is_ipv4()))
            .filter_map(|place| Some((place.rank(&self.virtual_addresses)?, place.ip, place.port)))
            .min()
            .map(|(_, ip, port)| format!("{ip}:{port}"))
    }
}

/// Where the mesh listens.
#[derive(Debug, Clone, Copy)]
struct Place {
    ip: IpAddr,
    port: u16,
    udp: bool,
    tcp: bool,
}

/// The place in `/ip4/IP/udp|tcp/PORT…` or `/ip6/…`.
fn place(multiaddr: &str) -> Option<Place> {
    let mut parts = multiaddr.split('/');
    let (Some(""), Some("ip4" | "ip6"), Some(ip), Some(transport @ ("udp" | "tcp")), Some(port)) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(Place { ip: ip.parse().ok()?, port: port.parse().ok()?, udp: transport == "udp", tcp: transport == "tcp" })
}

impl Place {
    /// How likely it is that a neighbour reaches this address; lower is likelier. `None`: nobody does, or only with the
    /// name of an interface of its own.
    fn rank(&self, virtual_addresses: &[IpAddr]) -> Option<u8> {
        let base = match self.ip {
            ip if ip.is_loopback() || ip.is_unspecified() => return None,
            IpAddr::V4(ip) if ip.is_link_local() => return None,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => return None,
            IpAddr::V4(ip) => match ip.octets() {
                [192, 168, ..] => 0,
                [10, ..] => 1,
                _ if ip.is_private() => 2,
                // Shared space: overlay networks such as Tailscale.
                [100, 64..128, ..] => 3,
                _ => 4,
            },
            IpAddr::V6(_) => 5,
        };
        // Any real interface is likelier than a bridge of containers.
        Some(if virtual_addresses.contains(&self.ip) { base + 10 } else { base })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn banner() -> Banner {
        Banner {
            name: "laptop".into(),
            node: "12D3KooWGatU9ukFVr5pXbQ2NJnDz4sbD5cKzJ9M7vQe1ABCDEFG".into(),
            mesh: "atmosphere".into(),
            role: None,
            api_url: "http://127.0.0.1:11451".into(),
            ollama_url: None,
            wants_key: false,
            backends: vec![
                FoundBackend {
                    name: "ollama".into(),
                    url: Some("http://127.0.0.1:11434".into()),
                    models: 3,
                    error: None,
                },
                FoundBackend { name: "builtin".into(), url: None, models: 1, error: None },
                FoundBackend {
                    name: "openai@gpu:8080".into(),
                    url: Some("http://gpu:8080".into()),
                    models: 0,
                    error: Some("connection refused".into()),
                },
            ],
            listening: vec![
                "/ip4/127.0.0.1/udp/11450/quic-v1".into(),
                "/ip4/172.17.0.1/udp/11450/quic-v1".into(),
                "/ip4/192.168.1.20/udp/11450/quic-v1".into(),
                "/ip4/192.168.1.20/tcp/11450".into(),
                "/ip6/fd00::1/tcp/11450".into(),
                "/ip6/fe80::1/tcp/11450".into(),
            ],
            virtual_addresses: vec![Ipv4Addr::new(172, 17, 0, 1).into()],
            is_found: true,
            data_dir: None,
        }
    }

    #[test]
    fn it_says_who_what_and_what_next() {
        insta::assert_snapshot!(banner().text(false));
        let alone = Banner {
            backends: Vec::new(),
            listening: vec!["/ip4/127.0.0.1/tcp/4000".into()],
            wants_key: true,
            ollama_url: Some("http://127.0.0.1:11434".into()),
            ..banner()
        };
        insta::assert_snapshot!(alone.text(false));
    }

    #[test]
    fn what_to_type_next_is_for_this_node_and_this_network() {
        let second = Banner { is_found: false, data_dir: Some("/home/me/my nodes/2".into()), ..banner() };
        let text = second.text(false);
        assert!(text.contains("atmosphere chat --data-dir '/home/me/my nodes/2' \"How"), "{text}");
        assert!(!text.contains("not needed"), "{text}");
        let text = Banner { role: Some(Role::Admin), ..second }.text(false);
        assert!(text.contains("atmosphere invite --data-dir '"), "{text}");
    }

    #[test]
    fn the_seed_is_the_likeliest_address_of_the_network() {
        for (listening, virtual_ip, seed) in [
            (vec!["/ip4/172.17.0.1/tcp/1", "/ip4/10.0.0.5/tcp/1"], None, Some("10.0.0.5:1")),
            (vec!["/ip4/192.168.122.1/tcp/1", "/ip4/8.8.8.8/tcp/1"], Some([192, 168, 122, 1]), Some("8.8.8.8:1")),
            (vec!["/ip4/192.168.122.1/udp/1/quic-v1"], Some([192, 168, 122, 1]), Some("192.168.122.1:1")),
            (vec!["/ip4/169.254.1.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/memory/4", ""], None, None),
        ] {
            let banner = Banner {
                listening: listening.into_iter().map(str::to_owned).collect(),
                virtual_addresses: virtual_ip.map(|ip| Ipv4Addr::from(ip).into()).into_iter().collect(),
                ..Banner::default()
            };
            assert_eq!(banner.seed().as_deref(), seed);
        }
    }
}
