//! A deterministic byte stream: both ends know every byte without storing any.
//!
//! - input: a position
//! - output: the byte there, or slices of a shared table
//! - bound: one table of 65,521 bytes per process
//! - on failure: cannot fail; [`Checker`] names the first wrong position
//!
//! The period is prime, so that a block that is lost, doubled or moved shows.

use std::sync::OnceLock;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Length after which the stream repeats.
pub const PERIOD: usize = 65_521;

fn table() -> &'static Bytes {
    static TABLE: OnceLock<Bytes> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        Bytes::from(bytes)
    })
}

fn offset(position: u64) -> usize {
    usize::try_from(position % PERIOD as u64).unwrap_or(0)
}

/// The next bytes at `position`: at least one, at most `max`, without a copy.
pub fn slice(position: u64, max: u64) -> Bytes {
    let start = offset(position);
    let length = usize::try_from(max).unwrap_or(PERIOD).min(PERIOD - start);
    table().slice(start..start + length)
}

/// The first `length` bytes, for bodies small enough to hold.
pub fn bytes(length: usize) -> Bytes {
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        out.extend_from_slice(&slice(out.len() as u64, (length - out.len()) as u64));
    }
    Bytes::from(out)
}

/// SHA-256 in hex of the first `length` bytes.
pub fn sha256(length: u64) -> String {
    let mut digest = Sha256::new();
    let mut position = 0;
    while position < length {
        let piece = slice(position, length - position);
        digest.update(&piece);
        position += piece.len() as u64;
    }
    hex::encode(digest.finalize())
}

/// Compares a stream with the pattern as it arrives.
#[derive(Debug, Default)]
pub struct Checker {
    position: u64,
    wrong: Option<u64>,
}

impl Checker {
    /// Takes the next bytes of the stream.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let expected = slice(self.position, data.len() as u64);
            let (now, rest) = data.split_at(expected.len());
            if self.wrong.is_none() && now != &expected[..] {
                let at = now.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
                self.wrong = Some(self.position + at as u64);
            }
            self.position += now.len() as u64;
            data = rest;
        }
    }

    /// Bytes seen so far.
    pub fn length(&self) -> u64 {
        self.position
    }

    /// Position of the first wrong byte.
    pub fn first_wrong(&self) -> Option<u64> {
        self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checker_accepts_the_pattern_and_finds_a_moved_block() {
        let good = bytes(200_000);
        let mut checker = Checker::default();
        for piece in good.chunks(777) {
            checker.update(piece);
        }
        assert_eq!((checker.length(), checker.first_wrong()), (200_000, None));

        let mut checker = Checker::default();
        checker.update(&good[..4096]);
        checker.update(&good[8192..]);
        assert!(checker.first_wrong().is_some_and(|at| at < 4200));
    }

    #[test]
    fn digest_of_the_stream_is_that_of_its_bytes() {
        assert_eq!(sha256(150_000), hex::encode(Sha256::digest(bytes(150_000))));
    }
}
