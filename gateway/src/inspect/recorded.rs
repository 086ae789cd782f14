//! Bodies as they are recorded: decoded, and every secret in them replaced.
//!
//! - input: what was kept of a body, and who looks at its exchange
//! - output: [`Masked`] bytes; findings go to the exchange's
//! - bound: `weir_inspect::limits::MAX_DECODED_BYTES` decoded, of which [`Raw::max`] are kept
//! - on failure: [`Unmaskable`]; such a body is not recorded

use weir_inspect::body::{BodyKind, Masker, encoding};
use weir_inspect::engine::End;
use weir_inspect::limits::{LOOK_BEHIND_BYTES, MAX_DECODED_BYTES, MAX_HELD_BYTES};
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
    /// Its `Content-Type`, which its sender chose.
    pub content_type: Masked<String>,
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
    let joined = joined(&mut masker, raw)?;
    let (body, content_encoding) = match &joined {
        Some(joined) => (joined.as_slice(), None),
        None => (raw.data, Some(raw.content_encoding.as_bytes())),
    };
    let kind = BodyKind { content_type: Some(raw.content_type.as_bytes()), content_encoding };
    let mut data = masker.plain(&kind, body).map_err(|_unreadable| Unmaskable)?;
    let is_truncated = data.len() > raw.max;
    data.truncate(raw.max);
    if is_truncated || !raw.is_whole {
        mask_end(&mut masker, &mut data)?;
    }
    let lens = looking.inspection().lens(looking.scope());
    let content_type = mask::text(&lens, raw.content_type.to_owned());
    Ok(Recorded { data: mask::body(data), is_truncated, content_type })
}

/// A stream of events, decoded, without the secrets that are split over several of them: by itself
/// none of these shows one. `None` for every other body.
fn joined(masker: &mut Masker<'_>, raw: &Raw<'_>) -> Result<Option<Vec<u8>>, Unmaskable> {
    let essence = raw.content_type.split(';').next().unwrap_or_default().trim();
    // All of a text is one text already, and is searched in more views than a stream's.
    let is_text = essence.eq_ignore_ascii_case("text/plain");
    let Some(mut stream) = Stream::for_type(raw.content_type).filter(|_| !is_text) else {
        return Ok(None);
    };
    let field = Some(raw.content_encoding.as_bytes());
    let decoded = encoding::decode(field, raw.data, MAX_DECODED_BYTES);
    let decoded = decoded.map_err(|_unreadable| Unmaskable)?;
    let end = if raw.is_whole { End::Complete } else { End::Cut };
    let mut out = Vec::with_capacity(decoded.body.len());
    let pushed = stream.push(masker, &decoded.body, &mut out);
    let done = pushed.and_then(|()| stream.finish(masker, end, &mut out));
    done.map_err(|_unreadable| Unmaskable)?;
    Ok(Some(out))
}

/// Where a body is cut, a secret may have begun that is no match yet.
fn mask_end(masker: &mut Masker<'_>, data: &mut Vec<u8>) -> Result<(), Unmaskable> {
    let tail = data.split_off(data.len().saturating_sub(LOOK_BEHIND_BYTES + MAX_HELD_BYTES));
    let mut stream = Stream::text();
    let pushed = stream.push(masker, &tail, data);
    pushed.and_then(|()| stream.finish(masker, End::Cut, data)).map_err(|_refused| Unmaskable)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::Config;
    use crate::identify::standing::Standing;
    use crate::inspect::Inspection;

    fn recorded(body: &str, is_whole: bool) -> String {
        let dir = tempfile::tempdir().unwrap();
        let config = format!("[inspect]\nstate_dir = {:?}\n", dir.path());
        let config = Config::parse(&config).unwrap().inspect;
        let inspection = Arc::new(Inspection::load(&config, Arc::new(SystemClock)).unwrap());
        let scope = inspection.scope(Uuid::from_u128(1), &Standing::unidentified());
        inspection.learn(&scope, b"DEPLOY_TOKEN=q9W8e7R6t5Z4u3I2o1P0\0");
        let raw = Raw {
            data: body.as_bytes(),
            content_type: "text/event-stream; charset=utf-8",
            content_encoding: "",
            is_whole,
            max: 1 << 20,
        };
        let looking = inspection.look(&scope, "example.org");
        let recorded = mask(&looking, Direction::Response, &raw).unwrap();
        String::from_utf8(recorded.data.into_inner()).unwrap()
    }

    fn event(text: &str) -> String {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    }

    #[test]
    fn a_secret_over_several_events_is_not_recorded() {
        let (first, second) = (event("it is q9W8e7R6"), event("t5Z4u3I2o1P0, yes"));
        let text = recorded(&format!("{first}{second}"), true);
        assert!(!text.contains("q9W8e7R6") && !text.contains("t5Z4u3I2o1P0"), "{text}");
        // What is held at the end has an event of its own.
        assert!(text.contains("[masked:env:DEPLOY_TOKEN], ") && text.contains("yes"), "{text}");
        // Broken off within the secret.
        let text = recorded(&first, false);
        assert!(text.contains("it is ") && !text.contains("q9W8e7R6"), "{text}");
        // Text may move to a later event, but none is lost.
        let clean = recorded(&[event("nothing"), event(" here")].concat(), true);
        let texts =
            clean.split("\"content\":\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        assert_eq!(texts.collect::<String>(), "nothing here", "{clean}");
    }
}
