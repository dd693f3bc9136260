//! Refusals that a client repeats come slowly. Some SDKs repeat a refused receive at once, for ever: such a client would
//! keep a node busy with nothing. A client has some refusals free; then each next one comes a pause after the one before.
//!
//! A held answer is ready and waits in a timer: it holds no lock, no place in a queue, and nothing of the request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use flotilla_proto::rocketmq::{Code, Status};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    limits::{
        FREE_REFUSALS, MAX_HELD_REFUSALS, MAX_HELD_REFUSALS_PER_CLIENT, MAX_HOLD, MAX_REFUSED_CLIENTS,
        REFUSAL_PAUSE,
    },
    stats::RimStats,
};
use crate::{limits::MAX_CLIENT_ID_BYTES, service::Caller};

/// What is remembered of a client that was refused something.
#[derive(Debug)]
struct Refused {
    /// When its refusals so far are paid for.
    paid: Instant,
    held: usize,
}

/// Shared by all connections.
#[derive(Debug)]
pub(super) struct Slowdown {
    clients: Mutex<BTreeMap<String, Refused>>,
    stats: Arc<RimStats>,
    stop: CancellationToken,
}

/// A client's place among the held answers, until it is dropped.
struct Held<'a> {
    slowdown: &'a Slowdown,
    client: &'a str,
}

impl Slowdown {
    pub(super) fn new(stats: Arc<RimStats>, stop: CancellationToken) -> Slowdown {
        Slowdown {
            clients: Mutex::default(),
            stats,
            stop,
        }
    }

    /// Returns when an answer with this status may go out: at once, unless the client repeats what is refused.
    pub(super) async fn pace(&self, caller: &Caller, status: Option<&Status>) {
        if !is_refusal(status) {
            return;
        }
        // A client without a usable id is known by its address.
        let named = !caller.client_id.is_empty() && caller.client_id.len() <= MAX_CLIENT_ID_BYTES;
        let client = if named {
            &caller.client_id
        } else {
            &caller.remote_host
        };
        let Some((pause, held)) = self.hold(client) else {
            return;
        };
        // In time for the client all the same.
        let pause = caller.deadline.map_or(pause, |deadline| pause.min(deadline / 2));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = time::sleep(pause) => {}
        }
        drop(held);
    }

    /// How long this refusal is held; `None`: not at all.
    fn hold<'a>(&'a self, client: &'a str) -> Option<(Duration, Held<'a>)> {
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if !clients.contains_key(client) {
            if clients.len() >= MAX_REFUSED_CLIENTS {
                clients.retain(|_, known| known.held > 0 || known.paid > now);
            }
            if clients.len() >= MAX_REFUSED_CLIENTS {
                return None;
            }
            clients.insert(client.to_owned(), Refused { paid: now, held: 0 });
        }
        let known = clients.get_mut(client)?;
        known.paid = known.paid.max(now) + REFUSAL_PAUSE;
        let free = REFUSAL_PAUSE * FREE_REFUSALS;
        let owed = known.paid.saturating_duration_since(now).saturating_sub(free);
        // What is owed is bounded: a client that has come to reason is served as others soon.
        known.paid = known.paid.min(now + free + MAX_HOLD);
        let room = known.held < MAX_HELD_REFUSALS_PER_CLIENT
            && self.stats.refusals_held.load(Relaxed) < MAX_HELD_REFUSALS;
        if owed.is_zero() || !room {
            return None;
        }
        known.held += 1;
        self.stats.refusals_held.fetch_add(1, Relaxed);
        self.stats.refusals_slowed.fetch_add(1, Relaxed);
        let held = Held {
            slowdown: self,
            client,
        };
        Some((owed.min(MAX_HOLD), held))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut clients = self
            .slowdown
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clients.get_mut(self.client) {
            known.held -= 1;
        }
        self.slowdown.stats.refusals_held.fetch_sub(1, Relaxed);
    }
}

/// An empty receive is no refusal: it has waited already, or the client wanted it so.
fn is_refusal(status: Option<&Status>) -> bool {
    let code = status.map_or(Code::Ok as i32, |status| status.code);
    ![Code::Ok, Code::MultipleResults, Code::MessageNotFound]
        .iter()
        .any(|good| *good as i32 == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slowdown() -> Slowdown {
        Slowdown::new(Arc::default(), CancellationToken::new())
    }

    fn client(name: &str) -> Caller {
        Caller {
            client_id: name.to_owned(),
            ..Caller::default()
        }
    }

    fn status(code: Code) -> Status {
        Status {
            code: code as i32,
            message: String::new(),
        }
    }

    async fn ask(slowdown: &Slowdown, name: &str, code: Code, times: u32) -> Duration {
        let begun = Instant::now();
        for _ in 0..times {
            slowdown.pace(&client(name), Some(&status(code))).await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_repeats_what_is_refused_is_answered_once_a_pause() {
        let slowdown = slowdown();
        assert_eq!(
            ask(&slowdown, "one", Code::TopicNotFound, FREE_REFUSALS).await,
            Duration::ZERO
        );
        let slow = ask(&slowdown, "one", Code::TopicNotFound, 30).await;
        assert!(slow >= REFUSAL_PAUSE * 29, "{slow:?}");
        assert_eq!(
            ask(&slowdown, "another", Code::TopicNotFound, 1).await,
            Duration::ZERO
        );
        assert_eq!(ask(&slowdown, "one", Code::Ok, 1000).await, Duration::ZERO);
        time::advance(REFUSAL_PAUSE * (FREE_REFUSALS + 1) + MAX_HOLD).await;
        assert_eq!(
            ask(&slowdown, "one", Code::TopicNotFound, FREE_REFUSALS).await,
            Duration::ZERO
        );
    }

    #[tokio::test(start_paused = true)]
    async fn held_answers_are_bounded_per_client_and_per_node_and_end_in_time() {
        let slowdown = slowdown();
        let refusal = status(Code::HaNotAvailable);
        let clients = usize::try_from(MAX_HELD_REFUSALS).unwrap() / MAX_HELD_REFUSALS_PER_CLIENT + 3;
        let callers: Vec<Caller> = (0..clients).map(|number| client(&number.to_string())).collect();
        let each = FREE_REFUSALS as usize + MAX_HELD_REFUSALS_PER_CLIENT + 5;
        let begun = Instant::now();
        let asked = callers.iter().flat_map(|caller| vec![caller; each]);
        let all = futures::future::join_all(asked.map(|caller| slowdown.pace(caller, Some(&refusal))));
        let watch = async {
            tokio::task::yield_now().await;
            let held: Vec<usize> = slowdown
                .clients
                .lock()
                .unwrap()
                .values()
                .map(|known| known.held)
                .collect();
            assert!(held.iter().all(|held| *held <= MAX_HELD_REFUSALS_PER_CLIENT));
            assert_eq!(slowdown.stats.refusals_held.load(Relaxed), MAX_HELD_REFUSALS);
        };
        futures::join!(all, watch);
        assert!(
            begun.elapsed() <= MAX_HOLD + Duration::from_millis(1),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(slowdown.stats.refusals_held.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_clients_are_remembered_than_the_bound_says() {
        let slowdown = slowdown();
        for number in 0..MAX_REFUSED_CLIENTS + 100 {
            ask(&slowdown, &number.to_string(), Code::BadRequest, 1).await;
        }
        assert_eq!(slowdown.clients.lock().unwrap().len(), MAX_REFUSED_CLIENTS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_answer_leaves_the_client_half_of_its_time_and_the_end_of_the_node_frees_it() {
        let slowdown = slowdown();
        ask(&slowdown, "one", Code::BadRequest, FREE_REFUSALS + 20).await;
        let hurried = Caller {
            deadline: Some(Duration::from_millis(40)),
            ..client("one")
        };
        let begun = Instant::now();
        slowdown.pace(&hurried, Some(&status(Code::BadRequest))).await;
        assert!(
            begun.elapsed() <= Duration::from_millis(21),
            "{:?}",
            begun.elapsed()
        );
        slowdown.stop.cancel();
        assert_eq!(ask(&slowdown, "one", Code::BadRequest, 5).await, Duration::ZERO);
    }
}
