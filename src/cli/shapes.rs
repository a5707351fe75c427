//! The shapes of the API's answers that the verbs read. Tolerant: unknown fields are ignored, and missing or `null`
//! ones are empty, so that the command line works with older and newer nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /v1/health`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub status: String,
    pub version: String,
    #[serde(alias = "uptime_seconds")]
    pub uptime_s: Option<f64>,
    /// The node: its id, or an object with id and name.
    pub node: Value,
    #[serde(alias = "name")]
    pub node_name: Option<String>,
    #[serde(alias = "backends")]
    pub providers: Vec<Provider>,
    pub seeds: Vec<Seed>,
}

/// A provider of the node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Provider {
    pub id: String,
    pub kind: String,
    pub url: Option<String>,
    pub up: bool,
    pub error: Option<String>,
    pub capabilities: u64,
}

/// A seed of the node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Seed {
    pub seed: String,
    /// The node that answered there, by id.
    pub node: Option<String>,
    pub connected: bool,
    pub error: Option<String>,
}

/// `GET /v1/mesh/nodes`, `GET /v1/mesh/topology` and the answer of `POST /v1/mesh/join`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mesh {
    pub mesh: MeshName,
    pub nodes: Vec<Node>,
    pub seeds: Vec<Seed>,
}

/// The mesh.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MeshName {
    pub id: String,
    pub name: String,
    pub closed: bool,
    pub membership: Option<Membership>,
}

/// The node's membership of a closed mesh.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Membership {
    pub role: String,
    pub expires_at: Option<String>,
    pub problem: Option<String>,
}

/// `GET /v1/mesh/members`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Members {
    pub mesh: MeshName,
    pub members: Vec<Member>,
}

/// A member, or one that was.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Member {
    pub node: String,
    pub name: Option<String>,
    #[serde(rename = "self")]
    pub is_self: bool,
    pub role: String,
    pub status: String,
    pub expires_at: Option<String>,
    pub reason: Option<String>,
}

/// The answer of `POST /v1/mesh/invite`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Invited {
    pub token: String,
    pub link: String,
    pub mesh: MeshName,
    pub role: String,
    pub uses: u32,
    pub expires_at: Option<String>,
}

/// The answers of `/v1/mesh/pair`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Paired {
    pub pairing: Pairing,
}

/// A pairing by a spoken code.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pairing {
    pub id: String,
    pub revision: u64,
    pub side: String,
    pub stage: String,
    pub code: Option<String>,
    pub mesh: Option<String>,
    pub role: Option<String>,
    pub node: Option<String>,
    pub node_name: Option<String>,
    pub check: Option<String>,
    pub far_agreed: bool,
    pub attempts_left: Option<u64>,
    pub problem: Option<String>,
}

/// The answer of `POST /v1/mesh/revoke`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Revoked {
    pub node: String,
    pub name: Option<String>,
    pub reissued: Vec<Member>,
    pub also_revoked: Vec<Member>,
}

/// The answer of `POST /v1/mesh/leave`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Left {
    pub kept: Vec<String>,
}

/// A node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub id: String,
    pub name: String,
    #[serde(rename = "self")]
    pub is_self: bool,
    pub status: String,
    pub path: Option<String>,
    pub rtt_ms: Option<f64>,
    pub version: Option<String>,
    /// Load class, 0 (idle) to 4 (full).
    pub load: Option<u64>,
    pub capabilities: u64,
}

/// `GET /v1/mesh/doctor`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Diagnosis {
    pub healthy: bool,
    pub node: NodeName,
    pub findings: Vec<Finding>,
}

/// A node's name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeName {
    pub name: String,
}

/// One thing that was found out.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Finding {
    pub check: String,
    /// `ok`, `note` or `problem`.
    pub verdict: String,
    pub what: String,
    pub advice: Option<String>,
}

/// `GET /v1/capabilities`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capabilities {
    pub capabilities: Vec<Capability>,
}

/// A capability.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capability {
    #[serde(rename = "type")]
    pub kind: String,
    pub node: String,
    pub node_name: Option<String>,
    pub model: Option<String>,
    pub models: Vec<String>,
    pub name: Option<String>,
    pub project: Option<String>,
    pub domain: Option<String>,
    pub state: Option<String>,
    pub latency_ms: Option<f64>,
}

/// The answer of `POST /v1/mesh/route`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Routed {
    pub decision: Decision,
}

/// A decision.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Decision {
    pub id: String,
    pub target: String,
    pub chosen: Option<Chosen>,
    pub reason: String,
    pub candidates: Vec<Candidate>,
    pub rejected: Vec<Candidate>,
    pub no_route: Option<NoRoute>,
    pub elapsed_us: Option<f64>,
}

/// Why nobody can do it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NoRoute {
    pub code: String,
    pub message: String,
}

/// Who was chosen.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    pub node: String,
    pub node_name: Option<String>,
    pub model: Option<String>,
    pub capability: String,
}

/// Who could, or could not and why.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Candidate {
    pub node: String,
    pub node_name: Option<String>,
    pub capability: String,
    pub model: Option<String>,
    pub predicted_ms: Option<f64>,
    pub parts: BTreeMap<String, Value>,
    pub reason: String,
}

impl Candidate {
    /// A number among the parts.
    pub(super) fn part(&self, name: &str) -> Option<f64> {
        self.parts.get(name).and_then(Value::as_f64)
    }
}
