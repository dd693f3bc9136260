//! Where a message lives: its shard, and the queue there, follow from its id, or from its message group if it has one
//! (docs/adr/0005).

use flotilla_proto::record;
use queue_core::QueueId;

use crate::node::clients::client_hash;

/// A message's place among the queues of a topic: the same at every node and at every try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Home(u64);

impl Home {
    /// By the message id or the message group. SDKs count in the last characters, which FNV-1a leaves in the low bits: all bits are mixed, or
    /// thousands of messages in a row would go to one shard.
    pub(super) fn of(name: &str) -> Self {
        // The finalizer of MurmurHash3.
        let mut mixed = client_hash(name);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Self(mixed ^ (mixed >> 33))
    }

    /// The message's shard.
    pub(super) fn shard(self, topic: &record::Topic) -> u32 {
        // Not the low bits: those choose the queue in the shard.
        let queue = (self.0 >> 32) % topic.queue_shards.len() as u64;
        topic.queue_shards[queue as usize]
    }

    /// The message's queue among those of the topic in one shard; nothing if there are none.
    pub(super) fn queue(self, topic: &record::Topic, shard: u32) -> Option<QueueId> {
        let numbers: Vec<u32> = (0..)
            .zip(topic.queue_shards.iter())
            .filter(|&(_, &of)| of == shard)
            .map(|(number, _)| number)
            .collect();
        let number = numbers.get((self.0 % numbers.len().max(1) as u64) as usize)?;
        Some(QueueId::new(topic.id, *number))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A counter's ids as an SDK writes them.
    type Ids = fn(u32) -> String;

    /// 01, six bytes of a MAC address, two of the process, four of seconds, four of a counter: upper case, and in Rust with
    /// a tail in lower case. Then ids of other makes: a UUID's tail, a plain number, and the number in front.
    const MAKES: [(&str, Ids); 6] = [
        ("Java, Go, Python, Node, C++, C#", |i| {
            format!("01AC1E4F2B9D10A3C50B2C7D91{:08X}", 0x2_0000 + i)
        }),
        ("the same with a random counter at the start", |i| {
            format!(
                "0102420A00030BD10A0D6E41F3{:08X}",
                0x9E37_79B9_u32.wrapping_add(i)
            )
        }),
        ("Rust", |i| format!("01AC1E4F2B9D10A3C50b2c7d91{i:08x}")),
        ("a UUID that counts", |i| {
            format!("6f1c2d4e-8a3b-4c5d-9e0f-{:012x}", 0xa1b2_0000 + i)
        }),
        ("a number", |i| i.to_string()),
        ("a number in front", |i| format!("{i}-of-a-batch-of-orders")),
    ];

    fn topic(queues: u32, shards: u32) -> record::Topic {
        record::Topic {
            id: 7,
            queue_shards: (0..queues).map(|queue| 1 + queue % shards).collect(),
            ..Default::default()
        }
    }

    fn spread(topic: &record::Topic, ids: impl Iterator<Item = String>) -> BTreeMap<QueueId, u32> {
        let mut counts: BTreeMap<QueueId, u32> = BTreeMap::new();
        for id in ids {
            let home = Home::of(&id);
            let queue = home.queue(topic, home.shard(topic)).expect("its own shard");
            *counts.entry(queue).or_default() += 1;
        }
        counts
    }

    #[test]
    fn ten_thousand_messages_of_any_sdk_spread_over_all_shards_within_a_tenth() {
        for (queues, shards) in [(8, 3), (8, 8), (12, 12), (16, 4), (9, 2)] {
            let topic = topic(queues, shards);
            for (make, id) in MAKES {
                let counts = spread(&topic, (0..10_000).map(id));
                let mut by_shard: BTreeMap<u32, u32> = BTreeMap::new();
                for (queue, count) in &counts {
                    let shard = topic.queue_shards[queue.number() as usize];
                    *by_shard.entry(shard).or_default() += count;
                }
                for (shard, count) in by_shard {
                    let of = topic.queue_shards.iter().filter(|&&each| each == shard).count();
                    let even = 10_000.0 * of as f64 / f64::from(queues);
                    let off = (f64::from(count) - even).abs() / even;
                    assert!(
                        off < 0.1,
                        "{make}: shard {shard} of {shards} has {count}, not {even}"
                    );
                }
                assert_eq!(counts.len(), queues as usize, "{make}: every queue has its share");
            }
        }
    }

    #[test]
    fn twenty_messages_in_a_row_do_not_crowd_into_a_few_queues() {
        let topic = topic(8, 3);
        for (make, id) in MAKES {
            for first in (0..2_000).step_by(20) {
                let counts = spread(&topic, (first..first + 20).map(id));
                let most = counts.values().max().expect("twenty messages");
                assert!(*most <= 10, "{make} from {first}: {counts:?}");
            }
        }
    }

    #[test]
    fn an_id_keeps_its_home() {
        let topic = topic(8, 3);
        // A value written down: every release must say the same, or a send that is retried across an upgrade is stored twice.
        let home = Home::of("01AC1E4F2B9D10A3C50B2C7D9100020000");
        assert_eq!((home.0, home.shard(&topic)), (0x9fa8_8c1d_3878_8788, 3));
        assert_eq!(home.queue(&topic, 4), None, "not a shard of the topic");
    }
}
