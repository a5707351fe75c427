use std::time::Duration;

use proptest::prelude::*;

use super::exchange::{Parties, Said, Session, Side, Started};
use super::offer::{ANSWER_LIFE, ATTEMPTS, Away, CODE_LIFE, Offer};
use super::{Code, Joins, PairSide, PairStage, PairView};
use crate::capability::PeerId;
use crate::mesh::Identity;
use crate::mesh::member::Role;

const NOW: u64 = 1_700_000_000_000;
const NONCES: [[u8; 32]; 2] = [[1; 32], [2; 32]];

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("short")
}

fn code(text: &str) -> Code {
    text.parse().expect("a code")
}

fn parties() -> Parties {
    Parties { joiner: Identity::generate().peer_id(), issuer: Identity::generate().peer_id() }
}

/// Both sides of an exchange, each with its own code.
fn exchange(parties: Parties, joiner: &Code, issuer: &Code) -> (Session, Session) {
    let (ours, theirs) = (Started::new(Side::Joiner, joiner, parties), Started::new(Side::Issuer, issuer, parties));
    let elements = (ours.element().to_vec(), theirs.element().to_vec());
    let finish = |side: Started, element: &[u8]| side.finish(element, &NONCES[0], &NONCES[1]).expect("an element");
    (finish(ours, &elements.1), finish(theirs, &elements.0))
}

#[test]
fn one_code_makes_one_session_and_both_sides_prove_it() {
    let code = code("7-otter-lamp");
    let (joiner, issuer) = exchange(parties(), &code, &code);
    assert_eq!(joiner, issuer);
    assert_eq!((joiner.check(), joiner.invite()), (issuer.check(), issuer.invite()));
    assert!(joiner.check().len() == 5 && joiner.check().bytes().all(|digit| digit.is_ascii_digit()));
    let proof = joiner.prove(Said::Joiner("laptop"));
    assert!(issuer.is_proof(proof.as_bytes(), Said::Joiner("laptop")));
    for other in [Said::Joiner("laptop2"), Said::Issuer(b"laptop"), Said::Decline, Said::Joiner("")] {
        assert!(!issuer.is_proof(proof.as_bytes(), other), "{other:?}");
    }
    assert!(!issuer.is_proof(&proof.as_bytes()[..31], Said::Joiner("laptop")));
    assert!(!format!("{joiner:?}").contains(char::is_numeric), "{joiner:?}");
    // Every session is another one, with the same code and the same nodes, too.
    let (again, _) = exchange(parties(), &code, &code);
    assert!(again != joiner);
}

#[test]
fn a_mirrored_or_passed_on_element_leads_to_nothing() {
    let code = code("7-otter-lamp");
    let nodes = parties();
    let (joiner, issuer) = (Started::new(Side::Joiner, &code, nodes), Started::new(Side::Issuer, &code, nodes));
    let (from_joiner, from_issuer) = (joiner.element().to_vec(), issuer.element().to_vec());
    let mirrored = Started::new(Side::Joiner, &code, nodes).finish(&from_joiner, &NONCES[0], &NONCES[1]);
    assert!(mirrored.is_err(), "of the own side");
    for bad in [&b""[..], &from_issuer[..32], &[0x42; 33]] {
        assert!(Started::new(Side::Joiner, &code, nodes).finish(bad, &NONCES[0], &NONCES[1]).is_err());
    }
    // Somebody in the middle passes everything on under its own id: the two do not agree.
    let middle = Identity::generate().peer_id();
    let seen_by_joiner = Started::new(Side::Joiner, &code, Parties { issuer: middle, ..nodes });
    let seen_by_issuer = Started::new(Side::Issuer, &code, Parties { joiner: middle, ..nodes });
    let elements = (seen_by_joiner.element().to_vec(), seen_by_issuer.element().to_vec());
    let one = seen_by_joiner.finish(&elements.1, &NONCES[0], &NONCES[1]).expect("an element");
    let other = seen_by_issuer.finish(&elements.0, &NONCES[0], &NONCES[1]).expect("an element");
    assert!(one != other);
    // A message of another handshake, with another nonce.
    let one = joiner.finish(&from_issuer, &NONCES[0], &NONCES[1]).expect("an element");
    let other = issuer.finish(&from_joiner, &[9; 32], &NONCES[1]).expect("an element");
    assert!(one != other);
}

proptest! {
    // Each case is four multiplications in an unoptimised build.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_wrong_code_never_confirms(first in any::<[u8; 2]>(), second in any::<[u8; 2]>()) {
        let named = |[one, two]: [u8; 2]| {
            let word = |place: u8| super::words::WORDS[usize::from(place)];
            code(&format!("7-{}-{}", word(one), word(two)))
        };
        let (joiner, issuer) = exchange(parties(), &named(first), &named(second));
        let proof = joiner.prove(Said::Joiner("x"));
        prop_assert_eq!(issuer.is_proof(proof.as_bytes(), Said::Joiner("x")), first == second);
    }

    #[test]
    fn whatever_happens_an_offer_lets_in_one_node_after_a_yes_and_three_wrong_proofs_at_the_most(
        steps in prop::collection::vec((0_u8..7, 0_u64..90_000), 1..40),
    ) {
        let right = Session::of_bytes([1; 32]);
        let wrong = Session::of_bytes([2; 32]);
        let (node, other) = (PeerId::random(), PeerId::random());
        let mut offer = Offer::new(code("7-otter-lamp"), Role::Member, CODE_LIFE, NOW);
        let (mut now, mut wrongs, mut said_yes) = (NOW, 0, false);
        let (id, _) = right.invite();
        for (step, later) in steps {
            now += later;
            let before = offer.view("1", "home");
            match step {
                0 => { let _ = offer.begins(7, now); }
                1 => {
                    let mac = wrong.prove(Said::Joiner("n"));
                    let tried = offer.proves(other, "n", mac.as_bytes(), &right, now);
                    prop_assert!(tried.is_err());
                    wrongs += u32::from(matches!(tried, Err(Away::Wrong(_))));
                }
                2 => { let _ = offer.proves(node, "n", right.prove(Said::Joiner("n")).as_bytes(), &right, now); }
                3 => {
                    let pass = offer.answers(true, now);
                    said_yes |= pass.is_some();
                    if let Some(pass) = pass {
                        prop_assert_eq!(pass.node, node);
                    }
                }
                4 => { let _ = offer.presents(&node, &id, |_, _| true, now); }
                5 => {
                    let presented = offer.presents(&node, &id, |_, _| true, now);
                    if presented.is_ok() && said_yes { offer.redeemed(&id); }
                }
                _ => { let _ = offer.presents(&other, &id, |_, _| true, now); }
            }
            let view = offer.view("1", "home");
            prop_assert!(view.revision >= before.revision);
            prop_assert!(!before.stage.is_over() || view.stage == before.stage, "what is over stays over");
            prop_assert!(view.stage != PairStage::Joined || said_yes);
            prop_assert!(view.node.is_none_or(|guest| guest == node));
        }
        prop_assert!(wrongs <= ATTEMPTS);
    }
}

struct Bench {
    offer: Offer,
    session: Session,
    node: PeerId,
}

fn bench() -> Bench {
    let offer = Offer::new(code("7-otter-lamp"), Role::Client, CODE_LIFE, NOW);
    Bench { offer, session: Session::of_bytes([1; 32]), node: PeerId::random() }
}

impl Bench {
    fn proves(&mut self, now: u64) -> Result<(), Away> {
        let mac = self.session.prove(Said::Joiner("lap\u{1b}top"));
        self.offer.proves(self.node, "lap\u{1b}top", mac.as_bytes(), &self.session, now)
    }

    fn presents(&mut self, now: u64) -> Result<(), Away> {
        let (id, _) = self.session.invite();
        self.offer.presents(&self.node, &id, |_, _| true, now)
    }

    fn view(&self) -> PairView {
        self.offer.view("1", "home")
    }
}

#[test]
fn both_people_say_yes_in_either_order() {
    for newcomer_first in [true, false] {
        let mut bench = bench();
        assert!(bench.offer.begins(7, NOW).is_ok() && bench.offer.begins(8, NOW) == Err(Away::Unknown));
        assert_eq!(bench.offer.answers(true, NOW), None, "nobody to let in yet");
        assert_eq!(bench.proves(NOW), Ok(()));
        assert_eq!((bench.view().stage, bench.view().node_name.as_deref()), (PairStage::Asking, Some("laptop")));
        if newcomer_first {
            assert_eq!(bench.presents(NOW), Err(Away::NotYet));
            assert!(bench.view().far_agreed);
        }
        let pass = bench.offer.answers(true, NOW).expect("a pass");
        assert_eq!((pass.node, pass.role, (pass.id, pass.secret)), (bench.node, Role::Client, bench.session.invite()));
        assert_eq!(bench.presents(NOW), Ok(()));
        bench.offer.redeemed(&pass.id);
        assert_eq!(bench.view().stage, PairStage::Joined);
        assert!(matches!(bench.offer.begins(7, NOW), Err(Away::Closed(why)) if why.contains("used already")));
    }
}

#[test]
fn a_no_of_either_side_ends_it_and_the_other_side_is_told() {
    let mut mine = bench();
    mine.proves(NOW).expect("right");
    assert_eq!(mine.offer.answers(false, NOW), None);
    assert!(matches!(mine.presents(NOW), Err(Away::Closed(why)) if why.contains("said no")));
    assert_eq!(mine.offer.answers(true, NOW), None, "it stays so");

    let mut theirs = bench();
    theirs.proves(NOW).expect("right");
    let mac = theirs.session.prove(Said::Decline);
    assert!(!theirs.offer.declined(&PeerId::random(), mac.as_bytes()), "by another node");
    assert!(!theirs.offer.declined(&theirs.node, &[0; 32]), "without the key");
    assert_eq!(theirs.view().stage, PairStage::Asking);
    assert!(theirs.offer.declined(&theirs.node, mac.as_bytes()));
    assert!(theirs.view().problem.is_some_and(|why| why.contains("other machine said no")));
    assert_eq!(theirs.offer.answers(true, NOW), None);
}

#[test]
fn wrong_codes_are_counted_and_the_last_one_voids_it() {
    let mut bench = bench();
    let mac = Session::of_bytes([9; 32]).prove(Said::Joiner("x"));
    for left in (0..ATTEMPTS).rev() {
        assert!(bench.offer.begins(7, NOW).is_ok());
        let tried = bench.offer.proves(bench.node, "x", mac.as_bytes(), &bench.session, NOW);
        assert!(matches!(tried, Err(Away::Wrong(_))), "{tried:?}");
        assert_eq!(bench.view().attempts_left, Some(left));
    }
    assert_eq!(bench.view().stage, PairStage::Ended);
    assert!(matches!(bench.proves(NOW), Err(Away::Closed(why)) if why.contains("void")), "also the right one");
}

#[test]
fn who_comes_second_is_sent_away() {
    let mut bench = bench();
    bench.proves(NOW).expect("right");
    assert!(matches!(bench.offer.begins(7, NOW), Err(Away::Closed(why)) if why.contains("another machine")));
    let mac = bench.session.prove(Said::Joiner("x"));
    assert!(bench.offer.proves(PeerId::random(), "x", mac.as_bytes(), &bench.session, NOW).is_err());
    assert_eq!(bench.view().node, Some(bench.node));
}

#[test]
fn every_stage_runs_out() {
    let mut unused = bench();
    assert!(unused.offer.begins(7, NOW + ms(CODE_LIFE) - 1).is_ok());
    assert!(matches!(unused.offer.begins(7, NOW + ms(CODE_LIFE)), Err(Away::Closed(why)) if why.contains("ran out")));

    let mut unanswered = bench();
    unanswered.proves(NOW).expect("right");
    assert_eq!(unanswered.offer.answers(true, NOW + ms(ANSWER_LIFE)), None);
    assert!(matches!(unanswered.presents(NOW + ms(ANSWER_LIFE)), Err(Away::Closed(why)) if why.contains("in time")));

    let mut late = bench();
    late.proves(NOW).expect("right");
    late.offer.answers(true, NOW + 1000).expect("a pass");
    late.offer.tick(NOW + 1000 + ms(ANSWER_LIFE));
    assert_eq!(late.view().stage, PairStage::Ended);
}

#[test]
fn an_attempt_is_taken_back_at_any_time_and_answered_once_it_is_asked() {
    let view =
        |id: &str| PairView { side: PairSide::Joins, stage: PairStage::Waiting, ..bench().offer.view(id, "home") };
    let joins = Joins::default();
    let mut answered = joins.begin(view("a"));
    assert!(!joins.answer("b", true) && joins.answer("a", true), "nothing is asked yet");
    assert!(answered.try_recv().is_err());
    joins.change("a", |view| view.stage = PairStage::Asking);
    assert!(joins.answer("a", true));
    assert_eq!(answered.try_recv(), Ok(true));
    let _answered = joins.begin(view("b"));
    assert!(joins.view("a").is_none());
    assert!(joins.answer("b", false));
    let ended = joins.view("b").expect("known");
    assert_eq!(ended.stage, PairStage::Ended);
    joins.change("b", |view| view.stage = PairStage::Joined);
    assert_eq!(joins.view("b"), Some(ended), "what is over stays over");
}
