//! When there are as many connections as may be.

use super::*;

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once() {
    let server = Server::with(|options| options.limits.max_connections = 2).await;
    let mut first = Client::plain(&server.address).await;
    let mut second = Client::plain(&server.address).await;
    let open = (first.open(TELEMETRY).await, second.open(TELEMETRY).await);
    assert_closed(TcpStream::connect(&server.address).await.unwrap()).await;
    assert_route(&mut first).await;
    drop((open, first));
    until(|| server.stats.connections.load(Relaxed) == 1).await;
    server.answers().await;
}

#[tokio::test]
async fn the_silent_give_way_to_new_clients_and_those_with_requests_stay() {
    let server = Server::with(|options| options.limits.max_connections = 40).await;
    let mut busy = Client::plain(&server.address).await;
    let _stream = busy.open(TELEMETRY).await;
    let mut silent = Vec::new();
    for _ in 1..40 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    // They all keep still; whoever comes is turned away until they have been silent for long enough.
    let served = async {
        loop {
            let socket = TcpStream::connect(&server.address).await.unwrap();
            if let Ok(mut client) = Client::over(socket).await
                && client.raw(ROUTE, &[], framed(&route_of("orders"))).await.is_ok()
            {
                return;
            }
        }
    };
    time::timeout(LIMIT, served)
        .await
        .expect("a silent connection gives way");
    assert_closed(silent.remove(0)).await;
    assert_route(&mut busy).await;
}
