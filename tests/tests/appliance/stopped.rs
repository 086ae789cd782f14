//! Without a gateway captured connections fail; without capture nothing of weir is left.

use std::process::Command;

use nix::sys::signal::Signal;
use weir_gateway::capture::cgroup;
use weir_tests::appliance::{API, Site, signal, text};

use crate::PYTHON;

/// Prints the errno of a TCP connection, 0 without error.
const TCP: &str = "import socket, sys; print(socket.socket().connect_ex((sys.argv[1], 443)))";
/// Prints the errno of sending a datagram, connected or not, to both ports.
const UDP: &str = "
import socket, sys
def errno(call, *arguments):
    try:
        call(*arguments)
        return 0
    except OSError as error:
        return error.errno
def attempt(port):
    return errno(socket.socket(type=socket.SOCK_DGRAM).connect, (sys.argv[1], port)), errno(
        socket.socket(type=socket.SOCK_DGRAM).sendto, b'x', (sys.argv[1], port))
print(*attempt(443), *attempt(4433))
";

#[test]
fn without_a_gateway_captured_connections_are_refused_and_others_are_not() {
    let mut site = Site::up("");
    let address = site.network.inside.to_string();
    assert_eq!(site.run("tcp", &[PYTHON, "-c", TCP, &address]), "0\n");
    site.stop();
    nothing_left(&site);

    assert!(site.said(&["attach"]).contains("attached to"));
    assert!(site.said(&["attach"]).contains("replaced the programs"), "in place");
    let before = site.origin.seen().tcp_connections();
    assert_eq!(site.run("tcp", &[PYTHON, "-c", TCP, &address]), "111\n", "ECONNREFUSED");
    assert_eq!(site.origin.seen().tcp_connections(), before, "nothing arrived");
    let outside = Command::new(PYTHON).args(["-c", TCP, &address]).output().unwrap();
    assert_eq!(outside.stdout, b"0\n", "outside the cgroup: {}", text(&outside));
    let doctor = site.ask(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "{}", text(&doctor));
    assert!(text(&doctor).contains("start the gateway"), "{}", text(&doctor));
    site.said(&["detach"]);
    nothing_left(&site);
}

#[test]
fn datagrams_are_refused_and_quic_in_its_own_way() {
    let site = Site::up("");
    let address = site.network.inside.to_string();
    let printed = site.run("udp", &[PYTHON, "-c", UDP, &address]);
    // A UDP connect sends nothing: resolvers use it to compare routes.
    assert_eq!(printed, "111 111 0 1\n", "ECONNREFUSED at 443, EPERM elsewhere");
    let outside = Command::new(PYTHON).args(["-c", UDP, &address]).output().unwrap();
    assert_eq!(outside.stdout, b"0 0 0 0\n", "outside the cgroup: {}", text(&outside));
}

#[test]
fn a_signal_in_the_middle_of_a_transfer_leaves_nothing_either() {
    let mut site = Site::up("");
    let url = format!("https://{API}/bytes/100000000?chunk=1000&gap_ms=5");
    let mut command = site.captured("cut", &["curl", "-sS", "-o", "/dev/null", &url]);
    let mut child = command.spawn().unwrap();
    weir_tests::appliance::wait_for("a request", || site.origin.seen().requests() > 0);
    site.stop();
    let status = child.wait().unwrap();
    assert!(!status.success(), "the transfer was cut, and curl says so");
    nothing_left(&site);
    // What was cut is recorded all the same, at the next start.
    site.start();
    let rows = site.rows(1, "SELECT outcome, resp_bytes FROM exchanges WHERE job_id = 'cut'");
    assert_ne!(rows[0]["outcome"], "ok", "{rows:#?}");
    let gateway = site.part("gateway").unwrap();
    signal(gateway, Signal::SIGTERM);
    site.wait_restarted("gateway", gateway);
}

fn nothing_left(site: &Site) {
    assert!(!std::path::Path::new("/sys/fs/bpf").join(&site.id).exists(), "pins are left");
    let top = cgroup::mount().unwrap().join(&site.id);
    assert!(!top.exists(), "cgroups are left: {}", site.log());
    for socket in ["store.sock", "admin.sock", "guard.sock", "handover.sock"] {
        assert!(!site.path(socket).exists(), "{socket} is left");
    }
}
