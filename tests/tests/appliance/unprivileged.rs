//! The gateway has no privilege, and what it may not do itself is done all the same.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weir_tests::appliance::{API, Site, signal};

use crate::PYTHON;

/// Prints the errno of a TCP connection and how many microseconds it took.
const TCP: &str = "
import socket, sys, time
sockets = [socket.socket() for _ in range(9)]
for one in sockets:
    begun = time.monotonic_ns()
    print(one.connect_ex((sys.argv[1], 443)), (time.monotonic_ns() - begun) // 1000)
";

fn status(pid: u32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

#[test]
fn the_gateway_runs_without_privilege_and_names_everybody() {
    let mut site = Site::up("");
    for round in 0..2 {
        let gateway = site.part("gateway").unwrap();
        let uid: u32 = status(gateway, "Uid").split('\t').next().unwrap().parse().unwrap();
        assert_ne!(uid, 0);
        assert_eq!(status(gateway, "Uid"), vec![uid.to_string(); 4].join("\t"));
        assert_ne!(status(gateway, "Gid").split('\t').next(), Some("0"));
        assert_eq!(status(gateway, "Groups"), status(gateway, "Gid").split('\t').next().unwrap());
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(gateway, set), "0000000000000000", "{set}");
        }
        assert_eq!(status(gateway, "NoNewPrivs"), "1");
        assert_eq!(status(gateway, "Name"), "weir");
        let spool = std::fs::metadata(site.path("spool")).unwrap();
        assert_eq!((spool.uid(), spool.mode() & 0o777), (uid, 0o700));
        let key = std::fs::metadata(site.path("ca/ca.key")).unwrap();
        assert_eq!((key.uid(), key.mode() & 0o777), (uid, 0o600));

        let job = format!("root-{round}");
        let url = format!("https://{API}/headers");
        let get = ["curl", "-sSf", "-o", "/dev/null", &url];
        site.run(&job, &get);
        let other = format!("other-{round}");
        // Another user than root and than the gateway.
        site.run(&other, &[&["setpriv", "--reuid=4711", "--clear-groups"], &get[..]].concat());
        for (job, identity) in [(job, "user:root"), (other, "uid:4711")] {
            let sql = format!("SELECT identity, exe, process FROM flows WHERE job_id = '{job}'");
            let row = &site.rows(1, &sql)[0];
            assert_eq!((&row["identity"], &row["process"]), (&identity.into(), &"curl".into()));
            assert!(row["exe"].as_str().unwrap().ends_with("/curl"), "{row}");
        }
        if round == 0 {
            // The same of a gateway that took over.
            site.hand_over();
        }
    }
    // What the kernel counts and which layers are active is known without privilege, too.
    let sql = "SELECT 1 FROM heartbeats WHERE counters['layer_devices'] = 0 \
               AND has(mapKeys(counters), 'layer_devices') AND counters['kernel_joined'] > 0";
    site.rows(1, sql);
    site.stop();
}

#[test]
fn a_killed_gateway_leaves_captured_connects_refused_at_once_and_others_alone() {
    let site = Site::up("");
    let address = site.network.inside.to_string();
    // Held before: a connection of a process that is not captured.
    let outside = std::net::TcpStream::connect((site.network.inside, 443)).unwrap();
    site.signal_up(Signal::SIGSTOP);
    let killed = site.kill_part("gateway");
    let dead = || status(killed, "State").starts_with('Z');
    let end = Instant::now() + Duration::from_secs(10);
    while !dead() && Instant::now() < end {
        std::thread::yield_now();
    }
    assert!(dead(), "it ends as a child that nobody has waited for");
    let printed = site.run("refused", &[PYTHON, "-c", TCP, &address]);
    let answers: Vec<(u32, u32)> = printed
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(errno, micros)| (errno.parse().unwrap(), micros.parse().unwrap()))
        .collect();
    assert!(answers.iter().all(|(errno, _)| *errno == 111), "ECONNREFUSED: {answers:?}");
    let mut times: Vec<u32> = answers.iter().map(|(_, micros)| *micros).collect();
    times.sort_unstable();
    println!("refused after {times:?} microseconds");
    assert!(times[times.len() / 2] < 1000, "within a millisecond: {times:?}");
    let other = Command::new(PYTHON).args(["-c", TCP, &address]).output().unwrap();
    let said = String::from_utf8(other.stdout).unwrap();
    assert!(said.lines().all(|line| line.starts_with("0 ")), "outside the cgroup: {said}");
    assert!(outside.take_error().unwrap().is_none() && outside.peer_addr().is_ok());
    site.signal_up(Signal::SIGCONT);
    site.wait_restarted("gateway", killed);
    assert!(site.run("again", &[PYTHON, "-c", TCP, &address]).starts_with("0 "));
}

#[test]
fn without_the_guard_only_names_are_missing() {
    let site = Site::up("");
    site.signal_up(Signal::SIGSTOP);
    let killed = site.kill_part("guard");
    let url = format!("https://{API}/headers");
    site.run("unnamed", &["curl", "-sSf", "-o", "/dev/null", &url]);
    site.rows(1, "SELECT 1 FROM exchanges WHERE job_id = 'unnamed' AND process = 'curl'");
    site.signal_up(Signal::SIGCONT);
    site.wait_restarted("guard", killed);
    site.run("named", &["curl", "-sSf", "-o", "/dev/null", &url]);
    let rows = site.rows(1, "SELECT exe FROM flows WHERE job_id = 'named'");
    assert!(rows[0]["exe"].as_str().unwrap().ends_with("/curl"), "{rows:#?}");
}

#[test]
fn a_service_manager_is_told_and_given_the_listeners() {
    let site = Site::new("");
    site.said(&["attach"]);
    let manager = UnixDatagram::bind(site.path("notify")).unwrap();
    // The gateway is another user when it speaks.
    std::fs::set_permissions(site.path("notify"), Permissions::from_mode(0o666)).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = || {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let log = std::fs::File::create(site.path("log")).unwrap();
    let mut launch = site.weir(&["launch"]);
    let launched = launch.env("NOTIFY_SOCKET", site.path("notify")).stderr(log).spawn().unwrap();
    let mut gateway = Ended(launched);
    let pid = gateway.0.id();
    assert_eq!(told(), format!("READY=1\nMAINPID={pid}\n"), "{}", site.log());
    assert_ne!(status(pid, "Uid").split('\t').next(), Some("0"));
    signal(pid, Signal::SIGTERM);
    assert_eq!(told(), "STOPPING=1\n");
    for name in ["captured", "dns"] {
        assert_eq!(told(), format!("FDSTORE=1\nFDNAME={name}\n"));
    }
    assert!(gateway.0.wait().unwrap().success(), "{}", site.log());
}

/// A child that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn a_user_that_does_not_exist_is_told() {
    let site = Site::new("");
    let text = std::fs::read_to_string(site.path("weir.toml")).unwrap();
    let text = text.replace("[gateway]\n", "[gateway]\nuser = \"nobody-of-that-name\"\n");
    std::fs::write(site.path("weir.toml"), text).unwrap();
    let output = site.ask(&["up"]);
    let said = weir_tests::appliance::text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no user \"nobody-of-that-name\""), "{said}");
}
