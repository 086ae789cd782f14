//! Bodies that are judged while they pass.
//!
//! - input: the pieces of a body, in any cutting
//! - output: what may leave: the same bytes, or the judge's
//! - bound: what `weir_inspect::stream` holds back
//! - on failure: the body breaks off; [`Watcher::refused`] is told why

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use weir_inspect::body::Masker;
use weir_inspect::engine::{End, Engine};
use weir_inspect::judge::Judge;
use weir_inspect::known::Known;
use weir_inspect::stream::{self, Stream};

use super::judge::{Restorer, Side};
use super::refused::Refused;
use super::rewrite;
use crate::http::body::{Filter, Stopped};

/// Who is told what happens to a body.
pub trait Watcher {
    /// These bytes are fit to be recorded.
    fn judged(&self, bytes: &Bytes);
    /// The body must not go on.
    fn refused(&self, why: &Refused);
}

const REFUSED: Stopped = Stopped("stopped by inspection");

/// A body on its way.
pub struct Passing<W> {
    side: Side,
    engine: Arc<Engine>,
    known: Known,
    stream: Stream,
    /// Secrets go back into what was judged.
    restore: Option<(Restorer, Stream)>,
    only_guards: bool,
    watcher: W,
    error: Option<stream::Error>,
}

impl<W: Watcher> Passing<W> {
    /// Lets a body pass as it is, a little later: when it is certain that no known value in it must
    /// stay. Rules are not asked: what they find would leave all the same.
    pub fn guarded(side: Side, watcher: W) -> Self {
        let (engine, known) = (Arc::clone(side.no_rules()), side.known());
        let (stream, restore, error) = (Stream::text(), None, None);
        Self { side, engine, known, stream, restore, only_guards: true, watcher, error }
    }

    /// Puts the judge's output in a body's place, and for the client secrets in the place of their
    /// placeholders. `framing` is asked for the same stream twice.
    pub fn judged(side: Side, framing: impl Fn() -> Stream, watcher: W) -> Self {
        let restore = side.restorer().map(|restorer| (restorer, framing()));
        let (engine, known, stream) = (Arc::clone(side.deciding_engine()), side.known(), framing());
        Self { side, engine, known, stream, restore, only_guards: false, watcher, error: None }
    }

    /// Takes what became known meanwhile, where nothing depends on what was known before.
    pub fn refresh(&mut self, framing: impl Fn() -> Stream) {
        if self.stream.held_bytes() > 0 {
            return;
        }
        self.known = self.side.known();
        match (&mut self.restore, self.side.restorer()) {
            (Some((old, stream)), Some(new)) if stream.held_bytes() == 0 => *old = new,
            (None, Some(new)) => self.restore = Some((new, framing())),
            _ => {}
        }
    }

    /// Takes the next piece; answers what may go now.
    ///
    /// # Errors
    /// The watcher was told why it must not go on.
    pub fn push(&mut self, data: &[u8]) -> Result<Bytes, Stopped> {
        self.run(|stream, masker, out| stream.push(masker, data, out), None)
    }

    /// The body is whole; answers the rest.
    ///
    /// # Errors
    /// As for `push`.
    pub fn finish(&mut self) -> Result<Bytes, Stopped> {
        let end = End::Complete;
        self.run(|stream, masker, out| stream.finish(masker, end, out), Some(end))
    }

    /// After an error: what tells the receiver, where the framing has words for that.
    pub fn abort(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let last = match &mut self.restore {
            Some((_, stream)) => stream,
            None => &mut self.stream,
        };
        last.abort(self.error.as_ref().unwrap_or(&stream::Error::Failed), &mut out);
        out
    }

    fn run(
        &mut self,
        step: impl FnOnce(&mut Stream, &mut Masker<'_>, &mut Vec<u8>) -> Result<(), stream::Error>,
        end: Option<End>,
    ) -> Result<Bytes, Stopped> {
        let mut out = Vec::new();
        let mut judge = if self.only_guards { self.side.guard() } else { self.side.decider() };
        let mut judging = masker(&self.engine, &self.known, &mut judge);
        if let Err(error) = step(&mut self.stream, &mut judging, &mut out) {
            return Err(self.stopped(error));
        }
        let out = Bytes::from(out);
        self.watcher.judged(&out);
        let Some((restorer, stream)) = &mut self.restore else { return Ok(out) };
        let mut restored = Vec::with_capacity(out.len());
        let (engine, known) = (Arc::clone(restorer.engine()), restorer.known().clone());
        let mut restoring = masker(&engine, &known, restorer);
        let mut done = stream.push(&mut restoring, &out, &mut restored);
        if let (Ok(()), Some(end)) = (&done, end) {
            done = stream.finish(&mut restoring, end, &mut restored);
        }
        match done {
            Ok(()) => Ok(restored.into()),
            Err(error) => Err(self.stopped(error)),
        }
    }

    fn stopped(&mut self, error: stream::Error) -> Stopped {
        let why = match &error {
            stream::Error::Body(error) => self.side.why(error),
            stream::Error::Malformed(what) | stream::Error::TooLarge(what) => {
                self.side.cannot_be_read(what)
            }
            stream::Error::Failed => self.side.refused(),
        };
        self.watcher.refused(&why);
        self.error = Some(error);
        REFUSED
    }
}

impl<W: Watcher> Filter for Passing<W> {
    fn push(&mut self, data: Bytes) -> Result<Bytes, Stopped> {
        Self::push(self, &data)
    }

    fn finish(&mut self) -> Result<Bytes, Stopped> {
        Self::finish(self)
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) -> Result<(), Stopped> {
        // Those of answers stay: as their heads do.
        if !self.side.is_request() {
            return Ok(());
        }
        rewrite::trailers(self.side.looking(), trailers).map_err(|refused| {
            self.watcher.refused(&refused);
            REFUSED
        })
    }

    fn keeps_length(&self) -> bool {
        self.only_guards
    }
}

fn masker<'a>(engine: &'a Engine, known: &'a Known, judge: &'a mut dyn Judge) -> Masker<'a> {
    let mut masker = Masker::new(engine, known, judge);
    masker.at.enter("body");
    masker
}
