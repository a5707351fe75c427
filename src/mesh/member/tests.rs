//! Memberships, revocations and rosters, and all of them together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::identity::{Keypair, ed25519};
use proptest::prelude::*;
use prost::Message as _;

use super::closed::Closed;
use super::error::MemberError;
use super::files;
use super::invite::{InviteError, InviteOptions, Side};
use super::membership::{Issuer, MAX_CHAIN, MAX_LIFETIME, Membership, RecordError, SKEW, Terms, verify};
use super::role::Role;
use super::roster::{Denied, Roster};
use super::view::Renewal;
use crate::capability::PeerId;
use crate::mesh::Identity;
use crate::mesh::id::MeshId;
use crate::wire::v1;
use crate::wire::v1::roster_record::Record;

const NOW: u64 = 1_700_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Bench {
    mesh: MeshId,
    root: ed25519::PublicKey,
    root_key: Keypair,
}

fn bench() -> Bench {
    let root_key = Keypair::generate_ed25519();
    let root = files::root_public(&root_key).expect("an Ed25519 key");
    Bench { mesh: MeshId::closed(&root), root, root_key }
}

fn node(key: &Keypair) -> PeerId {
    key.public().to_peer_id()
}

fn terms(node: PeerId, role: Role, serial: u64) -> Terms {
    Terms { node, role, serial, lifetime: DAY }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("it fits")
}

impl Bench {
    fn roster(&self) -> Roster {
        Roster::new(self.mesh, self.root.clone())
    }

    fn verify(&self, wire: v1::SignedMembership) -> Result<Membership, RecordError> {
        verify(&self.mesh, &self.root, wire)
    }

    /// By the root.
    fn issue(&self, node: PeerId, role: Role, serial: u64) -> Membership {
        let wire =
            Issuer::Root(&self.root_key).membership(&self.mesh, terms(node, role, serial)).expect("the root may");
        self.verify(wire).expect("sound")
    }

    /// By an admin.
    fn issue_by(&self, admin: (&Keypair, &Membership), node: PeerId, role: Role, serial: u64) -> Membership {
        let issuer = Issuer::Admin(admin.0, admin.1);
        self.verify(issuer.membership(&self.mesh, terms(node, role, serial)).expect("an admin may")).expect("sound")
    }

    fn revoke(&self, issuer: Issuer<'_>, node: PeerId, serial: u64) -> v1::RosterRecord {
        let record = issuer.revocation(&self.mesh, node, serial, "lost").expect("it may");
        v1::RosterRecord { record: Some(Record::Revocation(record)) }
    }
}

fn record(membership: &Membership) -> v1::RosterRecord {
    v1::RosterRecord { record: Some(Record::Membership(v1::SignedMembership::clone(&membership.wire))) }
}

#[test]
fn a_chain_goes_up_to_the_root_and_gives_no_more_than_it_has() {
    let bench = bench();
    let keys: Vec<Keypair> = (0..=MAX_CHAIN).map(|_| Keypair::generate_ed25519()).collect();
    let mut above = bench.issue(node(&keys[0]), Role::Admin, NOW);
    for (level, pair) in keys.windows(2).enumerate().take(MAX_CHAIN - 1) {
        let below = bench.issue_by((&pair[0], &above), node(&pair[1]), Role::Admin, NOW + 1000);
        assert_eq!(below.chain().len(), level + 2);
        assert_eq!(below.issuer(), Some(node(&pair[0])));
        assert_eq!(below.own().expires_ms, NOW + ms(DAY), "it ends with the one above");
        above = below;
    }
    let last = Issuer::Admin(&keys[MAX_CHAIN - 1], &above);
    let error = last.membership(&bench.mesh, terms(node(&keys[MAX_CHAIN]), Role::Member, NOW));
    assert_eq!(error, Err(RecordError::Authority), "the chain is as long as it may be");
}

#[test]
fn only_admins_issue_and_only_what_they_signed_is_believed() {
    let (bench, other) = (bench(), self::bench());
    let (admin, member, stranger) =
        (Keypair::generate_ed25519(), Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let admins = bench.issue(node(&admin), Role::Admin, NOW);
    let members = bench.issue_by((&admin, &admins), node(&member), Role::Member, NOW);
    assert!(
        Issuer::Admin(&member, &members).membership(&bench.mesh, terms(node(&stranger), Role::Member, NOW)).is_err()
    );
    assert!(Issuer::Admin(&member, &members).revocation(&bench.mesh, node(&admin), NOW, "").is_err());

    // A member that issues all the same, with a program that lets it.
    let good = v1::SignedMembership::clone(&members.wire);
    let forge = |signer: &Keypair, issuer: &Membership, says: v1::Membership| {
        let bytes = says.encode_to_vec();
        let signed = [b"atmosphere-membership-v1".as_slice(), bench.mesh.as_bytes(), &bytes].concat();
        v1::SignedMembership {
            membership: bytes.into(),
            signature: signer.sign(&signed).expect("signed").into(),
            issuer: Some(Box::new(v1::SignedMembership::clone(&issuer.wire))),
        }
    };
    let says = v1::Membership::decode(good.membership.clone()).expect("decodes");
    let by = |key: &Keypair| v1::Membership { issuer: node(key).to_bytes().into(), ..says.clone() };
    assert!(bench.verify(forge(&admin, &admins, by(&admin))).is_ok());
    for (what, wire, error) in [
        ("issued by a member", forge(&member, &members, by(&member)), RecordError::Authority),
        ("signed by another", forge(&stranger, &admins, by(&admin)), RecordError::Signature),
        ("naming another issuer", forge(&admin, &admins, by(&member)), RecordError::Authority),
        (
            "longer than the issuer's",
            forge(&admin, &admins, v1::Membership { expires_ms: NOW + ms(DAY) + 1, ..by(&admin) }),
            RecordError::Authority,
        ),
        (
            "before the issuer's",
            forge(&admin, &admins, v1::Membership { not_before_ms: NOW - 1, ..by(&admin) }),
            RecordError::Authority,
        ),
        ("without a role", forge(&admin, &admins, v1::Membership { role: 0, ..by(&admin) }), RecordError::Bad("role")),
        (
            "over before it begins",
            forge(&admin, &admins, v1::Membership { expires_ms: NOW, not_before_ms: NOW, ..by(&admin) }),
            RecordError::Bad("time"),
        ),
        (
            "of nobody",
            forge(&admin, &admins, v1::Membership { node: vec![1, 2].into(), ..by(&admin) }),
            RecordError::Bad("node id"),
        ),
        ("without its chain", v1::SignedMembership { issuer: None, ..good.clone() }, RecordError::Authority),
    ] {
        assert_eq!(bench.verify(wire).expect_err(what), error, "{what}");
    }
    assert_eq!(other.verify(good), Err(RecordError::OtherMesh));
    // A root of one's own, under the id of the mesh.
    let forged = Issuer::Root(&other.root_key).membership(&bench.mesh, terms(node(&stranger), Role::Admin, NOW));
    assert_eq!(bench.verify(forged.expect("signed")), Err(RecordError::Signature));
    let endless = Terms { lifetime: MAX_LIFETIME * 2, ..terms(node(&stranger), Role::Member, NOW) };
    let cut =
        bench.verify(Issuer::Root(&bench.root_key).membership(&bench.mesh, endless).expect("issued")).expect("sound");
    assert_eq!(cut.own().expires_ms, NOW + ms(MAX_LIFETIME));
}

#[test]
fn a_membership_holds_in_its_time_give_or_take_what_clocks_differ() {
    let bench = bench();
    let membership = bench.issue(node(&Keypair::generate_ed25519()), Role::Client, NOW);
    let roster = bench.roster();
    let (skew, end) = (ms(SKEW), NOW + ms(DAY));
    for (at, holds) in
        [(NOW - skew - 1, false), (NOW - skew, true), (NOW, true), (end + skew - 1, true), (end + skew, false)]
    {
        assert_eq!(roster.judge(&membership, at).is_ok(), holds, "{at}");
    }
    let text = roster.judge(&membership, end + skew).expect_err("over").to_string();
    assert!(text.contains("ran out on 2023-11-15T22:13:20Z") && text.contains("clocks"), "{text}");
}

#[test]
fn a_revocation_ends_what_was_and_not_what_comes() {
    let bench = bench();
    let key = Keypair::generate_ed25519();
    let (first, second) = (bench.issue(node(&key), Role::Member, NOW), bench.issue(node(&key), Role::Client, NOW + 10));
    let mut roster = bench.roster();
    assert_eq!(roster.add(record(&first), NOW), Ok(true));
    assert_eq!(roster.add(record(&first), NOW), Ok(false));
    let revocation = bench.revoke(Issuer::Root(&bench.root_key), node(&key), NOW + 5);
    assert_eq!(roster.add(revocation.clone(), NOW + 5), Ok(true));
    assert_eq!(roster.add(revocation, NOW + 5), Ok(false));
    assert_eq!(roster.role_of(&node(&key), NOW + 5), Err(Denied::Revoked));
    let entry = &roster.entries(NOW + 5)[0];
    assert_eq!(entry.revocation.as_ref().map(|revocation| revocation.reason.as_str()), Some("lost"));
    assert_eq!(roster.add(record(&second), NOW + 10), Ok(true), "invited anew");
    assert_eq!(roster.role_of(&node(&key), NOW + 10), Ok(Role::Client));
    assert_eq!(roster.add(record(&first), NOW + 10), Ok(false));
    assert_eq!(roster.role_of(&node(&key), NOW + 10), Ok(Role::Client));
}

#[test]
fn what_a_revoked_admin_issued_ends_with_it_and_its_revocations_do_not_count() {
    let bench = bench();
    let [lost, honest, member] = [(); 3].map(|()| Keypair::generate_ed25519());
    let (lost_is, honest_is) =
        (bench.issue(node(&lost), Role::Admin, NOW), bench.issue(node(&honest), Role::Admin, NOW));
    let member_is = bench.issue_by((&lost, &lost_is), node(&member), Role::Member, NOW);
    let revokes_lost = bench.revoke(Issuer::Admin(&honest, &honest_is), node(&lost), NOW + 1);
    let strikes_back = bench.revoke(Issuer::Admin(&lost, &lost_is), node(&honest), NOW + 2);
    let root_saves = bench.revoke(Issuer::Root(&bench.root_key), node(&lost), NOW + 3);
    let backdated = bench.revoke(Issuer::Admin(&lost, &lost_is), node(&honest), NOW);
    let all = [record(&lost_is), record(&honest_is), record(&member_is), revokes_lost, strikes_back];
    let judged = |records: &[v1::RosterRecord], order: &[usize]| {
        let mut roster = bench.roster();
        for index in order {
            roster.add(records[*index].clone(), NOW + 10).expect("sound");
        }
        [&lost, &honest, &member].map(|key| roster.role_of(&node(key), NOW + 10))
    };
    let expected = [Err(Denied::Revoked), Ok(Role::Admin), Err(Denied::IssuerRevoked)];
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
        assert_eq!(judged(&all, &order), expected, "{order:?}");
    }
    // A lost admin can backdate, and then the root has the last word.
    let mut with = all.to_vec();
    with.push(backdated);
    assert_eq!(judged(&with, &[0, 1, 2, 3, 4, 5])[1], Err(Denied::Revoked));
    with.push(root_saves);
    for order in [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]] {
        assert_eq!(judged(&with, &order), expected, "{order:?}");
    }
}

#[test]
fn a_lost_admin_cannot_take_another_ones_place_in_the_roster() {
    let bench = bench();
    let [lost, member] = [(); 2].map(|()| Keypair::generate_ed25519());
    let lost_is = bench.issue(node(&lost), Role::Admin, NOW);
    let good = bench.issue(node(&member), Role::Member, NOW);
    let worse = bench.issue_by((&lost, &lost_is), node(&member), Role::Client, NOW + 100);
    let mut roster = bench.roster();
    roster.add(record(&good), NOW + 10).expect("sound");
    roster.add(bench.revoke(Issuer::Root(&bench.root_key), node(&lost), NOW + 50), NOW + 50).expect("sound");
    assert_eq!(roster.add(record(&worse), NOW + 100), Ok(false));
    assert_eq!(roster.role_of(&node(&member), NOW + 100), Ok(Role::Member));
    // From too far in the future nothing is taken.
    let future = bench.issue(node(&member), Role::Client, NOW + ms(SKEW) * 2);
    assert_eq!(roster.add(record(&future), NOW), Ok(false));
}

#[test]
fn rosters_become_alike_by_digests() {
    let bench = bench();
    let (mut here, mut there) = (bench.roster(), bench.roster());
    let keys: Vec<Keypair> = (0..20).map(|_| Keypair::generate_ed25519()).collect();
    for (number, key) in keys.iter().enumerate() {
        let roster = if number % 2 == 0 { &mut here } else { &mut there };
        roster.add(record(&bench.issue(node(key), Role::Member, NOW)), NOW).expect("sound");
    }
    there.add(bench.revoke(Issuer::Root(&bench.root_key), node(&keys[0]), NOW), NOW).expect("sound");
    let (lacking, want) = there.delta(&here.digest());
    assert_eq!((lacking.len(), want.len()), (11, 10 * super::roster::ID_BYTES));
    for record in lacking {
        here.add(record, NOW).expect("sound");
    }
    for record in here.find(&want) {
        there.add(record, NOW).expect("sound");
    }
    assert_eq!(here.delta(&there.digest()), (Vec::new(), Vec::new()));
    let roles = |roster: &Roster| keys.iter().map(|key| roster.role_of(&node(key), NOW)).collect::<Vec<_>>();
    assert_eq!(roles(&here), roles(&there));
    assert_eq!(here.role_of(&node(&keys[0]), NOW), Err(Denied::Revoked));
    here.expire(NOW + ms(DAY) * 40);
    assert!(here.entries(NOW).is_empty(), "what has long run out is forgotten");
}

fn now() -> u64 {
    ms(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"))
}

fn addresses() -> Vec<libp2p::Multiaddr> {
    vec!["/ip4/10.0.0.7/tcp/11450".parse().expect("an address")]
}

/// Plays the handshake's part of an invite.
fn redeem(admin: &Closed, token: &super::Token, node: PeerId) -> Result<v1::Grant, InviteError> {
    let (joiner, issuer) = ([1; 32], [2; 32]);
    let mac = token.key().prove(&joiner, Side::Joiner).as_bytes().to_vec().into();
    let proof = v1::InviteProof { id: token.id().to_vec().into(), mac, issuer: token.issuer.to_bytes().into() };
    let grant = admin.redeem(node, &proof, &joiner, &issuer)?;
    let membership = grant.membership.as_ref().expect("granted").encode_to_vec();
    assert!(token.key().is_proof(&grant.mac, &issuer, Side::Issuer { membership: &membership }));
    Ok(grant)
}

fn adopt(dir: Option<&std::path::Path>, identity: &Identity, token: &super::Token, grant: v1::Grant) -> Closed {
    let membership = grant.membership.expect("granted");
    Closed::adopt(dir, identity, &token.mesh_name, token.root(), membership, Vec::new()).expect("sound")
}

#[test]
fn a_mesh_is_made_kept_private_and_found_again_with_all_that_happened() {
    let home = tempfile::tempdir().expect("a directory");
    let (admin_is, member_is, other) = (Identity::generate(), Identity::generate(), Identity::generate());
    let admin = Closed::create(Some(home.path()), &admin_is, "home").expect("made");
    assert_eq!((admin.role(), admin.has_root(), admin.name()), (Role::Admin, true, "home"));
    #[cfg(unix)]
    for file in ["mesh.json", "mesh-root.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(home.path().join(file)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let token = admin.invite(InviteOptions::default(), addresses()).expect("invited").token;
    let grant = redeem(&admin, &token, member_is.peer_id()).expect("granted");
    let member = adopt(None, &member_is, &token, grant);
    assert!(matches!(redeem(&admin, &token, other.peer_id()), Err(InviteError::Used(1))));
    assert_eq!(admin.admits(&member_is.peer_id(), &member.credential()), Ok(Role::Member));
    assert_eq!(member.admits(&admin_is.peer_id(), &admin.credential()), Ok(Role::Admin));
    assert!(member.admits(&other.peer_id(), &admin.credential()).is_err(), "a credential is of no use to another node");
    admin.revoke(member_is.peer_id(), "sold", false).expect("revoked");

    let again = Closed::open(home.path(), &admin_is).expect("readable").expect("there");
    assert_eq!((again.mesh(), again.role(), again.has_root()), (admin.mesh(), Role::Admin, true));
    assert!(matches!(redeem(&again, &token, other.peer_id()), Err(InviteError::Used(1))), "uses are kept");
    assert!(matches!(redeem(&again, &token, member_is.peer_id()), Err(InviteError::Revoked)));
    let why = again.admits(&member_is.peer_id(), &member.credential()).expect_err("revocations are kept");
    assert!(why.contains("revoked"), "{why}");
    let listed = again.members();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().any(|entry| entry.reason.as_deref() == Some("sold") && entry.revoked_ms.is_some()));
    assert!(matches!(Closed::open(home.path(), &other), Err(MemberError::OtherNode(_))), "a copied directory");

    let kept = again.set_aside().expect("left");
    assert_eq!(kept.len(), 2);
    assert!(Closed::open(home.path(), &admin_is).expect("readable").is_none());
    again.save().expect("nothing to do");
    assert!(Closed::open(home.path(), &admin_is).expect("readable").is_none(), "it stays so");
}

#[test]
fn a_member_that_is_away_keeps_its_name_and_a_stranger_has_none() {
    let home = tempfile::tempdir().expect("a directory");
    let (admin_is, member_is) = (Identity::generate(), Identity::generate());
    let admin = Closed::create(Some(home.path()), &admin_is, "home").expect("made");
    let token = admin.invite(InviteOptions::default(), addresses()).expect("invited").token;
    redeem(&admin, &token, member_is.peer_id()).expect("granted");
    for (node, name) in [(member_is.peer_id(), "old-laptop"), (member_is.peer_id(), "laptop"), (PeerId::random(), "x")]
    {
        admin.heard(&node, name);
    }
    admin.revoke(member_is.peer_id(), "sold", false).expect("revoked");
    admin.save().expect("kept");
    let again = Closed::open(home.path(), &admin_is).expect("readable").expect("there");
    let names: Vec<_> = again.members().into_iter().filter_map(|member| member.name).collect();
    assert_eq!(names, ["laptop"]);
}

#[test]
fn a_damaged_file_is_an_error_and_stays() {
    let home = tempfile::tempdir().expect("a directory");
    let identity = Identity::generate();
    drop(Closed::create(Some(home.path()), &identity, "home").expect("made"));
    std::fs::write(home.path().join("mesh.json"), "{\"version\":1").expect("written");
    let error = Closed::open(home.path(), &identity).expect_err("damaged").to_string();
    assert!(error.contains("mesh.json is damaged") && error.contains("new invite"), "{error}");
    assert!(home.path().join("mesh.json").exists());
}

#[test]
fn only_admins_invite_and_revoke_and_options_have_limits() {
    let (admin_is, member_is) = (Identity::generate(), Identity::generate());
    let admin = Closed::create(None, &admin_is, "home").expect("made");
    for name in ["", "a b", "a/b", "a@b", &"x".repeat(64)] {
        assert!(Closed::create(None, &admin_is, name).is_err(), "{name}");
    }
    let token = admin.invite(InviteOptions::default(), addresses()).expect("invited").token;
    let member = adopt(None, &member_is, &token, redeem(&admin, &token, member_is.peer_id()).expect("granted"));
    let error = member.invite(InviteOptions::default(), addresses()).expect_err("a member").to_string();
    assert!(error.contains("this node is a member of the mesh, and only admins may"), "{error}");
    assert!(matches!(member.revoke(admin_is.peer_id(), "", false), Err(MemberError::NotAdmin(Role::Member))));
    assert!(member.renew(admin_is.peer_id()).is_err());
    assert!(matches!(admin.revoke(admin_is.peer_id(), "", false), Err(MemberError::Bad(_))), "itself");
    for options in [
        InviteOptions { uses: 0, ..InviteOptions::default() },
        InviteOptions { uses: 100_000, ..InviteOptions::default() },
        InviteOptions { life: Duration::ZERO, ..InviteOptions::default() },
        InviteOptions { life: Duration::from_secs(u64::MAX / 1000), ..InviteOptions::default() },
    ] {
        assert!(matches!(admin.invite(options, addresses()), Err(MemberError::Bad(_))), "{options:?}");
    }
    assert!(matches!(admin.invite(InviteOptions::default(), Vec::new()), Err(MemberError::NoAddress)));
}

#[test]
fn a_second_admin_lets_in_and_when_it_is_lost_those_it_let_in_stay_or_go() {
    let ids: Vec<Identity> = (0..3).map(|_| Identity::generate()).collect();
    for with_its_own in [false, true] {
        let root = Closed::create(None, &ids[0], "home").expect("made");
        let as_admin = InviteOptions { role: Role::Admin, ..InviteOptions::default() };
        let token = root.invite(as_admin, addresses()).expect("invited").token;
        let second = adopt(None, &ids[1], &token, redeem(&root, &token, ids[1].peer_id()).expect("granted"));
        let token = second.invite(InviteOptions::default(), addresses()).expect("invited").token;
        let third = adopt(None, &ids[2], &token, redeem(&second, &token, ids[2].peer_id()).expect("granted"));
        assert_eq!(root.admits(&ids[2].peer_id(), &third.credential()), Ok(Role::Member));

        let revoked = root.revoke(ids[1].peer_id(), "stolen", with_its_own).expect("revoked");
        let news = root.take_news();
        assert_eq!(third.merge(news).fault, None);
        assert!(root.admits(&ids[1].peer_id(), &second.credential()).is_err());
        if with_its_own {
            assert_eq!(revoked.cut, [ids[2].peer_id()]);
            assert!(third.own().denied.is_some());
            assert!(root.admits(&ids[2].peer_id(), &third.credential()).is_err());
        } else {
            assert_eq!(revoked.reissued, [ids[2].peer_id()]);
            assert_eq!(third.own().denied, None, "it took on its new membership from the roster");
            assert_eq!(third.own().issuer, None);
            assert_eq!(root.admits(&ids[2].peer_id(), &third.credential()), Ok(Role::Member));
        }
        assert!(second.merge(root.take_news()).fault.is_none());
        assert!(second.invite(InviteOptions::default(), addresses()).is_ok(), "it has not heard of it yet");
        second.merge(root.delta(&second.digest()).0);
        assert!(matches!(second.invite(InviteOptions::default(), addresses()), Err(MemberError::Denied(_))));
    }
}

#[test]
fn memberships_are_renewed_at_half_time_by_the_root_or_by_an_admin() {
    let (admin_is, member_is) = (Identity::generate(), Identity::generate());
    let admin = Closed::create(None, &admin_is, "home").expect("made");
    admin.set_lifetime(Duration::from_secs(3600));
    let token = admin.invite(InviteOptions::default(), addresses()).expect("invited").token;
    let grant = redeem(&admin, &token, member_is.peer_id()).expect("granted");
    let member = adopt(None, &member_is, &token, grant);
    assert_eq!((admin.renewal(), member.renewal()), (Renewal::NotDue, Renewal::NotDue));
    let first = member.own();
    assert!(first.expires_ms.abs_diff(now() + 3_600_000) < 60_000);
    // As if half of it were over: an admin that issues for so short a time that its half is now.
    admin.set_lifetime(Duration::from_millis(1));
    let short = admin.issue(member_is.peer_id(), Role::Member).expect("issued");
    member.take_renewed(short).expect("taken");
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(member.renewal(), Renewal::Ask);
    admin.set_lifetime(Duration::from_secs(7200));
    member.take_renewed(admin.renew(member_is.peer_id()).expect("renewed")).expect("taken");
    assert_eq!(member.renewal(), Renewal::NotDue);
    assert!(member.own().expires_ms > first.expires_ms);
    assert!(matches!(admin.renew(PeerId::random()), Err(MemberError::Denied(Denied::Unknown))));
    assert!(member.take_renewed(v1::SignedMembership::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_membership_is_not_believed(at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
        let bench = bench();
        let admin = Keypair::generate_ed25519();
        let admin_is = bench.issue(node(&admin), Role::Admin, NOW);
        let membership = bench.issue_by((&admin, &admin_is), node(&Keypair::generate_ed25519()), Role::Member, NOW);
        let mut bytes = membership.wire.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(changed) = v1::SignedMembership::decode(bytes.as_slice())
            && changed != *membership.wire
        {
            prop_assert!(bench.verify(changed).is_err());
        }
    }

    #[test]
    fn whatever_the_order_rosters_judge_alike(order in Just((0_usize..9).collect::<Vec<_>>()).prop_shuffle(), serials in prop::collection::vec(1_u64..20, 5)) {
        let bench = bench();
        let keys: Vec<Keypair> = [11_u8, 12, 13].iter().map(|seed| Keypair::ed25519_from_bytes([*seed; 32]).expect("a key")).collect();
        let admins = [bench.issue(node(&keys[0]), Role::Admin, NOW), bench.issue(node(&keys[1]), Role::Admin, NOW)];
        let below = bench.issue_by((&keys[1], &admins[1]), node(&keys[2]), Role::Admin, NOW);
        let again = bench.issue(node(&keys[1]), Role::Member, NOW + 10);
        let by = [Issuer::Admin(&keys[0], &admins[0]), Issuer::Admin(&keys[1], &admins[1]), Issuer::Admin(&keys[2], &below)];
        let mut records = vec![record(&admins[0]), record(&admins[1]), record(&below), record(&again)];
        for (number, serial) in serials.iter().enumerate() {
            records.push(bench.revoke(by[number % 3], node(&keys[(number + 1) % 3]), NOW + serial));
        }
        let judge = |order: &[usize]| {
            let mut roster = bench.roster();
            for index in order {
                roster.add(records[*index].clone(), NOW + 100).expect("sound");
            }
            // Once more, as syncs do: what was less good when it came may be the best by now.
            for record in &records {
                roster.add(record.clone(), NOW + 100).expect("sound");
            }
            keys.iter().map(|key| roster.role_of(&node(key), NOW + 100).is_ok()).collect::<Vec<_>>()
        };
        let straight: Vec<usize> = (0..9).collect();
        prop_assert_eq!(judge(&order), judge(&straight));
    }

    #[test]
    fn no_record_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bench = bench();
        if let Ok(record) = v1::RosterRecord::decode(bytes.as_slice()) {
            let _ = bench.roster().add(record, NOW);
        }
    }
}
