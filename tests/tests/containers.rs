//! Containers, with a real dockerd: `weir oci-runtime`, `weir docker-proxy`, capture on a bridge. Needs
//! root, dockerd, runc, busybox and the engine (`cargo xtask setup`):
//! `cargo test -p weir-tests --features privileged --test containers -- --test-threads=1`
//!
//! Every test has its own network and mount namespace, cgroups and dockerd, and removes them however
//! it ends.

#![cfg(feature = "privileged")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with a place"
)]

#[path = "containers/https.rs"]
mod https;
#[path = "containers/identity.rs"]
mod identity;
#[path = "containers/jobs.rs"]
mod jobs;
#[path = "containers/runtime.rs"]
mod runtime;

use weir_tests::appliance::Site;
use weir_tests::docker::{BRIDGE, Daemon, bridge};

/// A site with a bridge and a dockerd; the proxy is at `proxy.sock` of the site.
struct World {
    // In this order: containers end before the gateway.
    docker: Daemon,
    site: Site,
}

impl World {
    fn new(captured: bool) -> Self {
        Self::with(captured, "")
    }

    /// With further tables of the configuration.
    fn with(captured: bool, tables: &str) -> Self {
        let mut site = Site::new("");
        bridge(&site);
        // dockerd's directory is known only when it runs, so it is linked to.
        let (proxy, upstream) = (site.show("proxy.sock"), site.show("upstream.sock"));
        let more = format!(
            "[docker]\nenabled = true\nlisten = \"{proxy}\"\nupstream = \"{upstream}\"\n{tables}"
        );
        site.configure("weir.toml", &more);
        let config = std::fs::read_to_string(site.path("weir.toml")).unwrap();
        let bridges = format!("[capture]\nbridges = [\"{BRIDGE}\"]\n");
        std::fs::write(site.path("weir.toml"), config.replace("[capture]\n", &bridges)).unwrap();
        site.start();
        let docker = Daemon::start(&site, captured);
        std::os::unix::fs::symlink(docker.socket(), site.path("upstream.sock")).unwrap();
        Self { docker, site }
    }
}
