//! The load generator: keep-alive connections, a bounded number of requests, and as little work per request as can be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::{EVENTS, MODEL};

/// Sent with every request. A node that wants a key has this one.
pub const KEY: &str = "bench-key-0123456789";

/// No request here takes longer, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Half of the requests took less.
    pub p50: Duration,
    /// One in a hundred took more.
    pub p99: Duration,
    /// From the first request to the last answer.
    pub total: Duration,
    /// How many.
    pub requests: usize,
}

impl Measured {
    /// Answers in a second.
    pub fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.requests).unwrap_or(u32::MAX)) / self.total.as_secs_f64()
    }
}

/// What is asked, of whom, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Whom.
    pub target: SocketAddr,
    /// As a stream.
    pub streamed: bool,
    /// Connections at once.
    pub connections: usize,
    /// For how long.
    pub until: Until,
}

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many requests on all connections together.
    Requests(usize),
    /// After this time; what has begun is finished.
    Time(Duration),
}

/// Runs a load to its end.
pub async fn run(load: Load) -> anyhow::Result<Measured> {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let more = move |made: usize| match load.until {
        Until::Requests(most) => made < most,
        Until::Time(most) => began.elapsed() < most,
    };
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..load.connections {
        let next = Arc::clone(&next);
        workers.spawn(async move {
            let mut connection = Connection::open(load.target).await?;
            let request = request(load.streamed);
            let mut took = Vec::new();
            while more(next.fetch_add(1, Ordering::Relaxed)) {
                let began = Instant::now();
                let answer = tokio::time::timeout(PATIENCE, connection.ask(&request, load.streamed));
                answer.await.context("a request hangs")??;
                took.push(began.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::with_capacity(64 << 10);
    while let Some(worker) = workers.join_next().await {
        took.extend(worker??);
    }
    let total = began.elapsed();
    took.sort_unstable();
    ensure!(!took.is_empty(), "no request was made");
    let at = |per_cent: usize| took[(took.len() * per_cent / 100).min(took.len() - 1)];
    Ok(Measured { p50: at(50), p99: at(99), total, requests: took.len() })
}

fn request(streamed: bool) -> Vec<u8> {
    let stream = if streamed { ",\"stream\":true" } else { "" };
    let body = format!(
        "{{\"model\":\"{MODEL}\"{stream},\"messages\":[{{\"role\":\"system\",\"content\":\"You are a helpful assistant who \
         answers in one sentence.\"}},{{\"role\":\"user\",\"content\":\"What does a llama like to eat?\"}}]}}"
    );
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         authorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// One keep-alive connection, and what was read of it.
struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(target: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(64 << 10) })
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "the connection was closed in an answer");
        Ok(())
    }

    /// Position after `mark`, read for until it is there.
    async fn after(&mut self, from: usize, mark: &[u8]) -> anyhow::Result<usize> {
        loop {
            if let Some(found) = memchr::memmem::find(&self.buffer[from..], mark) {
                return Ok(from + found + mark.len());
            }
            self.more().await?;
        }
    }

    /// Asks and reads the whole answer.
    async fn ask(&mut self, request: &[u8], streamed: bool) -> anyhow::Result<()> {
        self.buffer.clear();
        self.socket.write_all(request).await?;
        let body = self.after(0, b"\r\n\r\n").await?;
        let head = std::str::from_utf8(&self.buffer[..body])?.to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") {
            bail!("{}", String::from_utf8_lossy(&self.buffer));
        }
        let mut events = 0;
        if head.contains("transfer-encoding: chunked") {
            let mut at = body;
            loop {
                let line = self.after(at, b"\r\n").await?;
                let size = std::str::from_utf8(&self.buffer[at..line - 2])?;
                let size = usize::from_str_radix(size.trim(), 16)?;
                while self.buffer.len() < line + size + 2 {
                    self.more().await?;
                }
                events += memchr::memmem::find_iter(&self.buffer[line..line + size], b"data: ").count();
                at = line + size + 2;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = head.split("content-length:").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.context("neither chunked nor of known length")?.trim().parse()?;
            while self.buffer.len() < body + length {
                self.more().await?;
            }
        }
        ensure!(!streamed || events == EVENTS + 1, "{events} events instead of {}", EVENTS + 1);
        Ok(())
    }
}
