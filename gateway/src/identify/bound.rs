//! One identity that processes have, from the moment that somebody asks for it to its end.
//!
//! - input: what was verified; how it ends
//! - output: [`State`], [`Who`] with the confidence of the process
//! - bound: one [`Who`] for each confidence
//! - on failure: [`RegistryError`]; what has ended does not begin again

use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use super::registry::RegistryError;
use super::who::Who;
use crate::capture::anchors::AnchorSource;
use crate::clock::WallUs;

/// How an identity ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The job's first process ended, or the hook said so; the person logged in as somebody else.
    Over,
    /// Somebody took it back.
    Revoked,
}

/// Where an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its token is being fetched.
    Pending,
    /// No token, or not a good one. Another may come.
    Refused,
    /// Good until then.
    Active(WallUs),
    /// Over.
    Ended(End),
}

/// One identity. All processes and connections that have it share it.
#[derive(Debug)]
pub struct Bound {
    inner: RwLock<Inner>,
    settled: CancellationToken,
    cut: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    state: State,
    faces: Option<Faces>,
}

/// The same, with each confidence; of a job without token all are the least, `api`.
#[derive(Debug)]
struct Faces {
    fork: Arc<Who>,
    walked: Arc<Who>,
    cgroup: Arc<Who>,
    session: Arc<Who>,
}

impl Faces {
    fn of(who: &Who, state: &'static str) -> Self {
        let face = |confidence| {
            let confidence = if who.is_looked_up() { "api" } else { confidence };
            Arc::new(Who { confidence, state, ..who.clone() })
        };
        Self {
            fork: face("fork"),
            walked: face("walked"),
            cgroup: face("cgroup"),
            session: face("session"),
        }
    }
}

impl Bound {
    /// Nothing is known yet.
    pub(super) fn pending() -> Self {
        Self {
            inner: RwLock::new(Inner { state: State::Pending, faces: None }),
            settled: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// A token was verified. A later one of the same subject extends it.
    ///
    /// # Errors
    /// [`RegistryError::Ended`], [`RegistryError::Another`]
    pub fn bind(&self, who: Who, expires_at: WallUs) -> Result<(), RegistryError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(inner.state, State::Ended(_)) {
            return Err(RegistryError::Ended);
        }
        let same = |before: &Who| {
            before.issuer == who.issuer && before.subject == who.subject && before.run == who.run
        };
        if inner.faces.as_ref().is_some_and(|faces| !same(&faces.fork)) {
            return Err(RegistryError::Another);
        }
        inner.faces = Some(Faces::of(&who, "active"));
        inner.state = State::Active(expires_at);
        drop(inner);
        self.settled.cancel();
        Ok(())
    }

    /// There is no good token. Processes wait no longer; what was good stays good.
    pub fn refuse(&self) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.state == State::Pending {
            inner.state = State::Refused;
        }
        drop(inner);
        self.settled.cancel();
    }

    /// It is over. Connections are cut when it was taken back.
    pub fn end(&self, how: End) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(inner.state, State::Ended(_)) {
            inner.state = State::Ended(how);
            inner.faces = inner.faces.as_ref().map(|faces| Faces::of(&faces.fork, "expired"));
        }
        drop(inner);
        self.settled.cancel();
        if how == End::Revoked {
            self.cut.cancel();
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).state
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.state(), State::Ended(_))
    }

    /// Who it is, once that is known; also afterwards.
    pub fn who(&self, source: AnchorSource) -> Option<Arc<Who>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let faces = inner.faces.as_ref()?;
        Some(Arc::clone(match source {
            AnchorSource::Fork => &faces.fork,
            AnchorSource::Walked => &faces.walked,
            AnchorSource::Cgroup => &faces.cgroup,
            AnchorSource::Session => &faces.session,
        }))
    }

    /// Whether somebody calls it so.
    pub fn is_called(&self, name: &str) -> bool {
        self.who(AnchorSource::Fork)
            .is_some_and(|who| &*who.display == name || &*who.subject == name)
    }

    /// Waits until it is not pending any more.
    pub async fn settled(&self) {
        self.settled.cancelled().await;
    }

    /// Waits until its connections are to be cut.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}
