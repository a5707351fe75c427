//! `GET /v1/mesh/doctor`: what hinders this node, why, and what to do about it.
//!
//! The facts are gathered by the node and by its neighbours; [`findings`] says what they mean.

mod findings;
mod judge;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use crate::capability::PeerId;
use crate::mesh::{LinkTransport, Multicast, Neighbour, PathClass, Reach};
pub use findings::{Check, Finding, Verdict};
use judge::{Facts, Other, judge};

/// Which neighbours to ask.
#[derive(Deserialize)]
pub(super) struct Only {
    /// A node's name or id.
    node: Option<String>,
}

#[derive(Serialize)]
struct NeighbourShape {
    node: String,
    name: String,
    version: Option<String>,
    path: PathClass,
    transport: LinkTransport,
    rtt_ms: Option<f64>,
    address: String,
    clock_ahead_ms: Option<i64>,
    /// `reached`, or why not; `null` where it was not tried.
    udp: Option<String>,
    tcp: Option<String>,
    multicast: Option<Multicast>,
}

fn reach_text(reach: &Reach) -> String {
    match reach {
        Reach::Reached => "reached".to_owned(),
        Reach::Unreachable(why) => format!("unreachable: {why}"),
        Reach::Unknown(why) => format!("unknown: {why}"),
    }
}

fn neighbour_shape(neighbour: &Neighbour, others: &BTreeMap<PeerId, Other>) -> NeighbourShape {
    let reach = |wanted: LinkTransport| {
        let all = neighbour.reach.as_ref()?;
        all.iter().find(|(transport, _)| *transport == wanted).map(|(_, reach)| reach_text(reach))
    };
    let other = others.get(&neighbour.node);
    NeighbourShape {
        node: neighbour.node.to_base58(),
        name: other.map(|other| other.name.clone()).unwrap_or_default(),
        version: other.map(|other| other.version.clone()),
        path: neighbour.view.path,
        transport: neighbour.view.transport,
        rtt_ms: neighbour.view.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        address: neighbour.view.address.clone(),
        clock_ahead_ms: neighbour.clock_ahead_ms.as_ref().ok().copied(),
        udp: reach(LinkTransport::Quic),
        tcp: reach(LinkTransport::Tcp),
        multicast: neighbour.multicast.clone(),
    }
}

/// Examines this node.
pub(super) async fn doctor(
    State(app): State<Arc<App>>,
    only: Result<Query<Only>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(only) = only.map_err(|error| ApiError::bad_request(error.body_text()).param("node"))?;
    let catalog = app.service.catalog();
    let only = match only.node.as_deref() {
        None => None,
        Some(name) => Some(catalog.nodes_named(name).first().copied().ok_or_else(|| {
            let message = format!("there is no node {name:?} in the mesh; `atmosphere nodes` lists all");
            ApiError::new(StatusCode::NOT_FOUND, "node_not_found", message).param("node")
        })?),
    };
    // One at a time: each has the neighbours dial and listen. Nothing closes the semaphore.
    let _turn = app.doctor.acquire().await;
    let examination = app.service.examine(only).await;
    let view = app.service.mesh();
    let other = |(node, advert): (&PeerId, &Arc<crate::capability::Advert>)| {
        (*node, Other { name: advert.name.clone(), version: advert.version.clone() })
    };
    let others: BTreeMap<_, _> = catalog.adverts().iter().map(other).collect();
    let facts = Facts {
        examination: &examination,
        others: &others,
        own: (view.node, &app.service.node_name()),
        seeds: &view.seeds,
        denied: view.membership.as_ref().and_then(|own| Some(own.denied.as_ref()?.to_string())),
        providers: &app.service.providers(),
        version: env!("CARGO_PKG_VERSION"),
        port: app.service.gossip_port(),
    };
    let findings = judge(&facts);
    let problems = findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count();
    let neighbours: Vec<Value> =
        examination.neighbours.iter().map(|neighbour| json!(neighbour_shape(neighbour, &others))).collect();
    Ok(Json(json!({
        "healthy": problems == 0,
        "node": {"id": view.node.to_base58(), "name": app.service.node_name()},
        "mesh": {"id": view.mesh_id, "name": view.mesh_name},
        "findings": findings,
        "situation": examination.situation,
        "neighbours": neighbours,
    }))
    .into_response())
}
