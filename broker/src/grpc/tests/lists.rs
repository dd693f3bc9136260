//! A client that was given several endpoints and names them all in `:authority`.

use super::*;

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const GO_AWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

/// As gRPC's core writes them: names and values spelled out, every one kept in the table of headers.
fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [vec![u8::try_from(text.len()).unwrap()], text.into()].concat();
    let field = |(name, value): &(&str, &str)| [vec![0x40], text(name), text(value)].concat();
    fields.iter().flat_map(field).collect()
}

#[tokio::test]
async fn a_client_that_names_all_its_endpoints_is_served() {
    let server = Server::start().await;
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    let fields = headers(&[
        (":path", ROUTE),
        (":authority", "127.0.0.1:8081,127.0.0.2:8081"),
        (":method", "POST"),
        (":scheme", "http"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    // The second request refers to the table of headers: the six fields, the newest first.
    let again = [0xc3, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe];
    for (stream, block) in [(1, &fields[..]), (3, &again)] {
        sent.extend(frame(HEADERS, 4, stream, block));
        sent.extend(frame(0, 1, stream, &framed(&route_of("orders"))));
    }
    socket.write_all(&sent).await.unwrap();
    let mut answered = Vec::new();
    while answered != [1, 3] {
        let mut head = [0; 9];
        time::timeout(LIMIT, socket.read_exact(&mut head))
            .await
            .unwrap()
            .unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).await.unwrap();
        assert!(
            ![RESET, GO_AWAY].contains(&head[3]),
            "refused: {head:?} {payload:?}"
        );
        if head[3] == HEADERS && !answered.contains(&head[8]) {
            answered.push(head[8]);
            answered.sort_unstable();
        }
    }
}
