//! A network namespace with one veth pair, and an origin of this process inside it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use tokio::sync::Notify;

use crate::ca::{Flaw, TestCa};
use crate::origin::seen::Seen;
use crate::origin::{ALPN, Options, Origin, git};

const PREFIX: [u8; 2] = [10, 79];

/// The namespace; it is removed when dropped.
pub struct Network {
    pub(super) name: String,
    link: String,
    /// Our end's address.
    pub outside: Ipv4Addr,
    /// The origin's address.
    pub inside: Ipv4Addr,
    /// A port for the gateway that nobody uses now.
    pub port: u16,
    /// One for its resolver.
    pub dns_port: u16,
}

impl Network {
    /// A namespace named `id`, with the first /24 that is free.
    pub(super) fn new(id: &str) -> Self {
        let number = id.rsplit('-').next().unwrap_or("0");
        let link = format!("wa{}n{number}", std::process::id());
        let third = (0..=255).find(|third| is_free(*third)).expect("a free /24");
        let address = |last| Ipv4Addr::new(PREFIX[0], PREFIX[1], third, last);
        // Both at once, so that they differ.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, dns_port] = free.map(|listener| listener.local_addr().unwrap().port());
        let (outside, inside) = (address(1), address(2));
        ip(&format!("netns add {id}"));
        // From here on the guard removes what exists.
        let network =
            Self { name: id.to_owned(), link: link.clone(), outside, inside, port, dns_port };
        ip(&format!("link add {link} type veth peer name {link}p netns {id}"));
        ip(&format!("address add {outside}/24 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {id} address add {inside}/24 dev {link}p"));
        ip(&format!("-n {id} link set {link}p up"));
        ip(&format!("-n {id} link set lo up"));
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for words in [["link", "del", &self.link], ["netns", "del", &self.name]] {
            drop(Command::new("ip").args(words).output());
        }
    }
}

fn is_free(third: u8) -> bool {
    let net = format!("{}.{}.{third}.0/24", PREFIX[0], PREFIX[1]);
    let shown = Command::new("ip").args(["-4", "address", "show", "to", &net]).output().unwrap();
    shown.stdout.is_empty()
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", super::text(&output));
}

/// An origin whose sockets are in the namespace: HTTPS at 443, and git below `/git/`.
pub struct OriginThread {
    seen: Arc<Seen>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl OriginThread {
    /// Writes `origin-ca.pem` into `dir` and serves `dir/git`, with one repository `repo.git`.
    pub(super) fn start(network: &Network, name: &str, dir: &Path) -> Self {
        let ca = TestCa::new("weir appliance test CA");
        ca.write(dir, "origin-ca");
        git::create_repository(&dir.join("git"), "repo.git").unwrap();
        let options = Options {
            listen: SocketAddr::from((network.inside, 443)),
            tls: Some(ca.server_config(&[name], Flaw::None, &ALPN)),
            git_root: Some(dir.join("git")),
            ..Options::default()
        };
        let netns = File::open(format!("/run/netns/{}", network.name)).unwrap();
        let stop = Arc::new(Notify::new());
        let (sender, ready) = sync_channel(1);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // Of this thread only; the runtime's threads inherit it.
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let origin = Origin::with(options).await.unwrap();
                sender.send(origin.shared_seen()).unwrap();
                stopped.notified().await;
            });
        });
        let seen = ready.recv().expect("the origin starts");
        Self { seen, stop, thread: Some(thread) }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Drop for OriginThread {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
