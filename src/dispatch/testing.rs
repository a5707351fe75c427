//! Backends and nodes that do what a test tells them, in a line each.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{DispatchError, Dispatcher, Local, LocalSettings, Providers, Remote, Reply, ReplyBody, Settings};
use crate::capability::{
    Call, Capability, CapabilityId, Chunk, Failure, Frame, FrameStream, Intent, Load, Operation, PeerId, Progress,
};
use crate::provider::{Provider, Resolved};
use crate::router::testing::{catalog, chat_model, intent};
use crate::router::{Outcome, Router, Signals};
use crate::telemetry::EventBus;

/// What a backend answers a call with.
pub(super) type Answer = Box<dyn Fn(Call) -> FrameStream + Send + Sync>;

/// A provider that answers as told.
pub(super) struct Backend {
    pub(super) answer: Answer,
    pub(super) concurrency: Option<u32>,
    pub(super) shared: bool,
}

impl Backend {
    pub(super) fn new(answer: impl Fn(Call) -> FrameStream + Send + Sync + 'static) -> Self {
        Self { answer: Box::new(answer), concurrency: None, shared: true }
    }
}

impl Provider for Backend {
    fn id(&self) -> &str {
        "backend"
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn call(&self, call: Call) -> FrameStream {
        (self.answer)(call)
    }

    fn concurrency(&self) -> Option<u32> {
        self.concurrency
    }

    fn shared(&self) -> bool {
        self.shared
    }
}

/// One provider with one capability.
pub(super) struct One(pub(super) Arc<dyn Provider>, pub(super) Arc<Capability>);

impl Providers for One {
    fn resolve(&self, capability: &CapabilityId) -> Option<Resolved> {
        let found = || Resolved { provider: Arc::clone(&self.0), capability: Arc::clone(&self.1) };
        (*capability == self.1.id).then(found)
    }
}

/// Answers a call to a node.
type NodeAnswer = Box<dyn Fn(Call) -> BoxFuture<'static, Result<FrameStream, Failure>> + Send + Sync>;

/// Other nodes that answer as told, and remember who was called.
#[derive(Default)]
pub(super) struct Nodes {
    answers: Mutex<HashMap<PeerId, NodeAnswer>>,
    pub(super) called: Mutex<Vec<PeerId>>,
}

impl Nodes {
    /// This node answers each call with what `answer` makes of it.
    pub(super) fn answer(&self, node: PeerId, answer: impl Fn(Call) -> FrameStream + Send + Sync + 'static) {
        self.opening(node, move |call| futures::future::ready(Ok(answer(call))).boxed());
    }

    /// As [`answer`](Self::answer), where opening the call may fail or take time too.
    pub(super) fn opening(
        &self,
        node: PeerId,
        answer: impl Fn(Call) -> BoxFuture<'static, Result<FrameStream, Failure>> + Send + Sync + 'static,
    ) {
        self.answers.lock().insert(node, Box::new(answer));
    }
}

impl Remote for Nodes {
    fn call(&self, node: PeerId, call: Call) -> BoxFuture<'static, Result<FrameStream, Failure>> {
        self.called.lock().push(node);
        let answers = self.answers.lock();
        let answer = answers.get(&node).expect("the test has an answer for every node that is called");
        answer(call)
    }
}

/// These frames and then the end of the stream.
pub(super) fn frames(frames: Vec<Frame>) -> FrameStream {
    Box::pin(futures::stream::iter(frames))
}

/// These frames, then nothing for ever, until it is dropped: then the receiver hears of it.
pub(super) fn hanging(first: Vec<Frame>, dropped: oneshot::Sender<()>) -> FrameStream {
    Box::pin(futures::stream::iter(first).chain(futures::stream::poll_fn(move |_| {
        let _ = &dropped;
        std::task::Poll::Pending
    })))
}

pub(super) fn accepted() -> Frame {
    Frame::Accepted(Load::default())
}

pub(super) fn chunk(data: &'static str) -> Frame {
    Frame::Chunk(Chunk { data: Bytes::from_static(data.as_bytes()), content_type: None })
}

pub(super) fn end() -> Frame {
    Frame::End { usage: None, load: None }
}

pub(super) fn at(phase: crate::capability::Phase) -> Frame {
    Frame::Progress(Progress { phase, queue_position: 0 })
}

/// A call of a capability.
pub(super) fn call(capability: &Capability, deadline: std::time::Duration) -> Call {
    Call {
        id: "call".into(),
        capability: capability.id.clone(),
        operation: Operation::Chat,
        payload: Bytes::from_static(b"{}"),
        content_type: "application/json".into(),
        stream: true,
        deadline,
        headers: Default::default(),
    }
}

/// A mesh of this node, which has nothing, and others in the order in which they are tried.
pub(super) struct World {
    pub(super) dispatcher: Dispatcher,
    pub(super) nodes: Arc<Nodes>,
    pub(super) others: Vec<PeerId>,
    pub(super) events: EventBus,
}

impl World {
    pub(super) fn new(count: usize) -> Self {
        Self::of(count, &chat_model("model", 7))
    }

    /// As many others that all have this model.
    pub(super) fn of(count: usize, model: &Capability) -> Self {
        Self::each(count, std::slice::from_ref(model))
    }

    /// As many others that all have these models.
    pub(super) fn each(count: usize, models: &[Capability]) -> Self {
        let mut others: Vec<_> = std::iter::repeat_with(PeerId::random).take(count).collect();
        // Equals are tried in the order of their ids.
        others.sort_unstable();
        let names = ["a", "b", "c", "d", "e", "f"];
        let mesh = others.iter().zip(names).map(|(node, name)| (*node, name, models.to_vec())).collect();
        let own = PeerId::random();
        let router = Router::new(catalog(mesh), Arc::new(Signals::new(own)), Default::default(), own);
        let nothing = One(Arc::new(Backend::new(|_| frames(vec![]))), Arc::new(chat_model("own", 7)));
        let local = Arc::new(Local::new(Arc::new(nothing), LocalSettings::default()));
        let nodes = Arc::new(Nodes::default());
        let events = EventBus::default();
        let remote: Arc<dyn Remote> = Arc::clone(&nodes) as _;
        let dispatcher = Dispatcher::new(Arc::new(router), local, remote, events.clone(), Settings::default());
        Self { dispatcher, nodes, others, events }
    }

    pub(super) async fn ask(&self) -> Result<Reply, DispatchError> {
        self.dispatcher.dispatch(streamed(Some("model"))).await
    }

    pub(super) fn in_flight(&self) -> u32 {
        let id = chat_model("model", 7).id;
        self.others.iter().map(|node| self.dispatcher.router().signals().in_flight(node, &id)).sum()
    }

    pub(super) fn outcome(&self) -> (Outcome, Vec<String>) {
        let logged = self.dispatcher.router().log().latest(1).remove(0);
        (logged.outcome, logged.attempts.into_iter().map(|attempt| attempt.result).collect())
    }
}

/// A streamed chat with that model, or with `auto`.
pub(super) fn streamed(model: Option<&str>) -> Intent {
    let mut intent = intent(model);
    intent.requirements.stream = true;
    intent
}

/// All of an answer, and how it failed.
pub(super) async fn text(mut body: ReplyBody) -> (String, Option<Failure>) {
    let mut text = String::new();
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => text.push_str(std::str::from_utf8(&piece).expect("text")),
            Err(failure) => {
                assert!(body.next().await.is_none(), "nothing comes after a failure");
                return (text, Some(failure));
            }
        }
    }
    (text, None)
}
