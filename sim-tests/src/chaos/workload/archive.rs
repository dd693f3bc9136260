//! A topic that fills the nodes' logs up to what they keep, before anything else is sent. Nobody reads it. So retention is at
//! work from the first fault on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::Instant;

use super::pause;
use crate::chaos::{book::Book, client::Client};

/// Its topic.
pub(in crate::chaos) const ARCHIVE: &str = "archive";
/// What is sent, and the size of a message, bytes.
const BYTES: u64 = 416 << 20;
const BODY: u64 = 128 << 10;
const PRODUCERS: u32 = 12;
/// A slow disk may leave it incomplete.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends it; the addresses are those of nodes 1, 2 and so on.
pub(in crate::chaos) async fn fill(addresses: &[String], book: &Book) {
    let (began, sent) = (Instant::now(), Arc::<AtomicU64>::default());
    let body = Bytes::from(vec![b'a'; BODY as usize]);
    let producers = (1..=PRODUCERS).map(|producer| {
        let (sent, body) = (sent.clone(), body.clone());
        async move {
            let client = Client::new(&format!("archivist-{producer}"), addresses);
            let mut node = producer % addresses.len() as u32 + 1;
            for number in 0_u32.. {
                if sent.load(Ordering::SeqCst) >= BYTES || began.elapsed() > PATIENCE {
                    return;
                }
                let id = format!("{ARCHIVE}/{producer}-{number}");
                if client.send(node, ARCHIVE, &id, body.clone()).await.is_ok() {
                    sent.fetch_add(BODY, Ordering::SeqCst);
                } else {
                    node = node % addresses.len() as u32 + 1;
                    pause().await;
                }
            }
        }
    });
    join_all(producers).await;
    book.note(&format!(
        "{} MiB were sent in {:.1} s that nobody reads",
        sent.load(Ordering::SeqCst) >> 20,
        began.elapsed().as_secs_f64()
    ));
}
