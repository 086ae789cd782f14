//! A fast digest with a random key: nobody who does not know the key can make two texts that meet.
//!
//! - input: a text
//! - output: [`Digest`]
//! - bound: about a tenth of a nanosecond a byte
//! - on failure: cannot fail
//!
//! NH of UMAC (RFC 4418) over blocks of 1 KiB, with words of 64 bits: two texts meet with a chance
//! of 2^-64. Then, over the blocks, two polynomials modulo 2^61 - 1: n / 2^61 each.

use std::hash::{BuildHasher as _, RandomState};

/// Of a text, under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64, u64);

/// Made at random.
pub(super) struct Key {
    words: [[u64; 2]; PAIRS],
    points: [u64; 2],
}

const PAIRS: usize = 64;
const BLOCK: usize = PAIRS * 16;
const PRIME: u64 = (1 << 61) - 1;

impl Default for Key {
    fn default() -> Self {
        // SipHash under keys from the operating system.
        let random = RandomState::new();
        let mut number = 0_u32;
        let mut next = || {
            number = number.wrapping_add(1);
            random.hash_one(number)
        };
        let words = std::array::from_fn(|_| [next(), next()]);
        Self { words, points: [next() % PRIME, next() % PRIME] }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub(super) fn digest(&self, text: &[u8]) -> Digest {
        let mut sums = [0_u64; 2];
        let (blocks, rest) = text.as_chunks::<BLOCK>();
        for block in blocks {
            self.add(&mut sums, self.block(block));
        }
        let mut last = [0_u8; BLOCK];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.add(&mut sums, self.block(&last));
        // The length tells a text from the same one with zeros after it.
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.add(&mut sums, u128::from(length));
        Digest(sums[0], sums[1])
    }

    fn block(&self, block: &[u8; BLOCK]) -> u128 {
        let (pairs, _) = block.as_chunks::<16>();
        let mut sum = 0_u128;
        for (pair, key) in pairs.iter().zip(&self.words) {
            let both = u128::from_le_bytes(*pair);
            let [low, high] = halves(both);
            let product =
                u128::from(low.wrapping_add(key[0])) * u128::from(high.wrapping_add(key[1]));
            sum = sum.wrapping_add(product);
        }
        sum
    }

    fn add(&self, sums: &mut [u64; 2], block: u128) {
        let [low, high] = halves(block);
        let parts = [low & 0xFFFF_FFFF, low >> 32, high & 0xFFFF_FFFF, high >> 32];
        for (sum, point) in sums.iter_mut().zip(self.points) {
            for part in parts {
                *sum = reduce(u128::from(*sum) * u128::from(point) + u128::from(part));
            }
        }
    }
}

/// Modulo `PRIME`, of less than 2^122.
fn reduce(number: u128) -> u64 {
    let [low, high] = halves((number & u128::from(PRIME)) | (number >> 61) << 64);
    let sum = low.saturating_add(high);
    if sum >= PRIME { sum.saturating_sub(PRIME) } else { sum }
}

fn halves(both: u128) -> [u64; 2] {
    let low = both & u128::from(u64::MAX);
    [u64::try_from(low).unwrap_or(0), u64::try_from(both >> 64).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reducing_is_the_remainder() {
        let most = u128::from(PRIME - 1);
        for number in [0, 1, most, most + 1, most + 2, most * most, most * most + 0xFFFF_FFFF] {
            assert_eq!(u128::from(reduce(number)), number % u128::from(PRIME));
        }
    }

    #[test]
    fn every_byte_its_place_and_the_length_count() {
        let key = Key::default();
        let text: Vec<u8> = (0..3000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let digest = key.digest(&text);
        assert_eq!(key.digest(&text), digest);
        assert_ne!(Key::default().digest(&text), digest);
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert_ne!(key.digest(&changed), digest, "at {at}");
        }
        let mut swapped = text.clone();
        swapped.swap(5, BLOCK + 5);
        assert_ne!(key.digest(&swapped), digest);
        let zeros: Vec<_> = (0..2 * BLOCK + 2).map(|length| key.digest(&vec![0; length])).collect();
        let distinct: std::collections::HashSet<_> = zeros.iter().collect();
        assert_eq!(distinct.len(), zeros.len());
    }
}
