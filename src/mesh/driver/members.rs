//! The roster of a closed mesh: told to the neighbours, synced, and carried out on live connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::swarm::dial_opts::PeerCondition;
use rand::seq::IteratorRandom as _;

use super::state::{Asked, Driver};
use super::tended::EXPIRE;
use crate::capability::Capability;
use crate::mesh::address::of_advert;
use crate::mesh::member::{Closed, Renewal, Role};
use crate::mesh::telling::Counted;
use crate::wire::v1;

/// How often memberships are looked at that may have run out, however quiet the roster is.
const LOOK: Duration = Duration::from_secs(1);

/// How often this node asks for its membership anew while it gets none.
const RENEWAL_PAUSE: Duration = Duration::from_secs(2);

/// How often a neighbour is asked who a node is that is not known here.
const QUESTION_PAUSE: Duration = Duration::from_secs(1);

/// Records in one message to a neighbour: they fit in it several times.
const PUSH: usize = 128;

/// A request that is about memberships and has its answer, or another one.
pub enum MemberRequest {
    /// To be sent back.
    Answered(v1::SyncResponse),
    /// Of another kind.
    Other(v1::SyncRequest),
}

impl Driver {
    /// What this node can do is now this. What its role does not let it offer it keeps to itself.
    pub(super) fn advertise(&mut self, capabilities: Vec<Arc<Capability>>, load: u8, now: Instant) {
        let offers = self.settings.closed.as_ref().is_none_or(|closed| closed.role().offers());
        self.members.capabilities = Some(capabilities.clone().into());
        self.teller.set(if offers { capabilities } else { Vec::new() }, load, now);
        self.teller.let_go();
    }

    /// Looks after the roster: tells what is new, hangs up on those who are no members any more, renews this node's own
    /// membership, and keeps all of it on disk.
    pub(super) fn tend_members(&mut self, now: Instant) {
        let Some(closed) = self.settings.closed.clone() else { return };
        for node in std::mem::take(&mut self.members.resync) {
            self.teller.sync_with(node, now);
        }
        self.push(&closed.take_news());
        let revision = closed.revision();
        if revision != self.members.revision || self.members.next_look <= now {
            self.members.revision = revision;
            self.members.next_look = now + LOOK;
            self.part_with_strangers(&closed, now);
            self.look_at_own(&closed, now);
        }
        if self.members.next_renewal <= now {
            self.members.next_renewal = now + RENEWAL_PAUSE;
            self.renew(&closed, now);
        }
        if self.members.next_expiry <= now {
            self.members.next_expiry = now + EXPIRE;
            closed.expire();
        }
        let saving = self.members.saving.as_ref().is_some_and(|saving| !saving.is_finished());
        if closed.is_changed() && !saving {
            self.members.saving = Some(tokio::task::spawn_blocking(move || {
                if let Err(error) = closed.save() {
                    tracing::warn!(%error, "cannot keep the roster of the mesh");
                }
            }));
        }
    }

    /// Keeps on disk what changed last, before the node leaves: nobody looks after it any more.
    pub(super) async fn keep_members(closed: Option<Closed>) {
        /// A disk that takes longer than this is broken.
        const LIMIT: Duration = Duration::from_secs(2);
        let Some(closed) = closed.filter(Closed::is_changed) else { return };
        let kept = tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(move || closed.save())).await;
        match kept {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "cannot keep the roster of the mesh"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the roster of the mesh was not kept in time"),
        }
    }

    /// Hangs up on nodes that are no members any more, and takes their adverts off all lists.
    fn part_with_strangers(&mut self, closed: &Closed, now: Instant) {
        let nodes = self.connections.nodes().copied();
        let denied = nodes.filter_map(|node| Some((node, closed.role_of(&node).err()?)));
        for (node, denied) in denied.collect::<Vec<_>>() {
            tracing::info!(%node, reason = %denied, "hanging up on a node that is no member any more");
            self.outlets.events.emit(
                "member.parted",
                || serde_json::json!({ "node": node.to_base58(), "reason": denied.to_string() }),
            );
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(node);
        }
        self.teller.evict(now);
    }

    /// Follows what became of this node's own membership.
    fn look_at_own(&mut self, closed: &Closed, now: Instant) {
        let own = closed.own();
        if self.members.own.as_ref() == Some(&own) {
            return;
        }
        self.view_changed = true;
        let before = self.members.own.replace(own.clone());
        if before.is_some_and(|before| before.role != own.role) {
            tracing::info!(role = %own.role, "this node's role in the mesh is another one now");
            if let Some(capabilities) = self.members.capabilities.take() {
                self.advertise(capabilities.to_vec(), self.teller.load(), now);
            }
        }
        let denied = own.denied.filter(|_| !closed.has_root());
        if let Some(denied) = &denied
            && !self.members.warned
        {
            tracing::warn!(reason = %denied, "this node is no member of its mesh any more: {denied}");
        }
        self.members.warned = denied.is_some();
    }

    /// Renews this node's own membership in time, by itself or by asking an admin.
    fn renew(&mut self, closed: &Closed, now: Instant) {
        match closed.renewal() {
            Renewal::NotDue => {}
            Renewal::Done => tracing::info!("renewed this node's membership with the root key"),
            Renewal::Ask => {
                let is_admin = |node: &PeerId| closed.role_of(node).is_ok_and(Role::issues);
                let connected = self.connections.nodes().copied().filter(is_admin).choose(&mut self.rng);
                if let Some(admin) = connected {
                    let body = v1::sync_request::Body::Renew(v1::Renew {});
                    self.ask(admin, v1::SyncRequest { body: Some(body) }, Asked::Renewal);
                    return;
                }
                // In a large mesh no admin may be among the neighbours.
                let adverts = self.teller.register().adverts();
                let known = adverts.iter().filter(|(node, _)| **node != self.own && is_admin(node));
                if let Some((node, advert)) = known.choose(&mut self.rng) {
                    self.dial_node(*node, of_advert(advert), PeerCondition::DisconnectedAndNotDialing, now);
                }
            }
        }
    }

    pub(super) fn on_renewed(&mut self, renewed: v1::Renewed, from: PeerId, now: Instant) {
        let Some(closed) = self.settings.closed.clone() else { return };
        match renewed.membership.map(|membership| closed.take_renewed(membership)) {
            Some(Ok(())) => {
                tracing::info!(%from, "this node's membership was renewed");
                self.membership_renewed(now);
            }
            Some(Err(error)) => tracing::warn!(%from, %error, "an admin sent a membership that is none"),
            None => {
                let refusal: String = renewed.refusal.chars().filter(|char| !char.is_control()).take(200).collect();
                tracing::warn!(%from, %refusal, "an admin does not renew this node's membership");
            }
        }
    }

    /// This node's membership is new: whoever refused the old one is tried again.
    pub(super) fn membership_renewed(&mut self, now: Instant) {
        self.refused.clear();
        self.view_changed = true;
        self.teller.touch(now);
    }

    /// Tells all neighbours of these records.
    fn push(&mut self, records: &[v1::RosterRecord]) {
        let neighbours: Vec<_> = self.connections.nodes().copied().collect();
        for push in records.chunks(PUSH) {
            for node in &neighbours {
                let digest = v1::RosterDigest { ids: bytes::Bytes::new(), push: push.to_vec() };
                let body = v1::sync_request::Body::Roster(digest);
                self.ask(*node, v1::SyncRequest { body: Some(body) }, Asked::Roster);
            }
        }
    }

    /// Compares rosters with a neighbour.
    pub(super) fn sync_roster_with(&mut self, node: PeerId) {
        let Some(closed) = &self.settings.closed else { return };
        let digest = v1::RosterDigest { ids: closed.digest().into(), push: Vec::new() };
        let body = v1::sync_request::Body::Roster(digest);
        self.ask(node, v1::SyncRequest { body: Some(body) }, Asked::Roster);
    }

    /// A neighbour told of a node that is no member here: perhaps its membership has not come yet.
    pub(super) fn ask_who_it_is(&mut self, from: PeerId, now: Instant) {
        if self.settings.closed.is_some() && self.members.next_question <= now {
            self.members.next_question = now + QUESTION_PAUSE;
            self.members.resync.push(from);
        }
    }

    /// Takes in what a neighbour knows of the roster, and tells it what it lacks.
    pub(super) fn on_roster(&mut self, delta: v1::RosterDelta, from: PeerId, now: Instant) {
        let Some(closed) = self.settings.closed.clone() else { return };
        self.merge(&closed, delta.records, from, now);
        let wanted = closed.find(&delta.want);
        if !wanted.is_empty() {
            let body = v1::sync_request::Body::Roster(v1::RosterDigest { ids: bytes::Bytes::new(), push: wanted });
            self.ask(from, v1::SyncRequest { body: Some(body) }, Asked::Roster);
        }
    }

    fn merge(&mut self, closed: &Closed, records: Vec<v1::RosterRecord>, from: PeerId, now: Instant) {
        if records.is_empty() {
            return;
        }
        let merged = closed.merge(records);
        if let Some(fault) = merged.fault {
            self.outlets.measures.statement(Counted::Refused);
            tracing::debug!(%from, error = %fault, "refused a record of the roster");
        }
        if merged.newcomers && !self.members.resync.contains(&from) {
            self.members.resync.push(from);
        }
        if merged.news > 0 {
            // Nothing that follows from it shall wait for long.
            self.next_housekeeping = now;
        }
    }

    /// Answers what is asked about memberships.
    pub(super) fn on_member_request(&mut self, request: v1::SyncRequest, from: PeerId, now: Instant) -> MemberRequest {
        use v1::sync_request::Body;
        let Some(closed) = self.settings.closed.clone() else { return MemberRequest::Other(request) };
        let body = match request.body {
            Some(Body::Roster(digest)) => {
                self.merge(&closed, digest.push, from, now);
                let (records, want) =
                    if digest.ids.is_empty() { (Vec::new(), Vec::new()) } else { closed.delta(&digest.ids) };
                v1::sync_response::Body::Roster(v1::RosterDelta { records, want: want.into() })
            }
            Some(Body::Renew(_)) => {
                let renewed = match closed.renew(from) {
                    Ok(membership) => v1::Renewed { membership: Some(membership), refusal: String::new() },
                    Err(error) => v1::Renewed { membership: None, refusal: error.to_string() },
                };
                v1::sync_response::Body::Renewed(renewed)
            }
            body => return MemberRequest::Other(v1::SyncRequest { body }),
        };
        MemberRequest::Answered(v1::SyncResponse { body: Some(body) })
    }
}
