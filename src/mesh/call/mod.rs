//! The call protocol.
