//! Bodies that are judged as a whole, before any of them leaves.
//!
//! - input: a body in memory, and what its head says about it
//! - output: the body that leaves; what of it is fit to be recorded
//! - bound: `weir_inspect::limits`; a large body is judged beside the worker's thread, [`MAX_ASIDE`]
//!   at a time
//! - on failure: [`Refused`], with the body as it came

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use tokio::sync::Semaphore;
use weir_inspect::body::encoding;
use weir_inspect::body::{BodyKind, Error, Masker};
use weir_inspect::limits::{MAX_DECODED_BYTES, MAX_RATIO};

use super::judge::Side;
use super::refused::Refused;
use crate::config::inspect::Mode;

/// Bodies up to this size are judged at once: about a millisecond. Others must not keep the worker
/// from its other connections.
const AT_ONCE_BYTES: usize = 256 * 1024;
/// Bodies that are judged beside it at a time: what each decodes to is in no budget of memory.
const MAX_ASIDE: usize = 4;
static ASIDE: Semaphore = Semaphore::const_new(MAX_ASIDE);

/// A request's body after its judgement.
#[derive(Debug)]
pub struct Judged {
    /// What leaves.
    pub data: Vec<u8>,
    /// Whether that is something else than what came.
    pub is_changed: bool,
}

/// An answer's body after its judgement.
#[derive(Debug)]
pub struct Answered {
    /// What came, if it may leave as it is. It is fit for the recorder, too.
    pub original: Option<Vec<u8>>,
    /// Otherwise: what the client gets, without content encoding, and what is recorded.
    pub changed: Option<(Vec<u8>, Vec<u8>)>,
}

/// A body that must not leave, as it came.
#[derive(Debug)]
pub struct Stopped {
    /// The body.
    pub data: Vec<u8>,
    /// Why.
    pub why: Refused,
}

/// Judges a request's body.
///
/// # Errors
/// [`Stopped`]
pub async fn request(side: &Side, head: &HeaderMap, data: Vec<u8>) -> Result<Judged, Stopped> {
    let (side, kind) = (side.clone(), Kind::of(head));
    aside(kind.weight(&data), move || request_now(&side, &kind, data)).await
}

/// Judges an answer's body, and puts secrets back for the client.
///
/// # Errors
/// [`Stopped`]
pub async fn answer(side: &Side, head: &HeaderMap, data: Vec<u8>) -> Result<Answered, Stopped> {
    let (side, kind) = (side.clone(), Kind::of(head));
    aside(kind.weight(&data), move || answer_now(&side, &kind, data)).await
}

/// Runs `work` here, or beside this thread when it may take long.
async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    if bytes <= AT_ONCE_BYTES {
        return work();
    }
    let failed = || Stopped { data: Vec::new(), why: Refused::Unreadable("inspecting it failed") };
    let turn = ASIDE.acquire().await.map_err(|_closed| failed())?;
    // The work goes on when its client has left: it keeps the turn, not this future.
    let work = move || {
        let done = work();
        drop(turn);
        done
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_panicked| Err(failed()))
}

fn request_now(side: &Side, kind: &Kind, data: Vec<u8>) -> Result<Judged, Stopped> {
    let known = side.known();
    let mut judge = side.decider();
    let mut masker = Masker::new(side.deciding_engine(), &known, &mut judge);
    masker.at.enter("body");
    match masker.body(&kind.borrowed(), &data) {
        Ok(None) => Ok(Judged { data, is_changed: false }),
        Ok(Some(data)) => Ok(Judged { data, is_changed: true }),
        Err(error) => match why(side, &error) {
            Ok(()) => Ok(Judged { data, is_changed: false }),
            Err(why) => Err(Stopped { data, why }),
        },
    }
}

fn answer_now(side: &Side, kind: &Kind, data: Vec<u8>) -> Result<Answered, Stopped> {
    let stopped = |error: &Error, data: Vec<u8>| match why(side, error) {
        Ok(()) => Ok(Answered { original: Some(data), changed: None }),
        Err(why) => Err(Stopped { data, why }),
    };
    let encoding = Some(kind.content_encoding.as_slice());
    let plain = match encoding::decode(encoding, &data, MAX_DECODED_BYTES) {
        Ok(decoded) => decoded.body,
        Err(error) => return stopped(&error, data),
    };
    let decoded = BodyKind { content_type: Some(&kind.content_type), content_encoding: None };
    let known = side.known();
    let mut judge = side.decider();
    let mut masker = Masker::new(side.deciding_engine(), &known, &mut judge);
    masker.at.enter("body");
    let judged = match masker.body(&decoded, &plain) {
        Ok(judged) => judged,
        Err(error) => return stopped(&error, data),
    };
    let recorded = judged.as_deref().unwrap_or(&plain);
    let mut restored = None;
    if let Some(mut restorer) = side.restorer() {
        let (engine, known) = (restorer.engine().clone(), restorer.known().clone());
        restored = match Masker::new(&engine, &known, &mut restorer).body(&decoded, recorded) {
            Ok(restored) => restored,
            Err(error) => return stopped(&error, data),
        };
    }
    match (restored, judged) {
        (None, None) => Ok(Answered { original: Some(data), changed: None }),
        (None, Some(judged)) => {
            Ok(Answered { original: None, changed: Some((judged.clone(), judged)) })
        }
        (Some(client), judged) => {
            Ok(Answered { original: None, changed: Some((client, judged.unwrap_or(plain))) })
        }
    }
}

/// What to make of an error: nothing, where the body passes all the same.
fn why(side: &Side, error: &Error) -> Result<(), Refused> {
    match error {
        Error::Refused { .. } => Err(side.refused()),
        _ if side.mode() == Mode::Detect => Ok(()),
        other => Err(side.why(other)),
    }
}

/// What a head says about its body.
struct Kind {
    content_type: Vec<u8>,
    content_encoding: Vec<u8>,
}

impl Kind {
    fn of(head: &HeaderMap) -> Self {
        let joined = |name: HeaderName| {
            let values: Vec<&[u8]> = head.get_all(name).iter().map(|v| v.as_bytes()).collect();
            values.join(&b", "[..])
        };
        Self { content_type: joined(CONTENT_TYPE), content_encoding: joined(CONTENT_ENCODING) }
    }

    /// Bytes that there may be to look at: a few that are compressed may be very many.
    fn weight(&self, data: &[u8]) -> usize {
        let is_plain = matches!(self.content_encoding.as_slice(), b"" | b"identity");
        data.len().saturating_mul(if is_plain { 1 } else { MAX_RATIO })
    }

    fn borrowed(&self) -> BodyKind<'_> {
        BodyKind {
            content_type: Some(&self.content_type),
            content_encoding: Some(&self.content_encoding),
        }
    }
}
