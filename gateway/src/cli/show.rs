//! `weir show`: one exchange with its headers and bodies.

use std::io::Write;

use crate::clock::WallUs;
use crate::config::Config;
use crate::query::findings::{self, Filter, Place};
use crate::query::show::{self, Body, Direction, Exchange};
use crate::query::{QueryError, Size, terminal, when};
use crate::sink::connect_reader;

/// Bytes of a body that `--body` writes; larger than any recorded body.
const WHOLE_BODY: usize = 64 * 1024 * 1024;
const DUMP_LINES: usize = 16;
/// Secrets that are listed.
const FINDINGS: u32 = 256;

/// Shows one exchange: head, headers and bodies.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Id of the exchange, or the beginning of it; see `weir timeline --ids`.
    pub id: String,
    /// Bytes shown of each body.
    #[arg(long, default_value_t = 16 * 1024)]
    pub max_body: usize,
    /// Writes one body as it was recorded, and nothing else; for files and pipes.
    #[arg(long, value_enum)]
    pub body: Option<Direction>,
}

/// Answers on `out`.
///
/// # Errors
/// See [`QueryError`].
pub async fn run(args: &Args, config: &Config, out: &mut dyn Write) -> Result<(), QueryError> {
    let client = connect_reader(&config.store)?;
    let exchange = show::exchange(&client, &args.id).await?;
    if let Some(direction) = args.body {
        let body = show::body(&client, exchange.exchange_id, direction, WHOLE_BODY).await?;
        out.write_all(&body.bytes)?;
        return Ok(());
    }
    head(&exchange, out)?;
    let filter =
        Filter { exchange: Some(exchange.exchange_id), limit: FINDINGS, ..Filter::default() };
    findings(&findings::places(&client, &filter).await?, out)?;
    for direction in [Direction::Request, Direction::Response] {
        let cap = args.max_body.min(WHOLE_BODY);
        let body = show::body(&client, exchange.exchange_id, direction, cap).await?;
        half(&exchange, direction, &body, out)?;
    }
    Ok(())
}

fn head(e: &Exchange, out: &mut dyn Write) -> Result<(), QueryError> {
    let status = if e.status == 0 { "no response".to_owned() } else { e.status.to_string() };
    let lines = [
        ("exchange", e.exchange_id.to_string()),
        ("time", format!("{} UTC", when::show(WallUs(e.at_us)))),
        ("request", format!("{} {}", e.method, e.url)),
        ("status", status),
        ("process", format!("{}[{}]", e.process, e.pid)),
        ("identity", e.identity.clone()),
        ("known by", e.known_by.clone()),
        ("issuer", e.issuer.clone()),
        ("subject", e.subject.clone()),
        ("groups", e.groups.join(", ")),
        ("repository", e.repository.clone()),
        ("workflow", e.workflow.clone()),
        ("run", e.run.clone()),
        ("ci job", e.ci_job.clone()),
        ("actor", e.actor.clone()),
        ("runner", e.runner.clone()),
        ("job", e.job_id.clone()),
        ("session", e.session_id.to_string()),
        ("flow", e.flow_id.to_string()),
        ("host", e.host_id.clone()),
        ("destination", e.destination.clone()),
        ("protocol", e.protocols.clone()),
        ("decision", e.decision.clone()),
        ("outcome", join(&e.outcome, &e.detail)),
        ("took", format!("{} ms, first byte after {} ms", e.dur_us / 1000, e.ttfb_us / 1000)),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name:<12} {}", terminal::line(value))?;
    }
    Ok(())
}

fn findings(places: &[Place], out: &mut dyn Write) -> Result<(), QueryError> {
    for one in places.iter().rev() {
        let Place { action, rule, confidence, length, direction, location, fingerprint, .. } = one;
        let text = format!(
            "{action} {rule} ({confidence}, {length} bytes) in the {direction}, {location}; \
             fingerprint {fingerprint}"
        );
        writeln!(out, "{:<12} {}", "secret", terminal::line(&text))?;
    }
    Ok(())
}

fn join(outcome: &str, detail: &str) -> String {
    if detail.is_empty() { outcome.to_owned() } else { format!("{outcome}: {detail}") }
}

fn half(
    e: &Exchange,
    direction: Direction,
    body: &Body,
    out: &mut dyn Write,
) -> Result<(), QueryError> {
    let (headers, bytes, state) = match direction {
        Direction::Request => (&e.req_headers, e.req_bytes, &e.req_body),
        Direction::Response => (&e.resp_headers, e.resp_bytes, &e.resp_body),
    };
    writeln!(out, "\n--- {} ---", direction.name())?;
    for (name, value) in headers {
        writeln!(out, "{}: {}", terminal::line(name), terminal::line(value))?;
    }
    if bytes == 0 && body.recorded == 0 {
        return Ok(());
    }
    let shown = u64::try_from(body.bytes.len()).unwrap_or(u64::MAX);
    let mut note = format!("body: {} sent, recorded: {}", Size(bytes), terminal::line(state));
    if body.recorded > 0 {
        note = format!("{note} ({})", Size(body.recorded));
    }
    if !body.content_encoding.is_empty() {
        note = format!("{note}, encoded: {}", terminal::line(&body.content_encoding));
    }
    writeln!(out, "\n[{note}]")?;
    if body.bytes.is_empty() {
        return Ok(());
    }
    match terminal::as_text(&body.bytes) {
        Some(text) => {
            let text = terminal::block(text);
            writeln!(out, "{}", text.trim_end_matches('\n'))?;
        }
        None => write!(out, "{}", terminal::hexdump(&body.bytes, DUMP_LINES))?,
    }
    if shown < body.recorded {
        writeln!(
            out,
            "[{} of {} shown; all of it: --body {}]",
            Size(shown),
            Size(body.recorded),
            direction.name()
        )?;
    }
    Ok(())
}
