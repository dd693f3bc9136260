//! Transactions: some are committed, some rolled back, and some forgotten, about which the broker asks the producer. Consumers get
//! what was committed, once, and nothing else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rocketmq::conf::ProducerOption;
use rocketmq::model::message::MessageBuilder;
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::Producer;

use crate::{client_option, receive_all, Failure, DEADLINE};

/// True if every message had its outcome.
pub async fn run(endpoint: &str, topic: &str, group: &str, count: usize) -> Result<bool, Failure> {
    let mut option = ProducerOption::default();
    option.set_topics(vec![topic]);
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let asking = Arc::clone(&asked);
    let checker = move |_: String, message: rocketmq::model::message::MessageView| {
        asking
            .lock()
            .expect("no panic while held")
            .insert(message.message_id().to_owned());
        match message.properties().get("outcome").map(String::as_str) {
            Some("commit") => TransactionResolution::COMMIT,
            Some("rollback") => TransactionResolution::ROLLBACK,
            _ => TransactionResolution::UNKNOWN,
        }
    };
    let mut producer =
        Producer::new_transaction_producer(option, client_option(endpoint), Box::new(checker))?;
    producer.start().await?;
    let (mut wanted, mut forgotten) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..count {
        let commits = number % 2 == 0;
        let outcome = if commits { "commit" } else { "rollback" };
        let message =
            MessageBuilder::transaction_message_builder(topic, format!("message {number}").into_bytes())
                .set_tag("rust")
                .set_properties([("number", number.to_string()), ("outcome", outcome.to_owned())].into())
                .build()?;
        let transaction = producer.send_transaction_message(message).await?;
        let id = transaction.message_id().to_owned();
        if commits {
            wanted.insert(id.clone());
        }
        match number % 4 {
            0 => transaction.commit().await?,
            1 => transaction.rollback().await?,
            _ => _ = forgotten.insert(id),
        }
    }
    let received = receive_all(endpoint, topic, group, wanted.len()).await?;
    let started = Instant::now();
    while !forgotten.is_subset(&asked.lock().expect("no panic while held")) && started.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    producer.shutdown().await?;
    let duplicates = received.values().sum::<usize>() - received.len();
    let missing = wanted.iter().filter(|id| !received.contains_key(*id)).count();
    let foreign = received.keys().filter(|id| !wanted.contains(*id)).count();
    let unasked = forgotten
        .difference(&asked.lock().expect("no panic while held"))
        .count();
    println!(
        "rust transaction: sent={count} received={} duplicates={duplicates} missing={missing} foreign={foreign} unasked={unasked}",
        received.len()
    );
    Ok(duplicates + missing + foreign + unasked == 0)
}
