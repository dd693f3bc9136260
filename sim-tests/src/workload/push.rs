//! Push consumers: the server renews their leases while they live, so they may hold a message for long. What they were
//! sent and did not get comes again soon, whether they say good-bye, as they do in some worlds now and then, or not.

use std::time::Duration;

use futures::future::join_all;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, acknowledge, now};
use crate::{client::Received, history::Event, trace::fnv_of};

/// A lease that is not renewed.
pub(super) const LEASE: Duration = Duration::from_millis(broker::limits::AUTO_RENEW_LEASE_MS);
/// Share of messages that are held, besides those that other consumers would forget.
pub(super) const HELD: f64 = 0.05;
/// For how long, milliseconds: mostly until a lease was renewed.
const HOLD_MS: std::ops::Range<u64> = 45_000..80_000;
/// Share of those, at one of their first attempts, that are held for longer than any lease is renewed, where that is not too
/// long for a run.
const HELD_TOO_LONG: f64 = 0.2;
/// At which attempt depends on the message, so that each step of a backoff is waited for, and each message once.
const HELD_TOO_LONG_AT: u64 = 3;
/// Longest that a run can wait for.
const BEARABLE: Duration = Duration::from_secs(180);
/// From one good-bye to the next, milliseconds: sometimes after the longest hold.
const STAY_MS: std::ops::Range<u64> = 20_000..120_000;
/// Share of good-byes that are said when others say theirs.
const TOGETHER: f64 = 0.7;
/// From one such moment to the next, milliseconds.
const TOGETHER_EVERY_MS: u64 = 35_000;
/// They are not said at once, milliseconds: what a leader does about one takes about as long.
const TOGETHER_WITHIN_MS: std::ops::Range<u64> = 0..200;

/// Acknowledges a message, asked for at `asked`, after a long time.
pub(super) async fn hold(context: Context, node: u32, group: String, message: Received, asked: Duration) {
    let hold = Duration::from_millis(thread_rng().gen_range(HOLD_MS));
    let too_long = context.plan.renew_at_most + LEASE + hold;
    let chosen = 1 + fnv_of(message.message_id.as_bytes()) % HELD_TOO_LONG_AT;
    if message.attempt as u64 == chosen
        && context.plan.renew_at_most <= BEARABLE
        && thread_rng().gen_bool(HELD_TOO_LONG)
    {
        context.coverage.count("push holds too long");
        sleep(too_long).await;
    } else {
        sleep(hold).await;
    }
    let accepted = acknowledge::acknowledge(&context, node, &group, &message).await;
    if accepted && now() > asked + LEASE {
        context.coverage.count("push holds long");
    }
}

/// Until the next moment at which an application is stopped wherever it runs, which is the same for all.
fn until_all_leave() -> Duration {
    let since = now().as_millis() as u64 % TOGETHER_EVERY_MS;
    Duration::from_millis(TOGETHER_EVERY_MS - since + thread_rng().gen_range(TOGETHER_WITHIN_MS))
}

/// Tells every node that this client is gone, once, whatever comes of it, and goes on as another. Often with the others of its
/// application.
pub(super) async fn leave_now_and_then(context: Context, topic: String, group: String) {
    while !context.stopped() {
        let together = thread_rng().gen_bool(TOGETHER);
        let alone = Duration::from_millis(thread_rng().gen_range(STAY_MS));
        sleep(if together { until_all_leave() } else { alone }).await;
        context.record(&Event::Leaving {
            client: context.who.program(),
            group: group.clone(),
            topic: topic.clone(),
        });
        context.coverage.count("client leaves");
        let name = context.who.rename();
        debug!(at = ?now(), name, group, topic, "leaves");
        let good_byes =
            (1..=context.plan.nodes).map(|node| context.client.say_good_bye(node, name.clone(), &group));
        join_all(good_byes).await;
    }
}
