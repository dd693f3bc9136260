//! Lists in `:authority`, as the SDKs encode them.

use tokio::io::AsyncReadExt;

use super::*;

const LIST: &str = "127.0.0.1:8081,[::1]:8081;c%1:8081";
const REPLACED: &str = "127.0.0.1x8081,~xx1~x8081;c-1x8081";

fn encode(text: &str) -> Vec<u8> {
    let bits: Vec<(u32, u32)> = text
        .bytes()
        .map(|character| {
            let (length, ..) = CODES
                .iter()
                .find(|(.., known)| known.contains(&character))
                .unwrap();
            (*length, code_of(character).unwrap())
        })
        .collect();
    let count: u32 = bits.iter().map(|(length, _)| length).sum();
    let mut coded = vec![0xff; count.div_ceil(8) as usize];
    let mut at = 0;
    for (length, code) in bits {
        write_bits(&mut coded, at, length, code);
        at += length as usize;
    }
    coded
}

fn text(huffman: bool, text: &str) -> Vec<u8> {
    let bytes = if huffman {
        encode(text)
    } else {
        text.as_bytes().to_vec()
    };
    let mark = if huffman { 0x80 } else { 0 };
    [vec![mark | u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// `:method: POST`, `:path` as a literal, then the authority: by its number (Go) or by its name (gRPC's core: Python).
fn block(huffman: bool, by_name: bool, authority: &str) -> Vec<u8> {
    let name = if by_name {
        [vec![0x40], text(huffman, ":authority")].concat()
    } else {
        vec![0x41]
    };
    [
        vec![0x83, 0x44],
        text(false, "/a/b"),
        name,
        text(huffman, authority),
        vec![0x86],
    ]
    .concat()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], payload].concat()
}

/// What comes out when the client sends so many bytes at a time.
async fn passed(sent: &[u8], at_a_time: usize) -> Vec<u8> {
    let mut stream = in_parts(sent, at_a_time);
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    received
}

/// A client that sends in small parts.
struct Parts(Vec<Vec<u8>>);

fn in_parts(sent: &[u8], at_a_time: usize) -> OneAuthority<Parts> {
    OneAuthority::new(Parts(sent.chunks(at_a_time).rev().map(<[u8]>::to_vec).collect()))
}

impl AsyncRead for Parts {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut part) = self.0.pop() {
            let now = part.len().min(buf.remaining());
            buf.put_slice(&part[..now]);
            if now < part.len() {
                self.0.push(part.split_off(now));
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn conversation(huffman: bool, by_name: bool, authority: &str) -> Vec<u8> {
    let headers = block(huffman, by_name, authority);
    let padded = [&[3][..], &[0, 0, 0, 0, 16], &headers, &[0, 0, 0]].concat();
    [
        vec![b'P'; PREFACE_BYTES],
        frame(4, 0, &[]),
        frame(4, 0, &[1; 6]),
        frame(HEADERS, 4, &headers),
        frame(0, 1, b"a:1,b:2"),
        frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
        frame(0, 1, &[7; 40]),
    ]
    .concat()
}

#[tokio::test]
async fn a_list_becomes_one_name_of_the_same_length_however_it_is_encoded_and_split() {
    for huffman in [false, true] {
        for by_name in [false, true] {
            let sent = conversation(huffman, by_name, LIST);
            let wanted = conversation(huffman, by_name, REPLACED);
            for at_a_time in [1, 2, 7, 50, 100_000] {
                assert_eq!(
                    passed(&sent, at_a_time).await,
                    wanted,
                    "{huffman} {by_name} {at_a_time}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_ordinary_authority_passes_unchanged() {
    for authority in ["127.0.0.1:8081", "[::1]:8081", "a-host.example"] {
        for huffman in [false, true] {
            let sent = conversation(huffman, true, authority);
            assert_eq!(passed(&sent, 10).await, sent);
        }
    }
}

#[tokio::test]
async fn frames_that_cannot_be_read_pass_unchanged() {
    let list = block(true, false, LIST);
    let broken: [Vec<u8>; 6] = [
        vec![],
        vec![0x41],
        vec![0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x41, 0x85, 0xff, 0xff, 0xff, 0xff, 0xff],
        list[..list.len() - 3].to_vec(),
        vec![0xff; 60],
    ];
    for payload in broken {
        for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
            let sent = [
                vec![b'P'; PREFACE_BYTES],
                frame(HEADERS, flags, &payload),
                vec![1; 30],
            ]
            .concat();
            assert_eq!(passed(&sent, 5).await, sent, "{payload:?} {flags}");
        }
    }
    let cut_short = [vec![b'P'; PREFACE_BYTES], vec![0, 0, 9, HEADERS, 4]].concat();
    assert_eq!(passed(&cut_short, 3).await, cut_short);
}
