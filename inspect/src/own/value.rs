//! What a value has that random ones hardly ever have.
//!
//! - input: the bytes of a value
//! - output: lengths of runs and sequences
//! - bound: linear in the value
//! - on failure: cannot fail

/// The longest run of one byte.
pub(super) fn longest_run(value: &[u8]) -> usize {
    value.chunk_by(|a, b| a == b).map(<[u8]>::len).max().unwrap_or(0)
}

/// The longest run of letters or digits in which each is the next of the one before: `abcdef`, `123456`.
pub(super) fn longest_sequence(value: &[u8]) -> usize {
    let is_next = |a: &u8, b: &u8| {
        a.is_ascii_alphanumeric()
            && a.to_ascii_lowercase().wrapping_add(1) == b.to_ascii_lowercase()
    };
    value.chunk_by(is_next).map(<[u8]>::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_runs_and_sequences() {
        assert_eq!(longest_run(b"abbbc"), 3);
        assert_eq!(longest_sequence(b"xx12345z"), 5);
        assert_eq!(longest_sequence(b"aBcD"), 4);
    }
}
