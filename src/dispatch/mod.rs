//! A decision becomes a stream of replies.
