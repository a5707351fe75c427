//! The API over real sockets, with a scripted node behind it.

mod errors;
mod facades;
mod lists;
mod members;
mod scripted;
mod security;
mod sockets;
mod stream;
mod streams;
