//! Frames of a WebSocket (RFC 6455, section 5.2).
//!
//! - input: bytes; or an opcode and a payload
//! - output: [`Frame`]; or bytes, masked when a client sends them
//! - bound: the largest message that the caller allows
//! - on failure: [`Error`]: what the RFC forbids, and extensions

use crate::stream::{Error, Sender};

/// One frame, unmasked.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    /// Whether it ends its message.
    pub(super) is_last: bool,
    pub(super) payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// Section 5.5.
pub(super) const MAX_CONTROL_BYTES: usize = 125;

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn number(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn of(number: u8) -> Option<Self> {
        let all =
            [Self::Continuation, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong];
        all.into_iter().find(|opcode| opcode.number() == number)
    }
}

/// The frame that begins here and its length; `None` while it is not whole.
pub(super) fn parse(
    bytes: &[u8],
    sender: Sender,
    max_payload: usize,
) -> Result<Option<(Frame, usize)>, Error> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(Error::Malformed("websocket frame of an extension"));
    }
    let opcode = Opcode::of(first & 0x0F).ok_or(Error::Malformed("websocket opcode"))?;
    let (is_last, is_masked) = (first & 0x80 != 0, second & 0x80 != 0);
    if is_masked != matches!(sender, Sender::Client(_)) {
        return Err(Error::Malformed("websocket frame masked by the wrong side"));
    }
    let Some((len, rest)) = length(second & 0x7F, rest)? else { return Ok(None) };
    if opcode.is_control() && (!is_last || len > MAX_CONTROL_BYTES) {
        return Err(Error::Malformed("websocket control frame"));
    }
    if len > max_payload && !opcode.is_control() {
        return Err(Error::TooLarge("websocket message"));
    }
    let (key, rest) = match rest.split_first_chunk::<4>() {
        _ if !is_masked => ([0; 4], rest),
        Some((key, rest)) => (*key, rest),
        None => return Ok(None),
    };
    let Some((payload, after)) = rest.split_at_checked(len) else { return Ok(None) };
    let mut payload = payload.to_vec();
    apply(key, &mut payload);
    Ok(Some((Frame { opcode, is_last, payload }, bytes.len() - after.len())))
}

/// Writes a whole message or a control frame.
pub(super) fn write(opcode: Opcode, payload: &[u8], sender: Sender, out: &mut Vec<u8>) {
    out.push(0x80 | opcode.number());
    let mask = if matches!(sender, Sender::Client(_)) { 0x80 } else { 0 };
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ ..126), _) => out.push(mask | len),
        (_, Ok(len)) => {
            out.push(mask | 126);
            out.extend(len.to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend(u64::try_from(payload.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    let mut payload = payload.to_vec();
    if let Sender::Client(key) = sender {
        let key = key();
        out.extend(key);
        apply(key, &mut payload);
    }
    out.append(&mut payload);
}

/// The length that the second byte says or announces, and what comes after it.
fn length(short: u8, rest: &[u8]) -> Result<Option<(usize, &[u8])>, Error> {
    let (long, rest) = match short {
        126 => match rest.split_first_chunk::<2>() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    let len = usize::try_from(long).or(Err(Error::TooLarge("websocket message")))?;
    Ok(Some((len, rest)))
}

/// Masks, and unmasks.
fn apply(key: [u8; 4], payload: &mut [u8]) {
    for (byte, key) in payload.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}
