//! `atmosphere chat`: a prompt to the mesh, the answer as it comes.

use std::io;

use futures::StreamExt;
use serde_json::{Value, json};

use super::args::ChatArgs;
use super::client::{Client, broken_off, error_message, parse, read};
use super::error::CliError;
use super::output::{Output, name};
use super::sse::Events;

pub(super) async fn run(args: &ChatArgs, prompt: &str, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&args.client)?;
    let mut messages = Vec::new();
    if let Some(system) = &args.system {
        messages.push(json!({ "role": "system", "content": system }));
    }
    messages.push(json!({ "role": "user", "content": prompt }));
    // The API's JSON is one document, so `--json` waits for all of it.
    let stream = !args.no_stream && !args.client.json;
    let body = json!({ "model": args.model, "messages": messages, "stream": stream });
    let response = client.run("/v1/chat/completions", &body).await?;
    if args.verbose {
        route_line(&response, output);
    }
    if stream { print_stream(response, output).await } else { print_whole(args, &client, response, output).await }
}

/// Who answers, from the headers.
fn route_line(response: &reqwest::Response, output: &mut Output<'_>) {
    let header = |key: &str| response.headers().get(key).and_then(|value| value.to_str().ok()).map(name);
    let mut text = "answered by".to_owned();
    for (key, before) in [
        ("x-atmosphere-model", " "),
        ("x-atmosphere-node", " on "),
        ("x-atmosphere-attempts", ", attempts: "),
        ("x-atmosphere-decision", ", decision "),
        ("x-atmosphere-route-reason", ": "),
    ] {
        // One attempt is nothing to speak of.
        if let Some(value) = header(key).filter(|value| !(key.ends_with("attempts") && value == "1")) {
            text.push_str(before);
            text.push_str(&value);
        }
    }
    output.note(text);
}

async fn print_whole(
    args: &ChatArgs,
    client: &Client,
    response: reqwest::Response,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    let body = read(response).await?;
    if args.client.json {
        return Ok(output.json(&body)?);
    }
    let answer: Value = parse(client, &body)?;
    let text = answer.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap_or_default();
    output.stream(text)?;
    Ok(end_line(text, output)?)
}

/// Prints what the model says while it says it. An error in the stream is a failure, and so is an end that nobody
/// announced: a cut-off answer must not look like a whole one.
async fn print_stream(response: reqwest::Response, output: &mut Output<'_>) -> Result<(), CliError> {
    let mut bytes = response.bytes_stream();
    let mut events = Events::default();
    let mut last = String::new();
    let mut waits = false;
    let outcome = loop {
        let next = events.next_event();
        // What came before this event, or since the last one. In the middle of a text there is no place for it.
        if let Some(progress) = events.comment().as_deref().and_then(progress)
            && last.is_empty()
        {
            output.waiting(&progress);
            waits = true;
        }
        let (event, at_end) = match next {
            Some(event) => (Some(event), false),
            None => match bytes.next().await {
                Some(Ok(chunk)) => {
                    if let Err(error) = events.push(&chunk) {
                        break Err(CliError::Failed(error.to_string()));
                    }
                    continue;
                }
                Some(Err(error)) => break Err(broken_off(&error)),
                None => (events.finish(), true),
            },
        };
        match event.map(|event| said(&event)) {
            Some(Said::Text(text)) => {
                if !text.is_empty() && std::mem::take(&mut waits) {
                    output.waiting("");
                }
                output.stream(&text)?;
                if !text.is_empty() {
                    last = text;
                }
            }
            Some(Said::Done) => break Ok(()),
            Some(Said::Error(message)) => break Err(CliError::Failed(format!("the answer broke off: {message}"))),
            None => {}
        }
        if at_end {
            break Err(CliError::Failed(
                "the answer ended without its end mark, so a part of it may be missing".to_owned(),
            ));
        }
    };
    if waits {
        output.waiting("");
    }
    end_line(&last, output)?;
    outcome
}

/// Leaves the cursor at the start of a line.
fn end_line(text: &str, output: &mut Output<'_>) -> io::Result<()> {
    if text.ends_with('\n') { Ok(()) } else { output.stream("\n") }
}

/// What a comment of the stream says of an answer that is waited for, or of one that goes on elsewhere.
fn progress(comment: &str) -> Option<String> {
    let said = comment.strip_prefix("atmosphere ")?;
    let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
    let field = |key: &str| {
        let at = rest.find(key)? + key.len();
        rest[at..].split(' ').next().map(name)
    };
    match word {
        "queued" => Some(match field("position=") {
            Some(position) => format!("waiting, place {position} in the queue"),
            None => "waiting in the queue".to_owned(),
        }),
        "loading" => Some("loading the model".to_owned()),
        "prefill" => Some("reading the prompt".to_owned()),
        "failover" => Some(format!("{}; looking for another", name(rest))),
        "continued" => Some(format!("{} goes on with the answer", field("node=").unwrap_or_default())),
        _ => None,
    }
}

/// What one event says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Text(String),
    Done,
    Error(String),
}

fn said(event: &[u8]) -> Said {
    if event == b"[DONE]" {
        return Said::Done;
    }
    if let Some(message) = error_message(event) {
        return Said::Error(message);
    }
    // An event of a shape that nobody here knows says nothing.
    let value: Value = serde_json::from_slice(event).unwrap_or_default();
    Said::Text(value.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_says_what_is_waited_for() {
        for (comment, said) in [
            ("atmosphere queued position=3", Some("waiting, place 3 in the queue")),
            ("atmosphere loading", Some("loading the model")),
            ("atmosphere prefill", Some("reading the prompt")),
            (
                "atmosphere failover m on gpu was lost in the middle of it",
                Some("m on gpu was lost in the middle of it; looking for another"),
            ),
            ("atmosphere continued node=nas model=m by=replay", Some("nas goes on with the answer")),
            ("atmosphere node=gpu model=m", None),
            ("keepalive", None),
        ] {
            assert_eq!(progress(comment).as_deref(), said, "{comment}");
        }
    }

    #[test]
    fn an_event_is_text_the_end_or_an_error() {
        for (event, expected) in [
            (r#"{"choices":[{"delta":{"content":"hi"}}]}"#, Said::Text("hi".into())),
            (r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#, Said::Text(String::new())),
            (r#"{"choices":[],"usage":{}}"#, Said::Text(String::new())),
            ("garbage", Said::Text(String::new())),
            ("[DONE]", Said::Done),
            (r#"{"error":{"message":"gone"}}"#, Said::Error("gone".into())),
            (r#"{"error":"gone"}"#, Said::Error("gone".into())),
        ] {
            assert_eq!(said(event.as_bytes()), expected, "{event}");
        }
    }
}
