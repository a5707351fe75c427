//! What each vector means.

use std::collections::HashMap;

use atmosphere::wire::v1;
use bytes::Bytes;

/// The vectors of statements: signed, so they are checked by hand in the test.
pub const STATEMENTS: [&str; 4] = ["statement-advert", "statement-advert-later", "statement-alive", "statement-leave"];

/// The addresses of the advert.
pub fn addresses() -> Vec<String> {
    vec!["/ip4/192.168.1.20/udp/11450/quic-v1".to_owned(), "/dns4/gpu.example.net/tcp/11450".to_owned()]
}

/// The statement in a vector.
pub fn statement(name: &str) -> v1::Statement {
    use v1::statement::Content;
    let content = match name {
        "statement-alive" => Content::Alive(v1::Alive { load: 1 }),
        "statement-leave" => Content::Leave(v1::Leave {}),
        _ => {
            let body = prost::Message::encode_to_vec(&body());
            Content::Advert(v1::Advert {
                name: "gpu".into(),
                version: "0.1.0".into(),
                addresses: addresses(),
                body_hash: Bytes::copy_from_slice(blake3::hash(&body).as_bytes()),
                body_len: u32::try_from(body.len()).expect("it is small"),
                load: 2,
                relay: true,
            })
        }
    };
    v1::Statement {
        epoch: 1_700_000_000_000,
        seq: 3,
        issued_at_ms: 1_700_000_000_123,
        ttl_ms: 60_000,
        content: Some(content),
    }
}

/// An advert's body: one capability with every field, and one with those only that must be there.
pub fn body() -> v1::AdvertBody {
    use v1::quantized_vector::Source;
    let vector = |source: Source, values: &'static [u8]| v1::QuantizedVector {
        values: Bytes::from_static(values),
        scale: 0.0625,
        source: source.into(),
    };
    let text = |text: &str| text.to_owned();
    let full = v1::Capability {
        id: text("ollama/llm/code/qwen2.5-coder:7b"),
        kind: text("llm/code"),
        name: text("qwen2.5-coder:7b"),
        provider: text("ollama"),
        project: text("farm/camelids"),
        domain: text("camelids"),
        topics: vec![text("llama"), text("alpaca")],
        description: text("Knows llamas, and grüßt sie."),
        examples: vec![text("How do I care for my llama?")],
        operations: vec![text("chat"), text("complete")],
        modalities: vec![text("text"), text("image")],
        features: vec![text("tools"), text("json_schema"), text("streaming")],
        context_length: 32_768,
        parameter_count: 7_615_616_512,
        quantization: text("Q4_K_M"),
        digest: text("sha256:0123456789abcdef"),
        embedding_length: 3584,
        concurrency: 4,
        input_cost: 0.5,
        output_cost: 1.5,
        residency: v1::Residency::Warm.into(),
        aliases: vec![text("coder")],
        meaning: Some(v1::Meaning {
            space: text("potion/1/4"),
            vectors: vec![
                vector(Source::Description, &[1, 2, 255, 128]),
                vector(Source::Topics, &[4, 3, 2, 1]),
                vector(Source::Example, &[127, 0, 129, 64]),
            ],
            simhash: Bytes::from_static(&[0xa5; 32]),
        }),
    };
    let least = v1::Capability {
        id: text("builtin/ml/embed/static"),
        kind: text("ml/embed"),
        name: text("static"),
        provider: text("builtin"),
        ..v1::Capability::default()
    };
    v1::AdvertBody { capabilities: vec![full, least] }
}

/// Bodies of adverts.
pub fn bodies() -> Vec<(&'static str, v1::AdvertBody)> {
    vec![("advert-body", body())]
}

/// Calls.
pub fn calls() -> Vec<(&'static str, v1::CallRequest)> {
    let full = v1::CallRequest {
        id: "01a1fdbc-049c-71f0-8e8c-acd010e55121".into(),
        capability: "ollama/llm/code/qwen2.5-coder:7b".into(),
        operation: "chat".into(),
        payload: Bytes::from_static(br#"{"model":"qwen2.5-coder:7b","messages":[]}"#),
        content_type: "application/json".into(),
        stream: true,
        deadline_ms: 600_000,
        headers: HashMap::from([(
            "traceparent".to_owned(),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        )]),
        keep: false,
    };
    let keep = v1::CallRequest { keep: true, ..full.clone() };
    let least =
        v1::CallRequest { id: "1".into(), capability: "c".into(), operation: "embed".into(), ..Default::default() };
    vec![("call", full), ("call-least", least), ("call-keep", keep)]
}

/// One of every frame, and of every phase and class of error.
pub fn frames() -> Vec<(&'static str, v1::Frame)> {
    use v1::error::Class;
    use v1::frame::Body;
    use v1::progress::Phase;
    let load = || Some(v1::Load { running: 1, queued: 2, limit: 4 });
    let progress = |phase: Phase, place| Body::Progress(v1::Progress { phase: phase.into(), queue_position: place });
    let error = |class: Class, status| {
        Body::Error(v1::Error {
            class: class.into(),
            status,
            message: "it is too busy".into(),
            code: "rate_limit_exceeded".into(),
            retry_after_ms: 2000,
            body: Bytes::from_static(br#"{"error":{}}"#),
            content_type: "application/json".into(),
        })
    };
    let chunk = |content_type: &str, more| {
        let data = Bytes::from_static(b"data: {\"choices\":[]}\n\n");
        Body::Chunk(v1::Chunk { data, content_type: content_type.into(), more })
    };
    let usage = v1::Usage { prompt_tokens: 7, completion_tokens: 12, cached_tokens: None };
    let cached = v1::Usage { cached_tokens: Some(5), ..usage };
    let bodies = vec![
        ("frame-accepted", Body::Accepted(v1::Accepted { load: load() })),
        ("frame-rejected", Body::Rejected(v1::Rejected { reason: "full".into(), retry_after_ms: 1500, load: load() })),
        ("frame-progress-queued", progress(Phase::Queued, 3)),
        ("frame-progress-loading", progress(Phase::Loading, 0)),
        ("frame-progress-prefill", progress(Phase::Prefill, 0)),
        ("frame-progress-decode", progress(Phase::Decode, 0)),
        ("frame-chunk", chunk("text/event-stream", false)),
        ("frame-chunk-more", chunk("", true)),
        ("frame-end", Body::End(v1::End { usage: Some(usage), load: load(), keep: false })),
        ("frame-end-keep", Body::End(v1::End { usage: Some(usage), load: load(), keep: true })),
        ("frame-end-cached", Body::End(v1::End { usage: Some(cached), load: load(), keep: false })),
        ("frame-end-least", Body::End(v1::End { usage: None, load: None, keep: false })),
        ("frame-error-internal", error(Class::Internal, 500)),
        ("frame-error-request", error(Class::Request, 400)),
        ("frame-error-overloaded", error(Class::Overloaded, 503)),
        ("frame-error-unavailable", error(Class::Unavailable, 503)),
        ("frame-error-backend", error(Class::Backend, 502)),
        ("frame-error-timeout", error(Class::Timeout, 504)),
        ("frame-error-interrupted", error(Class::Interrupted, 502)),
    ];
    bodies.into_iter().map(|(name, body)| (name, v1::Frame { body: Some(body) })).collect()
}

/// The handshake.
pub fn gate() -> Vec<(&'static str, v1::GateMessage)> {
    use v1::gate_message::Body;
    use v1::proof::Credential;
    let bytes = |byte: u8, len: usize| Bytes::from(vec![byte; len]);
    let hello = v1::Hello { wire_major: 1, wire_minor: 0, mesh_id: bytes(1, 32), nonce: bytes(2, 32) };
    let proof = |credential| Body::Proof(v1::Proof { credential, signature: bytes(3, 64), grant: None });
    let grant = v1::Grant { membership: Some(membership()), mac: bytes(6, 32) };
    let granting = v1::Proof {
        credential: Some(Credential::Membership(bytes(4, 8))),
        signature: bytes(3, 64),
        grant: Some(grant),
    };
    let start =
        v1::PairStart { wire_major: 1, wire_minor: 0, nonce: bytes(2, 32), number: 7, element: bytes(0x41, 33) };
    let verdict =
        |code: i32, message: &str| Body::Verdict(v1::Verdict { code, message: message.into(), ..Default::default() });
    let revoked = v1::Verdict {
        code: 3,
        message: "its membership was revoked".into(),
        revocation: Some(v1::SignedRevocation {
            revocation: bytes(15, 16),
            signature: bytes(16, 64),
            ..Default::default()
        }),
    };
    let bodies = vec![
        ("gate-verdict-revoked", Body::Verdict(revoked)),
        ("gate-hello", Body::Hello(hello)),
        ("gate-proof", proof(None)),
        ("gate-proof-membership", proof(Some(Credential::Membership(bytes(4, 8))))),
        ("gate-proof-invite", proof(Some(Credential::Invite(bytes(5, 8))))),
        ("gate-verdict-admitted", verdict(0, "")),
        ("gate-verdict-other-mesh", verdict(1, "")),
        ("gate-verdict-incompatible", verdict(2, "2 meets 1")),
        ("gate-verdict-not-admitted", verdict(3, "no invite")),
        ("gate-verdict-malformed", verdict(4, "a message out of order")),
        ("gate-verdict-busy", verdict(5, "")),
        ("gate-verdict-itself", verdict(6, "")),
        ("gate-verdict-identity-clash", verdict(7, "")),
        ("gate-proof-grant", Body::Proof(granting)),
        ("gate-verdict-wait", verdict(8, "")),
        ("gate-verdict-no-pairing", verdict(9, "")),
        ("gate-pair-start", Body::PairStart(start)),
        ("gate-pair-reply", Body::PairReply(v1::PairReply { nonce: bytes(3, 32), element: bytes(0x42, 33) })),
        ("gate-pair-proof", Body::PairProof(v1::PairProof { mac: bytes(4, 32), name: "laptop".into() })),
        ("gate-pair-offer", Body::PairOffer(v1::PairOffer { terms: bytes(5, 8), mac: bytes(6, 32) })),
        ("gate-pair-decline", Body::PairDecline(v1::PairDecline { mac: bytes(7, 32) })),
    ];
    bodies.into_iter().map(|(name, body)| (name, v1::GateMessage { body: Some(body) })).collect()
}

fn position() -> v1::Position {
    v1::Position { node: Bytes::from_static(&[9; 38]), epoch: 1_700_000_000_000, seq: 3, issued_at_ms: 0 }
}

fn timed() -> v1::Position {
    v1::Position { issued_at_ms: 1_700_000_000_321, ..position() }
}

fn signed() -> v1::SignedStatement {
    v1::SignedStatement {
        node: Bytes::from_static(&[9; 38]),
        statement: Bytes::from_static(&[8; 16]),
        signature: Bytes::from_static(&[7; 64]),
        body: Bytes::from_static(&[6; 16]),
    }
}

fn aged() -> v1::AgedStatement {
    v1::AgedStatement { statement: Some(signed()), age_ms: 2500, beat: None, issued_ago_ms: 0 }
}

fn aged_with_beat() -> v1::AgedStatement {
    let beat = v1::SignedStatement { statement: Bytes::from_static(&[5; 16]), body: Bytes::new(), ..signed() };
    v1::AgedStatement { beat: Some(beat), issued_ago_ms: 750, ..aged() }
}

fn aged_beat() -> v1::AgedStatement {
    v1::AgedStatement { statement: None, ..aged_with_beat() }
}

/// Requests of the digest sync.
pub fn sync_requests() -> Vec<(&'static str, v1::SyncRequest)> {
    use v1::sync_request::Body;
    let hear = v1::HearMulticast { mark: Bytes::from_static(&[1; 16]), reply_mark: Bytes::from_static(&[2; 16]) };
    let bodies = vec![
        (
            "sync-request-digest",
            Body::Digest(v1::SyncDigest { positions: vec![position()], push: vec![aged()], fingerprint: Bytes::new() }),
        ),
        (
            "sync-request-digest-timed",
            Body::Digest(v1::SyncDigest {
                positions: vec![timed()],
                push: vec![aged_with_beat()],
                fingerprint: Bytes::new(),
            }),
        ),
        (
            "sync-request-hello",
            Body::Digest(v1::SyncDigest { fingerprint: Bytes::from_static(&[3; 16]), ..Default::default() }),
        ),
        ("sync-request-fetch-body", Body::FetchBody(v1::FetchBody { hash: Bytes::from_static(&[5; 32]) })),
        ("sync-request-ping", Body::Ping(v1::Ping {})),
        ("sync-request-dial-back", Body::DialBack(v1::DialBack { address: "/ip4/8.8.8.8/udp/11450/quic-v1".into() })),
        ("sync-request-hear-multicast", Body::HearMulticast(hear)),
        ("sync-request-roster", Body::Roster(v1::RosterDigest { ids: Bytes::from_static(&[3; 32]), push: roster() })),
        ("sync-request-renew", Body::Renew(v1::Renew {})),
    ];
    bodies.into_iter().map(|(name, body)| (name, v1::SyncRequest { body: Some(body) })).collect()
}

/// Responses of the digest sync.
pub fn sync_responses() -> Vec<(&'static str, v1::SyncResponse)> {
    use v1::sync_response::Body;
    let dialled = |outcome, reason: &str| Body::DialledBack(v1::DialledBack { outcome, reason: reason.into() });
    let heard = |heard, trouble: &str| Body::HeardMulticast(v1::HeardMulticast { heard, trouble: trouble.into() });
    let delta = v1::SyncDelta {
        statements: vec![aged()],
        want: vec![Bytes::from_static(&[9; 38])],
        more: true,
        beyond: vec![position()],
        same: false,
        ask_again: false,
    };
    let later = v1::SyncDelta { statements: vec![aged_with_beat(), aged_beat()], ..v1::SyncDelta::default() };
    let bodies = vec![
        ("sync-response-delta", Body::Delta(delta)),
        ("sync-response-delta-beats", Body::Delta(later)),
        ("sync-response-same", Body::Delta(v1::SyncDelta { same: true, ..Default::default() })),
        ("sync-response-ask-again", Body::Delta(v1::SyncDelta { ask_again: true, ..Default::default() })),
        ("sync-response-found-body", Body::FoundBody(v1::FoundBody { data: Bytes::from_static(&[4; 16]) })),
        ("sync-response-pong", Body::Pong(v1::Pong { now_ms: 1_700_000_000_456 })),
        ("sync-response-dialled-back-refused", dialled(0, "this node may not be asked to dial there")),
        ("sync-response-dialled-back-reached", dialled(1, "")),
        ("sync-response-dialled-back-unreachable", dialled(2, "no answer within 7 s")),
        ("sync-response-heard-multicast", heard(true, "")),
        ("sync-response-heard-multicast-trouble", heard(false, "it cannot listen")),
        (
            "sync-response-roster",
            Body::Roster(v1::RosterDelta { records: roster(), want: Bytes::from_static(&[2; 16]) }),
        ),
        (
            "sync-response-renewed",
            Body::Renewed(v1::Renewed { membership: Some(membership()), refusal: String::new() }),
        ),
        ("sync-response-refused", Body::Renewed(v1::Renewed { membership: None, refusal: "no admin".into() })),
    ];
    bodies.into_iter().map(|(name, body)| (name, v1::SyncResponse { body: Some(body) })).collect()
}

/// A membership that an admin issued.
pub fn membership() -> v1::SignedMembership {
    let by_root = v1::SignedMembership {
        membership: Bytes::from_static(&[11; 16]),
        signature: Bytes::from_static(&[12; 64]),
        issuer: None,
    };
    v1::SignedMembership {
        membership: Bytes::from_static(&[13; 16]),
        signature: Bytes::from_static(&[14; 64]),
        issuer: Some(Box::new(by_root)),
    }
}

fn roster() -> Vec<v1::RosterRecord> {
    use v1::roster_record::Record;
    let revocation = v1::SignedRevocation {
        revocation: Bytes::from_static(&[15; 16]),
        signature: Bytes::from_static(&[16; 64]),
        issuer: Some(membership()),
    };
    let records = [Record::Membership(membership()), Record::Revocation(revocation)];
    records.into_iter().map(|record| v1::RosterRecord { record: Some(record) }).collect()
}

/// What is signed within.
pub fn says_membership() -> Vec<(&'static str, v1::Membership)> {
    let least = v1::Membership {
        mesh_id: Bytes::from_static(&[1; 32]),
        node: Bytes::from_static(&[9; 38]),
        role: 3,
        not_before_ms: 1_700_000_000_000,
        expires_ms: 1_707_776_000_000,
        serial: 1_700_000_000_000,
        issuer: Bytes::new(),
    };
    let by_admin = v1::Membership { role: 1, issuer: Bytes::from_static(&[8; 38]), ..least.clone() };
    vec![("membership", least), ("membership-by-admin", by_admin)]
}

/// What ends one.
pub fn revocations() -> Vec<(&'static str, v1::Revocation)> {
    let revocation = v1::Revocation {
        mesh_id: Bytes::from_static(&[1; 32]),
        node: Bytes::from_static(&[9; 38]),
        through_serial: 1_700_000_000_000,
        serial: 1_700_000_000_001,
        issuer: Bytes::from_static(&[8; 38]),
        reason: "sold".into(),
    };
    vec![("revocation", revocation)]
}

/// What a member presents.
pub fn credentials() -> Vec<(&'static str, v1::Credential)> {
    vec![("credential", v1::Credential { root_key: Bytes::from_static(&[5; 32]), membership: Some(membership()) })]
}

/// What a newcomer presents.
pub fn invite_proofs() -> Vec<(&'static str, v1::InviteProof)> {
    let proof = v1::InviteProof {
        id: Bytes::from_static(&[1; 8]),
        mac: Bytes::from_static(&[2; 32]),
        issuer: Bytes::from_static(&[9; 38]),
    };
    vec![("invite-proof", proof)]
}

/// What a newcomer with a spoken code is offered.
pub fn pair_terms() -> Vec<(&'static str, v1::PairTerms)> {
    let terms = v1::PairTerms {
        root_key: Bytes::from_static(&[5; 32]),
        mesh_name: "home".into(),
        role: 3,
        expires: 1_700_000_120,
        name: "nas".into(),
    };
    vec![("pair-terms", terms)]
}

/// What a token is made of.
pub fn invite_tokens() -> Vec<(&'static str, v1::InviteToken)> {
    let token = v1::InviteToken {
        root_key: Bytes::from_static(&[5; 32]),
        id: Bytes::from_static(&[1; 8]),
        secret: Bytes::from_static(&[2; 16]),
        mesh_name: "home".into(),
        expires: 1_700_086_400,
        issuer: Bytes::from_static(&[9; 38]),
        addresses: vec![Bytes::from_static(&[4, 10, 0, 0, 7, 6, 44, 186])],
        role: 3,
    };
    vec![("invite-token", token)]
}
