//! Before a damaged data directory is set aside: whether the other nodes can do without it.
//!
//! The node does not run, or not any more. So this asks as one without a directory would: under its number, for no cluster.

use std::{io, sync::Arc, time::Duration};

use flotilla_proto::peer::{Hello, StatusRequest};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tracing::{error, info};

use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    node::{bootstrap, damage},
    peer::{PROTOCOL_VERSION, PeerTransport, stream::StreamTransport},
};

const ASK_FOR: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// Answers in a row that must say yes: a node that has just stopped, or a leader that has heard of nobody yet, is known for
/// what it is by then. Two nodes never go at once.
const YES_IN_A_ROW: u32 = 6;
/// Questions between two times that it is said what is waited for.
const SAY_EVERY: u32 = 15;
/// Questions until a node that can serve what is whole goes back to it: about a minute.
const QUESTIONS_OF_A_SERVER: u32 = 30;

/// Waits until every shard has a majority of whole, caught-up voters without this node. True then; false if that did not come
/// about while one that `can_serve` what is whole waits.
///
/// # Errors
/// When it is told to stop first.
pub(super) fn wait(config: &Config, reason: &str, can_serve: bool) -> io::Result<bool> {
    let questions = if can_serve {
        QUESTIONS_OF_A_SERVER
    } else {
        u32::MAX
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            biased;
            spared = until_spared(config, reason, questions) => Ok(spared),
            _ = interrupt.recv() => Err(stopped()),
            _ = terminate.recv() => Err(stopped()),
        }
    })
}

fn stopped() -> io::Error {
    io::Error::other("it was told to stop before the other nodes could do without it")
}

async fn until_spared(config: &Config, reason: &str, questions: u32) -> bool {
    let clock = SystemClock::default();
    let hello = Hello {
        version: PROTOCOL_VERSION,
        node: config.node_id,
        directory: clock.random_u64().max(1),
        session: clock.random_u64().max(1),
        ..Hello::default()
    };
    let mut others = config
        .initial_cluster
        .as_ref()
        .map(|cluster| cluster.nodes().clone())
        .unwrap_or_default();
    others.remove(&config.node_id);
    let greeted = hello.clone();
    let transport = StreamTransport::new(Arc::new(move || greeted.clone()));
    transport.set_peers(others.clone());
    let asks = StatusRequest {
        fresh: true,
        from: Some(hello),
        ..StatusRequest::default()
    };
    let mut yes = Yes::default();
    for question in 0..questions {
        let answers = bootstrap::ask(&*transport, others.keys().copied(), &asks, ASK_FOR).await;
        let spared = damage::spared(config.node_id, answers.values());
        if yes.hear(spared.is_ok()) {
            info!("the other nodes can do without what is stored here");
            return true;
        }
        if let Err(why) = spared
            && question % SAY_EVERY == 1
        {
            error!(
                reason,
                why,
                data_dir = %config.data_dir.display(),
                "stored data is damaged, and the other nodes cannot do without it now: nothing is touched, and they are asked \
                 again. Start the nodes that do not run; if this directory is the last of a majority, keep it"
            );
        }
        sleep(PAUSE).await;
    }
    false
}

/// How often in a row the answer was yes.
#[derive(Default)]
struct Yes(u32);

impl Yes {
    /// True once it was yes often enough.
    fn hear(&mut self, is_yes: bool) -> bool {
        self.0 = if is_yes { self.0 + 1 } else { 0 };
        self.0 == YES_IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_not_enough_and_a_no_begins_anew() {
        let mut yes = Yes::default();
        assert!((1..YES_IN_A_ROW).all(|_| !yes.hear(true)));
        assert!(!yes.hear(false));
        assert!((1..YES_IN_A_ROW).all(|_| !yes.hear(true)));
        assert!(yes.hear(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_can_serve_does_not_wait_for_ever() {
        let config = Config::zero();
        let asked = until_spared(&config, "a test", QUESTIONS_OF_A_SERVER);
        let spared = tokio::time::timeout(Duration::from_secs(300), asked).await;
        assert_eq!(spared, Ok(false));
    }
}
