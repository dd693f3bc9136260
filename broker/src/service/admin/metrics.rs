//! The service's figures in Prometheus' text form, with RocketMQ's names, meanings and labels where it has one.
//!
//! `is_system` is false throughout: the broker has no topics of its own. A message that is delivered again counts under its topic
//! with `is_retry`: there are no retry topics.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    meta::MetaState,
    service::{Service, counters::ClientKind},
    views::Lag,
};

/// What becomes of a subscription's messages, by consumer group and topic.
type Lags = BTreeMap<(u32, u32), Lag>;

/// The text, as it grows.
struct Text {
    text: String,
    /// Labels of every row with RocketMQ's name.
    common: String,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A row with RocketMQ's name.
    fn row(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let _ = write!(self.text, "{name}{{{}", self.common);
        for (label, text) in labels {
            let escaped = text
                .replace('\\', r"\\")
                .replace('"', r#"\""#)
                .replace('\n', r"\n");
            let _ = write!(self.text, ",{label}=\"{escaped}\"");
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    /// A figure of our own, without labels.
    fn own(&mut self, kind: &str, rows: &[(&str, &str, u64)]) {
        for (name, help, value) in rows {
            self.head(name, kind, help);
            let _ = writeln!(self.text, "{name} {value}");
        }
    }
}

impl Service {
    /// All of them.
    pub fn metrics_text(&self) -> String {
        let meta = self.node().meta();
        let cluster = meta.cluster().map_or_else(String::new, |id| format!("{id:016x}"));
        let common = format!(
            "cluster=\"{cluster}\",node_type=\"broker\",node_id=\"{}\"",
            self.node().id()
        );
        let mut text = Text {
            text: String::new(),
            common,
        };
        self.shard_figures(&meta, &mut text);
        self.deliveries(&meta, &mut text);
        self.connections(&mut text);
        self.own_figures(&mut text);
        self.shard_metrics(&mut text.text);
        self.lag_metrics(&meta, &mut text);
        self.transactions(&meta, &mut text);
        text.text
    }

    /// What took effect in shards led here.
    fn shard_figures(&self, meta: &MetaState, text: &mut Text) {
        let (mut stored, mut given_up) = (
            BTreeMap::<u32, [u64; 2]>::new(),
            BTreeMap::<(u32, u32), u64>::new(),
        );
        let mut acknowledged = 0;
        for shard in self.node().shards() {
            let is_known = |&(topic, group): &(u32, u32)| {
                meta.topic_by_id(topic).is_some() && (group == 0 || meta.group_by_id(group).is_some())
            };
            for ((topic, group), [messages, bytes, acks, dead]) in shard.machine.tally.rows(is_known) {
                let sums = stored.entry(topic).or_default();
                (sums[0], sums[1]) = (sums[0] + messages, sums[1] + bytes);
                *given_up.entry((topic, group)).or_default() += dead;
                acknowledged += acks;
            }
        }
        for (at, name, help) in [
            (
                0,
                "rocketmq_messages_in_total",
                "Messages stored by shards led here",
            ),
            (
                1,
                "rocketmq_throughput_in_total",
                "Bytes of messages stored by shards led here",
            ),
        ] {
            text.head(name, "counter", help);
            for (&topic, sums) in stored.iter().filter(|(_, sums)| sums[0] > 0) {
                let topic = topic_name(meta, topic);
                let labels = [
                    ("topic", &*topic),
                    ("message_type", "normal"),
                    ("is_system", "false"),
                ];
                text.row(name, &labels, sums[at]);
            }
        }
        let name = "rocketmq_send_to_dlq_messages_total";
        text.head(
            name,
            "counter",
            "Messages moved to a dead-letter queue by shards led here",
        );
        for (&(topic, group), &dead) in given_up.iter().filter(|&(_, &dead)| dead > 0) {
            let (topic, group) = (topic_name(meta, topic), group_name(meta, group));
            let labels = [
                ("consumer_group", &*group),
                ("topic", &*topic),
                ("is_system", "false"),
            ];
            text.row(name, &labels, dead);
        }
        let name = "flotilla_acknowledged_messages_total";
        text.own(
            "counter",
            &[(name, "Messages acknowledged at shards led here", acknowledged)],
        );
    }

    /// What was delivered by shards led here.
    fn deliveries(&self, meta: &MetaState, text: &mut Text) {
        let is_known = |&(topic, group, _): &(u32, u32, bool)| {
            meta.topic_by_id(topic).is_some() && meta.group_by_id(group).is_some()
        };
        let rows = self.counters().delivered.rows(is_known);
        for (at, name, help) in [
            (
                0,
                "rocketmq_messages_out_total",
                "Messages delivered by shards led here",
            ),
            (
                1,
                "rocketmq_throughput_out_total",
                "Bytes of messages delivered by shards led here",
            ),
        ] {
            text.head(name, "counter", help);
            for &((topic, group, again), figures) in &rows {
                let (topic, group) = (topic_name(meta, topic), group_name(meta, group));
                let again = if again { "true" } else { "false" };
                let labels = [
                    ("topic", &*topic),
                    ("consumer_group", &*group),
                    ("is_retry", again),
                    ("is_system", "false"),
                ];
                text.row(name, &labels, figures[at]);
            }
        }
    }

    /// Clients whose Telemetry streams are open here.
    fn connections(&self, text: &mut Text) {
        let name = "rocketmq_producer_connections";
        text.head(name, "gauge", "Telemetry streams of producers");
        for (kind, [open]) in self.counters().producers.rows(|_| true) {
            text.row(name, &agent(&kind), open);
        }
        let name = "rocketmq_consumer_connections";
        text.head(name, "gauge", "Telemetry streams of consumers");
        for (kind, [open]) in self.counters().consumers.rows(|_| true) {
            let [language, version] = agent(&kind);
            let group = ("consumer_group", &*kind.group);
            let labels = [
                group,
                language,
                version,
                ("consume_mode", kind.mode),
                ("is_system", "false"),
            ];
            text.row(name, &labels, open);
        }
    }

    fn own_figures(&self, text: &mut Text) {
        let (counters, store) = (self.counters(), self.node().store().stats());
        let now = self.node().clock().steady_ms();
        let shards = self.node().shards();
        let forgotten = shards
            .iter()
            .map(|shard| shard.machine.read(queue_core::Core::dedup_shortened).0);
        text.own(
            "counter",
            &[
                (
                    "flotilla_dedup_forgotten_early_total",
                    "Message ids forgotten before the deduplication window was over, because there were too many",
                    forgotten.sum(),
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
                (
                    "flotilla_repaired_records_total",
                    "Stored records that were damaged and replaced by another node's",
                    self.node().store().repairs(),
                ),
            ],
        );
        let name = "rocketmq_storage_size";
        text.head(name, "gauge", "Bytes of log and state on disk");
        text.row(name, &[], store.log.disk_bytes + store.engine.disk_bytes);
        let clients = self.node().clients().count(now) as u64;
        text.own(
            "gauge",
            &[
                ("flotilla_clients", "Clients heard of lately", clients),
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
                (
                    "flotilla_damaged_records",
                    "Stored records that cannot be read and are not repaired yet",
                    self.node().store().damages().len() as u64,
                ),
            ],
        );
    }

    /// Transactions that nobody has ended, on the shards led here.
    fn transactions(&self, meta: &MetaState, text: &mut Text) {
        let mut open: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
        for shard in self.node().shards().iter().filter(|shard| shard.leads()) {
            shard.machine.read(|core| {
                for (queue, (undecided, given_up)) in core.halves().filter(|&(_, of)| of != (0, 0)) {
                    let sums = open.entry(queue.topic()).or_default();
                    *sums = [sums[0] + undecided + given_up, sums[1] + given_up];
                }
            });
        }
        for (at, name, help) in [
            (0, "rocketmq_half_messages", "Transactions that nobody has ended"),
            (
                1,
                "flotilla_given_up_transactions",
                "Of those, the ones about which producers are not asked any more",
            ),
        ] {
            text.head(name, "gauge", &format!("{help}, on the shards led here"));
            for (&topic, sums) in open
                .iter()
                .filter(|(topic, _)| meta.topic_by_id(**topic).is_some())
            {
                text.row(name, &[("topic", &*topic_name(meta, topic))], sums[at]);
            }
        }
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
    fn lag_metrics(&self, meta: &MetaState, text: &mut Text) {
        let mut lags = Lags::new();
        for shard in self.node().shards().iter().filter(|shard| shard.leads()) {
            shard.machine.read(|core| {
                for (group, queue, view) in core.subscriptions() {
                    let lag = lags.entry((group.0, queue.topic())).or_default();
                    lag.ready += view.ready;
                    lag.leased += view.leased;
                    lag.waiting += view.waiting;
                    lag.parked += view.parked;
                }
            });
        }
        for (at, name, help) in [
            (
                0,
                "rocketmq_consumer_lag_messages",
                "Messages that the consumer group is not done with",
            ),
            (
                1,
                "rocketmq_consumer_ready_messages",
                "Messages that were never delivered",
            ),
            (
                2,
                "rocketmq_consumer_inflight_messages",
                "Messages that are leased",
            ),
            (
                3,
                "flotilla_consumer_parked_messages",
                "Messages at which their message groups stopped, until somebody decides",
            ),
        ] {
            text.head(name, "gauge", &format!("{help}, on the shards led here"));
            for (&(group, topic), lag) in &lags {
                if meta.group_by_id(group).is_none() || meta.topic_by_id(topic).is_none() {
                    continue;
                }
                let all = lag.ready + lag.leased + lag.waiting;
                let value = [all, lag.ready, lag.leased, lag.parked][at];
                let (topic, group) = (topic_name(meta, topic), group_name(meta, group));
                let labels = [
                    ("consumer_group", &*group),
                    ("topic", &*topic),
                    ("is_retry", "false"),
                    ("is_system", "false"),
                ];
                text.row(name, &labels, value);
            }
        }
    }
}

/// Empty in the row of all that found no place.
fn topic_name(meta: &MetaState, topic: u32) -> String {
    meta.topic_by_id(topic)
        .map_or_else(String::new, |topic| topic.name.clone())
}

fn group_name(meta: &MetaState, group: u32) -> String {
    meta.group_by_id(group)
        .map_or_else(String::new, |group| group.name.clone())
}

fn agent(kind: &ClientKind) -> [(&'static str, &str); 2] {
    [("language", &kind.language), ("version", &kind.version)]
}
