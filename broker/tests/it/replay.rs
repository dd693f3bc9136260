//! Consumer groups that read again, or pass over.

use std::{collections::BTreeMap, time::Duration};

use broker::{
    service::Service,
    views::{AdminErrorKind, QueueSeek, SeekReport, SeekSpec, SeekTo},
};
use flotilla_proto::rocketmq::Code;

use crate::cluster::{Cluster, ack, code, properties, receive, send, wait_for};

const SHORT: Duration = Duration::from_millis(300);

fn spec(to: SeekTo) -> SeekSpec {
    SeekSpec {
        topic: "orders".into(),
        queue: None,
        to,
        dry_run: false,
        id: None,
    }
}

async fn send_some(service: &Service, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let sent = send(service, "orders", &format!("id-{number:03}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
}

/// Receives until nothing comes: ids with their attempts. Acknowledges, if that is asked for.
async fn drain(service: &Service, acks: bool) -> BTreeMap<String, i32> {
    let mut came = BTreeMap::new();
    loop {
        let (_, messages) = receive(service, "orders", "readers", SHORT).await;
        if messages.is_empty() {
            return came;
        }
        for message in &messages {
            let all = properties(message);
            came.insert(all.message_id.clone(), all.delivery_attempt.expect("an attempt"));
            if acks {
                assert_eq!(ack(service, "orders", "readers", message).await, Code::Ok);
            }
        }
    }
}

fn sum(report: &SeekReport, of: impl Fn(&QueueSeek) -> Option<u64>) -> u64 {
    report
        .queues
        .iter()
        .map(|queue| of(queue).expect("it is done"))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_group_reads_again_from_the_first_message_and_passes_over_to_the_last() {
    let cluster = Cluster::start(3).await;
    send_some(cluster.service(1), 0..40).await;
    assert_eq!(drain(cluster.service(1), true).await.len(), 40);
    // Any node carries it out.
    let report = cluster
        .service(2)
        .seek_group("readers", spec(SeekTo::First))
        .await
        .unwrap();
    assert_eq!(
        (
            sum(&report, |queue| queue.before),
            sum(&report, |queue| queue.after)
        ),
        (40, 0)
    );
    let again = drain(cluster.service(3), false).await;
    assert_eq!((again.len(), again.values().max()), (40, Some(&1)));
    // What was leased is over.
    let report = cluster
        .service(3)
        .seek_group("readers", spec(SeekTo::Last))
        .await
        .unwrap();
    assert_eq!(sum(&report, |queue| queue.after), 40);
    let view = cluster.service(1).describe_group("readers").await.unwrap();
    assert_eq!((view.total.ready, view.total.waiting), (0, 0));
    send_some(cluster.service(1), 40..43).await;
    assert_eq!(drain(cluster.service(1), true).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_is_exact_to_the_message_also_after_a_failover() {
    let mut cluster = Cluster::start(3).await;
    let mut dates = Vec::new();
    for number in 0..30 {
        send_some(cluster.service(1), number..number + 1).await;
        // The next one has another date.
        let clock = cluster.service(1).node().clock();
        let before = clock.wall_ms();
        wait_for("the clock to go on", || clock.wall_ms() > before).await;
    }
    // What each was dated, as consumers are told.
    loop {
        let (_, messages) = receive(cluster.service(1), "orders", "readers", SHORT).await;
        if messages.is_empty() {
            break;
        }
        for message in &messages {
            let all = properties(message);
            let stamp = all.store_timestamp.as_ref().expect("a date");
            let ms = stamp.seconds as u64 * 1_000 + stamp.nanos as u64 / 1_000_000;
            dates.push((ms, all.message_id.clone()));
            ack(cluster.service(1), "orders", "readers", message).await;
        }
    }
    dates.sort();
    assert_eq!(dates.len(), 30);
    for at in [0, 7, 29] {
        let to = SeekTo::AtMs(dates[at].0);
        let report = cluster.service(2).seek_group("readers", spec(to)).await.unwrap();
        assert!(report.queues.iter().all(|queue| queue.problem.is_none()));
        let expected = dates.iter().filter(|(ms, _)| *ms >= dates[at].0).count();
        assert_eq!(drain(cluster.service(3), true).await.len(), expected);
        if at == 7 {
            cluster.kill(1).await;
            cluster.boot(1).await;
            cluster.wait_ready().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_and_one_queue_is_one_queue() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_some(service, 0..40).await;
    drain(service, true).await;
    let looks = SeekSpec {
        dry_run: true,
        ..spec(SeekTo::First)
    };
    let report = service.seek_group("readers", looks).await.unwrap();
    assert_eq!((report.dry_run, sum(&report, |queue| queue.after)), (true, 0));
    assert_eq!(drain(service, true).await.len(), 0);
    let one = SeekSpec {
        queue: Some(1),
        ..spec(SeekTo::Offset(2))
    };
    let report = service.seek_group("readers", one).await.unwrap();
    let [queue] = &report.queues[..] else {
        panic!("{report:?}");
    };
    let left = queue.before.unwrap() - queue.after.unwrap();
    assert_eq!((queue.queue, queue.after), (1, Some(2)));
    assert_eq!(drain(service, true).await.len() as u64, left);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_that_is_asked_for_again_by_its_name_undoes_nothing() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_some(service, 0..10).await;
    drain(service, true).await;
    let named = SeekSpec {
        id: Some(77),
        ..spec(SeekTo::First)
    };
    let report = service.seek_group("readers", named.clone()).await.unwrap();
    assert_eq!((report.id, sum(&report, |queue| queue.after)), (77, 0));
    assert_eq!(drain(service, true).await.len(), 10);
    let report = service.seek_group("readers", named).await.unwrap();
    assert_eq!(sum(&report, |queue| queue.after), 0, "where it was put then");
    assert_eq!(drain(service, true).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sought_is_refused() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_some(service, 0..1).await;
    let seek = async |group: &str, spec: SeekSpec| service.seek_group(group, spec).await.unwrap_err().kind;
    assert_eq!(
        seek("nobody", spec(SeekTo::First)).await,
        AdminErrorKind::NotFound
    );
    drain(service, true).await;
    let elsewhere = SeekSpec {
        topic: "nothing".into(),
        ..spec(SeekTo::First)
    };
    assert_eq!(seek("readers", elsewhere).await, AdminErrorKind::NotFound);
    let queue = SeekSpec {
        queue: Some(99),
        ..spec(SeekTo::First)
    };
    assert_eq!(seek("readers", queue).await, AdminErrorKind::Invalid);
}
