//! `atmosphere watch`: what happens, one line for each event, for as long as anybody looks.
//!
//! A node that restarts or cannot be reached for a while does not end it: it says so, and goes on when the node is back.

use std::time::Duration;

use serde_json::Value;

use super::args::WatchArgs;
use super::client::Client;
use super::error::CliError;
use super::happening::{Happening, line};
use super::output::{Output, counted, name};
use super::socket::Socket;

/// Pauses between attempts to reach a node that was there: a restart takes a second or two, a reboot minutes.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is known of the node that is watched.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    name: String,
    /// When its process started.
    started_at_ms: u64,
    /// The number of the last event.
    seq: u64,
}

pub(super) async fn run(args: &WatchArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let path = path_of(&args.events);
    let mut seen = None;
    let mut pause = PAUSE_MIN;
    loop {
        // Anew each time: a node that is started again may be somewhere else.
        let client = Client::new(&args.client)?;
        match Socket::open(&client, &path).await {
            Ok(mut socket) => {
                pause = PAUSE_MIN;
                let why = follow(&mut socket, args.client.json, &client, &mut seen, output).await?;
                let who = seen.as_ref().map_or("the node", |seen| seen.name.as_str());
                output.note(format!("the connection to {who} is lost: {why}; waiting for it to come back"));
            }
            // It is gone, or goes, or is not ready yet.
            Err(CliError::NotReachable(_) | CliError::Unavailable(_)) if seen.is_some() => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Prints what comes until nothing does; why.
async fn follow(
    socket: &mut Socket,
    json: bool,
    client: &Client,
    seen: &mut Option<Seen>,
    output: &mut Output<'_>,
) -> Result<String, CliError> {
    loop {
        let text = match socket.next().await {
            Ok(text) => text,
            Err(why) => return Ok(why),
        };
        let message: Value = serde_json::from_str(&text).unwrap_or_default();
        if json {
            output.stream(&format!("{text}\n"))?;
        }
        if message["type"] == "hello" {
            output.note(met(seen, &message, client.url()));
            continue;
        }
        if let (Some(seen), Some(seq)) = (seen.as_mut(), message["seq"].as_u64()) {
            seen.seq = seq;
        }
        match line(&message) {
            _ if json => {}
            Some(Happening { at, event, text, bad }) => {
                let event = format!("{event:<14}");
                let event = if bad { output.bad(&event) } else { output.bold(&event) };
                output.stream(&format!("{at}  {event}  {text}\n"))?;
            }
            None => {}
        }
    }
}

/// Notes who speaks, and says how it goes on.
fn met(seen: &mut Option<Seen>, hello: &Value, url: &str) -> String {
    let now = Seen {
        name: name(hello["node_name"].as_str().unwrap_or("the node")),
        started_at_ms: hello["started_at_ms"].as_u64().unwrap_or_default(),
        seq: hello["seq"].as_u64().unwrap_or_default(),
    };
    let before = seen.take();
    let who = now.name.clone();
    let text = match before {
        None => format!("watching {who} at {url}; Ctrl-C ends it"),
        Some(before) if before.started_at_ms != now.started_at_ms => {
            format!("{who} was started anew; watching it again")
        }
        Some(before) => match now.seq.saturating_sub(before.seq) {
            0 => format!("watching {who} again; nothing has happened meanwhile"),
            missed => format!("watching {who} again; {} meanwhile", counted(missed, "event")),
        },
    };
    *seen = Some(now);
    text
}

/// The address of these events; all without any.
fn path_of(events: &[String]) -> String {
    if events.is_empty() {
        return "/v1/stream".to_owned();
    }
    let list: String = url::form_urlencoded::byte_serialize(events.join(",").as_bytes()).collect();
    format!("/v1/stream?events={list}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_said_how_it_goes_on_after_a_break() {
        let hello =
            |started_at_ms: u64, seq: u64| json!({"node_name": "gpu", "started_at_ms": started_at_ms, "seq": seq});
        let mut seen = None;
        assert_eq!(met(&mut seen, &hello(7, 3), "URL"), "watching gpu at URL; Ctrl-C ends it");
        assert_eq!(met(&mut seen, &hello(7, 3), "URL"), "watching gpu again; nothing has happened meanwhile");
        assert_eq!(met(&mut seen, &hello(7, 4), "URL"), "watching gpu again; 1 event meanwhile");
        assert_eq!(met(&mut seen, &hello(8, 2), "URL"), "gpu was started anew; watching it again");
    }

    #[test]
    fn events_are_asked_for_in_the_address() {
        assert_eq!(path_of(&[]), "/v1/stream");
        assert_eq!(path_of(&["node.*".into(), "a&b".into()]), "/v1/stream?events=node.*%2Ca%26b");
    }
}
