//! Calls on other nodes, over the mesh.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::capability::{Call, Failure, FrameStream, PeerId};
use crate::dispatch::Remote;
use crate::mesh;

/// Calls on other nodes, over the mesh.
pub(super) struct OverMesh(pub mesh::Handle);

impl Remote for OverMesh {
    fn call(&self, node: PeerId, call: Call) -> BoxFuture<'static, Result<FrameStream, Failure>> {
        let mesh = self.0.clone();
        async move { mesh.call(node, call).await }.boxed()
    }
}
