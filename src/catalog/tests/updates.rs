//! Adverts come, change and go.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn named(names: &[&str]) -> Vec<Arc<Capability>> {
    names.iter().map(|name| Arc::new(Capability::new("p", Kind::LLM_CHAT, name))).collect()
}

#[test]
fn names_lead_to_entries() {
    let (one, two) = (PeerId::random(), PeerId::random());
    let mut aliased = Capability::new("p", Kind::LLM_CHAT, "llama3.2:latest");
    aliased.aliases = vec!["llama3.2".into(), "my-llama".into()];
    aliased.project = Some("farm/camelids".into());
    let catalog = Catalog::new(Some(embedder()));
    catalog.update(&Adverts::from([
        (one, advert(one, 1, vec![Arc::new(aliased)])),
        (two, advert(two, 1, named(&["Llama3.2", "qwen3:8b"]))),
    ]));
    let snapshot = catalog.snapshot();
    assert_eq!(snapshot.by_model("llama3.2:latest").len(), 2);
    assert_eq!(snapshot.by_model("LLAMA3.2").len(), 2);
    assert_eq!(snapshot.by_model("my-llama").len(), 1);
    assert_eq!(snapshot.by_project("farm/camelids"), snapshot.by_model("my-llama"));
    assert!(snapshot.by_model("llama3.1").is_empty() && snapshot.by_project("camelids").is_empty());
    let near = snapshot.near_names("lama3.2", 1);
    assert!(near == ["llama3.2:latest"] || near == ["Llama3.2"], "whichever node comes first: {near:?}");
    assert_eq!(snapshot.nodes_named(&one.to_base58()), [one]);
    assert_eq!(snapshot.nodes_named(&snapshot.advert(&two).expect("an advert").name.to_uppercase()), [two]);
}

#[test]
fn an_unchanged_node_keeps_what_was_worked_out() {
    let (one, two) = (PeerId::random(), PeerId::random());
    let catalog = Catalog::new(Some(embedder()));
    let mut adverts = Adverts::from([(one, advert(one, 1, named(&["a"]))), (two, advert(two, 1, named(&["b"])))]);
    catalog.update(&adverts);
    let parts = |catalog: &Catalog| catalog.shared.writer.lock().parts.clone();
    let before = parts(&catalog);

    adverts.insert(two, advert(two, 2, named(&["c"])));
    catalog.update(&adverts);
    let after = parts(&catalog);
    assert!(Arc::ptr_eq(&before[&one], &after[&one]));
    assert!(!Arc::ptr_eq(&before[&two].block, &after[&two].block));

    // Load and residency change without a change of meaning.
    let mut warm = Capability::new("p", Kind::LLM_CHAT, "c");
    warm.residency = crate::capability::Residency::Warm;
    adverts.insert(two, advert(two, 3, vec![Arc::new(warm)]));
    catalog.update(&adverts);
    let warmed = parts(&catalog);
    assert!(Arc::ptr_eq(&after[&two].block, &warmed[&two].block));
    let snapshot = catalog.snapshot();
    let entry = snapshot.entry(snapshot.by_model("c")[0]).expect("an entry");
    assert_eq!(entry.capability.residency, crate::capability::Residency::Warm);
}

#[test]
fn a_version_is_told_for_each_change_and_for_nothing_else() {
    let node = PeerId::random();
    let catalog = Catalog::new(Some(embedder()));
    let version = catalog.subscribe();
    let adverts = Adverts::from([(node, advert(node, 1, named(&["a"])))]);
    catalog.update(&adverts);
    assert_eq!(*version.borrow(), 1);
    catalog.update(&adverts);
    assert_eq!(*version.borrow(), 1);
    catalog.update(&Adverts::new());
    assert_eq!(*version.borrow(), 2);
    assert!(catalog.snapshot().entries().is_empty() && catalog.snapshot().by_model("a").is_empty());
}

#[test]
fn readers_keep_the_snapshot_that_they_took() {
    let node = PeerId::random();
    let catalog = Catalog::new(Some(embedder()));
    catalog.update(&Adverts::from([(node, advert(node, 1, named(&["a"])))]));
    let before = catalog.snapshot();
    catalog.update(&Adverts::new());
    assert_eq!(found(&before, "a conversation", 1), ["a"]);
}

/// One of a few nodes says something, or leaves.
#[derive(Debug, Clone)]
enum Step {
    Says { node: usize, capabilities: Vec<usize> },
    Leaves { node: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let says = (0_usize..4, prop::collection::vec(0_usize..12, 0..4))
        .prop_map(|(node, capabilities)| Step::Says { node, capabilities });
    let leaves = (0_usize..4).prop_map(|node| Step::Leaves { node });
    prop::collection::vec(prop_oneof![4 => says, 1 => leaves], 1..12)
}

fn capability(n: usize) -> Arc<Capability> {
    let mut capability = Capability::new("p", Kind::LLM_CHAT, &format!("model-{}", n % 8));
    capability.description = sentences::sentence(n);
    capability.project = n.is_multiple_of(3).then(|| format!("farm/{n}"));
    capability.examples = (0..n % 3).map(|k| sentences::sentence(n * 31 + k)).collect();
    Arc::new(capability)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_as_good_as_at_once(steps in steps()) {
        static NODES: LazyLock<[PeerId; 4]> = LazyLock::new(|| std::array::from_fn(|_| PeerId::random()));
        let growing = Catalog::new(Some(embedder()));
        let mut adverts = Adverts::new();
        for (seq, step) in steps.into_iter().enumerate() {
            match step {
                Step::Says { node, capabilities } => {
                    let different: HashSet<usize> = capabilities.iter().copied().collect();
                    let node = NODES[node];
                    adverts.insert(node, advert(node, seq as u64, different.into_iter().map(capability).collect()));
                }
                Step::Leaves { node } => {
                    adverts.remove(&NODES[node]);
                }
            }
            growing.update(&adverts);
        }
        let at_once = Catalog::new(Some(embedder()));
        at_once.update(&adverts);
        let (grown, fresh) = (growing.snapshot(), at_once.snapshot());
        prop_assert_eq!(grown.adverts(), fresh.adverts());
        let names = |snapshot: &Snapshot| -> Vec<_> {
            snapshot.entries().iter().map(|entry| (entry.node, entry.capability.clone())).collect()
        };
        prop_assert_eq!(names(&grown), names(&fresh));
        for n in 0..12 {
            let name = format!("model-{n}");
            prop_assert_eq!(grown.by_model(&name), fresh.by_model(&name));
            let project = format!("farm/{n}");
            prop_assert_eq!(grown.by_project(&project), fresh.by_project(&project));
            let query = sentences::sentence(n * 17);
            prop_assert_eq!(grown.search(&query, 5, |_| true), fresh.search(&query, 5, |_| true));
            prop_assert_eq!(grown.near_names(&name, 3), fresh.near_names(&name, 3));
        }
    }
}

#[test]
fn ten_thousand_names_are_searched_for_near_ones() {
    let adverts: Adverts = (0..100)
        .map(|n| {
            let names =
                (0..100).map(|k| Arc::new(Capability::new("p", Kind::LLM_CHAT, &format!("model-{}-{k}b", n * 7919))));
            let node = PeerId::random();
            (node, advert(node, 1, names.collect()))
        })
        .collect();
    let catalog = Catalog::new(None);
    catalog.update(&adverts);
    assert_eq!(catalog.snapshot().near_names("model-7919-5", 4)[0], "model-7919-5b");
}
