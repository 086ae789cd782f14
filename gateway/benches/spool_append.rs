//! Appends exchanges and bodies to a real directory: rows and bytes for each second.
//!
//! Run on the base commit and on the change, on the same machine; there is no threshold.
#![expect(clippy::print_stdout, reason = "a bench prints its result")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use weir_gateway::clock::SystemClock;
use weir_gateway::config::Spool;
use weir_gateway::inspect::mask::Masked;
use weir_gateway::record::row::{BodyRow, GapRow, Producer, Row};
use weir_gateway::spool::fs::RealFs;
use weir_gateway::spool::writer::Writer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gap = GapRow {
        ts: 1,
        cause: 1,
        gap_boot_id: Uuid::nil(),
        first_seq: 0,
        last_seq: 0,
        records: 0,
        bytes: 0,
        detail: "x".repeat(400),
    };
    let body = BodyRow {
        ts: 1,
        exchange_id: Uuid::nil(),
        session_id: Uuid::nil(),
        job_id: "job".into(),
        dir: 2,
        chunk: 0,
        chunks: 1,
        content_type: String::new(),
        content_encoding: String::new(),
        body: Masked::constant(&[b'b'; 10_000]),
    };
    run("500 B rows", &gap, 400_000)?;
    run("10 KB bodies", &body, 50_000)
}

fn run<R: Row>(name: &str, row: &R, rows: u32) -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = Spool {
        dir: dir.path().to_owned(),
        max_bytes: 4 << 30,
        max_segment_bytes: 32 << 20,
        seal_after: Duration::from_secs(1),
        sync_every: Duration::from_millis(200),
    };
    let producer = Producer {
        host_id: "bench".into(),
        boot_id: Uuid::new_v4(),
        org: String::new(),
        project: String::new(),
        retain_metadata_s: 1,
        retain_bodies_s: 1,
    };
    let (mut writer, _) =
        Writer::open(Arc::new(RealFs), &config, &producer, Arc::new(SystemClock))?;
    let begun = Instant::now();
    for n in 0..rows {
        writer.append(row)?;
        if n % 1024 == 0 {
            writer.tick(Instant::now())?;
        }
    }
    writer.seal()?;
    let seconds = begun.elapsed().as_secs_f64();
    let mb = f64::from(u32::try_from(writer.used_bytes() >> 10)?) / 1024.0;
    println!("{name}: {:.0} rows/s, {:.0} MiB/s", f64::from(rows) / seconds, mb / seconds);
    Ok(())
}
