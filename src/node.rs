//! Builds the parts, wires them, starts, drains and stops them.
