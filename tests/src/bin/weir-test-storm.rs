//! Many short connections at a steady rate: each asks one numbered question and says what came.
//!
//! - input: `ADDRESS PREFIX RATE SECONDS`: where to, how paths begin, connections per second
//! - output: a line per connection: number, `ok`, `refused`, `unanswered` or the error's kind, and
//!   when it began and ended, in nanoseconds since 1970
//! - bound: [`THREADS`] connections at a time; what cannot be sent in time is sent late
//! - on failure: exit status 1
#![expect(clippy::disallowed_methods, reason = "its lines are compared with the host's wall clock")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

const THREADS: u64 = 32;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, prefix, rate, seconds] = args.as_slice() else {
        anyhow::bail!("ADDRESS PREFIX RATE SECONDS");
    };
    let address: SocketAddr = address.parse()?;
    let (rate, seconds): (u64, u64) = (rate.parse()?, seconds.parse()?);
    let begun = Instant::now();
    let lines = std::thread::scope(|scope| {
        let one = |thread| move || storm(address, prefix, thread, rate, rate * seconds, begun);
        let all: Vec<_> = (0..THREADS).map(|thread| scope.spawn(one(thread))).collect();
        all.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Result<String, _>>()
    });
    let lines = lines.ok().context("a thread panicked")?;
    std::io::stdout().lock().write_all(lines.as_bytes())?;
    Ok(())
}

/// Every [`THREADS`]th connection.
fn storm(
    address: SocketAddr,
    prefix: &str,
    thread: u64,
    rate: u64,
    count: u64,
    begun: Instant,
) -> String {
    let mut lines = String::new();
    for number in (thread..count).step_by(usize::try_from(THREADS).unwrap_or(1)) {
        let at = begun
            + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX)
                / u32::try_from(rate).unwrap_or(1);
        sleep(at.saturating_duration_since(Instant::now()));
        let from = now();
        let said = match ask(address, &format!("{prefix}/{number}")) {
            Ok(true) => "ok".to_owned(),
            Ok(false) => "unanswered".to_owned(),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        lines += &format!("{number} {said} {from} {}\n", now());
    }
    lines
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", address.ip());
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok"))
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}
