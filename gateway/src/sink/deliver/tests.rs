use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::sink::{MemorySink, SinkError};

/// A spool in memory.
#[derive(Default)]
struct Fake {
    segments: Mutex<BTreeMap<u64, Result<Vec<Insert>, String>>>,
    aside: Mutex<Vec<(u64, String)>>,
}

impl SegmentSource for Fake {
    type Ref = u64;

    fn sealed(&self) -> Result<Vec<u64>, SourceError> {
        Ok(self.segments.lock().unwrap().keys().copied().collect())
    }

    fn load(&self, at: &u64) -> Result<Vec<Insert>, SourceError> {
        self.segments.lock().unwrap()[at].clone().map_err(SourceError::Damaged)
    }

    fn salvage(&self, at: &u64) -> Result<Vec<Insert>, SourceError> {
        Ok(vec![insert(*at, Table::Flows)])
    }

    fn ack(&self, at: &u64) -> Result<(), SourceError> {
        self.segments.lock().unwrap().remove(at);
        Ok(())
    }

    fn quarantine(&self, at: &u64, reason: &str) -> Result<(), SourceError> {
        self.segments.lock().unwrap().remove(at);
        self.aside.lock().unwrap().push((*at, reason.to_owned()));
        Ok(())
    }
}

fn insert(segment: u64, table: Table) -> Insert {
    let token = format!("h/b/{segment}/{}", table.name());
    Insert { table, token, data: Bytes::from_static(b"rows"), rows: 2 }
}

fn unavailable() -> SinkError {
    SinkError::Unavailable { action: "inserting".into(), what: "away".into() }
}

fn refused() -> SinkError {
    SinkError::Refused { action: "inserting".into(), what: "Code: 117".into() }
}

fn spool(count: u64) -> Fake {
    let fake = Fake::default();
    for n in 1..=count {
        let inserts = vec![insert(n, Table::Bodies), insert(n, Table::Flows)];
        fake.segments.lock().unwrap().insert(n, Ok(inserts));
    }
    fake
}

/// Runs until the spool is empty, then stops.
async fn deliver(source: Fake, sink: MemorySink) -> (Arc<Fake>, Arc<MemorySink>, Arc<Counters>) {
    let (source, sink) = (Arc::new(source), Arc::new(sink));
    let counters = Arc::new(Counters::default());
    let stop = CancellationToken::new();
    let running = run(Arc::clone(&source), Arc::clone(&sink), Arc::clone(&counters), stop.clone());
    let empty = async {
        while !source.segments.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    tokio::time::timeout(Duration::from_secs(600), async { tokio::join!(running, empty) })
        .await
        .unwrap();
    (source, sink, counters)
}

#[tokio::test(start_paused = true)]
async fn an_outage_delays_but_loses_and_reorders_nothing() {
    let sink = MemorySink::default();
    sink.fail_with((0..9).map(|_| unavailable()).collect());
    let (source, sink, counters) = deliver(spool(3), sink).await;
    let tokens: Vec<String> = sink.batches().into_iter().map(|b| b.1).collect();
    let want: Vec<String> =
        (1..=3).flat_map(|n| [format!("h/b/{n}/bodies"), format!("h/b/{n}/flows")]).collect();
    assert_eq!(tokens, want);
    assert!(source.aside.lock().unwrap().is_empty());
    assert_eq!(counters.retries.load(Ordering::Relaxed), 9);
    assert_eq!(counters.rows.load(Ordering::Relaxed), 12);
    assert_eq!(counters.segments.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_takes_nothing_else_with_it() {
    let sink = MemorySink::default();
    sink.fail_with(vec![refused()]);
    let (source, sink, counters) = deliver(spool(2), sink).await;
    let tokens: Vec<String> = sink.batches().into_iter().map(|b| b.1).collect();
    assert_eq!(tokens, ["h/b/1/flows", "h/b/2/bodies", "h/b/2/flows"]);
    let aside = source.aside.lock().unwrap().clone();
    assert!(matches!(aside.as_slice(), [(1, why)] if why.contains("117")), "{aside:?}");
    assert_eq!(counters.quarantined.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_segment_is_salvaged_and_set_aside() {
    let source = spool(1);
    source.segments.lock().unwrap().insert(0, Err("bit flip".into()));
    let (source, sink, _) = deliver(source, MemorySink::default()).await;
    assert_eq!(sink.batches()[0].1, "h/b/0/flows");
    assert_eq!(*source.aside.lock().unwrap(), [(0, "bit flip".to_owned())]);
    assert_eq!(sink.batches().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn stopping_flushes_what_it_can_and_keeps_the_rest() {
    let (source, counters) = (Arc::new(spool(2)), Arc::new(Counters::default()));
    let stop = CancellationToken::new();
    stop.cancel();
    let sink = Arc::new(MemorySink::default());
    run(Arc::clone(&source), Arc::clone(&sink), Arc::clone(&counters), stop.clone()).await;
    assert_eq!(sink.batches().len(), 4);
    let (source, sink) = (Arc::new(spool(2)), MemorySink::default());
    sink.fail_with(vec![unavailable(), unavailable()]);
    run(Arc::clone(&source), Arc::new(sink), counters, stop).await;
    assert_eq!(source.segments.lock().unwrap().len(), 2);
}
