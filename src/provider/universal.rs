//! LlamaFarm's Universal Runtime: models that the owner names, by their Hugging Face ids.
//!
//! The runtime loads whatever it is asked for and lists only what is loaded, under internal names that no caller
//! may see. So nothing is offered but what the owner configured, and its list is never read.

use futures::future::BoxFuture;
use reqwest::Method;
use serde::Deserialize;

use super::Provider;
use super::models::Offer;
use super::naming::{self, Role};
use super::settings::BackendSpec;
use crate::capability::{Call, Capability, ErrorClass, Failure, Feature, FrameStream, Operation, OperationSet};

/// A Universal Runtime.
#[derive(Debug)]
pub struct Universal {
    offer: Offer,
}

impl Universal {
    /// The runtime of `spec`, as `id`.
    ///
    /// # Errors
    ///
    /// When its key cannot be sent, or `https` cannot be spoken on this machine.
    pub fn new(id: &str, spec: &BackendSpec) -> Result<Self, Failure> {
        Ok(Self { offer: Offer::new(id, spec)? })
    }

    async fn find(&self) -> Result<Vec<Capability>, Failure> {
        let backend = &self.offer.backend;
        let health: Health = backend.json(backend.root(Method::GET, &["health"])).await?;
        if health.status != "healthy" {
            let message = format!("{} says that it is {:?}", self.offer.id, health.status);
            return Err(Failure::new(ErrorClass::Unavailable, message));
        }
        let found = self.offer.spec.models.iter().filter_map(|model| {
            let role = Role::of_name(model);
            let mut it = naming::capability(&self.offer.id, model, role);
            it.operations = match role {
                Role::Embed => OperationSet::of(&[Operation::Embed]),
                // The runtime has no text completions.
                role if role.writes_text() => OperationSet::of(&[Operation::Chat]),
                Role::Transcribe => OperationSet::of(&[Operation::Transcribe]),
                Role::Speak => OperationSet::of(&[Operation::Speak]),
                _ => return None,
            };
            if role.writes_text() {
                it.features.insert(Feature::Tools);
            }
            naming::describe(&mut it, role, self.offer.spec.domain.as_deref());
            Some((it, model.clone()))
        });
        let found = found.collect();
        Ok(self.offer.publish(found))
    }
}

impl Provider for Universal {
    fn id(&self) -> &str {
        &self.offer.id
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        Box::pin(self.find())
    }

    fn call(&self, call: Call) -> FrameStream {
        self.offer.call(call)
    }

    fn concurrency(&self) -> Option<u32> {
        self.offer.concurrency()
    }

    fn shared(&self) -> bool {
        self.offer.spec.is_shared()
    }
}

#[derive(Deserialize)]
struct Health {
    status: String,
}
