//! The API over real sockets, with a scripted node behind it.
