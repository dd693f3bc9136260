//! What one Append, Deliver and Ack cost, over a map in memory. Build it optimised:
//! `cargo run --release -p queue-core --example apply_cost [messages]`.

use std::{collections::BTreeMap, error::Error, hint::black_box, time::Instant};

use bytes::Bytes;
use flotilla_proto::record::{
    Ack, Append, Command, Configure, Deliver, LeaseRef, Run, StartAt, Subscribe, command::Command as Kind,
    configure::What,
};
use queue_core::{Context, Core, Fault, KeyValue, Position, Reply, limits::MAX_IN_FLIGHT};

/// Commands that share an entry, and messages that share a deliver and an ack command.
const BATCH: usize = 32;
const QUEUES: u64 = 8;
/// Commands measured together.
const GROUP: usize = 64;

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
            wall_ms: 1_700_000_000_000 + entry,
        };
        Ok(self.core.apply(kv, context, command)?.reply)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let messages: usize = std::env::args()
        .nth(1)
        .map_or(Ok(500_000), |count| count.parse())?;
    let appends = appends(messages);
    let mut log = Log {
        core: Core::default(),
        commands: 0,
    };
    let mut kv = Map::default();
    report(
        "Append",
        1,
        appends.iter().map(|append| log.apply(&mut kv, append)),
    )?;
    let latest = appends.iter().rev().take(100_000);
    report(
        "Append of a duplicate",
        1,
        latest.map(|append| log.apply(&mut kv, append)),
    )?;

    for queue in 0..QUEUES {
        log.apply(&mut kv, &subscribe((1 << 32) | queue))?;
    }
    // All are leased before the first is acknowledged, as when consumers are slow.
    let rounds = (messages / QUEUES as usize).min(MAX_IN_FLIGHT) / BATCH;
    let batches: Vec<(u64, u64)> = (0..rounds as u64)
        .flat_map(|round| (0..QUEUES).map(move |queue| ((1 << 32) | queue, round * BATCH as u64)))
        .collect();
    let delivers = batches
        .iter()
        .map(|&(queue, first)| log.apply(&mut kv, &deliver(queue, first)));
    report("Deliver, one message of 32", BATCH, delivers)?;
    let acks = batches
        .iter()
        .map(|&(queue, first)| log.apply(&mut kv, &ack(queue, first)));
    report("Ack, one message of 32", BATCH, acks)
}

fn appends(messages: usize) -> Vec<Command> {
    let message = Bytes::from(vec![0; 1024]);
    let append = |at: u64| Append {
        queue: (1 << 32) | (at % QUEUES),
        message_id: format!(
            "{:032X}",
            u128::from(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(at)
        ),
        message: message.clone(),
        ..Append::default()
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
        new: vec![Run {
            count: BATCH as u32,
            filtered: false,
            blocked: false,
        }],
        deadline_ms: 2_000_000,
        nonce: 7,
        ..Deliver::default()
    };
    Command {
        command: Some(Kind::Deliver(deliver)),
    }
}

fn ack(queue: u64, first: u64) -> Command {
    let leases = (first..)
        .take(BATCH)
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

/// Prints the cost of one message: the median over groups of commands, because a machine does
/// other things too.
#[expect(clippy::disallowed_methods, reason = "a measurement, outside of the core")]
fn report(
    what: &str,
    messages_each: usize,
    commands: impl Iterator<Item = Result<Reply, Fault>>,
) -> Result<(), Box<dyn Error>> {
    let mut costs = Vec::new();
    let mut start = Instant::now();
    for (at, reply) in commands.enumerate() {
        black_box(reply?);
        if (at + 1) % GROUP == 0 {
            costs.push(start.elapsed().as_nanos() / (GROUP * messages_each) as u128);
            start = Instant::now();
        }
    }
    costs.sort_unstable();
    let at = |part: usize| costs.get(costs.len() * part / 100).copied().unwrap_or(0);
    println!(
        "{what:<28} {:>6} ns, 1 in 100 groups over {:>6} ns",
        at(50),
        at(99)
    );
    Ok(())
}
