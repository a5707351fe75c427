//! Closed meshes of whole nodes: joining, roles, revoking, renewing, changing the mesh.

use std::path::Path;

use futures::StreamExt as _;

use super::calls::call;
use super::*;
use crate::capability::{Frame, Load};
use crate::mesh::member::{Closed, Denied, InviteOptions, Role, Token};
use crate::mesh::{EntryError, KnockError, PathClass, RelayServer, enter};

/// A node of a closed mesh.
struct Member {
    node: Node,
    identity: Identity,
    closed: Closed,
}

impl std::ops::Deref for Member {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

fn within(settings: Settings, closed: &Closed) -> Settings {
    Settings { closed: Some(closed.clone()), ..settings }
}

/// The first admin of a new mesh.
fn admin(settings: Settings) -> Member {
    let identity = Identity::generate();
    let closed = Closed::create(settings.data_dir.as_deref(), &identity, "home").expect("made");
    let node = run_as(within(settings, &closed), identity.clone());
    Member { node, identity, closed }
}

impl Member {
    async fn invite(&self, options: InviteOptions) -> Token {
        self.until_view("an address", |view| (!view.listening.is_empty()).then_some(())).await;
        self.mesh.invite(options).await.expect("invited").token
    }

    async fn invite_as(&self, role: Role) -> Token {
        self.invite(InviteOptions { role, ..InviteOptions::default() }).await
    }

    async fn until_member(&self, other: PeerId, role: Role) {
        let known = async {
            while self.closed.role_of(&other) != Ok(role) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, known).await.expect("it hears of the member");
    }

    async fn until_no_member(&self, other: PeerId) {
        let known = async {
            while self.closed.role_of(&other).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, known).await.expect("it hears of the revocation");
        self.until_view("no connection", |view| (!view.peers.contains_key(&other)).then_some(())).await;
        self.until_gone(other).await;
    }
}

/// Joins with an invite, and runs.
async fn joined(settings: Settings, token: &Token) -> Member {
    let identity = Identity::generate();
    let closed = enter(settings.data_dir.as_deref(), &identity, token).await.expect("let in");
    let node = run_as(within(settings, &closed), identity.clone());
    Member { node, identity, closed }
}

fn at_home(settings: Settings, dir: &Path) -> Settings {
    Settings { data_dir: Some(dir.to_owned()), ..settings }
}

/// Answers one call.
async fn serve_one(node: &mut Node) {
    let inbound = node.calls.recv().await.expect("a call");
    let frames = [Frame::Accepted(Load::default()), Frame::End { usage: None, load: None }];
    inbound.reply.send_all(Box::pin(futures::stream::iter(frames))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_joins_by_quic_and_by_tcp_and_calls() {
    for transport in ["/udp/", "/tcp/"] {
        let mut provider = admin(on_loopback("provider"));
        provider.mesh.advertise(model("m"), 0).await;
        let listens = |view: &MeshView| view.listening.iter().any(|address| address.to_string().contains(transport));
        provider.until_view("that it listens", |view| listens(view).then_some(())).await;
        let mut token = provider.invite(InviteOptions::default()).await;
        token.addresses.retain(|address| address.to_string().contains(transport));
        assert_eq!(token.addresses.len(), 1, "{transport}");
        let began = std::time::Instant::now();
        let caller = joined(on_loopback("caller"), &token).await;
        let id = provider.id();
        caller.until_offered(id, "m").await;
        let called = async {
            let frames = caller.mesh.call(id, call()).await.expect("admitted");
            frames.collect::<Vec<_>>().await
        };
        let (frames, ()) = tokio::join!(called, serve_one(&mut provider.node));
        assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
        println!("{transport} from the invite to the first answered call: {:?}", began.elapsed());
        assert_eq!(caller.mesh.view().membership.as_ref().map(|own| own.role), Some(Role::Member));
        provider.until_member(caller.id(), Role::Member).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_reach_each_other_through_a_relay_and_hear_of_newcomers_that_they_never_met() {
    let relay = admin(Settings { relay_server: RelayServer::On, ..on_loopback("relay") });
    let mut provider = joined(quiet("provider"), &relay.invite(InviteOptions::default()).await).await;
    let caller = joined(quiet("caller"), &relay.invite(InviteOptions::default()).await).await;
    provider.mesh.advertise(model("m"), 0).await;
    let id = provider.id();
    caller
        .until_adverts("an address of the provider", |adverts| {
            adverts.get(&id)?.addresses.iter().any(|address| address.contains("p2p-circuit")).then_some(())
        })
        .await;
    caller.until_offered(id, "m").await;
    let called = async {
        let frames = caller.mesh.call(id, call()).await.expect("admitted");
        frames.collect::<Vec<_>>().await
    };
    let (frames, ()) = tokio::join!(called, serve_one(&mut provider.node));
    assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
    let peer = caller.until_view("the circuit", |view| view.peers.get(&id).cloned()).await;
    assert_eq!(peer.path, PathClass::Relayed, "the gate is passed within the circuit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_is_cut_off_everywhere_within_seconds_and_stays_so_after_restarts() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let a = admin(at_home(on_loopback("a"), dirs[0].path()));
    let b = joined(at_home(on_loopback("b"), dirs[1].path()), &a.invite(InviteOptions::default()).await).await;
    let token = a.invite(InviteOptions::default()).await;
    let c = joined(at_home(on_loopback("c"), dirs[2].path()), &token).await;
    c.mesh.advertise(model("of-c"), 0).await;
    for node in [&a, &b] {
        node.until_offered(c.id(), "of-c").await;
        node.until_connected(c.id()).await;
    }
    let began = std::time::Instant::now();
    a.mesh.revoke(c.id(), "lost".into(), false).await.expect("revoked");
    for node in [&a, &b] {
        node.until_no_member(c.id()).await;
    }
    println!("cut off on every node after {:?}", began.elapsed());
    c.until_view("that nobody is left", |view| view.peers.is_empty().then_some(())).await;
    // Its invite does not bring it back, and nobody else gets in with its membership.
    let error = c.mesh.enter(&token).await;
    assert!(error.is_ok() || error.is_err_and(|error| error.to_string().contains("revoked")));

    // On disk it is the same, on the node that revoked and on the one that only heard of it.
    b.mesh.leave().await;
    let until_kept = async {
        loop {
            let again = Closed::open(dirs[1].path(), &b.identity).expect("readable").expect("there");
            if again.role_of(&c.id()).is_err() {
                return again;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let again = tokio::time::timeout(LIMIT, until_kept).await.expect("kept");
    let b = run_as(within(at_home(on_loopback("b"), dirs[1].path()), &again), b.identity.clone());
    let error = c.mesh.join(b.seed()).await.expect_err("refused").to_string();
    assert!(error.contains("revoked"), "{error}");
    assert!(!b.mesh.view().peers.contains_key(&c.id()));
    // Who refused it has told it why, and it knows that it is no member any more.
    let own = c.until_view("its revocation", |view| view.membership.clone().filter(|own| own.denied.is_some())).await;
    assert_eq!(own.denied, Some(Denied::Revoked));

    // A new invite is a new beginning.
    let anew = a.invite(InviteOptions::default()).await;
    c.mesh.enter(&anew).await.expect("invited anew");
    a.until_offered(c.id(), "of-c").await;
    a.until_member(c.id(), Role::Member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_kept_to() {
    let mut a = admin(on_loopback("a"));
    a.mesh.advertise(model("of-a"), 0).await;
    let client = joined(on_loopback("client"), &a.invite_as(Role::Client).await).await;
    let relay = joined(on_loopback("relay"), &a.invite_as(Role::Relay).await).await;
    for node in [&client, &relay] {
        node.mesh.advertise(model("of-mine"), 0).await;
        let advert = a.until_adverts("an advert of the node", |adverts| adverts.get(&node.id()).cloned()).await;
        assert!(advert.capabilities.is_empty(), "it offers nothing: {advert:?}");
        node.until_offered(a.id(), "of-a").await;
        assert!(matches!(
            node.mesh.invite(InviteOptions::default()).await,
            Err(super::super::MemberError::NotAdmin(_))
        ));
    }
    let relays = a.until_adverts("that the relay relays", |adverts| Some(adverts.get(&relay.id())?.relay)).await;
    assert!(relays && !a.mesh.adverts().borrow()[&client.id()].relay);
    // The client calls.
    let id = a.id();
    let called = async { client.mesh.call(id, call()).await.expect("admitted").collect::<Vec<_>>().await };
    let (frames, ()) = tokio::join!(called, serve_one(&mut a.node));
    assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
    // The relay does not.
    let failure = match relay.mesh.call(id, call()).await {
        Err(failure) => failure,
        Ok(frames) => match frames.collect::<Vec<_>>().await.pop() {
            Some(Frame::Error(failure)) => failure,
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(
        (failure.status, failure.message.contains("relay of this mesh may not call")),
        (403, true),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_advertises_all_the_same_is_not_believed() {
    use crate::catalog::register::{Outcome, Register, Source};
    let a = admin(on_loopback("a"));
    let cheat = joined(on_loopback("cheat"), &a.invite_as(Role::Client).await).await;
    let signer = crate::mesh::statement::Signer::new(cheat.identity.keypair().clone(), *a.closed.mesh().as_bytes());
    let advert = Advert {
        node: cheat.id(),
        epoch: 1 << 50,
        seq: 1,
        ttl: Duration::from_secs(60),
        name: "cheat".into(),
        version: "1".into(),
        addresses: Vec::new(),
        capabilities: model("of-cheat").into(),
        load: 0,
        relay: false,
    };
    let signed = signer.expect("a signer").advert(&advert).expect("signed");
    let guarded = |closed: &Closed| {
        let closed = closed.clone();
        Register::new(a.id()).guarded(crate::catalog::register::Guard::new(move |node, offers| {
            closed.role_of(node).is_ok_and(|role| !offers || role.offers())
        }))
    };
    let mut register = guarded(&a.closed);
    let now = std::time::Instant::now();
    assert_eq!(register.apply(signed.statement.clone(), Source::Gossip, now), Outcome::NotAdmitted);
    let mut open = Register::new(a.id());
    assert_eq!(open.apply(signed.statement, Source::Gossip, now), Outcome::Changed, "it is signed well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_is_renewed_in_time_over_the_mesh() {
    let a = admin(on_loopback("a"));
    a.closed.set_lifetime(Duration::from_secs(3));
    let b = joined(on_loopback("b"), &a.invite(InviteOptions::default()).await).await;
    let first = b.closed.own().expires_ms;
    a.closed.set_lifetime(Duration::from_secs(3600));
    let renewed = async {
        while b.closed.own().expires_ms < first + 60_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, renewed).await.expect("renewed");
    assert_eq!(b.closed.own().denied, None);
    b.until_connected(a.id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_use_lets_one_in_however_many_come_at_once() {
    let a = admin(on_loopback("a"));
    let token = a.invite(InviteOptions { uses: 2, ..InviteOptions::default() }).await;
    let knocks = (0..8).map(|_| {
        let token = token.clone();
        tokio::spawn(async move { enter(None, &Identity::generate(), &token).await })
    });
    let mut let_in = 0;
    for knock in futures::future::join_all(knocks).await {
        match knock.expect("no panic") {
            Ok(_) => let_in += 1,
            Err(error) => assert!(error.to_string().contains("was used already, by 2 of 2 nodes"), "{error}"),
        }
    }
    assert_eq!(let_in, 2);
    assert_eq!(a.closed.members().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_that_is_over_forged_or_of_another_mesh_is_refused_with_the_way_out() {
    let (a, other) = (admin(on_loopback("a")), admin(on_loopback("other")));
    let mut events = a.events.subscribe();
    let refused = async |token: &Token| match enter(None, &Identity::generate(), token).await {
        Err(EntryError::Knock(KnockError::Refused { why, .. })) => why,
        other => panic!("{other:?}"),
    };
    let short = a.invite(InviteOptions { life: Duration::from_secs(1), ..InviteOptions::default() }).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let why = refused(&short).await;
    assert!(why.contains("ran out on") && why.contains("atmosphere invite"), "{why}");

    // Addresses of one mesh, and the invite of another.
    let mut elsewhere = other.invite(InviteOptions::default()).await;
    elsewhere.addresses = a.invite(InviteOptions::default()).await.addresses;
    let why = refused(&elsewhere).await;
    assert!(why.contains("another mesh"), "{why}");

    // One bit of the secret is wrong.
    let good = a.invite(InviteOptions::default()).await;
    let text = good.to_string();
    let forged = crate::mesh::member::forge(&good);
    let why = refused(&forged).await;
    assert!(why.contains("forged"), "{why}");
    assert!(!why.contains(&text[5..40]), "no secret is told");
    enter(None, &Identity::generate(), &good).await.expect("a forger does not use it up");

    let logged = async {
        loop {
            let event = events.recv().await.expect("the bus");
            if event.kind == "gate.refused" && event.data["reason"].to_string().contains("forged") {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, logged).await.expect("the other side tells of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_changes_from_an_open_mesh_to_a_closed_one_and_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (open, closed) = (run(on_loopback("open")), admin(on_loopback("closed")));
    closed.mesh.advertise(model("of-closed"), 0).await;
    let identity = Identity::load_or_create(dir.path()).expect("an identity");
    let settings = at_home(with_seed(on_loopback("traveller"), &open.seed()), dir.path());
    let mut traveller = run_as(settings, identity.clone());
    let port = traveller.mesh.port();
    traveller.mesh.advertise(model("of-traveller"), 0).await;
    open.until_offered(traveller.id(), "of-traveller").await;
    assert_eq!(traveller.mesh.view().membership, None);

    let token = closed.invite(InviteOptions::default()).await;
    let began = std::time::Instant::now();
    traveller.mesh.enter(&token).await.expect("let in");
    open.until_gone(traveller.id()).await;
    traveller.until_offered(closed.id(), "of-closed").await;
    closed.until_offered(traveller.id(), "of-traveller").await;
    println!("from one mesh to the other: {:?}", began.elapsed());
    let adverts = traveller.mesh.adverts().borrow().clone();
    assert!(!adverts.contains_key(&open.id()), "it knows nobody of the former mesh");
    let view = traveller.mesh.view();
    assert_eq!((view.mesh_name.as_str(), view.mesh_id.as_str()), ("home", closed.closed.mesh().to_hex().as_str()));
    assert_eq!(traveller.mesh.port(), port);
    // Calls both ways take the new streams.
    let called =
        async { closed.mesh.call(traveller.mesh.node(), call()).await.expect("admitted").collect::<Vec<_>>().await };
    let (frames, ()) = tokio::join!(called, async {
        let inbound = traveller.calls.recv().await.expect("a call");
        let frames = [Frame::Accepted(Load::default()), Frame::End { usage: None, load: None }];
        inbound.reply.send_all(Box::pin(futures::stream::iter(frames))).await;
    });
    assert!(matches!(frames.last(), Some(Frame::End { .. })), "{frames:?}");
    let text = traveller.metrics.encode();
    assert_eq!(text.matches("# TYPE atmosphere_mesh_gate_handshakes ").count(), 1, "no metric is told twice");
    // Again with the same invite: it is in, and no use is spent.
    traveller.mesh.enter(&token).await.expect("it is in");
    let elsewhere = admin(on_loopback("elsewhere"));
    let error =
        traveller.mesh.enter(&elsewhere.invite(InviteOptions::default()).await).await.expect_err("one at a time");
    assert!(error.to_string().contains("atmosphere mesh leave"), "{error}");

    let kept = traveller.mesh.abandon(crate::mesh::settings::DEFAULT_MESH_NAME).await.expect("left");
    assert_eq!(kept.len(), 1);
    assert!(Closed::open(dir.path(), &identity).expect("readable").is_none());
    closed.until_gone(traveller.id()).await;
    traveller.mesh.join(open.seed()).await.expect("open again");
    open.until_offered(traveller.id(), "of-traveller").await;
}
