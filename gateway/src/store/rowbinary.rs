//! Removes the repeated header of `RowBinaryWithNamesAndTypes` from the pieces of a stream.
//!
//! - input: a piece as the engine formats it, header first
//! - output: where its rows begin
//! - bound: the piece
//! - on failure: `None` when the piece has no complete header

/// Length of the header: column count, names, types.
pub(super) fn header_len(piece: &[u8]) -> Option<usize> {
    let (columns, mut at) = length(piece, 0)?;
    for _ in 0..columns.checked_mul(2)? {
        let (len, text) = length(piece, at)?;
        at = text.checked_add(len).filter(|end| *end <= piece.len())?;
    }
    Some(at)
}

/// A LEB128 number at `at`, and the position after it.
fn length(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::row::Table;
    use proptest::prelude::*;

    #[test]
    fn headers_of_our_tables_are_measured() {
        for table in Table::ALL {
            let mut bytes = table.header();
            let len = bytes.len();
            bytes.extend_from_slice(b"rows");
            assert_eq!(header_len(&bytes), Some(len));
            assert_eq!(header_len(&bytes[..len - 1]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_within_the_piece(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(len) = header_len(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
