//! When an answer is expected, and what that and the rest are worth: the order of the candidates.
//!
//! ```text
//! predicted = rtt + queue + load + prefill + decode                       milliseconds
//!   rtt     = measured round trip, or a prior by path
//!   load    = seconds to load the weights, if they are not in memory, else 0
//!   queue   = seconds of a usual call there * turns
//!   turns   = max(0, outstanding + 1 - limit) / limit                     calls that must end before
//!   prefill = fixed cost of a first chunk + (prompt tokens - cached) / prefill rate
//!   cached  = tokens that this node has read before * share of such that its cache was seen to keep
//!   decode  = expected answer tokens / decode rate
//!   repaid  = so much of load as requests have lost already because it was not done
//!   rates   = as measured among as many others as run there now           calls that run beside it
//!   others  = prefill + decode - what they would be alone
//!
//! score     = 100 * tier - wt * log2(1 + (predicted - repaid + others) / scale) + wq * quality - wp * path
//!             - wc * log2(1 + 10^4 * dollars)
//! ```
//!
//! Calls that share a machine alike hold each other up alike: what the others cost a call, it costs them, all together. Who
//! counts only the former sends too many to the fastest machine, where each is served well and all are served badly (Pigou,
//! *The Economics of Welfare*, 1920; Roughgarden and Tardos, *How Bad is Selfish Routing?*, 2002): so both count.
//!
//! A tier is decided before (what was meant comes before what stands in for it) and is worth more than the rest
//! can be. Far above the scale, halving the time is worth one point; far below it, time hardly counts: nobody minds one
//! second more for a better answer, everybody minds a minute. Weights and scale depend on what the caller prefers.

use std::cmp::Ordering;
use std::time::Duration;

use super::aliases::Prefer;
use super::decision::{Parts, Weights};
use super::estimate::slowdown;
use super::signals::{CACHE_SHARE, Reading};
use crate::capability::Residency;
use crate::mesh::PathClass;

/// What a tier is worth: more than [`MAX_UTILITY`] twice.
pub(super) const TIER: f64 = 100.0;
/// Bound of everything else in a score.
const MAX_UTILITY: f64 = 49.0;
/// Tokens of an answer when the caller sets no limit: a few paragraphs.
pub(super) const EXPECTED_TOKENS: f64 = 256.0;
/// Calls that run at once when nobody says: what llama.cpp's and Ollama's defaults come to.
pub(super) const USUAL_LIMIT: f64 = 4.0;
/// Seconds to a first chunk besides reading the prompt: HTTP, templates, sampling.
pub(super) const PRIOR_OVERHEAD: f64 = 0.05;
/// Share of the loading time that counts when it is not known whether the weights are in memory.
const UNKNOWN_RESIDENCY: f64 = 0.25;

/// In 95 of 100 cases a first content comes within this many times what was predicted, before anything was measured.
pub(super) const USUAL_SURPRISE: f64 = 4.0;

/// Backends keep an idle model in memory for minutes (Ollama: five), so one that has just answered is warm.
const STAYS_WARM: Duration = Duration::from_secs(240);
/// An advert says so late at the most that weights were loaded: what says that they are not is no older.
const OUTDATED: Duration = Duration::from_secs(30);

/// What the request asks for, as far as time depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    pub(super) prompt_tokens: f64,
    /// 0 for an answer that is not written token by token.
    pub(super) answer_tokens: f64,
    /// What the caller limited the answer to.
    pub(super) most: f64,
    /// Whether it comes piece by piece, so that there is a first piece to speak of.
    pub(super) streamed: bool,
}

impl Demand {
    /// Of a prompt with that estimate and an answer limited to that many tokens.
    pub(super) fn new(prompt_tokens: u32, max_output_tokens: Option<u32>, decodes: bool) -> Self {
        let most = max_output_tokens.map_or(f64::INFINITY, f64::from);
        let answer_tokens = if decodes { EXPECTED_TOKENS.min(most) } else { 0.0 };
        Self { prompt_tokens: f64::from(prompt_tokens), answer_tokens, most, streamed: false }
    }

    /// The same, where answers of a usual length are known.
    pub(super) fn with_usual_answer(self, usual: f64) -> Self {
        if self.answer_tokens > 0.0 { Self { answer_tokens: usual.min(self.most), ..self } } else { self }
    }
}

/// Calls that a node of this load class is busy with, of so many at once: the middle of the class.
pub(super) fn calls_of_class(class: u8, limit: f64) -> f64 {
    (f64::from(class.min(4)) - 0.5).max(0.0) / 4.0 * limit
}

/// What is known of a candidate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) path: Option<PathClass>,
    pub(super) rtt: Option<Duration>,
    pub(super) residency: Residency,
    /// Calls at once, by its advert or usually.
    pub(super) limit: f64,
    /// Calls that its node is said to be busy with.
    pub(super) advertised: f64,
    /// Overhead, prefill, decode and load of a call alone, as far as one can guess.
    pub(super) prior: [f64; 4],
    pub(super) quality: f64,
    /// Tokens of the prompt that it has read before, if its cache still has them.
    pub(super) warm_tokens: f64,
    /// Seconds that requests have lost because the model is not loaded on one more machine.
    pub(super) regret: f64,
    pub(super) reading: Option<Reading>,
}

/// What goes into a candidate's score, and when it is expected to have answered.
pub(super) fn predict(standing: &Standing, demand: &Demand) -> Parts {
    let limit = standing.reading.map_or(standing.limit, |r| r.limit);
    let outstanding = standing.reading.map_or(standing.advertised, |r| r.outstanding);
    let [overhead, prefill, decode, load] = standing.prior;
    let (overhead, prefill, decode, load, idle, measured) = match standing.reading {
        Some(r) => (r.overhead, r.prefill, r.decode, r.load, r.idle, r.measured),
        None => {
            let slowdown = slowdown(outstanding.min(limit - 1.0));
            (overhead, prefill / slowdown, decode / slowdown, load, None, false)
        }
    };
    let alone = standing.reading.map_or((standing.prior[1], standing.prior[2]), |r| (r.prefill_alone, r.decode_alone));
    let share = standing.reading.map_or(CACHE_SHARE, |reading| reading.cache_share);
    let cached = (standing.warm_tokens * share).min(demand.prompt_tokens);
    let prefill_s = overhead + (demand.prompt_tokens - cached) / prefill;
    let decode_s = demand.answer_tokens / decode;
    let others_s =
        prefill_s + decode_s - (overhead + (demand.prompt_tokens - cached) / alone.0 + demand.answer_tokens / alone.1);
    let answered_within = |limit| idle.is_some_and(|idle| idle < limit);
    let load_s = match standing.residency {
        Residency::Cold if answered_within(OUTDATED) => 0.0,
        Residency::Unknown if answered_within(STAYS_WARM) => 0.0,
        Residency::Warm => 0.0,
        Residency::Cold => load,
        Residency::Unknown => load * UNKNOWN_RESIDENCY,
    };
    // Who waits, waits for usual calls, which need not be like this one.
    let service_s = standing.reading.and_then(|r| r.service).unwrap_or(prefill_s + decode_s);
    let turns = (outstanding + 1.0 - limit).max(0.0) / limit;
    let rtt_ms = rtt_seconds(standing.path, standing.rtt) * 1e3;
    let queue_ms = service_s * turns * 1e3;
    let (load_ms, prefill_ms) = (load_s * 1e3, prefill_s * 1e3);
    let first_ms = rtt_ms + queue_ms + load_ms + prefill_ms + if demand.streamed { 0.0 } else { decode_s * 1e3 };
    let surprise = standing.reading.map_or(USUAL_SURPRISE, |reading| reading.surprise);
    Parts {
        rtt_ms,
        queue_ms,
        load_ms,
        repaid_ms: load_ms.min(standing.regret * 1e3),
        prefill_ms,
        decode_ms: decode_s * 1e3,
        others_ms: others_s.max(0.0) * 1e3,
        warm_tokens: standing.warm_tokens,
        cached_tokens: cached,
        answer_tokens: demand.answer_tokens,
        first_p95_ms: first_ms * surprise,
        measured,
        similarity: None,
        quality: standing.quality,
        tier: 0,
        distance: distance(standing.path),
        cost_usd: 0.0,
    }
}

/// When the answer is expected to be complete, in milliseconds.
pub(super) fn predicted_ms(parts: &Parts) -> f64 {
    parts.rtt_ms + parts.queue_ms + parts.load_ms + parts.prefill_ms + parts.decode_ms
}

/// As [`predicted_ms`], for people.
pub(super) fn predicted(parts: &Parts) -> Duration {
    /// Nobody waits for longer, and it is no overflow.
    const DAY_MS: f64 = 86_400_000.0;
    let ms = predicted_ms(parts);
    Duration::from_secs_f64(if ms.is_finite() { ms.clamp(0.0, DAY_MS) } else { DAY_MS } / 1e3)
}

fn rtt_seconds(path: Option<PathClass>, rtt: Option<Duration>) -> f64 {
    match (rtt, path) {
        (Some(rtt), _) => rtt.as_secs_f64(),
        (None, Some(PathClass::Itself)) => 0.0,
        (None, Some(PathClass::Local)) => 0.000_2,
        (None, Some(PathClass::Lan)) => 0.002,
        (None, Some(PathClass::Wan)) => 0.05,
        // Not connected: it must be dialled first, which takes several round trips.
        (None, Some(PathClass::Relayed) | None) => 0.15,
    }
}

impl Weights {
    /// For candidates that are different models. With `balanced`, ten times the size is worth two points: four times as long
    /// when both take long, and any time when both are quick.
    pub(super) const fn of(prefer: Prefer) -> Self {
        let it = Self {
            prefer,
            tier: TIER,
            time: 0.5,
            scale_s: 10.0,
            quality: 1.0,
            path: 0.0,
            cost: 1.0,
            considerate: true,
        };
        match prefer {
            Prefer::Balanced => Self { time: 1.0, quality: 8.0, ..it },
            Prefer::Latency => Self { time: 1.0, scale_s: 0.2, quality: 0.5, cost: 0.2, considerate: false, ..it },
            // A tenfold size is ten points, so time decides between equals only.
            Prefer::Accuracy => Self { quality: 40.0, cost: 0.2, ..it },
            Prefer::Location => Self { quality: 2.0, path: 8.0, ..it },
            Prefer::Cost => Self { cost: 8.0, ..it },
        }
    }

    /// For candidates that are one model by name: its copies differ in time, and quality breaks ties.
    pub(super) const fn same_model(prefer: Prefer) -> Self {
        let weights = Self::of(prefer);
        match prefer {
            Prefer::Accuracy => weights,
            _ => Self { quality: 0.0, ..weights },
        }
    }
}

/// The score of a candidate with these parts.
pub(super) fn score(weights: &Weights, parts: &Parts) -> f64 {
    let for_others_ms = if weights.considerate { parts.others_ms - parts.repaid_ms } else { 0.0 };
    let seconds = ((predicted_ms(parts) + for_others_ms) / 1e3).clamp(1e-4, 1e6);
    // Most cost nothing, and a logarithm is half of what a score takes.
    let money = if parts.cost_usd > 0.0 { (1.0 + 1e4 * parts.cost_usd).log2() } else { 0.0 };
    let utility = -weights.time * (1.0 + seconds / weights.scale_s).log2() + weights.quality * parts.quality
        - weights.path * parts.distance
        - weights.cost * money;
    f64::from(parts.tier) * weights.tier + utility.clamp(-MAX_UTILITY, MAX_UTILITY)
}

/// How far a path is, for those who prefer what is near.
pub(super) const fn distance(path: Option<PathClass>) -> f64 {
    match path {
        Some(PathClass::Itself) => 0.0,
        Some(PathClass::Local) => 0.25,
        Some(PathClass::Lan) => 1.0,
        Some(PathClass::Wan) | None => 2.0,
        Some(PathClass::Relayed) => 2.5,
    }
}

/// Best first: by score, then quality; the rest of the order is the caller's, and never chance.
pub(super) fn best_first(a: (f64, f32), b: (f64, f32)) -> Ordering {
    b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing() -> Standing {
        Standing {
            path: Some(PathClass::Lan),
            rtt: Some(Duration::from_millis(2)),
            residency: Residency::Warm,
            limit: 4.0,
            advertised: 0.0,
            prior: [PRIOR_OVERHEAD, 1000.0, 20.0, 5.0],
            quality: 0.5,
            warm_tokens: 0.0,
            regret: 0.0,
            reading: None,
        }
    }

    fn reading() -> Reading {
        Reading {
            in_flight: 0,
            outstanding: 0.0,
            limit: 4.0,
            service: None,
            overhead: 0.05,
            prefill: 1000.0,
            decode: 20.0,
            prefill_alone: 1000.0,
            decode_alone: 20.0,
            load: 5.0,
            idle: Some(Duration::ZERO),
            measured: true,
            surprise: 2.0,
            cache_share: 0.7,
        }
    }

    #[test]
    fn the_formula_is_the_documented_one() {
        let parts =
            predict(&Standing { residency: Residency::Cold, ..standing() }, &Demand::new(1000, Some(100), true));
        let expected = [
            (parts.rtt_ms, 2.0),
            (parts.queue_ms, 0.0),
            (parts.load_ms, 5000.0),
            (parts.prefill_ms, 1050.0),
            (parts.decode_ms, 5000.0),
        ];
        for (index, (is, should)) in expected.into_iter().enumerate() {
            assert!((is - should).abs() < 1e-6, "part {index}: {is} is not {should}");
        }
        // Four places, five calls: two of the usual length must end before, at four places.
        let busy = Reading { outstanding: 5.0, service: Some(8.0), ..reading() };
        let parts = predict(&Standing { reading: Some(busy), ..standing() }, &Demand::new(1000, Some(100), true));
        assert!((parts.queue_ms - 8000.0 * 0.5).abs() < 1e-6, "{parts:?}");
        // Nothing measured, and said to be half busy: two beside it slow it down.
        let parts = predict(&Standing { advertised: 2.0, ..standing() }, &Demand::new(1000, Some(100), true));
        assert!((parts.decode_ms - 5000.0 * slowdown(2.0)).abs() < 1e-6 && parts.queue_ms == 0.0, "{parts:?}");
    }

    #[test]
    fn an_idle_copy_beats_a_busy_one_although_neither_queues() {
        let demand = Demand::new(100, None, true);
        let busy = Standing { advertised: 1.0, ..standing() };
        assert!(predicted_ms(&predict(&busy, &demand)) > predicted_ms(&predict(&standing(), &demand)));
    }

    #[test]
    fn what_a_call_costs_others_is_what_they_cost_it_and_decides_between_two_that_are_about_as_fast() {
        let demand = Demand::new(1000, Some(100), true);
        let shared = |decode, prefill| {
            let crowded = Reading { outstanding: 2.0, decode, prefill, ..reading() };
            predict(&Standing { reading: Some(crowded), ..standing() }, &demand)
        };
        // Alone 1.05 + 5 s; beside two others 2.05 + 8 s.
        let (alone, crowded) = (shared(20.0, 1000.0), shared(12.5, 500.0));
        assert_eq!(alone.others_ms, 0.0);
        assert!((crowded.others_ms - 4000.0).abs() < 1e-6, "{crowded:?}");
        assert!((predicted_ms(&crowded) - 10_052.0).abs() < 1e-6, "its own time is what it is: {crowded:?}");
        // Nothing measured: by assumption.
        let assumed = predict(&Standing { advertised: 2.0, ..standing() }, &demand);
        assert!((assumed.others_ms - 6000.0 * (slowdown(2.0) - 1.0)).abs() < 1e-6, "{assumed:?}");
        // Another machine, idle, that takes a second more.
        let slower = Parts { decode_ms: crowded.decode_ms + 1000.0, others_ms: 0.0, ..crowded };
        let of = |prefer, parts: &Parts| score(&Weights::of(prefer), parts);
        assert!(of(Prefer::Balanced, &slower) > of(Prefer::Balanced, &crowded));
        assert!(of(Prefer::Latency, &slower) < of(Prefer::Latency, &crowded), "the caller has no time for others");
    }

    #[test]
    fn loading_counts_no_more_once_requests_have_lost_as_much_without_it() {
        let demand = Demand::new(100, Some(100), true);
        let cold = |regret| predict(&Standing { residency: Residency::Cold, regret, ..standing() }, &demand);
        let warm = predict(&standing(), &demand);
        let of = |prefer, parts: &Parts| score(&Weights::of(prefer), parts);
        assert_eq!((cold(2.0).repaid_ms, cold(99.0).repaid_ms), (2000.0, 5000.0));
        assert!(predicted_ms(&cold(99.0)) == predicted_ms(&cold(0.0)), "what is said to the caller is the truth");
        assert!(of(Prefer::Balanced, &cold(0.0)) < of(Prefer::Balanced, &cold(2.0)));
        assert!((of(Prefer::Balanced, &cold(99.0)) - of(Prefer::Balanced, &warm)).abs() < 1e-9);
        assert!(of(Prefer::Latency, &cold(99.0)) < of(Prefer::Latency, &warm), "the caller has no time for others");
    }

    #[test]
    fn an_answer_tells_that_it_is_loaded_until_its_node_says_otherwise() {
        let demand = Demand::new(100, Some(100), true);
        let load = |residency, idle| {
            let reading = Some(Reading { idle: Some(Duration::from_secs(idle)), ..reading() });
            predict(&Standing { residency, reading, ..standing() }, &demand).load_ms
        };
        assert_eq!((load(Residency::Cold, 5), load(Residency::Cold, 60)), (0.0, 5000.0));
        assert_eq!((load(Residency::Unknown, 60), load(Residency::Unknown, 600)), (0.0, 1250.0));
    }

    #[test]
    fn what_was_read_before_is_not_read_again_and_a_queue_outweighs_it() {
        let demand = Demand::new(2000, Some(50), true);
        let busy = |outstanding, warm_tokens| {
            let reading = Some(Reading { outstanding, cache_share: 0.9, ..reading() });
            predict(&Standing { warm_tokens, reading, ..standing() }, &demand)
        };
        let (cold, warm, crowded) = (busy(0.0, 0.0), busy(0.0, 1800.0), busy(12.0, 1800.0));
        assert!((cold.prefill_ms - warm.prefill_ms - 1620.0).abs() < 1e-6, "{cold:?} {warm:?}");
        assert!((warm.cached_tokens - 1620.0).abs() < 1e-6);
        assert!(predicted_ms(&warm) < predicted_ms(&cold) && predicted_ms(&cold) < predicted_ms(&crowded));
        // An estimate that is larger than the prompt makes no time negative.
        assert!(busy(0.0, 1e9).prefill_ms >= 0.0);
    }

    #[test]
    fn preferences_choose_between_big_and_small_near_and_far_paid_and_free() {
        let demand = Demand::new(100, None, true);
        let of = |prefer, quality, decode, path, cost| {
            let prior = [PRIOR_OVERHEAD, 1000.0, decode, 5.0];
            let standing = Standing { quality, prior, path: Some(path), ..standing() };
            score(&Weights::of(prefer), &Parts { cost_usd: cost, ..predict(&standing, &demand) })
        };
        let small = |prefer| of(prefer, 0.3, 80.0, PathClass::Lan, 0.0);
        let big = |prefer| of(prefer, 0.8, 3.0, PathClass::Lan, 0.0);
        assert!(small(Prefer::Latency) > big(Prefer::Latency));
        assert!(small(Prefer::Accuracy) < big(Prefer::Accuracy));
        let near = |prefer| of(prefer, 0.4, 10.0, PathClass::Itself, 0.0);
        let far = |prefer| of(prefer, 0.6, 20.0, PathClass::Wan, 0.0);
        assert!(near(Prefer::Location) > far(Prefer::Location));
        assert!(near(Prefer::Balanced) < far(Prefer::Balanced));
        let free = |prefer| of(prefer, 0.5, 10.0, PathClass::Lan, 0.0);
        let paid = |prefer| of(prefer, 0.9, 60.0, PathClass::Wan, 0.005);
        assert!(free(Prefer::Cost) > paid(Prefer::Cost));
        assert!(free(Prefer::Accuracy) < paid(Prefer::Accuracy));
    }

    proptest! {
        #[test]
        fn more_queue_is_never_better(
            outstanding in 0.0f64..500.0, more in 0.0f64..500.0, limit in 1u32..64,
            prompt in 0u32..100_000, answer in proptest::option::of(1u32..10_000), prefer in 0usize..5,
        ) {
            let prefer = [Prefer::Balanced, Prefer::Latency, Prefer::Accuracy, Prefer::Location, Prefer::Cost][prefer];
            let demand = Demand::new(prompt, answer, true);
            let of = |outstanding| {
                let reading = Reading { outstanding, limit: f64::from(limit), ..reading() };
                score(&Weights::of(prefer), &predict(&Standing { reading: Some(reading), ..standing() }, &demand))
            };
            prop_assert!(of(outstanding + more) <= of(outstanding));
        }

        #[test]
        fn warm_is_never_worse_than_cold(
            load in 0.001f64..600.0, decode in 0.1f64..500.0, class in 0u8..=4, prompt in 0u32..100_000,
        ) {
            let prior = [PRIOR_OVERHEAD, decode * 10.0, decode, load];
            let advertised = calls_of_class(class, 4.0);
            let of = |residency| predicted_ms(&predict(
                &Standing { residency, prior, advertised, ..standing() }, &Demand::new(prompt, None, true)));
            prop_assert!(of(Residency::Warm) < of(Residency::Unknown));
            prop_assert!(of(Residency::Unknown) < of(Residency::Cold));
        }

        #[test]
        fn a_tier_is_worth_more_than_everything_else(
            better in 0.0f64..=1.0, worse in 0.0f64..=1.0, fast in 0.1f64..500.0, slow in 0.1f64..500.0, cost in 0.0f64..10.0,
        ) {
            let of = |tier, quality, decode, cost| {
                let prior = [PRIOR_OVERHEAD, 1000.0, decode, 5.0];
                let standing = Standing { quality, prior, ..standing() };
                score(&Weights::of(Prefer::Accuracy), &Parts { tier, cost_usd: cost, ..predict(&standing, &Demand::new(10, None, true)) })
            };
            prop_assert!(of(1, worse, slow, cost) > of(0, better, fast, 0.0));
        }
    }
}
