//! The unmodified Rust SDK against a running broker: send, receive and acknowledge with a simple consumer (it has no other).
//!
//! Usage: rust-sdk-test ENDPOINT TOPIC GROUP COUNT [transaction]. Ends with 1 unless every message that was sent arrived exactly once,
//! of transactions those that were committed.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{MessageBuilder, MessageView};
use rocketmq::{Producer, SimpleConsumer};

mod transaction;

const DEADLINE: Duration = Duration::from_secs(120);
const INVISIBLE: Duration = Duration::from_secs(60);
/// Receives that must come back empty before we believe that nothing arrives twice.
const EMPTY_RECEIVES: usize = 2;

type Failure = Box<dyn std::error::Error>;

#[derive(Default)]
struct Received {
    /// How often each message id arrived.
    times: BTreeMap<String, usize>,
    /// Messages whose parts do not belong together.
    wrong: usize,
}

fn client_option(endpoint: &str) -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(endpoint);
    option.set_enable_tls(false);
    option.set_long_polling_timeout(Duration::from_secs(1));
    option
}

async fn send(endpoint: &str, topic: &str, count: usize) -> Result<BTreeMap<String, usize>, Failure> {
    let mut option = ProducerOption::default();
    option.set_topics(vec![topic]);
    let mut producer = Producer::new(option, client_option(endpoint))?;
    producer.start().await?;
    let mut sent = BTreeMap::new();
    for number in 0..count {
        let message = MessageBuilder::builder()
            .set_topic(topic)
            .set_tag("rust")
            .set_keys(vec![format!("key-{number}")])
            .set_properties([("number", number.to_string())].into())
            .set_body(format!("message {number}").into_bytes())
            .build()?;
        sent.insert(producer.send(message).await?.message_id().to_owned(), number);
    }
    producer.shutdown().await?;
    Ok(sent)
}

/// How often each message id arrived.
async fn receive_all(
    endpoint: &str,
    topic: &str,
    group: &str,
    count: usize,
) -> Result<BTreeMap<String, usize>, Failure> {
    Ok(receive_that(endpoint, topic, group, count, |_| true).await?.times)
}

async fn receive(endpoint: &str, topic: &str, group: &str, count: usize) -> Result<Received, Failure> {
    receive_that(endpoint, topic, group, count, is_whole).await
}

async fn receive_that(
    endpoint: &str,
    topic: &str,
    group: &str,
    count: usize,
    is_whole: impl Fn(&MessageView) -> bool,
) -> Result<Received, Failure> {
    let mut option = SimpleConsumerOption::default();
    option.set_topics(vec![topic]);
    option.set_consumer_group(group);
    let mut consumer = SimpleConsumer::new(option, client_option(endpoint))?;
    consumer.start().await?;
    let everything = FilterExpression::new(FilterType::Tag, "*");
    let (mut received, mut empty, started) = (Received::default(), 0, Instant::now());
    while (received.times.len() < count || empty < EMPTY_RECEIVES) && started.elapsed() < DEADLINE {
        let batch = consumer.receive_with(topic, &everything, 32, INVISIBLE).await?;
        empty = if batch.is_empty() { empty + 1 } else { 0 };
        for message in &batch {
            *received.times.entry(message.message_id().to_owned()).or_default() += 1;
            if !is_whole(message) {
                received.wrong += 1;
                println!("  unexpected: {message:?}");
            }
            consumer.ack(message).await?;
        }
    }
    consumer.shutdown().await?;
    Ok(received)
}

fn is_whole(message: &MessageView) -> bool {
    let Some(number) = message.properties().get("number") else {
        return false;
    };
    message.body() == format!("message {number}").as_bytes()
        && message.tag() == Some("rust")
        && message.keys() == [format!("key-{number}")]
        && message.delivery_attempt() == 1
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, topic, group, count, mode @ ..] = arguments.as_slice() else {
        return Err("usage: rust-sdk-test ENDPOINT TOPIC GROUP COUNT [transaction]".into());
    };
    let count: usize = count.parse()?;
    if mode.first().is_some_and(|mode| mode == "transaction") {
        let good = transaction::run(endpoint, topic, group, count).await?;
        return Ok(if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let sent = send(endpoint, topic, count).await?;
    let received = receive(endpoint, topic, group, count).await?;
    let duplicates = received.times.values().sum::<usize>() - received.times.len();
    let missing = sent.keys().filter(|id| !received.times.contains_key(*id)).count();
    let foreign = received.times.keys().filter(|id| !sent.contains_key(*id)).count();
    println!(
        "rust simple: sent={} received={} duplicates={duplicates} missing={missing} foreign={foreign} wrong={}",
        sent.len(),
        received.times.len(),
        received.wrong
    );
    let good = sent.len() == count && duplicates + missing + foreign + received.wrong == 0;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
