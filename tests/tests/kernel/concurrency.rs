//! Attribution under load and under source ports that are reused on purpose: what a lookup by
//! address after `accept` gets wrong (`docs/decisions/0001-socket-storage-join.md`).

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weir_gateway::capture::{Capture as _, CaptureError, Captured};

use crate::world::{Client, PATIENCE, World, start_ticks, ticks};

const PROCESSES: u16 = 16;

/// How many connections a test makes: 10 000, or as `WEIR_TEST_CONNECTIONS` says, for emulated
/// machines.
fn connections() -> u16 {
    let wanted = std::env::var("WEIR_TEST_CONNECTIONS");
    wanted.map_or(10_000, |text| text.parse().expect("WEIR_TEST_CONNECTIONS is a number"))
}

/// How the gateway's picture compares with what the clients say about themselves.
#[derive(Debug, Default)]
struct Tally {
    right: u64,
    wrong: u64,
    missing: u64,
    /// Reset before we could read what the client says; judged by the record alone.
    silent: u64,
    /// Without a record, but reset too: the client was gone before our side was established.
    aborted: u64,
}

impl Tally {
    fn seen(&self) -> u64 {
        self.right + self.wrong + self.missing + self.silent + self.aborted
    }

    fn judge(
        &mut self,
        stream: &mut TcpStream,
        record: Result<Captured, CaptureError>,
        starts: &HashMap<u32, u64>,
    ) {
        let record = match record {
            Ok(record) => record,
            Err(CaptureError::NoRecord) => {
                // Whoever is still there waits for us: reading from it would time out.
                let end = std::io::copy(stream, &mut std::io::sink());
                let reset = end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
                *(if reset { &mut self.aborted } else { &mut self.missing }) += 1;
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let key = record.process.key;
        let known = starts.get(&key.tgid) == Some(&ticks(key.start_time_ns));
        let mut claim = [0; 20];
        if stream.read_exact(&mut claim).is_err() {
            if known {
                self.silent += 1
            } else {
                self.wrong += 1
            }
            return;
        }
        let mut mine = Vec::new();
        mine.extend(key.tgid.to_be_bytes());
        mine.extend(record.socket_cookie.0.to_be_bytes());
        let SocketAddr::V4(to) = record.orig_dst.0 else { panic!("{record:?}") };
        mine.extend(to.ip().octets());
        mine.extend(to.port().to_be_bytes());
        mine.extend([0; 2]);
        if known && mine == claim { self.right += 1 } else { self.wrong += 1 }
    }
}

/// What piled up while nobody accepted for a while.
fn accept_some(world: &World) -> Vec<(TcpStream, SocketAddr)> {
    let first = world.v4.accept().expect("a redirected connection");
    std::thread::sleep(Duration::from_millis(2));
    let mut batch = vec![first];
    world.v4.set_nonblocking(true).unwrap();
    while batch.len() < 1000 {
        match world.v4.accept() {
            Ok(one) => batch.push(one),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    world.v4.set_nonblocking(false).unwrap();
    for (stream, _peer) in &batch {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    batch
}

fn start_clients(world: &World, args: impl Fn(u16) -> Vec<String>) -> Vec<Client> {
    (0..PROCESSES)
        .map(|index| {
            let args = args(index);
            world.client(&args.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect()
}

fn starts(clients: &[Client]) -> HashMap<u32, u64> {
    clients.iter().map(|client| (client.pid(), start_ticks(client.pid()))).collect()
}

#[test]
fn ten_thousand_held_connections_are_attributed() {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.max(u64::from(connections()) * 2);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    let (limit, _hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let room = u16::try_from(limit.saturating_sub(500)).unwrap_or(u16::MAX);
    let each = connections().min(room) / PROCESSES;
    let total = u64::from(each) * u64::from(PROCESSES);
    if total < u64::from(connections()) {
        println!(
            "!!! RLIMIT_NOFILE {limit} allows only {total} of {} connections !!!",
            connections()
        );
    }
    let world = World::new("held", &["127.0.0.0/8"]);
    let begun = Instant::now();
    let mut clients =
        start_clients(&world, |index| vec!["hold".into(), index.to_string(), each.to_string()]);
    let starts = starts(&clients);
    let mut tally = Tally::default();
    let mut held = Vec::new();
    for _ in 0..total {
        let (mut stream, record) = world.accept_v4();
        tally.judge(&mut stream, record, &starts);
        held.push(stream);
    }
    let took = begun.elapsed();
    for client in &mut clients {
        assert_eq!(client.say()["connected"], each);
    }
    let begun = Instant::now();
    for stream in &held {
        assert!(world.capture.record(stream.as_fd()).is_ok());
    }
    let each_read = begun.elapsed() / u32::try_from(held.len()).unwrap();
    println!(
        "{total} held by {PROCESSES} processes in {took:?}: {tally:?}; reading a record takes \
         {each_read:?}"
    );
    assert_eq!((tally.right, tally.wrong, tally.missing), (total, 0, 0));
    assert_eq!(world.counter("joined"), total);
    assert_eq!(world.counter("tuple_store_failed") + world.counter("join_no_tuple"), 0);
    drop(held);
    clients.into_iter().for_each(Client::finish);
}

#[test]
fn reused_source_ports_do_not_confuse_attribution() {
    let world = World::new("churn", &["127.0.0.0/8"]);
    let each = connections() / PROCESSES;
    let total = u64::from(each) * u64::from(PROCESSES);
    let ports = 4;
    let begun = Instant::now();
    let mut clients = start_clients(&world, |index| {
        vec!["churn".into(), index.to_string(), each.to_string(), ports.to_string()]
    });
    let starts = starts(&clients);
    let mut tally = Tally::default();
    let mut shadowed = 0;
    while tally.seen() < total {
        let mut batch = accept_some(&world);
        for (at, (_stream, peer)) in batch.iter().enumerate() {
            shadowed += u64::from(batch.iter().skip(at + 1).any(|(_, later)| later == peer));
        }
        for (stream, _peer) in &mut batch {
            let record = world.capture.record(stream.as_fd());
            tally.judge(stream, record, &starts);
        }
    }
    let took = begun.elapsed();
    let mut busy = 0;
    for client in &mut clients {
        let said = client.say();
        assert_eq!(said["connected"], each);
        busy += said["busy"].as_u64().unwrap();
    }
    let (unjoined, withdrawn) = (world.counter("join_no_tuple"), world.counter("tuple_withdrawn"));
    println!(
        "{total} by {PROCESSES} processes from {ports} source ports each in {took:?} \
         ({busy} times a port was busy): {tally:?}; by address alone {shadowed} would have been \
         taken for a later connection; {withdrawn} closed early, {unjoined} of them were accepted"
    );
    assert!(shadowed > total / 10, "ports were not reused enough to show anything: {shadowed}");
    assert_eq!((tally.wrong, tally.missing), (0, 0));
    assert_eq!(tally.right + tally.silent + tally.aborted, total);
    // Where packets are delivered late (6.1), a client can reset before its handshake has arrived
    // here. Its record is withdrawn, so that nobody inherits it, and counted.
    assert_eq!(tally.aborted, unjoined);
    assert!(unjoined <= withdrawn, "{unjoined} have no record, {withdrawn} were withdrawn");
    assert!(tally.silent < total / 10, "too few connections were compared: {tally:?}");
    assert!(tally.right > total / 2, "too few connections were compared: {tally:?}");
    clients.into_iter().for_each(Client::finish);
}
