//! The thread that knows who is who: hooks of CI runners and people talk to it.
//!
//! - input: orders on `identity.sock`, job anchors, tokens
//! - output: `Shared::registry`; answers; alarms
//! - bound: [`MAX_CONNECTIONS`], [`MAX_CONNECTIONS_PER_USER`], one order of
//!   `wire::MAX_ORDER_BYTES` each in `wire::PATIENCE`
//! - on failure: the order is refused, and told in words; processes stay unidentified
//!
//! Nothing here is on a connection's path. The gateway's cgroup is not captured, so that questions to
//! providers do not come back to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use self::desk::{Desk, Refusal};
use self::people::logged_in;
use super::{AppError, Shared};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::identify::fetch::Fetcher;
use crate::identify::github_app::GithubApp;
use crate::identify::login::DeviceStart;
use crate::identify::oidc::verify::Verifier;
use crate::identify::wire::{self, Order, Reply};
use crate::tls::upstream::roots;

pub(super) use self::keeper::adopt;

mod desk;
mod job;
mod keeper;
mod lookup;
mod peer;
mod people;

const MAX_CONNECTIONS: usize = 256;
const MAX_CONNECTIONS_PER_USER: usize = 64;
/// Between two looks for processes that nobody saw exit.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Providers, and how they are asked.
pub(super) struct Issuers {
    verifier: Arc<Verifier>,
    fetcher: Arc<Fetcher>,
    /// By the issuer's name.
    apps: BTreeMap<String, GithubApp>,
}

impl Issuers {
    /// Trusts those of the configuration.
    pub(super) fn start(config: &Config, clock: &SharedClock) -> Result<Self, AppError> {
        let io = |error: &dyn std::error::Error| AppError::Io {
            action: "trusting the issuers of identities".to_owned(),
            source: std::io::Error::other(error.to_string()),
        };
        let fetcher = Fetcher::new(roots(&config.tls.extra_roots)?).map_err(|e| io(&e))?;
        let fetcher = Arc::new(fetcher);
        let verifier = Verifier::start(&config.identity.issuers, &fetcher, clock);
        let verifier = Arc::new(verifier.map_err(|e| io(&e))?);
        let mut apps = BTreeMap::new();
        for issuer in &config.identity.issuers {
            if let Some(app) = GithubApp::start(issuer, &fetcher, clock).map_err(|e| io(&e))? {
                apps.insert(issuer.name.clone(), app);
            }
        }
        Ok(Self { verifier, fetcher, apps })
    }
}

/// Makes the socket, for everybody: the kernel says who asks, and what they may. A file that nobody
/// listens on is replaced.
pub(super) fn listen(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    let listener = crate::admin::listen(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Runs until shutdown.
pub(super) fn run(
    shared: Arc<Shared>,
    issuers: Issuers,
    socket: std::os::unix::net::UnixListener,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(shared, issuers, socket))
}

async fn serve(
    shared: Arc<Shared>,
    issuers: Issuers,
    socket: std::os::unix::net::UnixListener,
) -> std::io::Result<()> {
    let socket = UnixListener::from_std(socket)?;
    let desk = Rc::new(Desk::open(Arc::clone(&shared), issuers));
    let users = Users::default();
    // Not dropped in the middle: a refresh token that was used must be replaced.
    let logins = desk.logins.as_ref().map(|logins| {
        tokio::task::spawn_local(Arc::clone(logins).run(shared.shutdown.child_token()))
    });
    // Orders wait meanwhile: an older gateway that still runs answers its own.
    let held = tokio::select! {
        held = desk.take_over() => held,
        () = shared.shutdown.cancelled() => None,
    };
    tokio::select! {
        () = accept(&desk, &socket, &users) => {}
        () = sweep(&desk) => {}
        () = refresh(&desk) => {}
        () = shared.shutdown.cancelled() => {}
    }
    drop(socket);
    if let Some(Err(error)) = match logins {
        Some(logins) => Some(logins.await),
        None => None,
    } {
        tracing::error!(%error, "tending logins");
    }
    desk.let_go(held).await;
    if shared.ending.handed_over.is_cancelled() {
        shared.ending.serving.close();
        tokio::select! {
            () = keeper::follow(&shared) => {}
            () = shared.ending.serving.wait() => {}
        }
    } else {
        // Somebody else's directory may keep it: then who made it removes it.
        drop(std::fs::remove_file(shared.config.identity_socket()));
    }
    Ok(())
}

/// Connections by user.
type Users = Rc<RefCell<BTreeMap<u32, usize>>>;

/// A place of a user, given back when dropped.
struct Place(Users, u32);

impl Place {
    fn take(users: &Users, uid: u32) -> Option<Self> {
        let mut all = users.borrow_mut();
        let own = all.get(&uid).copied().unwrap_or_default();
        let full = all.values().sum::<usize>() >= MAX_CONNECTIONS;
        if full || own >= MAX_CONNECTIONS_PER_USER {
            return None;
        }
        all.insert(uid, own + 1);
        Some(Self(Rc::clone(users), uid))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.0.borrow_mut();
        match all.get_mut(&self.1) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.1)),
        }
    }
}

async fn accept(desk: &Rc<Desk>, socket: &UnixListener, users: &Users) {
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting an order about identities");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(credentials) = stream.peer_cred() else { continue };
        let Some(place) = Place::take(users, credentials.uid()) else { continue };
        let desk = Rc::clone(desk);
        tokio::task::spawn_local(async move {
            // Who hangs or breaks off concerns nobody else. What a job has begun goes on.
            match timeout(wire::PATIENCE, talk(&desk, stream)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some((stream, device)))) => {
                    if let Err(error) = wait(stream, device).await {
                        tracing::debug!(%error, "waiting for a login");
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "order about identities"),
                Err(_late) => tracing::debug!("order about identities took too long"),
            }
            drop(place);
        });
    }
}

/// Answers one order. A device flow is left to wait for its person.
async fn talk(
    desk: &Rc<Desk>,
    mut stream: UnixStream,
) -> std::io::Result<Option<(UnixStream, DeviceStart)>> {
    // Before it is read: until here the kernel's number is the caller's.
    let peer = peer::Peer::of(&stream)?;
    let order = wire::receive(&mut stream, wire::MAX_ORDER_BYTES).await?;
    if let Order::LoginDevice { issuer } = &order {
        match desk.login_device(&peer, issuer.as_deref()).await {
            Ok(device) => {
                let (url, user_code) = (device.url().to_owned(), device.user_code().to_owned());
                let reply = Reply::Device { url, user_code, text: device.text.clone() };
                wire::send(&mut stream, &reply).await?;
                return Ok(Some((stream, device)));
            }
            Err(refusal) => {
                let Refusal { outcome, message } = refusal;
                let reply = Reply::Refused { outcome: outcome.to_owned(), message };
                wire::send(&mut stream, &reply).await?;
                return Ok(None);
            }
        }
    }
    let reply = match desk.obey(&peer, order).await {
        Ok(reply) => reply,
        Err(refusal) => {
            tracing::info!(outcome = refusal.outcome, pid = peer.key.tgid, uid = peer.uid, error = %refusal.message, "order about identities refused");
            Reply::Refused { outcome: refusal.outcome.to_owned(), message: refusal.message }
        }
    };
    wire::send(&mut stream, &reply).await?;
    Ok(None)
}

/// Waits for the person of a device flow, as long as who asked is there: the provider bounds it.
async fn wait(mut stream: UnixStream, device: DeviceStart) -> std::io::Result<()> {
    let mut byte = [0];
    let decided = tokio::select! {
        decided = device.finish() => decided,
        // It says nothing more: it hung up.
        gone = stream.read(&mut byte) => return gone.map(drop),
    };
    wire::send(&mut stream, &logged_in(decided)).await
}

/// Removes anchored processes that nobody saw exit.
async fn sweep(desk: &Desk) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        desk.sweep();
    }
}

/// Keeps the keys of issuers fresh, from the first token on.
async fn refresh(desk: &Desk) {
    loop {
        tokio::time::sleep(desk.refresh_keys().await).await;
    }
}
