//! What a refused request tells a person who is not logged in.
//!
//! - input: the process that asked, and its session
//! - output: a text: where to log in with which code, or how to begin
//! - bound: one flow a session in `limits::PROMPT_AGAIN` that was begun here, `limits::MAX_PROMPTS`
//!   sessions; `limits::PROMPT_PATIENCE` for a request to wait for the code
//! - on failure: the text says `weir login`
//!
//! A person at a terminal or in a login session gets a device flow with the first refusal. A daemon
//! does not: nobody would read it.

use std::sync::OnceLock;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::*;
use crate::limits::{MAX_PROMPTS, PROMPT_AGAIN, PROMPT_PATIENCE};

/// Where flows run that refusals begin, and which sessions had one.
#[derive(Debug, Default)]
pub(super) struct Prompter {
    runtime: OnceLock<(Handle, CancellationToken)>,
    prompted: Mutex<HashMap<LoginKey, Instant>>,
}

impl Prompter {
    /// Flows run on the caller's runtime until then.
    pub(super) fn serve(&self, stop: CancellationToken) {
        drop(self.runtime.set((Handle::current(), stop)));
    }

    /// Whether it is a session's turn.
    fn take_turn(&self, key: &LoginKey, now: Instant) -> bool {
        let mut prompted = self.prompted.lock().unwrap_or_else(PoisonError::into_inner);
        prompted.retain(|_, at| now.saturating_duration_since(*at) < PROMPT_AGAIN);
        let is_free = prompted.len() < MAX_PROMPTS && !prompted.contains_key(key);
        if is_free {
            prompted.insert(key.clone(), now);
        }
        is_free
    }
}

impl Logins {
    /// How a person who is not logged in gets logged in. The first time it begins a device flow for
    /// them, where the provider has one.
    pub async fn prompt(self: &Arc<Self>, asker: &Asker) -> Option<String> {
        let is_person = asker.key.login.is_some() || !asker.tty.is_empty();
        if is_person
            && self.pending().device_of(&asker.key).is_none()
            && let [_only] = self.providers.as_slice()
            && let Some((runtime, stop)) = self.prompter.runtime.get()
            && self.prompter.take_turn(&asker.key, self.clock.mono())
        {
            let (begun, is_begun) = oneshot::channel();
            let (this, asker, stop) = (Arc::clone(self), asker.clone(), stop.clone());
            drop(runtime.spawn(async move { this.offer(&asker, begun, stop).await }));
            // Late, the next refusal has the code.
            drop(tokio::time::timeout(PROMPT_PATIENCE, is_begun).await);
        }
        self.hint(&asker.key)
    }

    /// A device flow of a session, until somebody approves it or it expires.
    async fn offer(
        self: Arc<Self>,
        asker: &Asker,
        begun: oneshot::Sender<()>,
        stop: CancellationToken,
    ) {
        let device = match self.start_device(asker, None).await {
            Ok(device) => device,
            Err(error) => {
                tracing::debug!(%error, "a refusal does not offer a login");
                return;
            }
        };
        if begun.send(()).is_err() {
            tracing::debug!("a refusal was told before its login was offered");
        }
        let decided = tokio::select! {
            decided = device.finish() => decided,
            () = stop.cancelled() => return,
        };
        if let Err(error) = decided {
            tracing::debug!(%error, "a login that a refusal offered did not come about");
        }
    }

    /// The same in words, beginning nothing.
    pub fn hint(&self, key: &LoginKey) -> Option<String> {
        if self.providers.is_empty() {
            return None;
        }
        Some(match self.pending().device_of(key) {
            Some(Shown { url, user_code }) => format!(
                "you are not logged in on {}: open {url} and enter {user_code} if it was you who \
                 asked, or run \"weir login\"",
                self.host
            ),
            None => format!("you are not logged in on {}: run \"weir login\"", self.host),
        })
    }
}
