//! `origin`: an HTTPS origin with a CA of its own, for the demo and the benches.
#![expect(clippy::print_stdout, reason = "standard output says when it is ready")]

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use weir_tests::ca::{Flaw, TestCa};
use weir_tests::origin::{ALPN, Options, Origin, git};

#[derive(Parser)]
#[command(about = "Serve the endpoints of weir's test origin over HTTPS")]
struct Arguments {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Names of the certificate
    #[arg(long = "name", required = true)]
    names: Vec<String>,
    /// Directory for ca.pem (the CA) and server.pem (certificate and key, as proxies want it)
    #[arg(long)]
    out: PathBuf,
    /// Directory of bare repositories, served below /git/
    #[arg(long)]
    git_root: Option<PathBuf>,
    /// Repository to create there
    #[arg(long, requires = "git_root")]
    git_repository: Option<String>,
    /// File to which the fake language model appends what it was asked
    #[arg(long)]
    received: Option<PathBuf>,
    /// Worker threads; 1 runs everything on the calling thread
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = if arguments.threads == 1 {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(arguments.threads)
            .enable_all()
            .build()?
    };
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    let ca = TestCa::new("weir demo CA");
    let names: Vec<&str> = arguments.names.iter().map(String::as_str).collect();
    ca.write(&arguments.out, "ca");
    let server = arguments.out.join("server.pem");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(&server)
        .and_then(|mut file| file.write_all(ca.leaf(&names, Flaw::None).pem().as_bytes()))
        .with_context(|| format!("write {}", server.display()))?;
    if let (Some(root), Some(name)) = (&arguments.git_root, &arguments.git_repository) {
        git::create_repository(root, name)?;
    }
    let options = Options {
        listen: arguments.listen,
        tls: Some(ca.server_config(&names, Flaw::None, &ALPN)),
        git_root: arguments.git_root,
        log: false,
        received: arguments.received,
    };
    let origin = Origin::with(options).await.context("bind the address")?;
    println!("origin is up on {}", origin.addr());
    origin.wait().await;
    Ok(())
}
