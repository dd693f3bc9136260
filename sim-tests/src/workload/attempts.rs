//! Clients that name their receives: one whose answer is lost is repeated under the same name, and gets what it was given.

use std::{collections::BTreeMap, time::Duration};

use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, UNDERTAKER, now};
use crate::client::{Ask, Received};

/// Share of answers that get lost on their way through the client.
const LOST: f64 = 0.05;
/// A client notices after so long, milliseconds: before the shortest lease is over.
const NOTICED_MS: std::ops::Range<u64> = 100..4_000;

/// Where the cluster is well every node knows by then what was given.
const KNOWN_AFTER: Duration = Duration::from_secs(1);

/// The names of a client's receives at one node.
pub(super) struct Attempts {
    names: Option<String>,
    number: u32,
    /// When the present one was used first.
    since: Option<Duration>,
}

impl Attempts {
    /// Every second client names them, in some worlds.
    pub(super) fn new(context: &Context, node: u32) -> Attempts {
        let names = context.plan.ordered && context.who.number() % 2 == 0;
        Attempts {
            names: names.then(|| format!("{}/{node}/{:?}", context.who.program(), now())),
            number: 0,
            since: None,
        }
    }

    /// That of the next one; the same until an answer came.
    pub(super) fn name(&self) -> Option<String> {
        let names = self.names.as_ref()?;
        Some(format!("{names}/{}", self.number))
    }

    /// It is used; since when it is. What comes may have been given then already.
    pub(super) fn asks(&mut self) -> Duration {
        match self.names {
            Some(_) => *self.since.get_or_insert_with(now),
            None => now(),
        }
    }

    pub(super) fn answered(&mut self) {
        self.number += 1;
        self.since = None;
    }
}

/// Loses some answers, and asks again for what was in them, at any node: what comes is what its consumer knows of. Nothing if it
/// has no answer to that either. It was given when it was asked for first.
///
/// What was lost comes again as it was. It may be that its lease ended meanwhile, or that the node which was asked does not know of
/// it yet: then others come.
pub(super) async fn lose(
    context: &Context,
    node: u32,
    (topic, group): (&str, &str),
    ask: &Ask,
    (asked, lost): (Duration, Vec<Received>),
) -> Option<Vec<Received>> {
    // What the server renews would be held for hours, if it were not given again.
    let may_be_lost = ask.attempt.is_some() && ask.invisible.is_some() && group != UNDERTAKER;
    if lost.is_empty() || !may_be_lost || !thread_rng().gen_bool(LOST) {
        return Some(lost);
    }
    let noticed = Duration::from_millis(thread_rng().gen_range(NOTICED_MS));
    sleep(noticed).await;
    let other = match context.home() {
        Some(home) => home,
        None => thread_rng().gen_range(1..=context.plan.nodes),
    };
    let is_well = context.is_calm() && noticed > KNOWN_AFTER;
    let answer = context.client.receive(other, (topic, group), ask).await;
    let again = match answer {
        Ok(again) => again,
        Err(failure) => {
            context.failed("receive", other, &failure);
            return None;
        }
    };
    debug!(at = ?now(), lost = lost.len(), again = again.len(), node, other, group, "asked again for what was lost");
    let had: BTreeMap<_, _> = lost
        .iter()
        .map(|it| (&it.place, (it.attempt, &it.handle)))
        .collect();
    let same = again.iter().filter(|it| had.contains_key(&it.place));
    let is_over = now() >= asked + ask.invisible.expect("of a lease that ends");
    for it in same.clone().filter(|_| !is_over) {
        if had[&it.place] != (it.attempt, &it.handle) {
            let what = format!(
                "P3: {} was given again to the request that had it, as another delivery: attempt {}, and {} before",
                it.message_id, it.attempt, had[&it.place].0
            );
            context.history.broken(what);
        }
    }
    match same.count() {
        0 => {
            context.coverage.count("receive again finds others");
            if is_well && !is_over {
                let what = format!(
                    "P3: the answer with {} was lost, and whoever asks again under the same name does not get it",
                    lost[0].message_id
                );
                context.history.broken(what);
            }
        }
        _ => context.coverage.count("receive again finds the same"),
    }
    Some(again)
}
