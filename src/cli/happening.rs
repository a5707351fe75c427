//! What a message of the event stream says, as one line for a person. Pure.

use serde_json::Value;

use super::output::{counted, milliseconds, name, short_id};

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Happening {
    /// The time of day, UTC.
    pub(super) at: String,
    /// What kind of event.
    pub(super) event: String,
    /// The particulars.
    pub(super) text: String,
    /// Something went wrong.
    pub(super) bad: bool,
}

/// What a message says; `None` when there is nothing to show.
pub(super) fn line(message: &Value) -> Option<Happening> {
    let missing = Value::Null;
    match message["type"].as_str()? {
        "event" => {
            let event = message["event"].as_str().unwrap_or_default();
            let data = message.get("data").unwrap_or(&missing);
            let at = time_of_day(message["at"].as_str().unwrap_or_default());
            Some(Happening { at, event: name(event), text: particulars(event, data), bad: is_bad(event, data) })
        }
        "lagged" => {
            let missed = message["missed"].as_u64().unwrap_or_default();
            let text = format!("{} came too fast, and are lost", counted(missed, "event"));
            Some(Happening { at: " ".repeat(8), event: "lagged".to_owned(), text, bad: true })
        }
        "closing" => {
            let text = name(message["message"].as_str().unwrap_or("the node stops"));
            Some(Happening { at: " ".repeat(8), event: "closing".to_owned(), text, bad: false })
        }
        _ => None,
    }
}

/// `07:38:18` of `2026-11-28T07:38:18.123Z`.
fn time_of_day(at: &str) -> String {
    let time = at.split_once('T').map_or(at, |(_, time)| time);
    let second = time.split(['.', 'Z']).next().unwrap_or_default();
    format!("{:<8}", name(second))
}

fn is_bad(event: &str, data: &Value) -> bool {
    match event {
        "call.end" => data["status"].as_u64().is_some_and(|status| status >= 400 && status != 499),
        "decision" => data["node"].is_null(),
        "provider.down" | "seed.failed" | "gate.refused" | "call.failover" | "mesh.identity_clash" => true,
        _ => false,
    }
}

fn particulars(event: &str, data: &Value) -> String {
    let text = |key: &str| data[key].as_str().map(name).unwrap_or_default();
    let node = || node_of(data, "node_name", "node");
    match event {
        "decision" if data["node"].is_null() => format!("{}: {}", text("target"), text("reason")),
        "decision" => format!("{}: {}", who(data), text("reason")),
        "call.progress" => format!("{}: {}", who(data), phase(data)),
        "call.failover" => {
            let from = node_of(data, "from_name", "from");
            let after = data["after_characters"].as_u64().unwrap_or_default();
            let gap = milliseconds(data["gap_ms"].as_f64().unwrap_or_default());
            let after = counted(after, "character");
            format!("{from} was lost; {} goes on ({}) after {after}, {gap} later", who(data), text("by"))
        }
        "call.end" => ended(data),
        "node.joined" | "node.left" => {
            let version = Some(text("version")).filter(|version| !version.is_empty());
            let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
            format!("{} ({}){version}", text("name"), short_id(&text("node")))
        }
        "node.path" => format!("{}: {} over {}, {}", node(), text("path"), text("transport"), text("address")),
        "provider.up" => {
            let count = data["capabilities"].as_u64().unwrap_or_default();
            format!("{} {}: {}", text("id"), text("url"), counted(count, "capability"))
        }
        "provider.down" => format!("{} {}: {}", text("id"), text("url"), text("error")),
        "seed.connected" => format!("{}: {}", text("seed"), node()),
        "seed.failed" => text("error"),
        "gate.refused" => format!("{} from {}: {}", node(), text("address"), text("reason")),
        "member.parted" => format!("{}: {}", node(), text("reason")),
        "mesh.identity_clash" => text("why"),
        // A newer node knows more.
        _ => name(&data.to_string()),
    }
}

/// `llama3.2 on gpu`.
fn who(data: &Value) -> String {
    let node = node_of(data, "node_name", "node");
    match data["model"].as_str() {
        Some(model) => format!("{} on {node}", name(model)),
        None => node,
    }
}

fn node_of(data: &Value, named: &str, id: &str) -> String {
    match (data[named].as_str(), data[id].as_str()) {
        (Some(named), _) if !named.is_empty() => name(named),
        (_, Some(id)) => name(short_id(id)),
        _ => "nobody".to_owned(),
    }
}

fn phase(data: &Value) -> String {
    match (data["phase"].as_str(), data["queue_position"].as_u64()) {
        (Some("queued"), Some(place)) if place > 0 => format!("waits, place {place} in the queue"),
        (Some("queued"), _) => "waits in the queue".to_owned(),
        (Some("loading"), _) => "loads the model".to_owned(),
        (Some("prefill"), _) => "reads the prompt".to_owned(),
        (Some("decode"), _) => "writes the answer".to_owned(),
        (other, _) => name(other.unwrap_or("?")),
    }
}

fn ended(data: &Value) -> String {
    let status = data["status"].as_u64().unwrap_or_default();
    let took = milliseconds(data["ms"].as_f64().unwrap_or_default());
    let what = match status {
        200 => format!("{} in {took}", who(data)),
        499 => format!("the caller left {} after {took}", who(data)),
        status => {
            let error = data["error"].as_str().map(|error| format!(": {}", name(error))).unwrap_or_default();
            format!("failed with {status} after {took}{error}")
        }
    };
    let tokens = match (data["prompt_tokens"].as_u64(), data["completion_tokens"].as_u64()) {
        (Some(read), Some(written)) => format!(", {read} + {written} tokens"),
        _ => String::new(),
    };
    let attempts = match data["attempts"].as_u64() {
        Some(attempts) if attempts > 1 => format!(", attempts: {attempts}"),
        _ => String::new(),
    };
    format!("{what}{tokens}{attempts}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_event_is_a_line() {
        let id = "12D3KooWabcdefgh";
        for (event, data, text, bad) in [
            (
                "decision",
                json!({"node": id, "node_name": "gpu", "model": "m", "target": "auto", "reason": "warm"}),
                "m on gpu: warm",
                false,
            ),
            (
                "decision",
                json!({"node": null, "target": "lama", "reason": "nobody has it"}),
                "lama: nobody has it",
                true,
            ),
            (
                "call.progress",
                json!({"node": id, "node_name": "gpu", "model": "m", "phase": "queued", "queue_position": 2}),
                "m on gpu: waits, place 2 in the queue",
                false,
            ),
            (
                "call.failover",
                json!({"from_name": "gpu", "node_name": "nas", "model": "m", "by": "replay", "after_characters": 1, "gap_ms": 350}),
                "gpu was lost; m on nas goes on (replay) after 1 character, 350 ms later",
                true,
            ),
            (
                "call.end",
                json!({"node_name": "gpu", "model": "m", "status": 200, "attempts": 2, "ms": 1234, "prompt_tokens": 7, "completion_tokens": 8}),
                "m on gpu in 1.2 s, 7 + 8 tokens, attempts: 2",
                false,
            ),
            (
                "call.end",
                json!({"node": null, "status": 503, "error": "all are busy", "attempts": 1, "ms": 12}),
                "failed with 503 after 12 ms: all are busy",
                true,
            ),
            (
                "call.end",
                json!({"node_name": "gpu", "model": "m", "status": 499, "ms": 12}),
                "the caller left m on gpu after 12 ms",
                false,
            ),
            (
                "node.joined",
                json!({"node": id, "name": "gpu", "version": "0.1.0"}),
                "gpu (abcdefgh), version 0.1.0",
                false,
            ),
            ("node.left", json!({"node": id, "name": "a\u{1b}b"}), "a\u{fffd}b (abcdefgh)", false),
            (
                "node.path",
                json!({"node": id, "path": "lan", "transport": "quic", "address": "/ip4/…"}),
                "abcdefgh: lan over quic, /ip4/…",
                false,
            ),
            (
                "provider.up",
                json!({"id": "ollama", "url": "http://x", "capabilities": 1}),
                "ollama http://x: 1 capability",
                false,
            ),
            ("comet.seen", json!({"tail": 3}), "{\"tail\":3}", false),
        ] {
            let message =
                json!({"type": "event", "seq": 1, "at": "2026-11-28T07:38:18.123Z", "event": event, "data": data});
            let line = line(&message).expect("a line");
            assert_eq!((line.at.as_str(), line.event.as_str()), ("07:38:18", event));
            assert_eq!((line.text.as_str(), line.bad), (text, bad), "{message}");
        }
        assert_eq!(
            line(&json!({"type": "lagged", "missed": 2})).map(|line| line.text).as_deref(),
            Some("2 events came too fast, and are lost")
        );
        for nothing in [json!({"type": "hello"}), json!({}), json!(7)] {
            assert_eq!(line(&nothing), None);
        }
    }
}
