//! The fastest backend that speaks the protocol: one model, a fixed answer, a fixed stream.
//!
//! It reads as much of HTTP as the load needs, so that what it costs does not hide what is measured.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;

/// The model that it has.
pub const MODEL: &str = "bench-8b";
/// Events of a streamed answer.
pub const EVENTS: usize = 100;

const ANSWER: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1,"model":"bench-8b","choices":[{"index":0,"message":{"role":"assistant","content":"A llama likes hay and company."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":8,"total_tokens":20}}"#;
const MODELS: &str = r#"{"object":"list","data":[{"id":"bench-8b","object":"model","created":1,"owned_by":"bench"}]}"#;
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const STREAM_END: &str = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

/// Serves on a free port of loopback, prints that, and never ends. With a pace, events of a stream are so far apart, as
/// tokens are; without one they come as fast as they can.
pub async fn serve(pace: Option<Duration>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        // Whoever closes a connection ends its task.
        tokio::spawn(async move {
            let _ = connection(socket, pace).await;
        });
    }
}

async fn connection(mut socket: TcpStream, pace: Option<Duration>) -> anyhow::Result<()> {
    let whole = |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let (answer, models) = (whole(ANSWER), whole(MODELS));
    let mut read = Vec::with_capacity(16 << 10);
    loop {
        let head = loop {
            if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let length = length_of(std::str::from_utf8(&read[..head])?)?;
        while read.len() < head + length {
            if socket.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        let asked = &read[..head + length];
        let (post, streamed) = (asked.starts_with(b"POST"), memchr::memmem::find(asked, b"\"stream\":true").is_some());
        read.drain(..head + length);
        if streamed {
            stream(&mut socket, pace).await?;
        } else {
            socket.write_all(if post { answer.as_bytes() } else { models.as_bytes() }).await?;
        }
    }
}

/// Length of the body that this head announces.
fn length_of(head: &str) -> anyhow::Result<usize> {
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return value.trim().parse().context("content-length");
        }
    }
    Ok(0)
}

async fn stream(socket: &mut TcpStream, pace: Option<Duration>) -> anyhow::Result<()> {
    let mut ticks = pace.map(|pace| {
        let mut ticks = tokio::time::interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    socket.write_all(STREAM_HEAD.as_bytes()).await?;
    for index in 0..EVENTS {
        match &mut ticks {
            Some(ticks) => drop(ticks.tick().await),
            None => tokio::task::yield_now().await,
        }
        // Each event is a write of its own, as tokens are.
        let finish = if index + 1 == EVENTS { "\"stop\"" } else { "null" };
        let event = format!(
            "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{MODEL}\",\
             \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" token\"}},\"finish_reason\":{finish}}}]}}\n\n"
        );
        socket.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
    }
    socket.write_all(STREAM_END.as_bytes()).await?;
    Ok(())
}
