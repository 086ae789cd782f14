//! Other network namespaces: captured by the real gateway, and recorded.

use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use weir_tests::appliance::{API, Site, number, text, wait_for};

use crate::PYTHON;

/// Namespaces and a bridge in a network of the test's own; they are removed when dropped.
struct Boxes {
    names: [String; 2],
}

impl Boxes {
    /// One behind bridge `wbr0`, one with nothing but loopback. The calling thread is in a namespace
    /// of its own from now on.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let id = std::process::id();
        let boxes = Self { names: ["bridged", "alone"].map(|kind| format!("weir-{kind}-{id}")) };
        let [bridged, alone] = &boxes.names;
        sh(&format!(
            "ip link set lo up
             ip link add wbr0 type bridge
             ip addr add 10.78.0.1/24 dev wbr0
             ip link set wbr0 up
             ip netns add {bridged}
             ip link add wv0 type veth peer name eth0 netns {bridged}
             ip link set wv0 master wbr0 up
             ip -n {bridged} link set lo up
             ip -n {bridged} addr add 10.78.0.2/24 dev eth0
             ip -n {bridged} link set eth0 up
             ip -n {bridged} route add default via 10.78.0.1
             ip netns add {alone}
             ip -n {alone} link set lo up"
        ));
        boxes
    }

    fn path(&self, index: usize) -> String {
        format!("/run/netns/{}", self.names[index])
    }
}

impl Drop for Boxes {
    fn drop(&mut self) {
        for name in &self.names {
            drop(Command::new("ip").args(["netns", "del", name]).output());
        }
    }
}

fn sh(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output));
}

/// A process that holds a namespace; killed when dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn requests_from_other_namespaces_are_recorded_with_their_processes() {
    let boxes = Boxes::new();
    let mut site = Site::new("");
    let config = std::fs::read_to_string(site.path("weir.toml")).unwrap();
    let with = config.replace("devices = []\n", "devices = []\nbridges = [\"wbr0\"]\n");
    let with = with.replace("[dns]\n", "[dns]\nrefuse = [\"refused.test\"]\n");
    assert_ne!(config, with);
    std::fs::write(site.path("weir.toml"), with).unwrap();
    site.start();
    let request = |job: &str, index: usize| {
        let enter = format!("--net={}", boxes.path(index));
        let url = format!("https://{API}/headers/{job}");
        let words = ["nsenter", &enter, "curl", "-sS", "-m", "20", "-o", "/dev/null", &url];
        site.captured(job, &words).output().unwrap()
    };
    for index in [0, 1] {
        let refused = request("early", index);
        assert!(!refused.status.success(), "not registered: {}", text(&refused));
    }
    site.said(&["netns", "add", "--bridge", "--path", &boxes.path(0)]);
    site.said(&["netns", "add", "--path", &boxes.path(1)]);
    let wrong = site.ask(&["netns", "add", "--bridge", "--path", &boxes.path(1)]);
    assert!(text(&wrong).contains("unknown network namespace"), "{}", text(&wrong));
    let list = site.said(&["netns", "list"]);
    assert_eq!((list.lines().count(), list.matches("bridge, devices").count()), (3, 1), "{list}");
    for (index, job) in ["boxed", "alone"].into_iter().enumerate() {
        let done = request(job, index);
        assert!(done.status.success(), "{job}: {}{}", text(&done), site.log());
        let sql = format!("SELECT path, pid FROM exchanges WHERE job_id = '{job}'");
        let rows = site.rows(1, &sql);
        assert_eq!(rows[0]["path"], format!("/headers/{job}"));
        assert!(number(&rows[0]["pid"]) > 1);
    }
    assert_eq!(site.origin.seen().requests(), 2);
    // Any name server is weir's resolver, at the bridge.
    let question = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
        s.settimeout(10); s.sendto(bytes.fromhex('123401000001000000000000077265667573656404746573740000010001'), \
        ('192.0.2.53', 53)); data, server = s.recvfrom(512); print(server[0], server[1], data[3] & 15)";
    let enter = format!("--net={}", boxes.path(0));
    assert_eq!(
        site.run("names", &["nsenter", &enter, PYTHON, "-c", question]),
        "192.0.2.53 53 5\n"
    );
    // Somebody on the bridge who is not captured gets nowhere.
    let outside = format!(
        "import socket; s = socket.create_connection(('{}', 443), 10); s.sendall(b'x'); \
         print(s.recv(1))",
        site.network.inside
    );
    let enter = format!("--net={}", boxes.path(0));
    let before = site.origin.seen().tcp_connections();
    let output = Command::new("nsenter").args([&enter, PYTHON, "-c", &outside]).output().unwrap();
    let said = text(&output);
    assert!(said.contains("b''") || said.contains("reset"), "{said}");
    assert_eq!(site.origin.seen().tcp_connections(), before);

    site.said(&["netns", "remove", "--path", &boxes.path(1)]);
    assert!(!request("late", 1).status.success());
    // With a process, and with its end.
    let alone = format!("--net={}", boxes.path(1));
    let mut command = Command::new("nsenter");
    command.args([&alone, "sleep", "600"]).stdin(Stdio::null());
    let holder = Holder(command.spawn().unwrap());
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let pid = holder.0.id();
    wait_for("the process enters", || {
        std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs != own)
    });
    site.said(&["netns", "add", "--pid", &pid.to_string()]);
    assert!(request("held", 1).status.success());
    drop(holder);
    wait_for("the registration to end", || site.said(&["netns", "list"]).lines().count() == 2);
    assert!(!request("late", 1).status.success());
    // A gateway that was killed: the next one has forgotten what the first had inside.
    site.said(&["netns", "add", "--path", &boxes.path(1)]);
    let killed = site.kill_part("gateway");
    site.wait_restarted("gateway", killed);
    wait_for("what was inside to be forgotten", || {
        site.said(&["netns", "list"]).lines().count() == 2
    });
    assert!(!request("late", 1).status.success());
    assert!(request("again", 0).status.success(), "by the bridge as before: {}", site.log());
    site.stop();
}
