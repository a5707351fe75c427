//! A WebSocket to a node: texts as they come, and a clear word when there are no more.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::client::Client;
use super::error::CliError;
use super::output::name;

/// The node sends a ping every quarter of a minute; after so long without one it is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A WebSocket to a node.
pub(super) struct Socket(WebSocketStream<reqwest::Upgraded>);

impl Socket {
    /// Opens one.
    pub(super) async fn open(client: &Client, path: &str) -> Result<Self, CliError> {
        let key = generate_key();
        let headers = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", &*key),
            ("sec-websocket-protocol", "atmosphere.v1"),
        ];
        let (answer, upgraded) = client.upgrade(path, &headers).await?;
        let accepted = answer.get("sec-websocket-accept").map(reqwest::header::HeaderValue::as_bytes);
        if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            let message = format!("{} answers as no WebSocket does; is there a proxy in between?", client.url());
            return Err(CliError::Failed(message));
        }
        Ok(Self(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await))
    }

    /// The next text, or why there will be none.
    pub(super) async fn next(&mut self) -> Result<String, String> {
        loop {
            // Pings are answered while the next message is waited for.
            match timeout(SILENCE, self.0.next()).await {
                Err(_) => return Err("it fell silent".to_owned()),
                Ok(Some(Ok(Message::Text(text)))) => return Ok(text.as_str().to_owned()),
                Ok(Some(Ok(Message::Close(Some(CloseFrame { reason, .. }))))) if !reason.is_empty() => {
                    return Err(name(reason.as_str()));
                }
                Ok(Some(Ok(Message::Close(_))) | None) => return Err("it closed the connection".to_owned()),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(name(&error.to_string())),
            }
        }
    }
}
