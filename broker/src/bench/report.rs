//! What a run found out: as JSON for programs, as text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::calibrate::Calibration;
use super::ledger::Verdict;
use super::limits::MAX_EXAMPLES;
use super::nodes::{Cost, Nodes};
use super::options::{Mode, Plan, Rate};
use super::recorder::{FailureCount, Gap, LatencySummary, Second};
use super::schedule::Arrivals;
use super::session::Loaded;
use super::tally::Consumed;

/// The whole report. Scripts read it: fields may be added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub passed: bool,
    /// The headline: of sending, or of receiving in a consuming run.
    pub messages_per_second: f64,
    /// Share of what the no-op server reached in the same run.
    pub ratio_to_noop: Option<f64>,
    pub run: RunFacts,
    pub sending: Option<Sending>,
    pub receiving: Option<Receiving>,
    pub verification: Option<Verification>,
    pub consumed: Option<Consumed>,
    pub failures: BTreeMap<String, FailureCount>,
    pub cost: Cost,
    pub calibration: Option<Calibration>,
    pub timeline: Vec<Second>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RunFacts {
    pub id: String,
    pub mode: &'static str,
    pub version: &'static str,
    pub endpoints: Vec<String>,
    pub topic: String,
    pub topics: u32,
    /// Over all topics.
    pub queues: u32,
    pub groups: Vec<String>,
    /// Milliseconds since 1970 at which the measured window began.
    pub started_ms: u64,
    pub duration_seconds: f64,
    pub warmup_seconds: f64,
    pub payload_bytes: usize,
    pub in_flight: usize,
    pub connections: usize,
    /// Messages a second; absent in a closed loop.
    pub rate: Option<f64>,
    pub arrivals: Arrivals,
    pub message_groups: u32,
    pub tls: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Sending {
    pub messages: u64,
    pub messages_per_second: f64,
    /// From when a message was due to its acknowledgement, in microseconds.
    pub latency_us: LatencySummary,
    /// Messages that needed more than one try.
    pub retried: u64,
    pub longest_gap_ms: f64,
    pub gaps: Vec<Gap>,
    /// Due messages that nobody was free to send, in an open loop.
    pub backlog_at_end: usize,
    pub longest_backlog: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Receiving {
    pub messages: u64,
    pub messages_per_second: f64,
    /// From when a message was due to its arrival at a consumer, in microseconds.
    pub end_to_end_us: LatencySummary,
    /// Of acknowledgements by consumers, in microseconds.
    pub acknowledgement_us: LatencySummary,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Verification {
    #[serde(flatten)]
    pub verdict: Verdict,
    pub seconds: f64,
}

impl Report {
    pub(super) fn new(plan: &Plan, nodes: &Nodes, loaded: &Loaded, calibration: Option<Calibration>) -> Self {
        let recorder = &loaded.recorder;
        let messages_per_second = loaded.messages_per_second(plan.mode);
        let verdict = loaded.ledger.as_ref().map(|ledger| ledger.verdict());
        let sound = verdict
            .as_ref()
            .is_none_or(|verdict| verdict.holds() && verdict.acknowledged > 0)
            && loaded
                .consumed
                .as_ref()
                .is_none_or(|consumed| consumed.all.unexpected == 0 && consumed.all.received > 0);
        let ceiling = calibration
            .as_ref()
            .map(|calibration| calibration.noop_messages_per_second);
        let cost = nodes.cost(
            &loaded.before,
            &loaded.after,
            loaded.messages(plan.mode),
            plan.produce.payload,
        );
        Self {
            passed: sound,
            messages_per_second,
            ratio_to_noop: ceiling
                .filter(|ceiling| *ceiling > 0.0)
                .map(|ceiling| messages_per_second / ceiling),
            run: RunFacts::new(plan, loaded),
            sending: (plan.mode != Mode::Consume).then(|| Sending {
                messages: recorder.sent_in_window(),
                messages_per_second,
                latency_us: recorder.sends(),
                retried: recorder.retried(),
                longest_gap_ms: recorder.longest_gap_ms(),
                gaps: recorder.gaps(),
                backlog_at_end: loaded.backlog.0,
                longest_backlog: loaded.backlog.1,
            }),
            receiving: (plan.mode != Mode::Produce).then(|| Receiving {
                messages: recorder.received_in_window(),
                messages_per_second: match plan.mode {
                    Mode::Consume => messages_per_second,
                    _ => recorder.received_in_window() as f64 / recorder.window.as_secs_f64(),
                },
                end_to_end_us: recorder.journeys(),
                acknowledgement_us: recorder.acks(),
            }),
            verification: verdict.map(|verdict| Verification {
                verdict,
                seconds: loaded.verification.unwrap_or_default().as_secs_f64(),
            }),
            consumed: loaded.consumed.clone(),
            failures: recorder.failures(),
            cost,
            calibration,
            timeline: recorder.timeline(),
        }
    }

    pub(super) fn as_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has only plain fields");
        text.push('\n');
        text
    }

    /// For a terminal.
    pub(super) fn for_people(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("writing into memory succeeds");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let run = &self.run;
        writeln!(
            out,
            "{} {:.0} s, {} topics with {} queues, {} bytes, {} in flight, {}",
            run.mode,
            run.duration_seconds,
            run.topics,
            run.queues,
            run.payload_bytes,
            run.in_flight,
            run.rate.map_or_else(
                || "as fast as possible".to_owned(),
                |rate| format!("{rate} messages/s wanted")
            ),
        )?;
        if let Some(sending) = &self.sending {
            writeln!(
                out,
                "  sent         {:>10.0} messages/s  {}",
                sending.messages_per_second,
                line(&sending.latency_us)
            )?;
            writeln!(
                out,
                "               longest gap {:.0} ms, {} messages retried, backlog {} at the end",
                sending.longest_gap_ms, sending.retried, sending.backlog_at_end
            )?;
        }
        if let Some(receiving) = &self.receiving {
            writeln!(
                out,
                "  received     {:>10.0} messages/s  end to end {}",
                receiving.messages_per_second,
                line(&receiving.end_to_end_us)
            )?;
        }
        self.write_ceiling(out)?;
        self.write_cost(out)?;
        for (what, FailureCount { count, example }) in &self.failures {
            writeln!(out, "  failures     {count:>10} {what} {example}")?;
        }
        self.write_verdict(out)
    }

    fn write_ceiling(&self, out: &mut String) -> std::fmt::Result {
        let Some(calibration) = &self.calibration else {
            return Ok(());
        };
        writeln!(
            out,
            "  no-op server {:>10.0} messages/s  ({:.0} before, {:.0} after); this run: {:.0} % of it",
            calibration.noop_messages_per_second,
            calibration.noop_before.messages_per_second,
            calibration.noop_after.messages_per_second,
            100.0 * self.ratio_to_noop.unwrap_or(0.0),
        )?;
        for disk in &calibration.disk {
            writeln!(
                out,
                "  bare syncs   {:>10.0} syncs/s     of {} KiB, median {} us, p99 {} us",
                disk.syncs_per_second,
                disk.block_bytes >> 10,
                disk.median_us,
                disk.p99_us
            )?;
        }
        Ok(())
    }

    fn write_cost(&self, out: &mut String) -> std::fmt::Result {
        let known = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), |value| format!("{value:.2}"));
        let cpu = &self.cost.cpu_us_per_message;
        writeln!(
            out,
            "  cost         {} us of CPU a message (client {:.1}, servers {})",
            known(cpu.total),
            cpu.client,
            known(cpu.servers)
        )?;
        for node in &self.cost.nodes {
            writeln!(
                out,
                "  node         {}: {} syncs per 1,000 messages, {} disk bytes per payload byte{}",
                node.http,
                known(node.syncs_per_1000_messages),
                known(node.disk_bytes_per_payload_byte),
                if node.restarted { " (restarted)" } else { "" }
            )?;
        }
        Ok(())
    }

    fn write_verdict(&self, out: &mut String) -> std::fmt::Result {
        if let Some(Verification { verdict, seconds }) = &self.verification {
            writeln!(
                out,
                "  verified     {} acknowledged: {} lost, {} duplicated ({} of first tries), {} unexpected, \
                 {} redelivered, {} unknown ({} arrived), {} refused, {} foreign, in {seconds:.1} s",
                verdict.acknowledged,
                verdict.lost,
                verdict.duplicated,
                verdict.duplicated_first_try,
                verdict.unexpected,
                verdict.redelivered,
                verdict.unknown,
                verdict.unknown_arrived,
                verdict.refused,
                verdict.foreign,
            )?;
            if let Some(violations) = verdict.order_violations {
                writeln!(
                    out,
                    "               {violations} out of order in their message group"
                )?;
            }
            for example in verdict.examples.iter().take(MAX_EXAMPLES) {
                writeln!(out, "               {example}")?;
            }
        }
        if let Some(Consumed {
            all: counts,
            by_group,
        }) = &self.consumed
        {
            writeln!(
                out,
                "  consumed     {} messages, {} distinct: {} redelivered, {} duplicated, {} unexpected, {} foreign",
                counts.received,
                counts.distinct,
                counts.redelivered,
                counts.duplicated,
                counts.unexpected,
                counts.foreign,
            )?;
            if by_group.len() > 1 {
                let (least, most) = (by_group.values().min(), by_group.values().max());
                writeln!(
                    out,
                    "               {} to {} by each of {} consumer groups",
                    least.unwrap_or(&0),
                    most.unwrap_or(&0),
                    by_group.len()
                )?;
            }
        }
        writeln!(out, "{}", if self.passed { "passed" } else { "FAILED" })
    }
}

impl RunFacts {
    fn new(plan: &Plan, loaded: &Loaded) -> Self {
        Self {
            id: loaded.run.to_string(),
            mode: plan.mode.name(),
            version: env!("CARGO_PKG_VERSION"),
            endpoints: plan.access.clone(),
            topic: plan.target.topic.clone(),
            topics: plan.target.topics,
            queues: loaded.queues,
            groups: loaded.groups.clone(),
            started_ms: loaded.started_ms,
            duration_seconds: plan.target.duration.as_secs_f64(),
            warmup_seconds: plan.target.warmup.as_secs_f64(),
            payload_bytes: plan.produce.payload,
            in_flight: plan.produce.in_flight,
            connections: plan.target.connections,
            rate: match plan.produce.rate {
                Rate::Max => None,
                Rate::PerSecond(rate) => Some(rate),
            },
            arrivals: plan.produce.arrivals,
            message_groups: plan.produce.message_groups,
            tls: plan.target.tls,
        }
    }
}

fn line(latency: &LatencySummary) -> String {
    let ms = |us: u64| us as f64 / 1e3;
    format!(
        "p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  max {:.2} ms",
        ms(latency.p50),
        ms(latency.p99),
        ms(latency.p99_9),
        ms(latency.max)
    )
}
