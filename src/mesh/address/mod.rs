//! What an address says about where a node is, and which of our own addresses are worth telling.

mod filter;
mod own;
mod places;
mod policy;
mod scope;
mod seed;
#[cfg(test)]
mod tests;

pub use filter::DialFilter;
pub use own::{Interfaces, Network, network, rank_own};
pub use places::Places;
pub use policy::AddressPolicy;
pub use scope::{
    Scope, ip_of, is_a_place, is_dialable_for_others, is_memory, is_of_internet, is_plain, is_relayed, link_transport,
    of_advert, path_class, port_of, relay_of, scope, with_port, without_peer,
};
pub use seed::{DEFAULT_GOSSIP_PORT, Seed, SeedError, external_address};
