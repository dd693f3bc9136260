//! Where the body of a gRPC request stands: between two messages, or in the middle of one.

/// A message's flag and length.
const HEAD_BYTES: usize = 5;

/// Follows a body from message to message.
#[derive(Debug, Default)]
pub(super) struct Framing {
    head: [u8; HEAD_BYTES],
    /// Bytes of the message that has begun, its head included.
    begun: u64,
    /// Bytes that are still to come, once the head is known.
    left: u64,
}

impl Framing {
    /// Bytes that are here of a message which is not complete.
    pub(super) fn unfinished(&self) -> u64 {
        self.begun
    }

    /// Takes in the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let have = self.begun.min(HEAD_BYTES as u64) as usize;
            let now = if have < HEAD_BYTES {
                let now = bytes.len().min(HEAD_BYTES - have);
                self.head[have..have + now].copy_from_slice(&bytes[..now]);
                if have + now == HEAD_BYTES {
                    let [_, length @ ..] = self.head;
                    self.left = u32::from_be_bytes(length).into();
                }
                now
            } else {
                let now = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= now as u64;
                now
            };
            self.begun += now as u64;
            bytes = &bytes[now..];
            if self.begun >= HEAD_BYTES as u64 && self.left == 0 {
                *self = Framing::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_between_messages_exactly_where_one_has_ended_however_it_is_cut() {
        let body = [
            &[0, 0, 0, 0, 3][..],
            b"abc",
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 1],
            b"d",
        ]
        .concat();
        let ends = [0, 8, 13, 19];
        for size in 1..=body.len() {
            let (mut framing, mut at) = (Framing::default(), 0);
            for piece in body.chunks(size) {
                framing.take(piece);
                at += piece.len();
                let end = *ends.iter().rfind(|end| **end <= at).unwrap();
                assert_eq!(framing.unfinished(), (at - end) as u64, "{size} {at}");
            }
        }
    }
}
