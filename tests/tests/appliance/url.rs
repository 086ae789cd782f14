//! A ClickHouse by URL: the same gateway and commands, over TCP.
//!
//! The store plays the server, behind a forwarder from a TCP port to its socket.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use weir_tests::appliance::{API, Site, wait_for};

/// Forwards until the process ends.
fn forward(to: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let to = to.clone();
            std::thread::spawn(move || both_ways(&tcp, &to));
        }
    });
    port
}

/// A store that is away ends the connection.
fn both_ways(tcp: &TcpStream, to: &Path) {
    let Ok(unix) = UnixStream::connect(to) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(copy(&mut { tcp }, &mut { &unix }));
            drop(unix.shutdown(Shutdown::Write));
        });
        drop(copy(&mut { &unix }, &mut { tcp }));
        drop(tcp.shutdown(Shutdown::Both));
        drop(unix.shutdown(Shutdown::Both));
    });
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn a_server_by_url_serves_gateway_and_commands() {
    let mut site = Site::new("");
    // The store gets the configuration without the URL.
    let mut command = site.weir(&["store"]);
    let store = Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let socket = site.path("store.sock");
    wait_for("the store", || UnixStream::connect(&socket).is_ok());
    let port = forward(socket);
    site.configure("weir.toml", &format!("url = \"http://127.0.0.1:{port}\""));
    site.start();
    assert!(site.part("store").is_none(), "weir up starts none of its own");
    site.run("by-url", &["curl", "-sSf", &format!("https://{API}/headers")]);
    let rows = site.rows(1, "SELECT job_id, status FROM exchanges");
    assert_eq!(
        (rows[0]["job_id"].as_str(), rows[0]["status"].as_u64()),
        (Some("by-url"), Some(200))
    );
    assert!(site.said(&["timeline", "--job", "by-url"]).contains("/headers"));
    assert!(site.said(&["sessions"]).contains("by-url"));
    assert!(site.said(&["doctor"]).contains("ClickHouse"));
    site.stop();
    drop(store);
}
