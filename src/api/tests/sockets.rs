//! What only a raw socket shows: connections, their limits, and how the server stops.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::scripted::{Api, Drops, PATIENCE, a_chat, api, eventually, reply, settings, silent_api};
use crate::api::{Phase, ServeError, Service, Settings, serve};
use crate::telemetry::Metrics;

const SSE: &str = "text/event-stream";

fn chat_request(stream: bool) -> String {
    let body = a_chat(stream).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.address).await.expect("somebody listens")
}

async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            let mut buffer = [0; 4096];
            let count = socket.read(&mut buffer).await.expect("a socket that lives");
            assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(PATIENCE, reading).await.expect("in time");
    String::from_utf8(read).expect("text")
}

async fn read_to_close(socket: &mut TcpStream) -> String {
    let mut read = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut read)).await.expect("in time").expect("a clean close");
    String::from_utf8(read).expect("text")
}

#[tokio::test]
async fn streams_follow_each_other_on_one_socket_without_a_stall() {
    let api = api(settings(), |_| {
        // Apart in time, so that each is a write of its own.
        let events = async_stream::stream! {
            for event in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
                tokio::time::sleep(Duration::from_millis(1)).await;
                yield Ok(Bytes::from(event));
            }
        };
        futures::future::ok(reply(SSE, events.boxed())).boxed()
    })
    .await;
    let mut socket = connect(&api).await;
    let mut slowest = Duration::ZERO;
    let mut stalls = 0;
    for _ in 0..20 {
        let started = std::time::Instant::now();
        socket.write_all(chat_request(true).as_bytes()).await.expect("written");
        let answer = read_until(&mut socket, "0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("data: [DONE]\n\n"), "{answer}");
        slowest = slowest.max(started.elapsed());
        stalls += u32::from(started.elapsed() > Duration::from_millis(35));
    }
    // Without nodelay nearly all of them wait for the 40 ms of a delayed acknowledgement; a busy machine may slow some.
    assert!(stalls < 15, "{stalls} of 20 streams stalled, the slowest for {slowest:?}");
}

#[tokio::test]
async fn a_socket_that_closes_drops_the_work_streamed_or_not() {
    let drops = Drops::default();
    let for_node = drops.clone();
    let api = api(settings(), move |intent| {
        let guard = for_node.guard();
        async move {
            if !intent.requirements.stream {
                let _guard = guard;
                return futures::future::pending().await;
            }
            let events = async_stream::stream! {
                let _guard = guard;
                yield Ok(Bytes::from("data: 1\n\n"));
                futures::future::pending::<()>().await;
            };
            Ok(reply(SSE, events.boxed()))
        }
        .boxed()
    })
    .await;
    for (round, stream) in [false, true].into_iter().enumerate() {
        let mut socket = connect(&api).await;
        socket.write_all(chat_request(stream).as_bytes()).await.expect("written");
        eventually("the node works on it", || api.node.intents.lock().len() == round + 1).await;
        if stream {
            read_until(&mut socket, "data: 1\n\n\r\n").await;
        }
        assert_eq!(drops.count(), round);
        drop(socket);
        eventually("the work is dropped", || drops.count() == round + 1).await;
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off() {
    let api = silent_api(Settings { header_timeout: Duration::from_millis(100), ..settings() }).await;
    let mut socket = connect(&api).await;
    socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: local").await.expect("written");
    read_to_close(&mut socket).await;
}

#[tokio::test]
async fn who_asks_before_sending_too_much_is_refused_before_sending_it() {
    let api = silent_api(Settings { max_body: 100, ..settings() }).await;
    let mut socket = connect(&api).await;
    for (length, says) in [(100, "HTTP/1.1 100 "), (101, "HTTP/1.1 413 ")] {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.expect("written");
        let answer = read_until(&mut socket, if length == 100 { "\r\n\r\n" } else { "}}" }).await;
        assert!(answer.starts_with(says), "{answer}");
        if length == 100 {
            socket.write_all(&[b' '; 100]).await.expect("written");
            assert!(read_until(&mut socket, "}}").await.starts_with("HTTP/1.1 400 "));
        }
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_is_a_408() {
    let api = silent_api(Settings { body_timeout: Duration::from_millis(100), ..settings() }).await;
    let mut socket = connect(&api).await;
    let request = chat_request(false);
    socket.write_all(&request.as_bytes()[..request.len() - 5]).await.expect("written");
    let answer = read_until(&mut socket, "}}").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let api = silent_api(Settings { max_connections: 1, ..settings() }).await;
    let mut first = connect(&api).await;
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    read_until(&mut first, "}").await;
    let answer = read_to_close(&mut connect(&api).await).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too_many_connections"), "{answer}");
    drop(first);
    let mut tries = 0;
    loop {
        let mut socket = connect(&api).await;
        // The server may have refused, and closed, already.
        let _ = socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time");
        if answer.starts_with(b"HTTP/1.0 200") {
            break;
        }
        tries += 1;
        assert!(tries < 1000, "the place was never free again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stop_lets_streams_finish_and_takes_nothing_new() {
    let gate = CancellationToken::new();
    let for_node = gate.clone();
    let mut api = api(settings(), move |_| {
        let gate = for_node.clone();
        let events = async_stream::stream! {
            yield Ok(Bytes::from("data: 1\n\n"));
            gate.cancelled().await;
            yield Ok(Bytes::from("data: [DONE]\n\n"));
        };
        futures::future::ok(reply(SSE, events.boxed())).boxed()
    })
    .await;
    let mut socket = connect(&api).await;
    socket.write_all(chat_request(true).as_bytes()).await.expect("written");
    read_until(&mut socket, "data: 1\n\n\r\n").await;
    // An idle connection does not hold up the stop.
    let _idle = connect(&api).await;
    api.shutdown.cancel();
    let address = api.address;
    for _ in 0..1000 {
        if TcpStream::connect(address).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    assert!(!api.running.is_finished());
    gate.cancel();
    let rest = read_to_close(&mut socket).await;
    assert!(rest.contains("data: [DONE]\n\n") && rest.ends_with("0\r\n\r\n"), "{rest}");
    timeout(PATIENCE, &mut api.running).await.expect("it drains").expect("without a panic");
}

#[tokio::test]
async fn what_outlasts_the_drain_limit_is_told_and_ended() {
    let mut api = api(Settings { drain_limit: Duration::from_millis(50), ..settings() }, |intent| {
        if intent.requirements.stream {
            let first = futures::stream::once(async { Ok(Bytes::from("data: 1\n\n")) });
            return futures::future::ok(reply(SSE, first.chain(futures::stream::pending()).boxed())).boxed();
        }
        futures::future::pending().boxed()
    })
    .await;
    let (mut streamed, mut whole) = (connect(&api).await, connect(&api).await);
    streamed.write_all(chat_request(true).as_bytes()).await.expect("written");
    whole.write_all(chat_request(false).as_bytes()).await.expect("written");
    read_until(&mut streamed, "data: 1\n\n\r\n").await;
    eventually("both are at work", || api.node.intents.lock().len() == 2).await;
    api.shutdown.cancel();
    let rest = read_to_close(&mut streamed).await;
    assert!(rest.contains("data: {\"error\":") && !rest.contains("[DONE]"), "{rest}");
    timeout(PATIENCE, &mut api.running).await.expect("it stops").expect("without a panic");
}

#[tokio::test]
async fn probes_tell_life_from_readiness() {
    let api = silent_api(settings()).await;
    for (phase, ready) in [(Phase::Starting, 503), (Phase::Ready, 200), (Phase::Draining, 503)] {
        *api.node.phase.lock() = phase;
        assert_eq!(api.get("/healthz").await.0, 200);
        assert_eq!(api.get("/readyz").await.0, ready, "{phase:?}");
    }
}

#[tokio::test]
async fn a_port_in_use_and_an_open_address_are_clear_errors() {
    let api = silent_api(settings()).await;
    let try_again = |settings| {
        let service: std::sync::Arc<dyn Service> = api.node.clone();
        serve(settings, service, Metrics::default(), CancellationToken::new())
    };
    let error = try_again(Settings { bind: vec![api.address], ..settings() }).await.expect_err("it is taken");
    assert!(matches!(error, ServeError::InUse(_)), "{error}");
    assert!(error.to_string().contains("--port"), "{error}");

    let everywhere = "0.0.0.0:0".parse().expect("an address");
    let error = try_again(Settings { bind: vec![everywhere], ..settings() }).await.expect_err("no keys");
    assert!(matches!(error, ServeError::NoKeys(_)), "{error}");
    let told = Settings { bind: vec![everywhere], insecure_no_auth: true, ..settings() };
    try_again(told).await.expect("the owner said so");
    let error = try_again(Settings { bind: vec![], ..settings() }).await.expect_err("no address");
    assert!(matches!(error, ServeError::NoAddress), "{error}");
}
