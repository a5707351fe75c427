//! Machines that run models, in simulated time: slots that share a processor, a queue, and weights that must be loaded.
//!
//! A machine knows nothing of routing, and the router knows nothing of this: what passes between them is what passes
//! between nodes, the load that a reply carries and the times that the caller measures.

use std::collections::VecDeque;

/// What a machine can do.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: &'static str,
    /// Prompt tokens a second, alone.
    pub prefill: f64,
    /// Answer tokens a second, alone.
    pub decode: f64,
    /// Jobs at once.
    pub slots: usize,
    /// How much each further job slows the others: alone 1, with `k` beside it `1 / (1 + sharing * k)`.
    pub sharing: f64,
    /// Seconds to load the weights, and of idleness after which they are dropped; `None` keeps them for ever.
    pub load: Option<(f64, f64)>,
    /// Seconds of a round trip.
    pub rtt: f64,
}

/// Work of a request.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub prompt_tokens: u32,
    pub answer_tokens: u32,
    /// What the client said of the answer's length.
    pub max_tokens: Option<u32>,
}

/// Seconds to a first token besides the prompt.
const OVERHEAD: f64 = 0.04;

/// A request at a machine.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: u64,
    pub work: Work,
    /// Whether it is one of somebody else's.
    pub foreign: bool,
    /// When it began to be worked on: neither queued nor loading.
    pub since: f64,
    /// Seconds that the weights took while it waited.
    pub loading: Option<f64>,
    pub first_token: Option<f64>,
    /// Jobs that ran beside it when it was accepted.
    pub company: f64,
    prefill_left: f64,
    decode_left: f64,
}

/// How busy a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub running: u32,
    pub queued: u32,
}

/// A machine in simulated time.
#[derive(Debug, Clone)]
pub struct Machine {
    pub spec: Spec,
    now: f64,
    running: Vec<Job>,
    queue: VecDeque<Job>,
    /// In memory; since when it is being loaded; when that is done.
    warm: bool,
    loading: Option<(f64, f64)>,
    idle_since: f64,
    /// Others' jobs that will come, by time.
    foreign: VecDeque<(f64, Work)>,
}

impl Machine {
    pub fn new(spec: Spec, foreign: Vec<(f64, Work)>) -> Self {
        let warm = spec.load.is_none();
        Self {
            spec,
            now: 0.0,
            running: Vec::new(),
            queue: VecDeque::new(),
            warm,
            loading: None,
            idle_since: 0.0,
            foreign: foreign.into(),
        }
    }

    pub fn load(&self) -> Load {
        Load { running: self.running.len() as u32, queued: self.queue.len() as u32 }
    }

    pub fn is_warm(&self) -> bool {
        self.warm
    }

    /// Seconds of work of a job here, alone.
    fn alone(&self, work: Work) -> (f64, f64) {
        let prefill = OVERHEAD + f64::from(work.prompt_tokens) / self.spec.prefill;
        (prefill, f64::from(work.answer_tokens) / self.spec.decode)
    }

    /// A job comes.
    pub fn add(&mut self, id: u64, work: Work, foreign: bool) {
        let (prefill_left, decode_left) = self.alone(work);
        let job = Job {
            id,
            work,
            foreign,
            since: self.now,
            loading: None,
            first_token: None,
            company: self.running.len() as f64,
            prefill_left,
            decode_left,
        };
        self.queue.push_back(job);
        self.admit();
    }

    fn admit(&mut self) {
        while self.running.len() < self.spec.slots {
            let Some(mut job) = self.queue.pop_front() else { return };
            if let (false, Some((seconds, _))) = (self.warm, self.spec.load) {
                let (since, until) = *self.loading.get_or_insert((self.now, self.now + seconds));
                job.since = until;
                job.loading = Some(until - since.max(self.now));
            } else {
                job.since = self.now;
            }
            self.running.push(job);
        }
    }

    fn speed(&self) -> f64 {
        1.0 / (1.0 + self.spec.sharing * (self.running.len().max(1) - 1) as f64)
    }

    /// When something happens here next, if nothing comes.
    pub fn next_event(&self) -> f64 {
        let foreign = self.foreign.front().map_or(f64::INFINITY, |(at, _)| *at);
        if let Some((_, until)) = self.loading {
            return until.min(foreign);
        }
        let speed = self.speed();
        let next = self.running.iter().map(|job| {
            let left = if job.first_token.is_none() { job.prefill_left } else { job.decode_left };
            self.now + left.max(0.0) / speed
        });
        next.fold(foreign, f64::min)
    }

    /// Lets time pass until `now`, at most until the next event; the jobs that are done.
    pub fn advance(&mut self, now: f64) -> Vec<Job> {
        let passed = (now - self.now).max(0.0);
        let speed = self.speed();
        self.now = now;
        let mut done = Vec::new();
        match self.loading {
            Some((_, until)) if now + 1e-9 < until => {}
            Some(_) => (self.loading, self.warm) = (None, true),
            None => {
                for job in &mut self.running {
                    let left = if job.first_token.is_none() { &mut job.prefill_left } else { &mut job.decode_left };
                    *left -= passed * speed;
                    if *left <= 1e-9 && job.first_token.is_none() {
                        job.first_token = Some(now);
                    }
                }
                let mut at = 0;
                while at < self.running.len() {
                    let job = &self.running[at];
                    if job.first_token.is_some_and(|first| first < now || job.decode_left <= 0.0)
                        && job.decode_left <= 1e-9
                    {
                        done.push(self.running.remove(at));
                    } else {
                        at += 1;
                    }
                }
            }
        }
        while self.foreign.front().is_some_and(|(at, _)| *at <= now + 1e-9) {
            if let Some((_, work)) = self.foreign.pop_front() {
                self.add(u64::MAX, work, true);
            }
        }
        self.admit();
        if self.running.is_empty() {
            if let Some((_, idle)) = self.spec.load
                && now - self.idle_since > idle
            {
                self.warm = false;
            }
        } else {
            self.idle_since = now;
        }
        done
    }

    /// What it costs all of ours together, in seconds, if this job comes now and nothing else of ours does; and when it
    /// is done itself. Others' jobs come as they will: this is for whoever knows the future.
    pub fn what_if(&self, id: u64, work: Work) -> (f64, f64) {
        let (without, _) = self.clone().run_out(id);
        let mut with = self.clone();
        with.add(id, work, false);
        let (with, own) = with.run_out(id);
        (with - without, own + self.spec.rtt)
    }

    /// Runs until none of ours is left: the sum of their times from now, and that of `id`.
    fn run_out(mut self, id: u64) -> (f64, f64) {
        let start = self.now;
        let (mut sum, mut own) = (0.0, 0.0);
        while self.running.iter().chain(&self.queue).any(|job| !job.foreign) {
            let next = self.next_event();
            for job in self.advance(next) {
                if !job.foreign {
                    sum += next - start;
                    if job.id == id {
                        own = next - start;
                    }
                }
            }
        }
        (sum, own)
    }
}
