//! `idp`: the tests' identity provider, with jobs that may ask it for tokens, for the demo.
#![expect(clippy::print_stdout, reason = "standard output says when it is ready")]

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::Value;
use weir_tests::idp::Idp;

#[derive(Parser)]
#[command(about = "Serve weir's test identity provider on loopback until killed")]
struct Arguments {
    /// A job's credential and the claims of its tokens: CREDENTIAL=JSON
    #[arg(long = "job")]
    jobs: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let idp = Idp::start();
    for job in &arguments.jobs {
        let (credential, claims) = job.split_once('=').context("CREDENTIAL=JSON")?;
        let claims: Value = serde_json::from_str(claims).context("the claims")?;
        idp.job(credential, &claims);
    }
    println!("idp is up at {}", idp.issuer());
    // Killed with us: it ends with its standard input.
    loop {
        std::thread::park();
    }
}
