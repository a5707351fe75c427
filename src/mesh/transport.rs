//! The one transport of a node: QUIC, TCP, relayed circuits and memory, with DNS within and the gate around.
//!
//! The order matters. DNS accepts every address, so it comes last of all that are tried, and there is one of it
//! around QUIC and TCP together: two would break names for one of them. The relay is first, because its
//! addresses look like TCP or QUIC ones. The gate is outside of everything, so that nothing goes past it.

use std::io;
use std::time::Duration;

use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, MemoryTransport};
use libp2p::core::upgrade::Version;
use libp2p::metrics::BandwidthTransport;
use libp2p::{dns, noise, quic, relay, tcp, yamux};

use super::address::{DialFilter, Places, is_a_place, is_plain};
use super::gate::Gate;
use super::identity::Identity;
use crate::capability::PeerId;
use crate::telemetry::Metrics;

/// Longest time from dialling or accepting to a passed gate: DNS, handshake and gate each have their own limit
/// within.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// A QUIC connection that has heard nothing for this long is dead: a killed process does not say goodbye over UDP.
const QUIC_IDLE_MS: u32 = 5_000;

/// Three keep-alives within the idle time, with two to lose.
const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(1500);

/// QUIC handshakes that take longer go to a place that drops UDP.
const QUIC_HANDSHAKE: Duration = Duration::from_secs(5);

/// Receive window of a stream: 4 MiB per 100 ms of round trip is 40 MB/s, more than tokens or adverts need.
const QUIC_STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// Receive window of a connection; times the number of connections it bounds what peers can make us hold.
const QUIC_CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Streams that one side of a connection may have open: calls, sync and gossip of the busiest node.
const MAX_STREAMS: usize = 512;

/// The finished transport.
pub type Transport = Boxed<(PeerId, StreamMuxerBox)>;

/// Builds the transport, and the half of the relay client that belongs into the behaviour. `places` is filled.
///
/// # Errors
///
/// When the noise keys cannot be made or the system's resolver cannot be read.
pub fn build(
    identity: &Identity,
    gate: Gate,
    places: Places,
    metrics: &Metrics,
) -> io::Result<(Transport, relay::client::Behaviour)> {
    let key = identity.keypair();
    let noise = || noise::Config::new(key).map_err(io::Error::other);
    let yamux = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config
    };
    let (relay, relay_client) = relay::client::new(identity.peer_id());

    let mut quic_config = quic::Config::new(key);
    quic_config.handshake_timeout = QUIC_HANDSHAKE;
    quic_config.max_idle_timeout = QUIC_IDLE_MS;
    quic_config.keep_alive_interval = QUIC_KEEP_ALIVE;
    quic_config.max_stream_data = QUIC_STREAM_WINDOW;
    quic_config.max_connection_data = QUIC_CONNECTION_WINDOW;
    quic_config.max_concurrent_stream_limit = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);

    let quic = quic::tokio::Transport::new(quic_config).map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
    let tcp = tcp::tokio::Transport::new(tcp::Config::new())
        .upgrade(Version::V1Lazy)
        .authenticate(noise()?)
        .multiplex(yamux())
        .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
    let sockets = DialFilter::new(quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed(), is_a_place);
    let sockets = sockets.map(move |(node, muxer), endpoint| {
        if endpoint.is_dialer() {
            places.note(node, endpoint.get_remote_address());
        }
        (node, muxer)
    });
    // A machine without a resolver configuration can still dial by address.
    let named = dns::tokio::Transport::system(sockets)?;
    let relay = relay
        .upgrade(Version::V1Lazy)
        .authenticate(noise()?)
        .multiplex(yamux())
        .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
    let memory = MemoryTransport::new()
        .upgrade(Version::V1Lazy)
        .authenticate(noise()?)
        .multiplex(yamux())
        .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));

    let all = relay
        .or_transport(memory)
        .map(|either, _| either.into_inner())
        .or_transport(named)
        .map(|either, _| either.into_inner())
        .and_then(move |(node, muxer), endpoint| Box::pin(gate.pass(node, muxer, endpoint)));
    let measured = metrics.with_registry(|registry| BandwidthTransport::new(all.boxed(), registry));
    let measured = measured.map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
    // Bytes are counted by the shape of the address, so that shapes must not be made up by others.
    let plain = DialFilter::new(TransportTimeout::new(measured, ESTABLISH_TIMEOUT).boxed(), is_plain);
    Ok((plain.boxed(), relay_client))
}
