//! `atmosphere invite --nearby` and `atmosphere join CODE`: a spoken code between two machines of one network, and a
//! question on both screens.

use std::path::Path;

use serde_json::json;
use tokio::sync::oneshot;

use super::args::{InviteArgs, JoinArgs};
use super::client::{Client, parse};
use super::error::CliError;
use super::meshes::{Offline, offline};
use super::output::{Output, name, short_id};
use super::shapes::{Paired, Pairing};
use crate::config::machine_name;
use crate::mesh::{self, ANSWER_LIFE, Code, EntryError, KnockError, Nearby, NearbyError, Seed};

/// Offers a code, and follows what comes of it.
pub(super) async fn offer(args: &InviteArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    if args.uses.is_some_and(|uses| uses != 1) {
        return Err(CliError::Usage(
            "a spoken code is for one machine; leave out --uses, or leave out --nearby".into(),
        ));
    }
    let client = Client::new(&args.client)?;
    let wanted = json!({"expires": args.expires, "role": args.role});
    let body = client.post("/v1/mesh/pair", &wanted).await?;
    let pairing = parse::<Paired>(&client, &body)?.pairing;
    let mut screen = Screen { json: args.client.json, yes: args.yes, output };
    if screen.json {
        screen.output.json(&body)?;
        screen.output.out.flush()?;
    } else {
        let code = name(pairing.code.as_deref().unwrap_or_default());
        if screen.output.look.terminal {
            let shown = screen.output.bold(&code);
            screen.say(&format!("The code: {shown}\n"))?;
        } else {
            screen.output.line(&code)?;
            screen.output.out.flush()?;
        }
        screen
            .say("It lets one machine of this network in, once both screens show the same number and both say yes.")?;
        screen.say(&format!("On the other machine:\n  atmosphere join {code}"))?;
        screen.say("Waiting for it; Ctrl-C takes the code back.")?;
    }
    let pairing = follow(&client, pairing, &mut screen).await?;
    let who = pairing.who();
    let (mesh, role) = (name(pairing.mesh.as_deref().unwrap_or_default()), pairing.role.unwrap_or_default());
    if screen.json { Ok(()) } else { screen.say(&format!("{who} is in the mesh {mesh} as {}", name(&role))) }
}

/// Joins with a code: the running node, or for the next start when none runs.
pub(super) async fn join(args: &JoinArgs, code: &Code, output: &mut Output<'_>) -> Result<(), CliError> {
    let seeds = args.peers.iter().map(|peer| peer.parse::<Seed>()).collect::<Result<Vec<_>, _>>();
    let seeds = seeds.map_err(|error| CliError::Usage(error.to_string()))?;
    let mut screen = Screen { json: args.client.json, yes: args.yes, output };
    if let Some(stopped) = offline(&args.client)? {
        return by_itself(args, &stopped, code, seeds, &mut screen).await;
    }
    let client = Client::new(&args.client)?;
    let body = client.post("/v1/mesh/pair", &json!({"code": code.to_string(), "peers": args.peers})).await?;
    let pairing = parse::<Paired>(&client, &body)?.pairing;
    if screen.json {
        screen.output.json(&body)?;
    } else {
        screen.say("looking for the machine that shows the code")?;
    }
    let pairing = follow(&client, pairing, &mut screen).await?;
    let mesh = screen.output.bold(&name(pairing.mesh.as_deref().unwrap_or_default()));
    let role = name(&pairing.role.unwrap_or_default());
    if screen.json { Ok(()) } else { Ok(screen.output.line(format!("joined the mesh {mesh} as {role}"))?) }
}

/// Where the person looks, and who answers for them.
struct Screen<'a, 'b> {
    json: bool,
    yes: bool,
    output: &'a mut Output<'b>,
}

impl Screen<'_, '_> {
    /// Tells the person something at once. Where nobody looks, it is no part of the output.
    fn say(&mut self, text: &str) -> Result<(), CliError> {
        if self.output.look.terminal && !self.json {
            self.output.line(text)?;
            self.output.out.flush()?;
        } else {
            self.output.note(text);
            let _ = self.output.err.flush();
        }
        Ok(())
    }

    /// Begins to ask the person, without holding up what else happens. `None`: there is nobody.
    fn ask(&mut self, who: &str, what: &str, check: &str) -> Result<oneshot::Receiver<Option<bool>>, CliError> {
        self.say(&format!("\n{who} has the same code. Both screens must show this number:  {check}"))?;
        let (tell, told) = oneshot::channel();
        if self.yes {
            // Nobody can have stopped waiting yet.
            let _ = tell.send(Some(true));
            return Ok(told);
        }
        self.say(&format!("Is it the same there? {what} [y/N]"))?;
        // A thread of its own: whoever reads stdin cannot be stopped, and must not hold up the end of the program.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            let yes = matches!(line.trim().to_lowercase().as_str(), "y" | "yes");
            let _ = tell.send(matches!(read, Ok(1..)).then_some(yes));
        });
        Ok(told)
    }

    /// What the person said; without one it is a no, and how to do it otherwise is said.
    fn heard(&mut self, answer: Result<Option<bool>, oneshot::error::RecvError>) -> Result<bool, CliError> {
        match answer {
            Ok(Some(yes)) => Ok(yes),
            Ok(None) | Err(_) => {
                self.say("nobody answers on stdin, which counts as a no; a script says --yes")?;
                Ok(false)
            }
        }
    }
}

impl Pairing {
    /// The other machine, for a person.
    fn who(&self) -> String {
        let id = self.node.as_deref().unwrap_or_default();
        let id = name(short_id(id));
        match self.node_name.as_deref().map(name).filter(|name| !name.is_empty()) {
            Some(name) => format!("{name} ({id})"),
            None => format!("the node {id}"),
        }
    }

    fn question(&self) -> String {
        let (mesh, role) = (self.mesh.as_deref().unwrap_or_default(), self.role.as_deref().unwrap_or_default());
        if self.side == "offers" {
            format!("Let it into the mesh {} as {}?", name(mesh), name(role))
        } else {
            format!("Join its mesh {} as {}?", name(mesh), name(role))
        }
    }
}

/// Follows a pairing of the running node to its end, and asks the person when it is time.
async fn follow(client: &Client, mut pairing: Pairing, screen: &mut Screen<'_, '_>) -> Result<Pairing, CliError> {
    let path = format!("/v1/mesh/pair/{}", pairing.id);
    let mut question: Option<oneshot::Receiver<Option<bool>>> = None;
    let mut asked = false;
    loop {
        match pairing.stage.as_str() {
            "joined" => return Ok(pairing),
            "ended" => {
                let why = pairing.problem.as_deref().map_or_else(|| "no reason was given".to_owned(), name);
                return Err(CliError::Failed(why));
            }
            "asking" if !asked => {
                asked = true;
                let check = name(pairing.check.as_deref().unwrap_or_default());
                question = Some(screen.ask(&pairing.who(), &pairing.question(), &check)?);
            }
            _ => {}
        }
        let look = format!("{path}?after={}", pairing.revision);
        let answered = async {
            match &mut question {
                Some(question) => question.await,
                None => std::future::pending().await,
            }
        };
        let body = tokio::select! {
            body = client.get(&look) => body?,
            answer = answered => {
                question = None;
                let yes = screen.heard(answer)?;
                if yes {
                    screen.say("waiting for the other side")?;
                }
                client.post(&format!("{path}/answer"), &json!({ "yes": yes })).await?
            }
            _ = tokio::signal::ctrl_c() => {
                client.post(&format!("{path}/answer"), &json!({"yes": false})).await?;
                return Err(CliError::Failed("taken back".into()));
            }
        };
        let next = parse::<Paired>(client, &body)?.pairing;
        if next.revision == pairing.revision {
            continue;
        }
        if screen.json {
            screen.output.json(&body)?;
            screen.output.out.flush()?;
        }
        if next.attempts_left < pairing.attempts_left && next.stage == "waiting" {
            let left = next.attempts_left.unwrap_or_default();
            screen.say(&format!("somebody tried a wrong code; it is void after {left} more"))?;
        }
        if next.side == "offers" && next.far_agreed && !pairing.far_agreed {
            screen.say("the other side said yes")?;
        }
        pairing = next;
    }
}

/// No node runs: pairs, and leaves the membership for the next start.
async fn by_itself(
    args: &JoinArgs,
    stopped: &Offline,
    code: &Code,
    seeds: Vec<Seed>,
    screen: &mut Screen<'_, '_>,
) -> Result<(), CliError> {
    let nearby = Nearby { mdns: seeds.is_empty(), seeds };
    screen.say("looking for the machine that shows the code")?;
    let own_name = machine_name();
    let met = mesh::meet(&stopped.identity, code, &own_name, &nearby).await.map_err(|error| match error {
        NearbyError::Nobody { .. } => CliError::NotReachable(error.to_string()),
        _ => CliError::Failed(error.to_string()),
    })?;
    let pairing = Pairing {
        side: "joins".into(),
        node: Some(met.node.to_base58()),
        node_name: Some(met.node_name.clone()),
        mesh: Some(met.token.mesh_name.clone()),
        role: Some(met.token.role.to_string()),
        ..Pairing::default()
    };
    let told = screen.ask(&pairing.who(), &pairing.question(), &met.check)?;
    let answer = tokio::select! {
        answer = tokio::time::timeout(ANSWER_LIFE, told) => match answer {
            Ok(answer) => screen.heard(answer)?,
            Err(_) => false,
        },
        _ = tokio::signal::ctrl_c() => false,
    };
    if !answer {
        met.decline(&stopped.identity).await;
        return Err(CliError::Failed("this side said no, or nothing in time; nothing was joined".into()));
    }
    screen.say("waiting for the other side")?;
    let closed = come_in(Some(stopped.data_dir.path()), stopped, &met).await?;
    if screen.json {
        let mesh = json!({"id": closed.mesh().to_hex(), "name": closed.name(), "closed": true, "membership": {"role": closed.role()}});
        let node = stopped.identity.peer_id().to_base58();
        return Ok(screen.output.json(json!({"mesh": mesh, "joined": node, "nodes": []}).to_string().as_bytes())?);
    }
    let mesh = screen.output.bold(&name(closed.name()));
    screen.output.line(format!("joined the mesh {mesh} as {}", closed.role()))?;
    Ok(screen.output.line(format!("the next `atmosphere start{}` is in it", stopped.flag(&args.client)))?)
}

/// Presents the invite until the person at the other machine has said yes or no.
async fn come_in(dir: Option<&Path>, stopped: &Offline, met: &mesh::Introduction) -> Result<mesh::Closed, CliError> {
    let deadline = tokio::time::Instant::now() + ANSWER_LIFE;
    loop {
        let entered = tokio::select! {
            entered = mesh::enter(dir, &stopped.identity, &met.token) => entered,
            _ = tokio::signal::ctrl_c() => {
                met.decline(&stopped.identity).await;
                return Err(CliError::Failed("taken back".into()));
            }
        };
        match entered {
            Ok(closed) => return Ok(closed),
            Err(EntryError::Knock(KnockError::NotYet(_))) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(mesh::ASK_AGAIN).await;
            }
            Err(error @ EntryError::Knock(KnockError::Unreachable { .. })) => {
                return Err(CliError::NotReachable(error.to_string()));
            }
            Err(error) => return Err(CliError::Failed(error.to_string())),
        }
    }
}
