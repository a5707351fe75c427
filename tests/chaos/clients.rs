//! The clients, and the judge of every answer that they get.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use crate::dice::Dice;
use crate::schedule::{BACKENDS, Door, REQUEST_TIMEOUT};
use crate::strain::Strain;
use crate::support::{Events, chat, chat_stream};

/// What may be added to a request's deadline before it counts as missed; more on a machine under strain.
const MARGIN: Duration = Duration::from_secs(3);
/// Longest time for which the node that is asked may itself stand still.
const FROZEN: Duration = Duration::from_secs(12);

/// What clients ask for besides exact names.
const ANYBODY: [&str; 4] = ["auto", "best-chat", "fast", "best-code"];
const PROMPTS: [&str; 4] =
    ["hello", "How do I care for my llama?", "write a quicksort in Rust", "Summarise: the quick brown fox jumps."];

/// What came of all requests.
#[derive(Debug, Default)]
pub struct Tally {
    outcomes: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

impl Tally {
    fn count(&self, outcome: &str) {
        *self.outcomes.lock().entry(outcome.to_owned()).or_default() += 1;
    }

    fn of(&self, outcome: &str) -> usize {
        self.outcomes.lock().get(outcome).copied().unwrap_or_default()
    }

    /// Whole answers.
    pub fn answered(&self) -> usize {
        self.of(ANSWERED)
    }

    /// Requests that the client itself gave up.
    pub fn left(&self) -> usize {
        self.of(LEFT)
    }

    /// Requests.
    pub fn asked(&self) -> usize {
        self.outcomes.lock().values().sum()
    }

    /// What must never be.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().clone()
    }

    /// One line.
    pub fn summary(&self) -> String {
        let outcomes: Vec<String> =
            self.outcomes.lock().iter().map(|(what, count)| format!("{what} {count}")).collect();
        let slowest = self.slowest.lock().as_secs_f64();
        format!("{} requests: {}; the slowest took {slowest:.1} s", self.asked(), outcomes.join(", "))
    }
}

const ANSWERED: &str = "answered";
const LEFT: &str = "left by the client";
/// The node that was asked was itself killed, ended or frozen.
const DOOR_LOST: &str = "lost with the node asked";

/// One client, who asks one thing after the other.
pub struct Client {
    number: u64,
    doors: Vec<Arc<Door>>,
    dice: Dice,
    tally: Arc<Tally>,
    strain: Arc<Strain>,
    http: reqwest::Client,
}

/// What is asked, and who may answer.
#[derive(Debug, Clone)]
struct Question {
    model: String,
    /// Names of backends; the model that each must be asked for.
    holders: Vec<(&'static str, Option<&'static str>)>,
    prompt: &'static str,
    streamed: bool,
    /// Events after which the client leaves.
    leaves_after: Option<u64>,
}

/// How a request ended.
enum Outcome {
    Answered,
    Left,
    /// An error with a cause, and which.
    Refused(String),
    /// The transport failed.
    Broken(String),
    /// What must never be.
    Fault(String),
}

impl Client {
    /// A client with its own connections.
    pub fn new(number: u64, doors: Vec<Arc<Door>>, dice: Dice, tally: Arc<Tally>, strain: Arc<Strain>) -> Self {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(2)).build();
        Self { number, doors, dice, tally, strain, http: http.expect("a client needs nothing") }
    }

    /// Asks until it is told to end.
    pub async fn run(mut self, ended: Arc<AtomicBool>) {
        let mut asked = 0;
        while !ended.load(Ordering::Relaxed) {
            let door = self.door();
            let question = self.question();
            asked += 1;
            let id = format!("client-{}-{asked}", self.number);
            self.ask(&id, &door, &question).await;
            tokio::time::sleep(Duration::from_millis(self.dice.between(20, 300))).await;
        }
    }

    /// Mostly one that is well: knocking at the dead shows little.
    fn door(&mut self) -> Arc<Door> {
        let chosen = Arc::clone(self.dice.one_of(&self.doors));
        let again = Arc::clone(self.dice.one_of(&self.doors));
        if chosen.calm().is_some() { chosen } else { again }
    }

    fn question(&mut self) -> Question {
        let streamed = self.dice.per_cent(60);
        let leaves_after = (streamed && self.dice.per_cent(15)).then(|| self.dice.between(1, 20));
        let prompt = *self.dice.one_of(&PROMPTS);
        let (model, holders) = match self.dice.between(0, 10) {
            0..=2 => ((*self.dice.one_of(&ANYBODY)).to_owned(), BACKENDS.map(|(name, _)| (name, None)).to_vec()),
            3..=4 => {
                let (name, models) = *self.dice.one_of(&BACKENDS);
                let model = *self.dice.one_of(models);
                (format!("{model}@{name}"), vec![(name, Some(model))])
            }
            _ => {
                let (_, models) = *self.dice.one_of(&BACKENDS);
                let model = *self.dice.one_of(models);
                let holders = BACKENDS.iter().filter(|(_, models)| models.contains(&model));
                (model.to_owned(), holders.map(|(name, _)| (*name, Some(model))).collect())
            }
        };
        Question { model, holders, prompt, streamed, leaves_after }
    }

    async fn ask(&self, id: &str, door: &Arc<Door>, question: &Question) {
        let calm = door.calm();
        let began = Instant::now();
        // A task of its own: a reader that panics over an answer is a fault of that answer.
        let task = tokio::spawn(ask(self.http.clone(), id.to_owned(), door.url.clone(), question.clone()));
        // Whether it was too late is judged afterwards; this is only not to wait for ever.
        let limit = (REQUEST_TIMEOUT + MARGIN + FROZEN) * 2;
        let outcome = match tokio::time::timeout(limit, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Fault(format!("the reader failed: {error}")),
            Err(_) => Outcome::Fault("it hangs".to_owned()),
        };
        let took = began.elapsed();
        let undisturbed = calm.is_some() && calm == door.calm();
        if undisturbed {
            let mut slowest = self.tally.slowest.lock();
            *slowest = (*slowest).max(took);
        }
        let fault = match outcome {
            _ if undisturbed && took > REQUEST_TIMEOUT + self.strain.allows(MARGIN, began) => {
                Some("it took longer than its deadline".to_owned())
            }
            Outcome::Answered => {
                self.tally.count(ANSWERED);
                None
            }
            Outcome::Left => {
                self.tally.count(LEFT);
                None
            }
            Outcome::Refused(what) => {
                self.tally.count(&what);
                None
            }
            Outcome::Broken(what) if undisturbed => Some(what),
            Outcome::Broken(_) => {
                self.tally.count(DOOR_LOST);
                None
            }
            Outcome::Fault(what) => Some(what),
        };
        if let Some(what) = fault {
            self.tally.count("FAULT");
            let how = if undisturbed { "left alone" } else { "disturbed" };
            let text =
                format!("{id} at {} ({how}), after {:.1} s: {what}; {question:?}", door.name, took.as_secs_f64());
            println!("chaos: FAULT {text}");
            self.tally.faults.lock().push(text);
        }
    }
}

async fn ask(http: reqwest::Client, id: String, url: String, question: Question) -> Outcome {
    let make = if question.streamed { chat_stream } else { chat };
    let body = make(&question.model, question.prompt);
    let request = http.post(format!("{url}/v1/chat/completions")).header("x-request-id", id).json(&body);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Outcome::Broken(format!("no answer: {error:?}")),
    };
    let status = response.status().as_u16();
    if status != 200 {
        return match response.text().await {
            Ok(text) => refusal(status, &text),
            Err(error) => Outcome::Broken(format!("{status} without a body: {error:?}")),
        };
    }
    if question.streamed { stream(response, &question).await } else { plain(response, &question).await }
}

async fn plain(response: reqwest::Response, question: &Question) -> Outcome {
    let text = match response.text().await {
        Ok(text) => text,
        Err(error) => return Outcome::Broken(format!("200 with half a body: {error:?}")),
    };
    let Ok(answer) = serde_json::from_str::<Value>(&text) else {
        return Outcome::Fault(format!("200 with what is no JSON: {text:?}"));
    };
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    judge(content, answer["model"].as_str(), answer["choices"][0]["finish_reason"].as_str(), question)
}

async fn stream(response: reqwest::Response, question: &Question) -> Outcome {
    let mut events = Events::of(response);
    if let Some(after) = question.leaves_after {
        for _ in 0..after {
            match events.next().await {
                Some(event) if event != "[DONE]" => {}
                _ => break,
            }
        }
        return Outcome::Left;
    }
    let whole = events.rest().await;
    if let Some(error) = whole.error() {
        if whole.dones > 0 {
            return Outcome::Fault(format!("an error event and then [DONE]: {error}"));
        }
        return match error["message"].as_str() {
            Some(message) if !message.is_empty() => Outcome::Refused("error in the stream".to_owned()),
            _ => Outcome::Fault(format!("an error event without a message: {error}")),
        };
    }
    if whole.broken {
        return Outcome::Broken("the stream broke off without an error event".to_owned());
    }
    if whole.dones != 1 {
        return Outcome::Fault(format!(
            "the stream just stopped: {} [DONE], {} events, {:?}",
            whole.dones,
            whole.events.len(),
            whole.text()
        ));
    }
    let finish = whole.events.iter().find_map(|event| event["choices"][0]["finish_reason"].as_str());
    let model = whole.events.iter().find_map(|event| event["model"].as_str());
    judge(&whole.text(), model, finish, question)
}

/// An answer must be of somebody who has the model, and have every word in its place.
fn judge(content: &str, model: Option<&str>, finish: Option<&str>, question: &Question) -> Outcome {
    let Some((name, words)) = content.split_once(':') else {
        return Outcome::Fault(format!("an answer of nobody: {content:?}"));
    };
    let Some((_, asked)) = question.holders.iter().find(|(holder, _)| *holder == name) else {
        return Outcome::Fault(format!("answered by {name}, who does not have it: {content:?}"));
    };
    let models = BACKENDS.iter().find(|(backend, _)| *backend == name).map(|(_, models)| *models).unwrap_or_default();
    let sound = match (asked, model) {
        (Some(asked), Some(model)) => *asked == model,
        (None, Some(model)) => models.contains(&model),
        (_, None) => false,
    };
    if !sound {
        return Outcome::Fault(format!("{name} was asked for {model:?}"));
    }
    let in_order = words.split_whitespace().enumerate().all(|(index, word)| word == format!("t{index}"));
    if !in_order || finish != Some("stop") {
        return Outcome::Fault(format!("not whole, finish {finish:?}: {content:?}"));
    }
    Outcome::Answered
}

/// An error must say what is wrong, in OpenAI's shape.
fn refusal(status: u16, text: &str) -> Outcome {
    let Ok(body) = serde_json::from_str::<Value>(text) else {
        return Outcome::Fault(format!("{status} with what is no JSON: {text:?}"));
    };
    let error = &body["error"];
    let told = error["message"].as_str().is_some_and(|message| !message.is_empty()) && error["type"].is_string();
    match status {
        404 if error["code"] != "model_not_found" && error["code"] != "node_not_found" => {
            Outcome::Fault(format!("404 of another kind: {body}"))
        }
        404 | 429 | 500 | 502..=504 if told => Outcome::Refused(status.to_string()),
        _ => Outcome::Fault(format!("{status}: {text}")),
    }
}
