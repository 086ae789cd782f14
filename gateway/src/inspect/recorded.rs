//! Bodies as they are recorded: decoded, and every secret in them replaced.
//!
//! - input: what was kept of a body, and who looks at its exchange
//! - output: [`Masked`] bytes; findings go to the exchange's
//! - bound: `weir_inspect::limits::MAX_DECODED_BYTES` decoded, of which [`Raw::max`] are kept
//! - on failure: [`Unmaskable`]; such a body is not recorded

use weir_inspect::body::{BodyKind, Masker};
use weir_inspect::engine::End;
use weir_inspect::limits::{LOOK_BEHIND_BYTES, MAX_HELD_BYTES};
use weir_inspect::stream::Stream;

use super::judge::{Direction, Looking};
use super::mask::{self, Masked};

/// What was kept of a body.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// As it passed.
    pub data: &'a [u8],
    /// Its `Content-Type`.
    pub content_type: &'a str,
    /// Its `Content-Encoding`.
    pub content_encoding: &'a str,
    /// Whether this is all of it.
    pub is_whole: bool,
    /// Bytes of it that are recorded, decoded.
    pub max: usize,
}

/// What is recorded of a body.
#[derive(Debug)]
pub struct Recorded {
    /// The bytes.
    pub data: Masked<Vec<u8>>,
    /// Whether it decoded to more than is recorded.
    pub is_truncated: bool,
}

/// A body that could not be read, so that nothing of it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmaskable;

/// Masks what was kept of a body.
///
/// # Errors
/// [`Unmaskable`]
pub fn mask(
    looking: &Looking,
    direction: Direction,
    raw: &Raw<'_>,
) -> Result<Recorded, Unmaskable> {
    let side = looking.side(direction);
    let known = side.known();
    let mut judge = side.recorder();
    let mut masker = Masker::new(side.engine(), &known, &mut judge);
    masker.at.enter("body");
    let kind = BodyKind {
        content_type: Some(raw.content_type.as_bytes()),
        content_encoding: Some(raw.content_encoding.as_bytes()),
    };
    let mut data = masker.plain(&kind, raw.data).map_err(|_unreadable| Unmaskable)?;
    let is_truncated = data.len() > raw.max;
    data.truncate(raw.max);
    if is_truncated || !raw.is_whole {
        mask_end(&mut masker, &mut data)?;
    }
    Ok(Recorded { data: mask::body(data), is_truncated })
}

/// Where a body is cut, a secret may have begun that is no match yet.
fn mask_end(masker: &mut Masker<'_>, data: &mut Vec<u8>) -> Result<(), Unmaskable> {
    let tail = data.split_off(data.len().saturating_sub(LOOK_BEHIND_BYTES + MAX_HELD_BYTES));
    let mut stream = Stream::text();
    let pushed = stream.push(masker, &tail, data);
    pushed.and_then(|()| stream.finish(masker, End::Cut, data)).map_err(|_refused| Unmaskable)
}
