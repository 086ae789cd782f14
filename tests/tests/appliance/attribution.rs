//! Every exchange is the exchange of the process that made it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use weir_tests::appliance::{API, Site, number};

use crate::PYTHON;

const PROCESSES: usize = 16;
const CONNECTIONS: usize = 125;
/// Opens all its connections, waits for a line, and then makes one request on each.
const CLIENT: &str = "
import os, socket, ssl, sys
host, count = sys.argv[1], int(sys.argv[2])
context = ssl.create_default_context()
open_ones = [context.wrap_socket(socket.create_connection((host, 443), timeout=60),
    server_hostname=host) for _ in range(count)]
print('ready', flush=True)
sys.stdin.readline()
for number, connection in enumerate(open_ones):
    connection.sendall(f'GET /headers/{os.getpid()}/{number} HTTP/1.1\\r\\nhost: {host}\\r\\n\\r\\n'.encode())
for connection in open_ones:
    assert connection.recv(4096).startswith(b'HTTP/1.1 200 '), 'not answered'
print(os.getpid(), flush=True)
";

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn two_thousand_concurrent_connections_are_attributed_to_their_processes() {
    let site = Site::up("");
    let count = CONNECTIONS.to_string();
    let mut clients: Vec<Running> = (0..PROCESSES)
        .map(|n| {
            let words = [PYTHON, "-c", CLIENT, API, &count];
            let mut command = site.captured(&format!("many-{n}"), &words);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            Running(command.spawn().unwrap())
        })
        .collect();
    let mut outputs: Vec<_> =
        clients.iter_mut().map(|c| BufReader::new(c.0.stdout.take().unwrap()).lines()).collect();
    for output in &mut outputs {
        assert_eq!(output.next().unwrap().unwrap(), "ready");
    }
    // Now all of them are open at the same time.
    for client in &mut clients {
        client.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let mut pids: Vec<u64> =
        outputs.iter_mut().map(|lines| lines.next().unwrap().unwrap().parse().unwrap()).collect();
    for client in &mut clients {
        assert!(client.0.wait().unwrap().success());
    }
    let all = PROCESSES * CONNECTIONS;
    let rows = site.rows(all, "SELECT path, pid, job_id FROM exchanges WHERE job_id LIKE 'many-%'");
    assert_eq!(rows.len(), all, "one row per request");
    let mut seen = std::collections::HashSet::new();
    let mut wrong = Vec::new();
    for row in &rows {
        let path = row["path"].as_str().unwrap();
        let claimed: u64 = path.split('/').nth(2).unwrap().parse().unwrap();
        assert!(seen.insert(path), "{path} twice");
        if claimed != number(&row["pid"]) {
            wrong.push(row);
        }
    }
    assert_eq!((wrong.len(), all - seen.len()), (0, 0), "wrong, missing: {wrong:?}");
    let mut claimed: Vec<u64> = rows
        .iter()
        .map(|row| number(&row["pid"]))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    pids.sort_unstable();
    claimed.sort_unstable();
    assert_eq!(claimed, pids);
    // The kernel handed over exactly what the gateway accepted, and the record says so.
    let equal = "SELECT ts FROM heartbeats WHERE counters['flows_total'] >= 2000
        AND counters['kernel_joined'] = counters['flows_total']";
    site.rows(1, equal);
    assert!(site.query("SELECT * FROM gaps WHERE cause = 'kernel_drop'").is_empty());
}
