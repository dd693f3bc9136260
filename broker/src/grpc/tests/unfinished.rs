//! Messages that begin and do not end: what they hold counts, and for so long only.

use super::*;

const BEGUN_BYTES: usize = 40 << 10;

/// The beginning of a command of 900 KiB.
fn begun() -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(900 << 10);
    bytes.put_bytes(7, BEGUN_BYTES - bytes.len());
    bytes.freeze()
}

#[tokio::test]
async fn commands_that_do_not_end_count_as_bytes_being_received() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (said, answers) = client.open(TELEMETRY).await;
        said.unbounded_send(framed(&settings())).unwrap();
        said.unbounded_send(begun()).unwrap();
        streams.push((said, answers));
    }
    until(|| server.stats.inbound_bytes.load(Relaxed) == 2 * BEGUN_BYTES as u64).await;
    drop(streams);
    until(|| server.stats.inbound_bytes.load(Relaxed) == 0).await;
    assert_route(&mut client).await;
}

#[tokio::test]
async fn a_stream_may_be_silent_between_two_commands_and_is_given_up_in_the_middle_of_one() {
    let server = Server::with(|options| options.patience.body = Duration::from_millis(100)).await;
    let mut client = Client::plain(&server.address).await;
    let (said, mut answers) = client.open(TELEMETRY).await;
    for _ in 0..2 {
        // Longer than a command may pause.
        time::sleep(Duration::from_millis(150)).await;
        said.unbounded_send(framed(&settings())).unwrap();
        let answer = time::timeout(LIMIT, answers.frame()).await.unwrap();
        assert!(answer.unwrap().unwrap().is_data());
    }
    until(|| server.stats.inbound_bytes.load(Relaxed) == 0).await;
    said.unbounded_send(begun()).unwrap();
    until(|| server.stats.requests.load(Relaxed) == 0).await;
    assert_route(&mut client).await;
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_does_not_hold_its_room_for_ever() {
    let server = Server::with(|options| options.patience.message = Duration::from_millis(200)).await;
    let mut client = Client::plain(&server.address).await;
    let message = framed(&send_of(100_000));
    let status = time::timeout(LIMIT, client.trickle(SEND, message)).await;
    assert_eq!(status.expect("it is given up"), Some(DEADLINE_EXCEEDED));
    until(|| server.stats.inbound_send_bytes.load(Relaxed) == 0).await;
}
