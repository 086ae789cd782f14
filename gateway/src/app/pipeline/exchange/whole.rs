//! Reads a body to its end, where it can only be judged as a whole.
//!
//! - input: a body; the most that it may be; memory for all such bodies
//! - output: its data and trailers
//! - bound: `inspect.max_body` of one, `limits::MAX_INSPECTED_BYTES` of all
//! - on failure: [`WholeError`]

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt as _;

use crate::error::{Fault, Faulty};
use crate::http::body::BodyError;
use crate::record::{BodyBudget, BodyLease};

/// Room that is made for a body before any of it is here.
const BEGIN_BYTES: usize = 64 * 1024;

/// A body in memory.
pub(super) struct Read {
    pub(super) data: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) lease: BodyLease,
}

impl Read {
    /// The data, which keeps its place in the budget.
    pub(super) fn into_bytes(self) -> (Bytes, Option<HeaderMap>) {
        (self.lease.attach(self.data), self.trailers)
    }
}

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum WholeError {
    #[error(transparent)]
    Broken(#[from] BodyError),
    #[error("the body is larger than the {0} bytes that are inspected (inspect.max_body)")]
    TooLarge(usize),
    #[error("no memory is left to inspect the body")]
    NoMemory,
}

impl Faulty for WholeError {
    fn fault(&self) -> Fault {
        match self {
            Self::Broken(_) => Fault::Downstream,
            Self::TooLarge(_) => Fault::Policy,
            Self::NoMemory => Fault::Capacity,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Broken(_) => "request_cut",
            Self::TooLarge(_) => "body_too_large",
            Self::NoMemory => "inspect_memory",
        }
    }
}

/// Reads all of `body`, unless it says or turns out to be larger than `max`.
///
/// # Errors
/// [`WholeError`]; what was read is dropped.
pub(super) async fn read<B>(
    mut body: B,
    max: usize,
    budget: &BodyBudget,
) -> Result<Read, WholeError>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max {
        return Err(WholeError::TooLarge(max));
    }
    // What is only announced takes little: who sends nothing must not use up everybody's memory.
    let begin = announced.min(BEGIN_BYTES);
    let mut lease = budget.try_take(begin).ok_or(WholeError::NoMemory)?;
    let mut data = Vec::with_capacity(begin);
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(piece) => {
                let length = data.len() + piece.len();
                if length > max {
                    return Err(WholeError::TooLarge(max));
                }
                if length > lease.len() && !lease.grow(length - lease.len()) {
                    return Err(WholeError::NoMemory);
                }
                data.extend_from_slice(&piece);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Read { data, trailers, lease })
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::http::body::Whole;

    async fn read_all(text: &'static str, max: usize, memory: usize) -> Result<Read, WholeError> {
        let body = Whole::new(Bytes::from_static(text.as_bytes()), None);
        read(body, max, &BodyBudget::new(memory)).await
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound_and_within_the_memory() {
        assert_eq!(
            read_all("hello", 5, 5).await.map(|read| read.data).ok(),
            Some(b"hello".to_vec())
        );
        assert!(matches!(read_all("hello", 4, 5).await, Err(WholeError::TooLarge(4))));
        assert!(matches!(read_all("hello", 5, 4).await, Err(WholeError::NoMemory)));
    }

    #[tokio::test]
    async fn a_body_that_does_not_say_how_long_it_is_meets_the_same_bound() {
        let silent = || {
            Full::new(Bytes::from_static(b"hello"))
                .map_err(|never| match never {})
                .with_trailers(async { Some(Ok(HeaderMap::new())) })
        };
        let budget = BodyBudget::new(9);
        let got = read(Box::pin(silent()), 5, &budget).await.expect("read");
        assert_eq!((got.data.as_slice(), got.trailers.is_some()), (&b"hello"[..], true));
        assert_eq!(budget.used(), 5);
        drop(got);
        assert_eq!(budget.used(), 0);
        let over = read(Box::pin(silent()), 4, &budget).await;
        assert!(matches!(over, Err(WholeError::TooLarge(4))));
    }
}
