//! The graph and the scan are one index.

use std::collections::BTreeMap;
use std::time::Instant;

use super::*;

/// So small that tests are quick, and large enough that the graph has layers.
const LIMITS: Limits = Limits { up: 100, down: 67, stale_percent: 25 };

/// Capabilities of a node, with vectors of their own.
const EACH: usize = 10;

fn node_of(seed: usize) -> Arc<Advert> {
    let capabilities = (0..EACH).map(|n| {
        let n = seed * EACH + n;
        let mut capability = Capability::new("p", Kind::LLM_CHAT, &format!("model-{n}"));
        capability.description = sentences::sentence(n * 3);
        capability.examples = vec![sentences::sentence(n * 3 + 1), sentences::sentence(n * 3 + 2)];
        Arc::new(capability)
    });
    advert(PeerId::random(), 1, capabilities.collect())
}

fn mesh(seeds: impl Iterator<Item = usize>) -> Adverts {
    seeds.map(node_of).map(|advert| (advert.node, advert)).collect()
}

/// Waits until there is a graph that needs no other.
fn graph_of(catalog: &Catalog) -> Arc<Graph> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        {
            let writer = catalog.shared.writer.lock();
            if let (Some(graph), false) = (&writer.graph, writer.building) {
                return Arc::clone(graph);
            }
        }
        assert!(Instant::now() < deadline, "no graph");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Share of the exact best `count` that the catalog finds.
fn recall(catalog: &Catalog, count: usize) -> f64 {
    let snapshot = catalog.snapshot();
    let exact = snapshot.with_graph(None);
    let (mut same, mut all) = (0, 0);
    for n in 0..40 {
        let query = format!("please {}", sentences::sentence(n * 101 + 7));
        let truth = exact.search(&query, count, |_| true);
        let found = snapshot.search(&query, count, |_| true);
        same += truth.iter().filter(|hit| found.contains(hit)).count();
        all += truth.len();
    }
    same as f64 / all as f64
}

#[test]
fn a_large_mesh_gets_a_graph_that_agrees_with_the_scan() {
    let catalog = Catalog::with_limits(Some(embedder()), LIMITS);
    let mut adverts = mesh(0..5);
    catalog.update(&adverts);
    assert_eq!(catalog.snapshot().graph_need(), GraphNeed::Fine, "50 capabilities");
    adverts.extend(mesh(5..25));
    catalog.update(&adverts);
    let graph = graph_of(&catalog);
    assert_eq!(catalog.snapshot().graph_need(), GraphNeed::Fine);
    assert_eq!(graph.blocks().len(), 25);
    let (first, ten) = (recall(&catalog, 1), recall(&catalog, 10));
    assert!(first >= 0.97 && ten >= 0.93, "{first} {ten}");
}

#[test]
fn what_came_later_is_found_and_what_left_is_not() {
    let catalog = Catalog::with_limits(Some(embedder()), LIMITS);
    let mut adverts = mesh(0..20);
    catalog.update(&adverts);
    let graph = graph_of(&catalog);

    let (left, _) = adverts.pop_first().expect("a node");
    let late = node_of(50);
    let asked = late.capabilities[3].description.clone();
    adverts.insert(late.node, Arc::clone(&late));
    catalog.update(&adverts);
    assert!(Arc::ptr_eq(&graph, &graph_of(&catalog)), "two of twenty nodes are no reason to build again");

    let snapshot = catalog.snapshot();
    let best = snapshot.search(&asked, 1, |_| true)[0];
    let best = snapshot.entry(best.entry).expect("an entry");
    assert_eq!((best.node, best.capability.description.as_str()), (late.node, asked.as_str()));
    for n in 0..60 {
        for hit in snapshot.search(&sentences::sentence(n), 30, |_| true) {
            assert_ne!(snapshot.entry(hit.entry).expect("an entry").node, left);
        }
    }
    let first = recall(&catalog, 1);
    assert!(first >= 0.97, "{first}");
}

#[test]
fn a_stale_graph_is_built_again_and_a_small_mesh_drops_it() {
    let catalog = Catalog::with_limits(Some(embedder()), LIMITS);
    let mut adverts = mesh(0..12);
    catalog.update(&adverts);
    let first = graph_of(&catalog);
    adverts.extend(mesh(12..24));
    catalog.update(&adverts);
    let second = graph_of(&catalog);
    assert!(!Arc::ptr_eq(&first, &second) && second.blocks().len() == 24);
    assert_eq!(catalog.snapshot().graph_need(), GraphNeed::Fine);

    // 80 capabilities are between the limits: with a graph it stays, without it none is built.
    while adverts.len() > 20 {
        adverts.pop_first();
    }
    catalog.update(&adverts);
    while adverts.len() > 8 {
        adverts.pop_first();
        catalog.update(&adverts);
    }
    graph_of(&catalog);
    while adverts.len() > 6 {
        adverts.pop_first();
    }
    catalog.update(&adverts);
    assert!(catalog.shared.writer.lock().graph.is_none(), "60 capabilities");
    let exact = catalog.snapshot().search(&sentences::sentence(1), 3, |_| true);
    assert_eq!(exact.len(), 3);
}

#[test]
fn a_narrow_filter_is_served_by_the_scan() {
    let catalog = Catalog::with_limits(Some(embedder()), LIMITS);
    let adverts = mesh(0..20);
    catalog.update(&adverts);
    graph_of(&catalog);
    let snapshot = catalog.snapshot();
    for n in 0..20 {
        let only = format!("model-{n}");
        let hits = snapshot.search(&sentences::sentence(n * 7), 5, |entry| entry.capability.name == only);
        assert_eq!(hits.len(), 1, "{only}");
    }
}

#[test]
fn equal_capabilities_of_many_nodes_are_one_point_and_all_found() {
    let catalog = Catalog::with_limits(Some(embedder()), LIMITS);
    let shared = node_of(0).capabilities.to_vec();
    let adverts: BTreeMap<_, _> = (0..30)
        .map(|_| {
            let advert = advert(PeerId::random(), 1, shared.clone());
            (advert.node, advert)
        })
        .collect();
    catalog.update(&adverts);
    graph_of(&catalog);
    let snapshot = catalog.snapshot();
    let asked = &shared[4].description;
    let hits = snapshot.search(asked, 30, |_| true);
    let nodes: std::collections::HashSet<_> =
        hits.iter().map(|hit| snapshot.entry(hit.entry).expect("an entry").node).collect();
    assert_eq!(nodes.len(), 30, "{hits:?}");
}

/// What a search promises, without its short cuts: every vector of every capability.
fn exhaustive(snapshot: &Snapshot, query: &str) -> (f32, EntryId) {
    let query = embedder().embed(query);
    let likeness = |capability: &Capability| {
        let vectors = texts::texts(capability).into_iter().map(|(_, text)| embedder().embed(&text));
        let (mut sum, mut best) = (vec![0.0_f32; query.len()], -1.0_f32);
        for vector in vectors {
            best = best.max(vector.iter().zip(&query).map(|(a, b)| a * b).sum());
            sum.iter_mut().zip(&vector).for_each(|(sum, x)| *sum += x);
        }
        let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        0.5 * best + 0.5 * sum.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>() / length
    };
    let all = snapshot.entries().iter().enumerate();
    let all = all.map(|(at, entry)| (likeness(&entry.capability), EntryId(at as u32)));
    all.max_by(|a, b| a.0.total_cmp(&b.0)).expect("entries")
}

#[test]
fn looking_at_centroids_first_misses_next_to_nothing() {
    // Each of 1,000 capabilities is about three things that have nothing to do with each other.
    let catalog = Catalog::new(Some(embedder()));
    catalog.update(&mesh(0..100));
    let snapshot = catalog.snapshot();
    let mut missed = Vec::new();
    for n in 0..100 {
        let query = format!("could you {}", sentences::sentence(n * 29 + 11));
        let (likeness, _) = exhaustive(&snapshot, &query);
        let hit = snapshot.search(&query, 1, |_| true)[0];
        if hit.similarity < likeness - 0.01 {
            missed.push((query, likeness, hit.similarity));
        }
    }
    assert!(missed.len() <= 2, "{} of 100 missed: {missed:?}", missed.len());
}
