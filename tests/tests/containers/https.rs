//! HTTPS from containers that nobody configured.

use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::appliance::{API, number, text, wait_for};
use weir_tests::docker::{BARE, IMAGE, isolated};

use crate::World;

/// Waits for `/go`, then becomes curl: the process that docker knows makes the request.
const WHEN_TOLD: &str = "while ! [ -e /tmp/go ]; do sleep 0.05; done; exec curl -sS \"$@\"";

const COLUMNS: &str = "SELECT e.process AS process, e.pid AS pid, e.job_id AS job_id, \
    e.outcome AS outcome, e.status AS status, e.path AS path, f.argv AS argv, f.exe AS exe, \
    f.cgroup AS cgroup, f.mode AS mode FROM exchanges e JOIN flows f ON e.flow_id = f.flow_id";

/// The one exchange with a path.
pub(crate) fn exchange(world: &World, path: &str) -> Value {
    let rows = world.site.rows(1, &format!("{COLUMNS} WHERE e.path = '{path}'"));
    assert_eq!(rows.len(), 1, "{rows:#?}");
    rows[0].clone()
}

/// `--add-host` of the origin.
pub(crate) fn host_entry(world: &World) -> String {
    format!("{API}:{}", world.site.network.inside)
}

/// Runs `curl https://API/PATH` in a container of the operator; answers its row, checked.
fn fetched(world: &World, image: &str, network: &str, path: &str, query: &str) -> Value {
    let docker = &world.docker;
    let (url, entry) = (format!("https://{API}{path}?{query}"), host_entry(world));
    let words = [
        "run",
        "--detach",
        "--name",
        "box",
        "--network",
        network,
        "--add-host",
        &entry,
        image,
        "sh",
        "-c",
        WHEN_TOLD,
        "sh",
        &url,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ];
    docker.said(&words);
    let pid = docker.inspect("box")["State"]["Pid"].as_u64().unwrap();
    let short = docker.short_id("box");
    docker.said(&["exec", "box", "touch", "/tmp/go"]);
    docker.said(&["wait", "box"]);
    let logs = docker.ask(&["logs", "box"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "200", "{}{}", text(&logs), world.site.log());
    let row = exchange(world, path);
    assert_eq!(number(&row["pid"]), pid, "{row:#}");
    assert_eq!(row["process"], "curl");
    assert_eq!(row["exe"], "/bin/curl");
    assert_eq!(row["argv"][0], "curl", "{row:#}");
    assert_eq!(row["argv"][2], url, "{row:#}");
    assert_eq!(row["job_id"], format!("container-{short}"));
    assert_eq!(row["cgroup"], format!("{}/captured/container-{short}", world.site.id));
    assert_eq!((row["outcome"].as_str(), row["mode"].as_str()), (Some("ok"), Some("terminated")));
    docker.said(&["rm", "--force", "box"]);
    row
}

/// Runs curl in a container that runs; answers its exit code and what it printed.
fn curl(world: &World, container: &str, path: &str) -> (Option<i32>, String) {
    let url = format!("https://{API}{path}");
    let words = [
        "exec",
        container,
        "curl",
        "-sS",
        "--max-time",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ];
    let output = world.docker.ask(&words);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a container of the operator that sleeps.
fn sleeper(world: &World, name: &str, more: &[&str]) {
    let entry = host_entry(world);
    let start = ["run", "--detach", "--name", name, "--add-host", &entry];
    world.docker.said(&[&start, more, &[IMAGE, "sleep", "1000"]].concat());
}

/// Exit codes of curl.
const REFUSED: Option<i32> = Some(7);
const TIMED_OUT: Option<i32> = Some(28);

#[test]
fn containers_of_the_operator_are_captured_without_configuration() {
    isolated(|| {
        let world = World::new(false);
        fetched(&world, IMAGE, "bridge", "/status/200", "case=bridge");
        // Without any roots in the image: the variables alone lead to weir's CA.
        fetched(&world, BARE, "bridge", "/delay/1", "case=bare");
        fetched(&world, IMAGE, "host", "/headers", "case=host");
        // Without any variable: the bundle of the image is covered.
        sleeper(&world, "plain", &[]);
        let url = format!("https://{API}/status/204");
        let words = ["exec", "plain", "env", "-i", "/bin/curl", "-sS", "-w", "%{http_code}", &url];
        assert_eq!(world.docker.said(&words), "204");
        assert_eq!(exchange(&world, "/status/204")["process"], "curl");
        assert_eq!(world.site.origin.seen().tls_failures(), 0);
        // Names are asked of weir's resolver. It has no server here, so that they are not found.
        let words = ["exec", "plain", "curl", "-sS", "https://asked.container.test/"];
        assert_eq!(world.docker.ask(&words).status.code(), Some(6));
        let asked = "SELECT qname FROM dns_queries WHERE startsWith(qname, 'asked.container.test')";
        world.site.rows(1, asked);
    });
}

#[test]
fn a_container_whose_network_is_not_known_is_refused() {
    isolated(|| {
        let world = World::new(false);
        world.docker.said(&["network", "create", "other"]);
        sleeper(&world, "odd", &["--network", "other"]);
        let before = world.site.origin.seen().tcp_connections();
        assert_eq!(curl(&world, "odd", "/status/200"), (REFUSED, "000".into()));
        assert_eq!(world.site.origin.seen().tcp_connections(), before, "nothing arrived");
        // A network that is attached to a container that runs leads nowhere.
        sleeper(&world, "later", &["--network", "none"]);
        world.docker.said(&["network", "disconnect", "none", "later"]);
        world.docker.said(&["network", "connect", "other", "later"]);
        let (code, _) = curl(&world, "later", "/status/200");
        assert_ne!(code, Some(0));
        assert_eq!(world.site.origin.seen().tcp_connections(), before, "nothing arrived");
        // The same network with the plain runtime, outside of the capture, reaches the origin: what
        // was refused was refused by weir.
        let outside = format!("/{}/dockerd/plain", world.site.id);
        let uncaptured = ["--runtime", "runc", "--cgroup-parent", &outside, "--network", "other"];
        sleeper(&world, "free", &uncaptured);
        let url = format!("https://{API}/status/200");
        let words = ["exec", "free", "curl", "-sSk", "-w", "%{http_code}", &url];
        assert_eq!(world.docker.said(&words), "200");
        assert_eq!(world.site.origin.seen().tcp_connections(), before + 1);
    });
}

#[test]
fn containers_are_refused_while_no_gateway_runs() {
    isolated(|| {
        let world = World::new(false);
        sleeper(&world, "before", &[]);
        assert_eq!(curl(&world, "before", "/status/200"), (Some(0), "200".into()));
        // Stopped, it does not start the gateway again.
        world.site.signal_up(Signal::SIGSTOP);
        world.site.kill_part("gateway");
        let before = world.site.origin.seen().tcp_connections();
        sleeper(&world, "after", &[]);
        sleeper(&world, "host", &["--network", "host"]);
        assert_eq!(curl(&world, "host", "/status/200"), (REFUSED, "000".into()));
        for name in ["before", "after"] {
            // On a bridge nobody answers, so that a client waits until its own time is over.
            assert_eq!(curl(&world, name, "/status/200"), (TIMED_OUT, "000".into()), "{name}");
        }
        assert_eq!(world.site.origin.seen().tcp_connections(), before, "nothing arrived");
        world.site.signal_up(Signal::SIGCONT);
        wait_for("captured again", || curl(&world, "before", "/status/200").0 == Some(0));
        assert_eq!(curl(&world, "after", "/status/200"), (Some(0), "200".into()));
    });
}
