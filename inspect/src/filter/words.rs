//! Tells words from random text: about how many tokens a language model's tokenizer would need.
//!
//! - input: a secret
//! - output: bytes for each token; words have three and more, random text has less than two
//! - bound: one pass; a table of 1600 trigrams, counted over weir's own documents and sources
//! - on failure: cannot fail
//!
//! Tokenizers merge what is frequent. So here: up to three digits, a run of one letter or of the
//! alphabet, two letters that are frequent together, and on as long as three are. Letters are cut
//! before a capital, as identifiers are; a sign belongs to the word behind it.

use std::sync::LazyLock;

/// Third letters behind two: `the thi tho` is `theio`.
const TABLE: &str = include_str!("words/trigrams.txt");

/// Bytes for each token from which a secret reads like words.
const WORDS: f64 = 2.5;
/// The same for less than [`SHORT`] bytes with a short word in them.
const SHORT_WORDS: f64 = 2.1;
const SHORT: usize = 12;
/// Letters of what counts as a word: within letters, as all letters between signs, and in a short text.
const WORD: usize = 6;
const WHOLE_WORD: usize = 5;
const SHORT_WORD: usize = 4;

/// Letters that tokenizers take at once: less of capitals, which are rarer.
const MAX_TOKEN: usize = 12;
const MAX_CAPITALS: usize = 5;
/// Letters of the same kind in a row that are one token.
const MAX_SAME: usize = 8;
const MAX_ALPHABET: usize = 16;

/// Bytes for each token.
pub(crate) fn token_ratio(text: &[u8]) -> f64 {
    measure(text).0
}

/// Whether a secret reads like words: by its tokens, or because a word is in it.
pub(super) fn fails_token_efficiency(text: &[u8]) -> bool {
    let (ratio, longest, has_word) = measure(text);
    let short = text.len() < SHORT && longest >= SHORT_WORD;
    has_word || ratio >= if short { SHORT_WORDS } else { WORDS }
}

/// Bytes for each token, letters of the longest one, and whether a word is among them.
fn measure(text: &[u8]) -> (f64, usize, bool) {
    let mut tokens = 0_u32;
    let mut longest = 0;
    let mut has_word = false;
    // Whether a sign waits for the word behind it.
    let mut sign = false;
    for chunk in text.chunk_by(|a, b| kind(*a) == kind(*b)) {
        let first = chunk.first().copied().unwrap_or_default();
        if first.is_ascii_alphabetic() {
            for (number, word) in cut_before_capitals(chunk).enumerate() {
                let (count, length) = letters(word);
                let alone = number == 0 && sign && length < SHORT_WORD;
                tokens += count + u32::from(alone);
                longest = longest.max(length);
                has_word |= length >= WORD || (count == 1 && length >= WHOLE_WORD);
            }
            sign = false;
        } else if first.is_ascii_digit() {
            tokens += count(chunk.chunks(3)) + u32::from(sign);
            sign = false;
        } else {
            // Two different signs share a token; the last one waits.
            let different = count(chunk.chunk_by(|a, b| a == b));
            tokens += different.div_ceil(2).saturating_sub(1);
            sign = true;
        }
    }
    tokens += u32::from(sign);
    let bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
    (f64::from(bytes) / f64::from(tokens.max(1)), longest, has_word)
}

fn kind(byte: u8) -> u8 {
    if byte.is_ascii_alphabetic() { 0 } else { 1 + u8::from(byte.is_ascii_digit()) }
}

/// `XMLHttpRequest` is `XML`, `Http`, `Request`.
fn cut_before_capitals(word: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let capitals = rest.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        let small = rest.iter().skip(capitals).take_while(|b| b.is_ascii_lowercase()).count();
        let end = match (capitals, small) {
            (0 | 1, small) => capitals + small,
            (capitals, 0) => capitals,
            (capitals, _) => capitals - 1,
        };
        let (part, behind) = rest.split_at_checked(end)?;
        rest = behind;
        (!part.is_empty()).then_some(part)
    })
}

/// Tokens of letters, and letters of the longest.
fn letters(word: &[u8]) -> (u32, usize) {
    let capitals = word.len() > 1 && word.iter().all(u8::is_ascii_uppercase);
    let limit = if capitals { MAX_CAPITALS } else { MAX_TOKEN };
    let mut tokens = 0;
    let mut longest = 0;
    let mut rest = word;
    while !rest.is_empty() {
        let length = token(rest, limit);
        longest = longest.max(length);
        tokens += 1;
        rest = rest.get(length..).unwrap_or_default();
    }
    (tokens, longest)
}

/// Letters of the first token.
fn token(word: &[u8], limit: usize) -> usize {
    let row = |step: u8, limit: usize| {
        let pairs = word.windows(2).take(limit - 1);
        1 + pairs.take_while(|pair| is_step(pair, step)).count()
    };
    let same = row(0, MAX_SAME);
    let alphabet = row(1, MAX_ALPHABET);
    if same >= 3 {
        return same;
    }
    if alphabet >= 4 {
        return alphabet;
    }
    if !word.get(..2).is_some_and(|pair| FREQUENT.has(pair)) {
        return 1;
    }
    let triples = word.windows(3).take(limit.saturating_sub(2));
    2 + triples.take_while(|triple| FREQUENT.has(triple)).count()
}

fn is_step(pair: &[u8], step: u8) -> bool {
    let [a, b] = pair else { return false };
    a.to_ascii_lowercase().checked_add(step) == Some(b.to_ascii_lowercase())
}

fn count<I: Iterator>(items: I) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// Pairs and triples of letters that are frequent.
struct Frequent {
    set: Vec<bool>,
}

static FREQUENT: LazyLock<Frequent> = LazyLock::new(|| {
    let mut set = vec![false; PLACES];
    for entry in TABLE.split_ascii_whitespace() {
        let (pair, thirds) = entry.as_bytes().split_at_checked(2).unwrap_or_default();
        for third in thirds {
            let triple = [pair, &[*third]].concat();
            for known in [pair, &triple, triple.get(1..).unwrap_or_default()] {
                if let Some(place) = place(known).and_then(|place| set.get_mut(place)) {
                    *place = true;
                }
            }
        }
    }
    Frequent { set }
});

impl Frequent {
    fn has(&self, letters: &[u8]) -> bool {
        place(letters).and_then(|place| self.set.get(place)).is_some_and(|known| *known)
    }
}

/// Three places of 27: a letter or none.
const PLACES: usize = 27 * 27 * 27;

fn place(letters: &[u8]) -> Option<usize> {
    letters.iter().try_fold(0, |place, letter| {
        let letter = letter.to_ascii_lowercase().checked_sub(b'a')?;
        Some(place * 27 + usize::from(letter) + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters of an alphabet by a small generator, always the same.
    fn random(alphabet: &[u8], length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            alphabet[usize::try_from(state >> 33).unwrap() % alphabet.len()]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn words_take_few_tokens() {
        for words in [
            "your_api_key_here",
            "example-secret-value-123",
            "process.env.TOKEN",
            "getUserTokenFromRequest",
            "changemechangeme",
            "TestAccessKeyExample",
            "xxxxxxxxxxxxxxxxxxxx",
            "abcdefghijklmnop",
            "application/json;charset=utf-8",
        ] {
            assert!(token_ratio(words.as_bytes()) >= WORDS, "{words}");
            assert!(fails_token_efficiency(words.as_bytes()), "{words}");
        }
        assert!(fails_token_efficiency(b"x9-password"));
    }

    #[test]
    fn random_text_takes_many_tokens() {
        let alphabets: [&[u8]; 5] = [
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            b"abcdefghijklmnopqrstuvwxyz0123456789",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
            b"0123456789abcdef",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
        ];
        for alphabet in alphabets {
            for length in [20, 32, 40] {
                let read = (0..1000).map(|seed| random(alphabet, length, seed));
                let wrong = read.filter(|text| token_ratio(text) >= WORDS).count();
                assert!(wrong <= 20, "{wrong} of 1000, {length} of {alphabet:?}");
                let read = (0..1000).map(|seed| random(alphabet, length, seed));
                let wrong = read.filter(|text| fails_token_efficiency(text)).count();
                assert!(wrong <= 30, "{wrong} of 1000, {length} of {alphabet:?}");
            }
        }
    }

    #[test]
    fn tokens_are_counted_as_described() {
        for (text, tokens) in [
            ("", 1),
            ("1234", 2),
            ("the", 1),
            ("theThe", 2),
            ("getUserToken", 3),
            ("aaaaaaaa", 1),
            ("abcdef", 1),
            ("qxzj", 4),
            ("-with", 1),
            ("-the", 2),
            ("--with", 1),
            ("the-", 2),
            ("-1", 2),
        ] {
            let bytes = u32::try_from(text.len()).unwrap();
            let wanted = f64::from(bytes) / f64::from(tokens);
            assert!((token_ratio(text.as_bytes()) - wanted).abs() < 1e-9, "{text}");
        }
    }
}
