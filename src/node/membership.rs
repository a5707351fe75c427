//! Which mesh a node belongs to when it starts; and an invite that it keeps in a file for others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::StartError;
use super::stop::Stop;
use crate::config::{Config, DataDir};
use crate::mesh::{self, Closed, EntryError, Identity, InviteOptions, KnockError, Role, Seed, Token};

/// How often a mesh is knocked at that does not answer, and a file is looked for that is not there.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a node waits for a new invite in the file, when the mesh does not take the one that is there.
const REFUSED_PATIENCE: Duration = Duration::from_secs(60);

/// Largest file of seeds: as many invites as anybody has.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// How long an invite in a file can be used. It is made anew at half of that, and at every start.
const STANDING_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Machines that can join with one invite in a file.
const STANDING_USES: u32 = 1000;

/// How often it is looked whether the invite in a file is still the right one.
const STANDING_LOOK: Duration = Duration::from_secs(5);

/// The mesh that a node belongs to.
pub(super) struct Belongs {
    /// The closed one, when it is one.
    pub closed: Option<Closed>,
    /// Seeds that came by a file.
    pub seeds: Vec<Seed>,
}

/// Finds the mesh that this node belongs to: the closed one that it is a member of, a new one that it makes, or one that
/// it has an invite to, at which it knocks until it is let in; or else the open one. `None`: it was stopped meanwhile.
pub(super) async fn find(
    config: &Config,
    data_dir: &DataDir,
    identity: &Identity,
    stop: &Stop,
) -> Result<Option<Belongs>, StartError> {
    let dir = data_dir.path();
    let existing = Closed::open(dir, identity)?;
    if let Some(closed) = &existing
        && config.mesh.is_named()
        && config.mesh.name != closed.name()
    {
        return Err(StartError::Setting {
            field: "mesh.name".into(),
            message: format!(
                "this node is a member of the closed mesh {}, and shall be in {}: leave out --mesh, or leave the closed mesh \
                 first (atmosphere mesh leave)",
                closed.name(),
                config.mesh.name
            ),
        });
    }
    let member = existing.as_ref().is_some_and(|closed| closed.own().denied.is_none());
    let mut belongs = Belongs { closed: existing, seeds: Vec::new() };
    if config.mesh.private && belongs.closed.is_none() {
        let closed = Closed::create(Some(dir), identity, &config.mesh.name)?;
        tracing::info!(
            mesh = closed.name(),
            "made a closed mesh; its root key is in the data directory: keep a copy of it"
        );
        belongs.closed = Some(closed);
    } else if !config.invites.is_empty() || config.seed_peers_file.is_some() {
        let entering = enter(config, dir, identity, member, &mut belongs);
        tokio::select! {
            entered = entering => entered?,
            () = stop.requested() => return Ok(None),
        }
    }
    if let Some(closed) = &belongs.closed {
        closed.set_lifetime(config.mesh.membership);
    }
    Ok(Some(belongs))
}

/// Knocks with each invite until one is honoured. Who is a member already needs none.
async fn enter(
    config: &Config,
    dir: &Path,
    identity: &Identity,
    member: bool,
    belongs: &mut Belongs,
) -> Result<(), StartError> {
    let mut pause = PAUSE_MIN;
    let mut refused: Option<(tokio::time::Instant, EntryError)> = None;
    let mut said = String::new();
    let mut say = |text: String| {
        if text != said {
            tracing::warn!("{text}; it is tried further");
            said = text;
        }
    };
    loop {
        let mut invites = config.invites.clone();
        let mut waiting = false;
        if let Some(path) = &config.seed_peers_file {
            match read_file(path)? {
                Some((seeds, tokens)) => {
                    belongs.seeds = seeds;
                    invites.extend(tokens);
                }
                None if member => {}
                None => {
                    waiting = true;
                    say(format!("there is no seed and no invite in {} yet", path.display()));
                }
            }
        }
        if invites.is_empty() && !waiting {
            return Ok(());
        }
        for token in &invites {
            if let Some(closed) = belongs.closed.as_ref().filter(|_| member) {
                if closed.mesh() != token.mesh() {
                    return Err(EntryError::Elsewhere(closed.name().to_owned()).into());
                }
                // It was let in by it once; by now it may have run out.
                return Ok(());
            }
            match mesh::enter(Some(dir), identity, token).await {
                Ok(closed) => {
                    tracing::info!(mesh = closed.name(), role = %closed.role(), "a member of a closed mesh");
                    belongs.closed = Some(closed);
                    return Ok(());
                }
                Err(EntryError::Knock(error @ KnockError::Unreachable { .. })) => say(error.to_string()),
                // In a file there may be a better one soon; one that was typed stays as it is.
                Err(error @ EntryError::Knock(_)) if config.seed_peers_file.is_some() => {
                    say(error.to_string());
                    refused.get_or_insert((tokio::time::Instant::now(), error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if refused.as_ref().is_some_and(|(since, _)| since.elapsed() > REFUSED_PATIENCE) {
            return Err(refused.map_or(EntryError::Stopped, |(_, error)| error).into());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        if waiting {
            pause = PAUSE_MIN;
        }
    }
}

/// What a file of seeds holds.
type Listed = (Vec<Seed>, Vec<Token>);

/// The seeds and invites of a file; `None` when it is not there yet, or empty.
fn read_file(path: &Path) -> Result<Option<Listed>, StartError> {
    let wrong = |message: String| StartError::Setting { field: "seed_peers_file".into(), message };
    let text = match std::fs::metadata(path) {
        Ok(about) if about.len() > MAX_FILE_BYTES => {
            return Err(wrong(format!("{} is too large for a list of seeds", path.display())));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        _ => std::fs::read_to_string(path)
            .map_err(|error| wrong(format!("cannot read {}: {error} (may this user read it?)", path.display())))?,
    };
    let (mut seeds, mut tokens) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |error: &dyn std::fmt::Display| wrong(format!("{} line {}: {error}", path.display(), number + 1));
        if Token::is_like(line) {
            tokens.push(line.parse().map_err(|error: mesh::TokenError| at(&error))?);
        } else {
            seeds.push(line.parse().map_err(|error: mesh::SeedError| at(&error))?);
        }
    }
    Ok((!seeds.is_empty() || !tokens.is_empty()).then_some((seeds, tokens)))
}

/// Keeps an invite in a file, for machines that share it: made at once, and anew long before it runs out.
pub(super) async fn keep_invite(mesh: mesh::Handle, path: PathBuf) {
    let options = InviteOptions { life: STANDING_LIFE, uses: STANDING_USES, role: Role::Member };
    let mut made: Option<(mesh::Token, tokio::time::Instant)> = None;
    let mut said = false;
    loop {
        let is_right = made.as_ref().is_some_and(|(token, at)| {
            at.elapsed() < STANDING_LIFE / 2
                && mesh.closed().is_some_and(|closed| closed.mesh() == token.mesh())
                && path.exists()
        });
        if !is_right && mesh.closed().is_some() {
            match mesh.invite(options).await {
                Ok(invited) => {
                    let text = format!("# An invite to the mesh {}.\n{}\n", invited.token.mesh_name, invited.token);
                    let to = path.clone();
                    let written = tokio::task::spawn_blocking(move || mesh::write_private(&to, text.as_bytes())).await;
                    match written {
                        Ok(Ok(())) => {
                            tracing::info!(path = %path.display(), "keeping an invite in a file");
                            made = Some((invited.token, tokio::time::Instant::now()));
                        }
                        Ok(Err(error)) if !said => {
                            tracing::warn!(path = %path.display(), %error, "cannot write the invite (may this user write there?)");
                            said = true;
                        }
                        _ => {}
                    }
                }
                Err(error) if !said => {
                    tracing::warn!(%error, "cannot keep an invite in a file");
                    said = true;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(STANDING_LOOK).await;
    }
}
