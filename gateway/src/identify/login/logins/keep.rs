//! Logins over a restart of the gateway.
//!
//! - input: files of an earlier gateway; logins that change
//! - output: the same logins; files
//! - bound: see `super::super::store`
//! - on failure: logged; a login that cannot be kept ends with this process

use super::*;
use crate::config::identity::Issuer;
use crate::identify::registry::SessionKey;

/// Who is logged in by the files of another gateway, or of an earlier one: sessions that live, of
/// providers that are configured. Reads only, and blocks.
///
/// # Errors
/// [`LoginError::File`].
pub fn kept_people(
    state_dir: &Path,
    issuers: &[Issuer],
    sessions: &Sessions,
) -> Result<Vec<(SessionKey, Who, WallUs)>, LoginError> {
    let (mut all, _broken) = Store::open(state_dir)?.look()?;
    all.retain(|kept| {
        issuers.iter().any(|issuer| issuer.login.is_some() && issuer.issuer == kept.issuer)
    });
    let ended = sessions.ended(all.iter().map(|kept| kept.key.clone()).collect());
    all.retain(|kept| !ended.contains(&kept.key));
    Ok(all.into_iter().map(|kept| (kept.key.session(), kept.who, kept.expires_at)).collect())
}

impl Logins {
    /// Takes up the logins that were kept. False while another gateway has them, before it hands
    /// over or ends.
    pub(super) fn take_up(&self) -> Result<bool, LoginError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(true);
        }
        let Some(lock) = self.store.hold()? else { return Ok(false) };
        let (mut table, now) = (self.table(), self.clock.mono());
        for kept in self.store.load()? {
            let provider = self.providers.iter().find(|one| one.issuer.issuer == kept.issuer);
            let is_replaced = table.contains_key(&kept.key);
            let Some(provider) = provider.filter(|_| !is_replaced).map(Arc::clone) else {
                // Our own file is read here, too, when somebody logged in before.
                if table.get(&kept.key).is_none_or(|one| one.id != kept.id) {
                    tracing::info!("dropping a kept login that is of no use any more");
                    self.store.remove(kept.id)?;
                }
                continue;
            };
            // Asked again at once: the person may have been disabled meanwhile.
            let due = match &kept.refresh {
                Some(_) => now,
                None => now + active::lead(kept.expires_at, self.clock.wall(), false),
            };
            table.insert(kept.key.clone(), Arc::new(Active::new(kept, provider, due)));
        }
        *held = Some(lock);
        Ok(true)
    }

    /// Forgets what was kept of those who were revoked, before anybody is told that they are.
    pub fn forget_revoked(&self) {
        let mut all: Vec<Arc<Active>> = self.table().values().map(Arc::clone).collect();
        all.retain(|login| self.is_revoked(login));
        for login in all {
            if let Err(error) = self.store.remove(login.id) {
                tracing::error!(%error, "a login that was revoked stays on disk");
            }
        }
        // The rest, at the provider too, is done by who tends them.
        self.changed.notify_one();
    }

    /// Keeps what a refresh changed, unless an operator took the identity back meanwhile: whoever
    /// comes after us is not to find it.
    pub(super) async fn keep_refreshed(&self, login: &Active, state: &active::State) {
        self.keep(login.kept(state)).await;
        if self.is_revoked(login) {
            self.forget(login.id).await;
        }
    }

    /// Keeps a login over a restart. One that cannot be kept lives as long as this process; an old
    /// file would hold a used token, which is worse than none.
    pub(super) async fn keep(&self, kept: Kept) {
        let (store, id) = (self.store.clone(), kept.id);
        let saved = tokio::task::spawn_blocking(move || store.save(&kept)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(%error, "a login will not outlive a restart");
            self.forget(id).await;
        }
    }

    /// Removes a login's file.
    pub(super) async fn forget(&self, id: Uuid) {
        let store = self.store.clone();
        let removed = tokio::task::spawn_blocking(move || store.remove(id)).await;
        if let Ok(Err(error)) = removed {
            tracing::error!(%error, "a login that ended stays on disk");
        }
    }
}
