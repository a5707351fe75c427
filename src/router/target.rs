//! What a target means: a model, a model on one node, a project, an alias, or `auto`. The first that fits
//! wins, in this order, so an exact name always means itself, whatever characters it has.

use crate::capability::{PeerId, Target};
use crate::catalog::{EntryId, Snapshot};

use super::aliases::{Alias, Aliases};
use super::decision::{NoRoute, Step};

/// Near names that an error lists.
const NEAR: usize = 5;

/// What a target means.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resolved<'a> {
    /// The step that found it.
    pub(super) step: Step,
    /// Among whom to choose.
    pub(super) among: Among<'a>,
    /// Only these nodes; `None`: all.
    pub(super) nodes: Option<Vec<PeerId>>,
}

/// Among whom to choose.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Among<'a> {
    /// These entries, which bear the name.
    Entries(&'a [EntryId]),
    /// All that an alias lets through.
    Alias(&'a str, &'a Alias),
    /// All.
    All,
}

/// Finds out what the target means.
///
/// # Errors
///
/// When it means nothing: [`NoRoute::UnknownModel`] or [`NoRoute::UnknownNode`], with what looks like it.
pub(super) fn resolve<'a>(
    target: &Target,
    snapshot: &'a Snapshot,
    aliases: &'a Aliases,
) -> Result<Resolved<'a>, NoRoute> {
    let name = match target {
        Target::Auto => return Ok(Resolved { step: Step::Auto, among: Among::All, nodes: None }),
        Target::Named(name) => name.trim(),
    };
    let exact = snapshot.by_model(name);
    if !exact.is_empty() {
        return Ok(Resolved { step: Step::Model, among: Among::Entries(exact), nodes: None });
    }
    let node_error = match name.rsplit_once('@') {
        Some((model, node)) if !model.is_empty() && !node.is_empty() => {
            match on_node(model, node, name, snapshot, aliases) {
                Ok(resolved) => return Ok(resolved),
                Err(error) => Some(error),
            }
        }
        _ => None,
    };
    if let Some((step, among)) = without_node(name, snapshot, aliases) {
        return Ok(Resolved { step, among, nodes: None });
    }
    Err(node_error.unwrap_or_else(|| unknown_model(name, snapshot, aliases)))
}

/// A name without a node: model, project, alias, `auto`.
fn without_node<'a>(name: &str, snapshot: &'a Snapshot, aliases: &'a Aliases) -> Option<(Step, Among<'a>)> {
    let model = snapshot.by_model(name);
    if !model.is_empty() {
        return Some((Step::Model, Among::Entries(model)));
    }
    let project = snapshot.by_project(name);
    if !project.is_empty() {
        return Some((Step::Project, Among::Entries(project)));
    }
    if let Some((name, alias)) = aliases.get(name) {
        return Some((Step::Alias, Among::Alias(name, alias)));
    }
    name.eq_ignore_ascii_case("auto").then_some((Step::Auto, Among::All))
}

fn on_node<'a>(
    model: &str,
    node: &str,
    whole: &str,
    snapshot: &'a Snapshot,
    aliases: &'a Aliases,
) -> Result<Resolved<'a>, NoRoute> {
    let Some((_, among)) = without_node(model, snapshot, aliases) else {
        return Err(unknown_model(whole, snapshot, aliases));
    };
    let nodes = snapshot.nodes_named(node);
    if nodes.is_empty() {
        let near = snapshot.adverts().values().map(|advert| advert.name.clone()).take(NEAR).collect();
        return Err(NoRoute::UnknownNode { name: node.to_owned(), near });
    }
    if let Among::Entries(ids) = among {
        let entries = || ids.iter().filter_map(|id| snapshot.entry(*id));
        if !entries().any(|entry| nodes.contains(&entry.node)) {
            // The model is there, but not on that node: say where it is.
            let near = entries().map(|entry| format!("{model}@{}", entry.node_name)).take(NEAR).collect();
            return Err(NoRoute::UnknownModel { name: whole.to_owned(), near });
        }
    }
    Ok(Resolved { step: Step::Node, among, nodes: Some(nodes) })
}

fn unknown_model(name: &str, snapshot: &Snapshot, aliases: &Aliases) -> NoRoute {
    let mut near = snapshot.near_names(name, NEAR);
    for alias in aliases.near(name) {
        if near.len() < NEAR && !near.iter().any(|known| known == alias) {
            near.push(alias.to_owned());
        }
    }
    NoRoute::UnknownModel { name: name.to_owned(), near }
}
