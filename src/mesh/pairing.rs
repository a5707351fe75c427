//! What the owner of a running node does with spoken codes: offer one, join with one, look on, answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::entry::{EntryError, blocking};
use super::handle::Handle;
use super::knock::KnockError;
use super::member::{MemberError, Role};
use super::nearby::{Introduction, Nearby, meet};
use super::pair::{ANSWER_LIFE, Code, MAX_CODE_LIFE, PairSide, PairStage, PairView};

/// How often the other machine is asked whether its person has said yes.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A look at a pairing notices at least this often that a time has run out.
const TICK: Duration = Duration::from_millis(500);

/// What a running node's attempt to join with a spoken code needs.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The code.
    pub code: Code,
    /// Where to look.
    pub nearby: Nearby,
    /// What this node calls itself.
    pub own_name: String,
    /// How long memberships last that this node may issue, once it is in.
    pub lifetime: Duration,
}

impl Handle {
    /// Offers a spoken code to a nearby machine. The code is void after a few wrong ones, and lets one machine in.
    ///
    /// # Errors
    ///
    /// When the mesh is open, this node is no admin, or the time makes no sense.
    pub fn offer_pairing(&self, role: Role, life: Duration, own_name: &str) -> Result<PairView, MemberError> {
        let closed = self.closed().ok_or(MemberError::Open)?;
        closed.may_issue()?;
        if life < Duration::from_secs(1) || life > MAX_CODE_LIFE {
            let most = MAX_CODE_LIFE.as_secs() / 60;
            return Err(MemberError::Bad(format!("a spoken code can be used for one second to {most} minutes")));
        }
        Ok(closed.desk().offer(role, life, own_name.to_owned()))
    }

    /// Begins to join with a spoken code; what was begun before is given up.
    ///
    /// # Errors
    ///
    /// When the node is a member of a closed mesh.
    pub fn join_nearby(&self, attempt: Attempt) -> Result<PairView, EntryError> {
        if let Some(closed) = self.closed().filter(|closed| closed.own().denied.is_none()) {
            return Err(EntryError::Elsewhere(closed.name().to_owned()));
        }
        let view = PairView {
            id: format!("{:016x}", rand::random::<u64>()),
            revision: 1,
            side: PairSide::Joins,
            stage: PairStage::Waiting,
            code: None,
            mesh: None,
            role: None,
            node: None,
            node_name: None,
            check: None,
            far_agreed: false,
            attempts_left: None,
            expires_ms: in_ms(Duration::from_secs(15)),
            problem: None,
        };
        let id = view.id.clone();
        let answered = self.shared.joins.begin(view.clone());
        let task = tokio::spawn(Box::pin(self.clone().carry_out(id.clone(), attempt, answered)));
        self.shared.joins.runs(&id, task.abort_handle());
        Ok(view)
    }

    /// The pairing with this id, once its revision is greater than `after` or nothing has changed for so long. `None`
    /// when there is none, or no longer.
    pub async fn pairing(&self, id: &str, after: u64, wait: Duration) -> Option<PairView> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut joins = self.shared.joins.watch();
        let mut desk = self.closed().map(|closed| closed.desk().watch());
        loop {
            let view = self.pairing_now(id)?;
            let now = tokio::time::Instant::now();
            if view.revision > after || view.stage.is_over() || now >= deadline {
                return Some(view);
            }
            let offers = async {
                match &mut desk {
                    Some(desk) => desk.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = joins.changed() => {}
                goes_on = offers => if !goes_on { desk = None },
                () = tokio::time::sleep_until(deadline.min(now + TICK)) => {}
            }
        }
    }

    fn pairing_now(&self, id: &str) -> Option<PairView> {
        self.shared.joins.view(id).or_else(|| self.closed()?.desk().view(id))
    }

    /// The owner's yes or no. A no takes back what has begun. Returns the pairing after it; `None` when there is none with
    /// this id.
    ///
    /// # Errors
    ///
    /// When a yes cannot be carried out.
    pub async fn answer_pairing(&self, id: &str, yes: bool) -> Result<Option<PairView>, MemberError> {
        if self.shared.joins.answer(id, yes) {
            return Ok(self.shared.joins.view(id));
        }
        let Some(closed) = self.closed() else { return Ok(None) };
        let Some(pass) = closed.desk().answer(id, yes) else { return Ok(None) };
        if let Some(pass) = pass {
            let admitting = closed.clone();
            if let Err(error) = blocking(move || admitting.admit(&pass)).await {
                closed.desk().fail(id, error.to_string());
                return Err(error);
            }
        }
        Ok(closed.desk().view(id))
    }

    async fn carry_out(self, id: String, attempt: Attempt, answered: oneshot::Receiver<bool>) {
        let joins = &self.shared.joins;
        let found = meet(&self.shared.identity, &attempt.code, &attempt.own_name, &attempt.nearby).await;
        let met = match found {
            Ok(met) => met,
            Err(error) => {
                tracing::warn!(%error, "not joined with a spoken code");
                return joins.end(&id, error.to_string());
            }
        };
        tracing::info!(node = %met.node, mesh = met.token.mesh_name, "a nearby machine shows the code; both sides are asked");
        joins.change(&id, |view| {
            view.stage = PairStage::Asking;
            view.mesh = Some(met.token.mesh_name.clone());
            view.role = Some(met.token.role);
            view.node = Some(met.node);
            view.node_name = Some(met.node_name.clone());
            view.check = Some(met.check.clone());
            view.expires_ms = in_ms(ANSWER_LIFE);
        });
        match tokio::time::timeout(ANSWER_LIFE, answered).await {
            Ok(Ok(true)) => joins.change(&id, |view| view.stage = PairStage::Agreed),
            answer => {
                met.decline(&self.shared.identity).await;
                let why = if answer.is_ok() { "this side said no" } else { "nobody here said yes in time" };
                tracing::info!(node = %met.node, reason = why, "not joined with a spoken code");
                return joins.end(&id, why.into());
            }
        }
        match self.come_in(&met).await {
            Ok(()) => {
                if let Some(closed) = self.closed() {
                    closed.set_lifetime(attempt.lifetime);
                }
                tracing::info!(mesh = met.token.mesh_name, role = %met.token.role, "joined with a spoken code");
                joins.change(&id, |view| (view.stage, view.far_agreed) = (PairStage::Joined, true));
            }
            Err(error) => {
                tracing::warn!(%error, "not joined with a spoken code");
                joins.end(&id, error.to_string());
            }
        }
    }

    /// Presents the invite until the person at the other machine has said yes or no, or neither in time.
    async fn come_in(&self, met: &Introduction) -> Result<(), EntryError> {
        let deadline = tokio::time::Instant::now() + ANSWER_LIFE;
        loop {
            match self.enter(&met.token).await {
                Err(EntryError::Knock(KnockError::NotYet(_))) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                entered => return entered.map(drop),
            }
        }
    }
}

/// So long from now, Unix milliseconds.
fn in_ms(life: Duration) -> u64 {
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + life;
    u64::try_from(then.as_millis()).unwrap_or(u64::MAX)
}
