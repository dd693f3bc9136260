//! `:authority` headers that name several hosts. Clients configured with `a:8081;b:8081` send the whole list in every
//! request; the HTTP/2 library takes a list for a malformed request and resets the stream before anybody could answer.
//!
//! Nothing here reads `:authority`, so a list is turned into a name that no host has: every `:`, `[`, `]` and `%` of it is
//! replaced by a letter whose Huffman code is as long. No length changes, in the frame or in the sender's and the receiver's
//! table of headers, so everything else passes as it came. A client names the same authority in all its requests:
//! a connection whose first request has an ordinary one is never looked at again.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::limits::MAX_FRAME_BYTES;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// Number of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;

/// Huffman codes by length: the first code, and the characters from it on. These are all that an authority may hold.
const CODES: [(u32, u32, &[u8]); 8] = [
    (5, 0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, b"&*,;XZ"),
    (10, 0x3f8, b"!\"()?"),
    (11, 0x7fa, b"'+|"),
    (12, 0xffa, b"#>"),
    (13, 0x1ff8, b"\0$@[]~"),
];

/// What is read next.
#[derive(Debug)]
enum Next {
    /// Bytes that pass unseen.
    Pass(usize),
    /// The head of a frame, into `held`.
    Head,
    /// The rest of a HEADERS frame, into `held`: so many bytes with its head.
    Headers(usize),
    /// Whatever comes.
    Everything,
}

/// A connection on which no list of hosts arrives.
#[derive(Debug)]
pub(super) struct OneAuthority<S> {
    stream: S,
    next: Next,
    /// At most one HEADERS frame, bounded by [`MAX_FRAME_BYTES`].
    held: Vec<u8>,
    /// What of `held` may be given out, and what of that has been.
    released: Range<usize>,
    /// The client names a list.
    lists: bool,
}

impl<S> OneAuthority<S> {
    pub(super) fn new(stream: S) -> OneAuthority<S> {
        OneAuthority {
            stream,
            next: Next::Pass(PREFACE_BYTES),
            held: Vec::new(),
            released: 0..0,
            lists: false,
        }
    }

    fn release(&mut self, next: Next) {
        self.released = 0..self.held.len();
        self.next = next;
    }

    /// Decides what becomes of what is held, once it is complete.
    fn look(&mut self) {
        let complete = match self.next {
            Next::Head => HEAD_BYTES,
            Next::Headers(bytes) => bytes,
            Next::Pass(_) | Next::Everything => return,
        };
        if self.held.len() < complete {
            return;
        }
        let length =
            usize::from(self.held[0]) << 16 | usize::from(self.held[1]) << 8 | usize::from(self.held[2]);
        let (kind, flags) = (self.held[3], self.held[4]);
        if complete < HEAD_BYTES + length && kind == HEADERS {
            if length > MAX_FRAME_BYTES as usize {
                return self.release(Next::Everything);
            }
            self.next = Next::Headers(HEAD_BYTES + length);
        } else if kind == HEADERS {
            self.lists |= replace_list(flags, &mut self.held[HEAD_BYTES..]);
            self.release(if self.lists { Next::Head } else { Next::Everything });
        } else {
            self.release(if length == 0 {
                Next::Head
            } else {
                Next::Pass(length)
            });
        }
    }
}

impl<S: AsyncRead + Unpin> OneAuthority<S> {
    /// Adds to what is held, up to `complete` bytes. `false`: the client has closed.
    fn poll_hold(&mut self, cx: &mut Context<'_>, complete: usize) -> Poll<io::Result<bool>> {
        let mut space = [0; 1024];
        let wanted = (complete - self.held.len()).min(space.len());
        let mut read = ReadBuf::new(&mut space[..wanted]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.held.extend_from_slice(read.filled());
        Poll::Ready(Ok(!read.filled().is_empty()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for OneAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.released.is_empty() {
                let now = this.released.len().min(buf.remaining());
                buf.put_slice(&this.held[this.released.start..][..now]);
                this.released.start += now;
                if this.released.is_empty() {
                    // Silent connections shall not keep the memory.
                    this.held = Vec::new();
                }
                return Poll::Ready(Ok(()));
            }
            let complete = match this.next {
                Next::Everything => return Pin::new(&mut this.stream).poll_read(cx, buf),
                Next::Pass(left) => {
                    let most = left.min(buf.remaining());
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                    let read = part.filled().len();
                    buf.advance(read);
                    this.next = if read == left {
                        Next::Head
                    } else {
                        Next::Pass(left - read)
                    };
                    return Poll::Ready(Ok(()));
                }
                Next::Head => HEAD_BYTES,
                Next::Headers(bytes) => bytes,
            };
            if !ready!(this.poll_hold(cx, complete))? {
                this.release(Next::Everything);
                if this.released.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.look();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for OneAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Replaces a list in the `:authority` of a HEADERS frame; whether there was one. What cannot be read stays as it is:
/// the HTTP/2 library says what is wrong with it.
fn replace_list(flags: u8, payload: &mut [u8]) -> bool {
    let padded = usize::from(flags & PADDED != 0);
    let start = padded + if flags & PRIORITY != 0 { 5 } else { 0 };
    let padding = if padded == 1 {
        payload.first().copied().unwrap_or(0)
    } else {
        0
    };
    let Some(end) = payload.len().checked_sub(usize::from(padding)) else {
        return false;
    };
    let Some(block) = payload.get_mut(start..end) else {
        return false;
    };
    let Some(value) = authority(block) else {
        return false;
    };
    let text = &mut block[value.bytes];
    if value.huffman {
        replace_coded(text)
    } else {
        replace_plain(text)
    }
}

fn replacement(character: u8) -> Option<u8> {
    match character {
        b':' => Some(b'x'),
        b'[' | b']' => Some(b'~'),
        b'%' => Some(b'-'),
        _ => None,
    }
}

fn is_list(text: impl IntoIterator<Item = u8>) -> bool {
    text.into_iter().any(|character| matches!(character, b',' | b';'))
}

fn replace_plain(text: &mut [u8]) -> bool {
    let list = is_list(text.iter().copied());
    if list {
        for character in text {
            *character = replacement(*character).unwrap_or(*character);
        }
    }
    list
}

fn replace_coded(text: &mut [u8]) -> bool {
    let Some(symbols) = decode(text) else { return false };
    let list = is_list(symbols.iter().map(|symbol| symbol.character));
    if list {
        for symbol in symbols {
            if let Some(code) = replacement(symbol.character).and_then(code_of) {
                write_bits(text, symbol.at, symbol.length, code);
            }
        }
    }
    list
}

/// A string in a header block.
struct Text {
    huffman: bool,
    bytes: Range<usize>,
}

/// Where the value of `:authority` is; `None` if it is not there, or refers to the table of headers.
fn authority(block: &[u8]) -> Option<Text> {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(block, &mut at, prefix)?;
        if !literal {
            continue;
        }
        let named = index == AUTHORITY_INDEX
            || index == 0 && {
                let name = string(block, &mut at)?;
                let bytes = &block[name.bytes];
                if name.huffman {
                    decode(bytes)
                        .is_some_and(|name| name.iter().map(|symbol| symbol.character).eq(*b":authority"))
                } else {
                    bytes == b":authority"
                }
            };
        let value = string(block, &mut at)?;
        if named {
            return Some(value);
        }
    }
    None
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn string(block: &[u8], at: &mut usize) -> Option<Text> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let bytes = *at..at.checked_add(length).filter(|end| *end <= block.len())?;
    *at = bytes.end;
    Some(Text { huffman, bytes })
}

struct Symbol {
    character: u8,
    /// First bit of its code, and how many there are.
    at: usize,
    length: u32,
}

/// `None` if it holds what no authority may hold.
fn decode(coded: &[u8]) -> Option<Vec<Symbol>> {
    let bits = coded.len() * 8;
    let (mut symbols, mut at) = (Vec::new(), 0);
    while at < bits {
        let found = CODES.iter().find_map(|&(length, first, characters)| {
            let code = read_bits(coded, at, length)?;
            let character = *characters.get(code.checked_sub(first)? as usize)?;
            Some(Symbol {
                character,
                at,
                length,
            })
        });
        match found {
            Some(symbol) => {
                at += symbol.length as usize;
                symbols.push(symbol);
            }
            // The rest of the last byte is filled with ones.
            None if bits - at < 8 => break,
            None => return None,
        }
    }
    Some(symbols)
}

fn code_of(character: u8) -> Option<u32> {
    CODES.iter().find_map(|&(_, first, characters)| {
        let place = characters.iter().position(|known| *known == character)?;
        Some(first + place as u32)
    })
}

fn read_bits(bytes: &[u8], at: usize, length: u32) -> Option<u32> {
    (at..at + length as usize).try_fold(0, |code, bit| {
        let byte = *bytes.get(bit / 8)?;
        Some(code << 1 | u32::from(byte >> (7 - bit % 8) & 1))
    })
}

fn write_bits(bytes: &mut [u8], at: usize, length: u32, code: u32) {
    for (place, bit) in (at..at + length as usize).enumerate() {
        let mask = 1 << (7 - bit % 8);
        if code >> (length as usize - 1 - place) & 1 == 1 {
            bytes[bit / 8] |= mask;
        } else {
            bytes[bit / 8] &= !mask;
        }
    }
}

#[cfg(test)]
mod tests;
