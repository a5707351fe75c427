//! A WebSocket client that hides nothing: it keeps messages in their order, and how the socket ended.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::TestNode;

/// A WebSocket to a node.
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Opens a path of a node's API and reads the `hello`.
    pub async fn open(node: &TestNode, path: &str) -> Self {
        let mut socket = Self::try_open(node, path, &[]).await.unwrap_or_else(|status| panic!("{path}: {status}"));
        let hello = socket.next().await;
        assert_eq!((&hello["type"], hello["node_name"].as_str()), (&"hello".into(), Some(node.name())), "{hello}");
        socket
    }

    /// Opens one, or gives the status that it is refused with.
    pub async fn try_open(node: &TestNode, path: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let mut request = format!("ws://127.0.0.1:{}{path}", node.api_port).into_client_request().expect("an address");
        for (name, value) in headers {
            let (name, value) = (HeaderName::try_from(*name), HeaderValue::try_from(*value));
            request.headers_mut().insert(name.expect("a name"), value.expect("a value"));
        }
        let stream = TcpStream::connect(("127.0.0.1", node.api_port)).await.expect("the node listens");
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Says something.
    pub async fn say(&mut self, message: &Value) {
        self.say_text(&message.to_string()).await;
    }

    /// Says something that need not be JSON.
    pub async fn say_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("the socket is open");
    }

    /// Asks for an answer.
    pub async fn ask(&mut self, id: &str, path: &str, body: &Value) {
        self.say(&serde_json::json!({"type": "request", "id": id, "path": path, "body": body})).await;
    }

    /// The next message, or how it ended: the code and reason of the other side.
    ///
    /// # Panics
    ///
    /// When nothing comes for 30 s.
    pub async fn next_or_end(&mut self) -> Result<Value, Option<(u16, String)>> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), self.0.next());
            match next.await.expect("the socket neither says anything nor ends") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(text.as_str()).expect("JSON")),
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Err(Some((code.into(), reason.as_str().to_owned())));
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Err(None),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> Value {
        self.next_or_end().await.unwrap_or_else(|end| panic!("the socket ended: {end:?}"))
    }

    /// The first message that this holds for; what came before it is left out.
    pub async fn until(&mut self, mut holds: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let message = self.next().await;
            if holds(&message) {
                return message;
            }
        }
    }

    /// All messages of a request to its end, which comes last; those of others are left out.
    pub async fn answer(&mut self, id: &str) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let message = self.until(|message| message["id"] == id).await;
            let is_last = ["done", "error", "cancelled"].iter().any(|last| message["type"] == *last);
            messages.push(message);
            if is_last {
                return messages;
            }
        }
    }

    /// Leaves without a word.
    pub fn vanish(self) {
        drop(self);
    }
}

/// The text that the pieces of a streamed chat make.
pub fn text_of(answer: &[Value]) -> String {
    answer.iter().filter_map(|message| message["data"]["choices"][0]["delta"]["content"].as_str()).collect()
}

/// The types of messages in their order, each run of the same once.
pub fn types_of(answer: &[Value]) -> Vec<&str> {
    let mut types: Vec<&str> = answer.iter().filter_map(|message| message["type"].as_str()).collect();
    types.dedup();
    types
}
