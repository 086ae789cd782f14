//! `loadgen`: one measurement against one address; prints one JSON object.
#![expect(clippy::print_stdout, reason = "standard output is the product")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::io::AsyncReadExt;
use weir_tests::load::{self, Target};

#[derive(Parser)]
#[command(about = "Measure one address with TLS, without verification of certificates")]
struct Arguments {
    /// Address to connect to
    #[arg(long)]
    connect: SocketAddr,
    /// Name for SNI and host
    #[arg(long)]
    name: String,
    /// Protocol
    #[arg(long, value_enum, default_value = "h1")]
    http: Protocol,
    /// Worker threads; 1 runs everything on the calling thread
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    H1,
    H2,
}

#[derive(Subcommand)]
enum Mode {
    /// One connection, one request after the other
    Latency {
        #[arg(long, default_value_t = 5000)]
        requests: usize,
    },
    /// Keep-alive connections for a fixed time
    Throughput {
        #[arg(long, default_value_t = 64)]
        connections: usize,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// One request per connection for a fixed time
    Conns {
        #[arg(long, default_value_t = 16)]
        parallel: usize,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// One download
    Download {
        #[arg(long, default_value_t = 1 << 30)]
        bytes: u64,
    },
    /// One upload
    Upload {
        #[arg(long, default_value_t = 1 << 30)]
        bytes: u64,
    },
    /// Event streams
    Sse {
        #[arg(long, default_value_t = 200)]
        streams: u32,
        #[arg(long, default_value_t = 20)]
        events: u32,
        #[arg(long, default_value_t = 100)]
        gap_ms: u64,
        /// Print `ready` when all streams flow, and count from the end of standard input on
        #[arg(long)]
        hold: bool,
    },
    /// Idle connections, held until standard input ends
    Idle {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
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
    let h2 = matches!(arguments.http, Protocol::H2);
    let target = Target::new(arguments.connect, &arguments.name, h2);
    runtime.block_on(run(&target, arguments.mode))
}

async fn run(target: &Target, mode: Mode) -> Result<()> {
    let report = match mode {
        Mode::Latency { requests } => load::latency(target, requests).await?,
        Mode::Throughput { connections, seconds } => {
            load::throughput(target, connections, Duration::from_secs(seconds)).await?
        }
        Mode::Conns { parallel, seconds } => {
            load::connections(target, parallel, Duration::from_secs(seconds)).await?
        }
        Mode::Download { bytes } => load::download(target, bytes).await?,
        Mode::Upload { bytes } => load::upload(target, bytes).await?,
        Mode::Sse { streams, events, gap_ms, hold } => {
            let start = async {
                if hold {
                    println!("ready");
                    input_end().await?;
                }
                Ok(())
            };
            load::sse(target, streams, events, Duration::from_millis(gap_ms), start).await?
        }
        Mode::Idle { connections } => {
            let ready = |report| println!("{report}");
            return load::idle(target, connections, ready, input_end()).await;
        }
    };
    println!("{report}");
    Ok(())
}

async fn input_end() -> Result<()> {
    let mut rest = Vec::new();
    tokio::io::stdin().take(1024).read_to_end(&mut rest).await.context("wait for the end")?;
    Ok(())
}
