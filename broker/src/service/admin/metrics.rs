//! The service's figures in Prometheus' text form, with RocketMQ's names where it has one.

use std::{collections::BTreeMap, fmt::Write as _, sync::atomic::Ordering::Relaxed};

use crate::{service::Service, views::Lag};

impl Service {
    /// All of them.
    pub fn metrics_text(&self) -> String {
        let mut text = String::new();
        let counters = self.counters();
        let store = self.node().store().stats();
        let now = self.node().clock().steady_ms();
        let shards = self.node().shards();
        let dead_letters: u64 = shards.iter().map(|shard| shard.dead_letters.load(Relaxed)).sum();
        for (name, help, value) in [
            (
                "rocketmq_messages_in_total",
                "Messages stored by shards led here",
                counters.messages_in.get(),
            ),
            (
                "rocketmq_messages_out_total",
                "Messages delivered",
                counters.messages_out.get(),
            ),
            (
                "rocketmq_throughput_in_total",
                "Bytes of stored messages",
                counters.bytes_in.get(),
            ),
            (
                "rocketmq_throughput_out_total",
                "Bytes of delivered messages",
                counters.bytes_out.get(),
            ),
            (
                "rocketmq_send_to_dlq_messages_total",
                "Messages moved to a dead-letter queue by shards led here",
                dead_letters,
            ),
            (
                "flotilla_acknowledged_messages_total",
                "Messages acknowledged",
                counters.acks.get(),
            ),
            (
                "flotilla_sends_refused_total",
                "Send requests refused",
                counters.send_refused.get(),
            ),
            (
                "flotilla_undeliverable_messages_total",
                "Messages that were leased and are too large to be delivered",
                counters.undeliverable.get(),
            ),
            (
                "flotilla_unread_refused_total",
                "Answers that found no room because too many wait to be read",
                self.unread().refused(),
            ),
            (
                "flotilla_unread_gave_way_total",
                "Connections closed because nothing was read on them and others needed the room",
                self.unread().gave_way(),
            ),
            (
                "flotilla_log_syncs_total",
                "Syncs of the node's log",
                store.log.syncs,
            ),
            (
                "flotilla_log_written_bytes_total",
                "Bytes written to the node's log",
                store.log.bytes_written,
            ),
        ] {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"
            );
        }
        for (name, help, value) in [
            (
                "rocketmq_storage_size",
                "Bytes of log and state on disk",
                store.log.disk_bytes + store.engine.disk_bytes,
            ),
            (
                "rocketmq_producer_connections",
                "Telemetry streams of producers",
                counters.producers.get(),
            ),
            (
                "rocketmq_consumer_connections",
                "Telemetry streams of consumers",
                counters.consumers.get(),
            ),
            (
                "flotilla_clients",
                "Clients heard of lately",
                self.node().clients().count(now) as u64,
            ),
            (
                "flotilla_unread_bytes",
                "Bytes of answers that wait until they are read, and room for those being made",
                self.unread().held(),
            ),
            (
                "flotilla_waiting_receives",
                "Receives that wait for messages",
                self.node().hub().waiting() as u64,
            ),
        ] {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
            );
        }
        self.shard_metrics(&mut text);
        self.lag_metrics(&mut text);
        text
    }

    fn shard_metrics(&self, text: &mut String) {
        let names = [
            ("flotilla_shard_leader", "1 on the node that leads the shard"),
            ("flotilla_shard_term", "Raft term"),
            ("flotilla_shard_applied_index", "Last applied entry"),
            ("flotilla_shard_last_index", "Last entry in the log here"),
        ];
        let statuses = self.node().statuses();
        for (at, (name, help)) in names.into_iter().enumerate() {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
            for (shard, status) in &statuses {
                let value = [
                    u64::from(status.is_leader),
                    status.term,
                    status.applied.map_or(0, |id| id.index),
                    status.last_log.unwrap_or(0),
                ][at];
                let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {value}");
            }
        }
    }

    /// Lag of each consumer group on the shards led here.
    fn lag_metrics(&self, text: &mut String) {
        let meta = self.node().meta();
        let mut lags: BTreeMap<(u32, u32), Lag> = BTreeMap::new();
        for shard in self.node().shards().iter().filter(|shard| shard.leads()) {
            shard.machine.read(|core| {
                for (group, queue, view) in core.subscriptions() {
                    let lag = lags.entry((group.0, queue.topic())).or_default();
                    lag.ready += view.ready;
                    lag.leased += view.leased;
                    lag.waiting += view.waiting;
                }
            });
        }
        for (at, name) in [
            "rocketmq_consumer_lag_messages",
            "rocketmq_consumer_ready_messages",
            "rocketmq_consumer_inflight_messages",
        ]
        .into_iter()
        .enumerate()
        {
            let _ = write!(
                text,
                "# HELP {name} By consumer group and topic, on the shards led here\n# TYPE {name} gauge\n"
            );
            for ((group, topic), lag) in &lags {
                let (Some(group), Some(topic)) = (meta.group_by_id(*group), meta.topic_by_id(*topic)) else {
                    continue;
                };
                let value = [lag.ready + lag.leased + lag.waiting, lag.ready, lag.leased][at];
                let _ = writeln!(
                    text,
                    "{name}{{consumer_group=\"{}\",topic=\"{}\"}} {value}",
                    group.name, topic.name
                );
            }
        }
    }
}
