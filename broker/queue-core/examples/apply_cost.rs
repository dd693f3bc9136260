//! What one Append, Deliver and Ack cost, over a map in memory. Build it optimised:
//! `cargo run --release -p queue-core --example apply_cost [messages]`.

use std::{collections::BTreeMap, error::Error, hint::black_box, time::Instant};

use bytes::Bytes;
use flotilla_proto::record::{
    Ack, Append, Command, Configure, Deliver, LeaseRef, StartAt, Subscribe, command::Command as Kind,
    configure::What,
};
use queue_core::{Context, Core, Fault, KeyValue, Position, Reply};

/// Commands that share an entry, and messages that share a deliver and an ack command.
const BATCH: usize = 32;
const QUEUES: u64 = 8;

#[derive(Default)]
struct Map(BTreeMap<Vec<u8>, Bytes>);

impl KeyValue for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let range = self.0.range(from.to_vec()..to.to_vec()).take(limit);
        Ok(range
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
            .collect())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.0.insert(key.to_vec(), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.0.remove(key);
        Ok(())
    }
}

/// Takes writes and keeps nothing: what is left is the core's own cost.
struct Nowhere;

impl KeyValue for Nowhere {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        Ok(Vec::new())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        black_box((key, value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
        black_box(key);
        Ok(())
    }
}

/// Applies commands, `BATCH` to an entry, a millisecond apart.
struct Log {
    core: Core,
    commands: u64,
}

impl Log {
    fn apply(&mut self, kv: &mut dyn KeyValue, command: &Command) -> Result<Reply, Fault> {
        let entry = self.commands / BATCH as u64;
        self.commands += 1;
        let position = Position {
            index: entry + 1,
            frame_offset: 13,
            frame_len: 1024,
        };
        let context = Context {
            position,
            time_ms: 1_000_000 + entry,
        };
        Ok(self.core.apply(kv, context, command)?.reply)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let messages: usize = std::env::args()
        .nth(1)
        .map_or(Ok(500_000), |count| count.parse())?;
    let appends = appends(messages);
    let mut alone = Log {
        core: Core::default(),
        commands: 0,
    };
    report("Append, the core alone", messages, || {
        appends
            .iter()
            .try_for_each(|append| alone.apply(&mut Nowhere, append).map(drop))
    })?;
    let mut log = Log {
        core: Core::default(),
        commands: 0,
    };
    let mut kv = Map::default();
    report("Append", messages, || {
        appends
            .iter()
            .try_for_each(|append| log.apply(&mut kv, append).map(drop))
    })?;
    report("Append of a duplicate", BATCH * 1000, || {
        let latest = appends.iter().rev().take(BATCH * 1000);
        latest
            .into_iter()
            .try_for_each(|append| log.apply(&mut kv, append).map(drop))
    })?;
    let mut leased = Vec::new();
    for queue in 0..QUEUES {
        log.apply(&mut kv, &subscribe(1 << 32 | queue))?;
    }
    // Rounds, so that as many are in flight as a busy consumer group has.
    let rounds = messages / (BATCH * QUEUES as usize);
    report(
        "Deliver, one message of 32",
        rounds * BATCH * QUEUES as usize,
        || {
            for round in 0..rounds as u64 {
                for queue in 0..QUEUES {
                    let (queue, first_new) = (1 << 32 | queue, round * BATCH as u64);
                    let Reply::Delivered { leases } = log.apply(&mut kv, &deliver(queue, first_new))? else {
                        continue;
                    };
                    leased.push((queue, leases.len(), first_new));
                }
            }
            Ok(())
        },
    )?;
    report("Ack, one message of 32", rounds * BATCH * QUEUES as usize, || {
        leased
            .iter()
            .try_for_each(|&(queue, count, first)| log.apply(&mut kv, &ack(queue, count, first)).map(drop))
    })
}

fn appends(messages: usize) -> Vec<Command> {
    let message = Bytes::from(vec![0; 1024]);
    let append = |at: u64| Append {
        queue: 1 << 32 | at % QUEUES,
        message_id: format!(
            "{:032X}",
            u128::from(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(at)
        ),
        message: message.clone(),
    };
    (0..messages as u64)
        .map(|at| Command {
            command: Some(Kind::Append(append(at))),
        })
        .collect()
}

fn subscribe(queue: u64) -> Command {
    let start_at = StartAt::First as i32;
    let subscribe = Subscribe {
        group: 1,
        queue,
        start_at,
        max_attempts: 16,
        ..Subscribe::default()
    };
    Command {
        command: Some(Kind::Configure(Configure {
            what: Some(What::Subscribe(subscribe)),
        })),
    }
}

fn deliver(queue: u64, first_new: u64) -> Command {
    let deliver = Deliver {
        group: 1,
        queue,
        first_new,
        new_count: BATCH as u32,
        deadline_ms: 2_000_000,
        nonce: 7,
        ..Deliver::default()
    };
    Command {
        command: Some(Kind::Deliver(deliver)),
    }
}

fn ack(queue: u64, count: usize, first: u64) -> Command {
    let leases = (first..)
        .take(count)
        .map(|offset| LeaseRef { offset, nonce: 7 })
        .collect();
    Command {
        command: Some(Kind::Ack(Ack {
            group: 1,
            queue,
            leases,
        })),
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement, outside of the core")]
fn report(
    what: &str,
    count: usize,
    measured: impl FnOnce() -> Result<(), Fault>,
) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    measured()?;
    println!(
        "{what:<28} {:>7} ns",
        start.elapsed().as_nanos() / count.max(1) as u128
    );
    Ok(())
}
