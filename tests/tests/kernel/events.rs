//! What the kernel side tells: who was refused, whose socket was passed on, who was moved.

use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_ebpf_common::Counter;
use weir_gateway::capture::events::{EventReader, KernelEvent};
use weir_gateway::capture::loader::LayerState;
use weir_gateway::capture::{cgroup, loader, maps};

use crate::world::{PATIENCE, World, start_ticks, ticks};

const LOOPBACK: &[&str] = &["127.0.0.0/8"];

struct Events(EventReader);

impl Events {
    fn of(world: &World) -> Self {
        Self(EventReader::open(&world.places.pin_dir).unwrap())
    }

    /// The next event, waited for as a gateway does.
    fn next(&mut self) -> KernelEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.0.next_event() {
                return event.unwrap();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for an event");
            let timeout = PollTimeout::try_from(left).unwrap();
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
        }
    }

    /// The next event of a cause.
    fn next_of(&mut self, cause: Counter) -> KernelEvent {
        loop {
            let event = self.next();
            if event.cause == cause {
                return event;
            }
        }
    }

    fn none(&mut self) {
        let event = self.0.next_event();
        assert!(event.is_none(), "{event:?}");
    }
}

/// Every kernel that is tested has the tracepoints.
fn watches(world: &World) {
    let layers = loader::layers(&world.places.pin_dir).unwrap();
    let watch = layers.into_iter().find(|layer| layer.name == "watch").unwrap();
    assert_eq!(watch.state, LayerState::Active);
}

/// Runs Python in this process's cgroup; standard input keeps it alive.
struct Script(Child);

impl Script {
    fn start(code: &str, args: &[&str]) -> Self {
        let child = Command::new("python3")
            .args(["-c", code])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for a line.
    fn line(&mut self) -> String {
        use std::io::{BufRead as _, BufReader};
        let mut line = String::new();
        // One line at a time is written, and read, so that nothing is lost in the buffer.
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn finish(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn assert_is(event: &KernelEvent, pid: u32) {
    assert_eq!(event.captured.process.key.tgid, pid, "{event:?}");
    assert_eq!(ticks(event.captured.process.key.start_time_ns), start_ticks(pid), "{event:?}");
}

#[test]
fn a_refused_connect_names_process_and_destination() {
    let world = World::new("e-netns", LOOPBACK);
    let mut events = Events::of(&world);
    for to in ["198.51.100.7:4433", "[2001:db8::7]:443"] {
        let mut client = world.client(&["--netns", "--uid", "65534", "connect", to]);
        client.say();
        let event = events.next();
        assert_eq!(event.cause, Counter::RefusedNetns);
        assert_is(&event, client.pid());
        assert_eq!(event.captured.orig_dst.0.to_string(), to);
        let process = &event.captured.process;
        assert_eq!((process.uid, process.gid), (65534, 65534));
        assert_eq!(process.comm, "weir-test-clien");
        assert!(process.argv.contains(&"--cgroup".to_owned()), "{process:?}");
        assert_eq!(process.ancestors[0].tgid, std::process::id());
        let captured = cgroup::id(&world.places.captured).unwrap();
        assert_eq!((process.cgroup_id, event.other_cgroup), (captured, captured));
        assert_eq!((event.protocol, event.suppressed), (6, 0));
        assert_eq!(event.actor, process.key);
        client.finish();
    }
    events.none();
}

#[test]
fn quic_is_told_once_a_second_and_counted_beyond() {
    let world = World::new("e-quic", LOOPBACK);
    let mut events = Events::of(&world);
    let mut client = world.client(&["udp-send", "198.51.100.7:443"]);
    client.say();
    let event = events.next();
    assert_eq!(event.cause, Counter::UdpSendRefused);
    assert_eq!(event.captured.orig_dst.0.to_string(), "198.51.100.7:443");
    assert_eq!(event.protocol, 17);
    client.finish();
    let mut flood = Script::start(
        "import socket, sys\n\
         open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
         s = socket.socket(type=socket.SOCK_DGRAM)\n\
         for _ in range(500):\n\
         \x20try: s.sendto(b'x', ('198.51.100.7', 443))\n\
         \x20except ConnectionRefusedError: pass\n\
         print('done', flush=True)\n\
         sys.stdin.read()",
        &[world.places.captured.to_str().unwrap()],
    );
    assert_eq!(flood.line(), "done");
    let mut told = 0;
    while let Some(event) = events.0.next_event() {
        let event = event.unwrap();
        assert_is(&event, flood.pid());
        told += 1 + u64::from(event.suppressed);
    }
    assert_eq!(world.counter("udp_send_refused"), 501);
    let suppressed = world.counter("events_suppressed");
    // What was suppressed after the last event that was written is in the counter only.
    assert!((1..=500).contains(&told) && suppressed >= 490, "{told} told, {suppressed} suppressed");
    assert_eq!(world.counter("events_lost"), 0);
    flood.finish();
}

#[test]
fn refused_sockets_binds_and_options_are_told() {
    let world = World::new("e-socket", LOOPBACK);
    let mut events = Events::of(&world);
    let mut client = Script::start(
        "import os, socket, sys\n\
         open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
         def refused(what):\n\
         \x20try: what()\n\
         \x20except PermissionError: return\n\
         \x20sys.exit('not refused')\n\
         inet = socket.AF_INET\n\
         refused(lambda: socket.socket(inet, socket.SOCK_RAW, 253))\n\
         lite = 'done'\n\
         try: refused(lambda: socket.socket(inet, socket.SOCK_DGRAM, 136))\n\
         except OSError: lite = 'no UDP-Lite'\n\
         refused(lambda: socket.socket(inet).bind(('127.0.0.9', int(sys.argv[2]))))\n\
         six = socket.socket(socket.AF_INET6)\n\
         refused(lambda: six.setsockopt(41, 20, bytes(20)))\n\
         print(lite, flush=True)\n\
         sys.stdin.read()",
        &[world.places.captured.to_str().unwrap(), &world.port.to_string()],
    );
    let has_lite = client.line() == "done";
    for (cause, protocol, what) in [
        (Counter::SocketRefusedRaw, 253, 3),
        (Counter::SocketRefusedProtocol, 136, 2),
        (Counter::BindRefused, 6, 0),
        (Counter::OptionRefused, 0, 41 << 16 | 20),
    ] {
        if cause == Counter::SocketRefusedProtocol && !has_lite {
            continue;
        }
        let event = events.next();
        assert_eq!((event.cause, event.protocol, event.what), (cause, protocol, what));
        assert_is(&event, client.pid());
        assert_eq!(event.captured.process.comm, "python3");
        if cause == Counter::BindRefused {
            let to = format!("127.0.0.9:{}", world.port);
            assert_eq!(event.captured.orig_dst.0.to_string(), to);
        }
    }
    events.none();
    client.finish();
}

/// A process makes a socket inside, is moved out, and connects; then somebody outside gets a socket
/// of the inside and does the same.
#[test]
fn sockets_that_leave_are_redirected_and_told() {
    let world = World::new("e-moved", LOOPBACK);
    let mut events = Events::of(&world);
    let captured = world.places.captured.to_str().unwrap();
    let mut client = Script::start(
        "import os, socket, sys\n\
         open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
         s = socket.socket()\n\
         p = socket.socket()\n\
         open(sys.argv[2] + '/cgroup.procs', 'w').write('0')\n\
         s.connect(('198.51.100.7', 443))\n\
         here, there = socket.socketpair()\n\
         child = os.fork()\n\
         if not child:\n\
         \x20_, fds, _, _ = socket.recv_fds(there, 1, 1)\n\
         \x20socket.socket(fileno=fds[0]).connect(('198.51.100.8', 443))\n\
         \x20there.send(b'x')\n\
         \x20sys.stdin.read()\n\
         \x20os._exit(0)\n\
         socket.send_fds(here, [b'x'], [p.fileno()])\n\
         p.close()\n\
         here.recv(1)\n\
         print(child, flush=True)\n\
         sys.stdin.read()\n\
         os.waitpid(child, 0)",
        &[captured, world.places.top.to_str().unwrap()],
    );
    let (_first, record) = world.accept_v4();
    let record = record.unwrap();
    assert!(record.socket_moved, "{record:?}");
    assert_eq!(record.orig_dst.0.to_string(), "198.51.100.7:443");
    let (_second, passed) = world.accept_v4();
    assert!(passed.unwrap().socket_moved);
    let child: u32 = client.line().parse().unwrap();
    for (pid, to) in [(client.pid(), "198.51.100.7:443"), (child, "198.51.100.8:443")] {
        let event = events.next_of(Counter::SocketMoved);
        assert_is(&event, pid);
        assert_eq!(event.captured.orig_dst.0.to_string(), to);
        assert_eq!(
            event.captured.process.cgroup_id,
            cgroup::id(&world.places.top).unwrap(),
            "where the process is"
        );
        assert_eq!(
            event.other_cgroup,
            cgroup::id(&world.places.captured).unwrap(),
            "where the socket is from"
        );
    }
    assert_eq!(world.counter("socket_moved"), 2);
    assert_eq!(world.counter("connect_redirected"), 2);
    let inside = world.client(&["connect", "198.51.100.9:443"]);
    let (_third, record) = world.accept_v4();
    assert!(!record.unwrap().socket_moved);
    inside.finish();
    client.finish();
}

#[test]
fn a_process_that_is_moved_out_is_told_with_its_mover() {
    let world = World::new("e-out", LOOPBACK);
    watches(&world);
    let mut events = Events::of(&world);
    let captured = cgroup::id(&world.places.captured).unwrap();
    let top = cgroup::id(&world.places.top).unwrap();
    let job = world.places.captured.join("job");
    cgroup::create(&job).unwrap();
    // By somebody else: this process.
    let mut client = world.client(&["--uid", "65534", "connect", "198.51.100.7:443"]);
    client.say();
    cgroup::join(&job, Some(client.pid())).unwrap();
    events.none();
    cgroup::join(&world.places.top, Some(client.pid())).unwrap();
    let event = events.next();
    assert_eq!(event.cause, Counter::ProcessMovedOut);
    assert_is(&event, client.pid());
    let process = &event.captured.process;
    assert_eq!((process.uid, process.gid), (65534, 65534));
    assert_eq!(process.comm, "weir-test-clien");
    assert!(process.exe.ino != 0 && process.ancestors[0].tgid == std::process::id());
    assert_eq!(process.cgroup_id, cgroup::id(&job).unwrap(), "where it was");
    assert_eq!(event.job, "job");
    assert_eq!(event.other_cgroup, top, "where it is");
    assert_eq!(event.actor.tgid, std::process::id());
    assert_eq!(ticks(event.actor.start_time_ns), start_ticks(std::process::id()));
    assert_eq!(event.actor_uid, 0);
    // From outside to outside is nobody's business.
    cgroup::join(&world.places.gateway, Some(client.pid())).unwrap();
    events.none();
    client.finish();
    crate::world::wait_until("the job's cgroup is gone", || cgroup::remove(&job).unwrap());

    // By itself, as a child that was forked inside.
    let mut own = Script::start(
        "import os, sys\n\
         open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
         child = os.fork()\n\
         if not child:\n\
         \x20open(sys.argv[2] + '/cgroup.procs', 'w').write('0')\n\
         \x20sys.stdin.read()\n\
         \x20os._exit(0)\n\
         print(child, flush=True)\n\
         os.waitpid(child, 0)",
        &[world.places.captured.to_str().unwrap(), world.places.top.to_str().unwrap()],
    );
    let child: u32 = own.line().parse().unwrap();
    let event = events.next();
    assert_eq!(event.cause, Counter::ProcessMovedOut);
    assert_is(&event, child);
    assert_eq!(event.actor, event.captured.process.key);
    assert_eq!(event.captured.process.cgroup_id, captured);
    own.finish();
    assert_eq!(world.counter("process_moved_out"), 2);
}

#[test]
fn who_was_inside_before_the_attach_is_known() {
    let world = World::new("e-before", LOOPBACK);
    watches(&world);
    let pin_dir = &world.places.pin_dir;
    loader::detach(pin_dir).unwrap();
    cgroup::create(&world.places.captured).unwrap();
    let mut client = Script::start(
        "import sys\n\
         open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
         print('in', flush=True)\n\
         sys.stdin.read()",
        &[world.places.captured.to_str().unwrap()],
    );
    assert_eq!(client.line(), "in");
    let mut spec = world.places.spec(world.port, LOOPBACK);
    loader::attach(&spec).unwrap();
    // And who is known stays known when the programs are replaced.
    spec.upgrade = true;
    assert!(loader::attach(&spec).unwrap().upgraded);
    watches(&world);
    let mut events = Events::of(&world);
    cgroup::join(&world.places.top, Some(client.pid())).unwrap();
    let event = events.next();
    assert_eq!(event.cause, Counter::ProcessMovedOut);
    assert_is(&event, client.pid());
    events.none();
    client.finish();
}

/// Made outside, used inside: by whoever joins with it, and by whoever gets it passed.
#[test]
fn sockets_from_outside_are_told() {
    let world = World::new("e-foreign", LOOPBACK);
    watches(&world);
    let mut events = Events::of(&world);
    let plain = crate::world::listen("127.0.0.1:0".parse().unwrap());
    let to = plain.local_addr().unwrap();
    let mut client = Script::start(
        "import os, socket, sys\n\
         outside = [socket.socket(), socket.socket(socket.AF_INET6)]\n\
         open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
         def connect(s, to):\n\
         \x20try: s.connect(to)\n\
         \x20except PermissionError: pass\n\
         connect(outside[0], ('127.0.0.1', int(sys.argv[2])))\n\
         connect(outside[1], ('::ffff:127.0.0.1', int(sys.argv[2])))\n\
         connect(socket.socket(), ('127.0.0.1', int(sys.argv[2])))\n\
         print('done', flush=True)\n\
         sys.stdin.read()",
        &[world.places.captured.to_str().unwrap(), &to.port().to_string()],
    );
    assert_eq!(client.line(), "done");
    for _ in 0..2 {
        let event = events.next();
        // The security hook refuses it before the tracepoint.
        assert!(
            matches!(event.cause, Counter::ForeignSocket | Counter::LsmConnectRefused),
            "{event:?}"
        );
        assert_is(&event, client.pid());
        assert_eq!(event.captured.orig_dst.0, to);
    }
    events.none();
    client.finish();
}

#[test]
fn a_full_ring_loses_events_and_says_how_many() {
    let world = World::new("e-lost", LOOPBACK);
    let mut events = Events::of(&world);
    let pins = &world.places.pin_dir;
    assert_eq!(maps::take_lost_events(pins).unwrap(), 0);
    // Nobody reads: each process may write 16 events, the ring holds some 540.
    let mut code = String::from("import os, socket, sys\n");
    writeln!(code, "open(sys.argv[1] + '/cgroup.procs', 'w').write('0')").unwrap();
    code.push_str(
        "for _ in range(80):\n\
         \x20child = os.fork()\n\
         \x20if not child:\n\
         \x20\x20for _ in range(16):\n\
         \x20\x20\x20try: socket.socket(type=socket.SOCK_RAW, proto=253)\n\
         \x20\x20\x20except PermissionError: pass\n\
         \x20\x20os._exit(0)\n\
         \x20os.waitpid(child, 0)\n\
         print('done', flush=True)",
    );
    let mut flood = Script::start(&code, &[world.places.captured.to_str().unwrap()]);
    assert_eq!(flood.line(), "done");
    flood.finish();
    let refused = world.counter("socket_refused_raw");
    assert_eq!(refused, 80 * 16);
    let mut read = 0;
    while let Some(event) = events.0.next_event() {
        read += 1 + u64::from(event.unwrap().suppressed);
    }
    let lost = world.counter("events_lost");
    println!("{read} of {refused} events fit, {lost} were lost");
    assert_eq!(read + lost + world.counter("events_suppressed"), refused);
    assert!(read > 500 && lost > 100, "{read} read, {lost} lost");
    // Told once, also to the next who asks.
    assert_eq!(maps::take_lost_events(pins).unwrap(), lost);
    assert_eq!(maps::take_lost_events(pins).unwrap(), 0);
    // And there is room again.
    let mut client = world.client(&["--netns", "connect", "198.51.100.7:443"]);
    client.say();
    assert_eq!(events.next().cause, Counter::RefusedNetns);
    client.finish();
}
