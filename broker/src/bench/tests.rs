//! The benchmark against servers whose every fault is known: it has to find each one, and no other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Parser;
use flotilla_proto::rocketmq as mq;
use serde_json::Value;

use super::nodes::Nodes;
use super::noop::{self, Keep};
use super::options::{BenchArgs, Plan};
use super::report::Report;
use super::session::{self, Loaded, Verify};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn plan(line: &str) -> Plan {
    let words = std::iter::once("bench").chain(line.split_whitespace());
    Plan::new(Line::parse_from(words).bench.command).expect("a good plan")
}

/// Runs a short load against a server that keeps messages in a certain way.
async fn run(options: &str, keep: Keep) -> (Plan, Loaded) {
    let (address, _guard) = noop::serve_here(keep, 4).await;
    let mut plan = plan(&format!(
        "{options} --endpoint {address} --no-calibrate --connections 2 --in-flight 16 --payload 200 \
         --warmup 0s --duration 500ms"
    ));
    plan.consume.patience = Duration::from_millis(500);
    let loaded = session::load(&plan, &Nodes::of_processes(Vec::new()), Verify::Yes, "test").await;
    (plan, loaded.expect("the load runs"))
}

fn report(plan: &Plan, loaded: &Loaded) -> Report {
    Report::new(plan, &Nodes::of_processes(Vec::new()), loaded, None)
}

/// Does something special to every tenth message, and keeps the others.
fn every_tenth(special: impl Fn(mq::Message, &mut Vec<mq::Message>) + Send + Sync + 'static) -> Keep {
    let count = AtomicU32::new(0);
    Box::new(move |message, kept| {
        if count.fetch_add(1, Ordering::Relaxed) % 10 == 9 {
            special(message, kept)
        } else {
            kept.push(message)
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_server_passes_in_every_mode() {
    for mode in [
        "produce",
        "both",
        "both --rate 2000 --arrivals poisson",
        "produce --retry next",
    ] {
        let (plan, loaded) = run(mode, noop::everything()).await;
        let report = report(&plan, &loaded);
        let verdict = &report.verification.as_ref().expect("it verifies").verdict;
        assert!(report.passed, "{mode}: {}", report.for_people());
        assert!(verdict.acknowledged > 0, "{mode}: {verdict:?}");
        assert_eq!(verdict.arrived, verdict.acknowledged, "{mode}");
        assert_eq!(
            (verdict.duplicated, verdict.unknown, verdict.refused),
            (0, 0, 0),
            "{mode}"
        );
        assert!(report.sending.expect("it sends").latency_us.count > 0, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_sends_what_was_asked_for() {
    let (plan, loaded) = run("produce --rate 1000", noop::everything()).await;
    let sending = report(&plan, &loaded).sending.expect("it sends");
    // The load lasts half a second; what nobody was free to send is told.
    let (sent, _) = loaded.recorder.totals();
    let due = sent + sending.backlog_at_end as u64;
    assert!((250..=500).contains(&due), "{sent} sent, {sending:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_messages_are_found() {
    let (plan, loaded) = run("produce", every_tenth(|_, _| {})).await;
    let report = report(&plan, &loaded);
    let verdict = &report.verification.as_ref().expect("it verifies").verdict;
    assert_eq!(verdict.lost, verdict.acknowledged / 10);
    assert!(verdict.lost > 0 && !report.passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_twice_is_a_duplicate_of_a_first_try() {
    let twice = every_tenth(|message, kept| kept.extend([message.clone(), message]));
    let (plan, loaded) = run("produce", twice).await;
    let report = report(&plan, &loaded);
    let verdict = &report.verification.as_ref().expect("it verifies").verdict;
    assert_eq!(verdict.duplicated_first_try, verdict.acknowledged / 10);
    assert_eq!((verdict.lost, verdict.unexpected), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_messages_are_unexpected_and_their_originals_lost() {
    let damaging = every_tenth(|mut message, kept| {
        let mut body = message.body.to_vec();
        body[150] ^= 4;
        message.body = body.into();
        kept.push(message);
    });
    let (plan, loaded) = run("produce", damaging).await;
    let report = report(&plan, &loaded);
    let verdict = &report.verification.as_ref().expect("it verifies").verdict;
    assert_eq!(verdict.unexpected, verdict.acknowledged / 10);
    assert_eq!((verdict.lost, report.passed), (verdict.unexpected, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_others_are_none_of_our_business() {
    let with_others = every_tenth(|message, kept| {
        let mut other = message.clone();
        other.body = "hello".into();
        other.system_properties.get_or_insert_default().message_id = "somebody else's".to_owned();
        kept.extend([other, message]);
    });
    let (plan, loaded) = run("produce", with_others).await;
    let report = report(&plan, &loaded);
    let verdict = &report.verification.as_ref().expect("it verifies").verdict;
    assert!(
        report.passed && verdict.foreign == verdict.acknowledged / 10,
        "{verdict:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn consuming_counts_what_is_there() {
    let (address, _guard) = noop::serve_here(noop::everything(), 4).await;
    let common = format!("--endpoint {address} --no-calibrate --warmup 0s --duration 500ms --in-flight 8");
    let nodes = Nodes::of_processes(Vec::new());
    let filling = plan(&format!("produce {common} --rate 1000"));
    let filled = session::load(&filling, &nodes, Verify::No, "test")
        .await
        .expect("it fills");
    let consuming = plan(&format!("consume {common}"));
    let loaded = session::load(&consuming, &nodes, Verify::Yes, "test")
        .await
        .expect("it consumes");
    let report = report(&consuming, &loaded);
    let counts = &report.consumed.as_ref().expect("it counts").all;
    assert_eq!(
        (counts.distinct, counts.received),
        (filled.recorder.totals().0, filled.recorder.totals().0)
    );
    assert!(report.passed && report.messages_per_second > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_an_error_that_says_what_to_do() {
    let (address, guard) = noop::serve_here(noop::nothing(), 1).await;
    drop(guard);
    let plan = plan(&format!("produce --endpoint {address} --http {address}"));
    let error = Nodes::discover(&plan).await.err().expect("nobody is there");
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("is the cluster running"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_report_has_the_names_that_scripts_read() {
    let (plan, loaded) = run("both", noop::everything()).await;
    let json: Value = serde_json::from_str(&report(&plan, &loaded).as_json()).expect("it is JSON");
    for path in [
        "/passed",
        "/messages_per_second",
        "/ratio_to_noop",
        "/run/id",
        "/run/started_ms",
        "/run/payload_bytes",
        "/sending/messages",
        "/sending/messages_per_second",
        "/sending/latency_us/p50",
        "/sending/latency_us/p99",
        "/sending/latency_us/p99_9",
        "/sending/latency_us/max",
        "/sending/longest_gap_ms",
        "/sending/gaps",
        "/receiving/end_to_end_us/p99",
        "/verification/acknowledged",
        "/verification/lost",
        "/verification/duplicated",
        "/verification/duplicated_first_try",
        "/verification/unexpected",
        "/verification/order_violations",
        "/verification/unknown",
        "/cost/syncs_per_1000_messages",
        "/cost/disk_bytes_per_payload_byte",
        "/cost/cpu_us_per_message/total",
        "/cost/nodes",
        "/calibration",
        "/failures",
        "/timeline/0/sent",
        "/timeline/0/max_latency_ms",
    ] {
        assert!(json.pointer(path).is_some(), "{path} is missing in {json:#}");
    }
}
