//! Secrets on their way to a language model and back, and where they are not.
//!
//! The model is the origin's own fake: it says what it was told, and invents a token when it is asked to.
//! What it was told it writes to a file, so that the demo sees what left the machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{LLM, Stage, clients};
use crate::sh;

const QUERY: Duration = Duration::from_secs(30);
/// Every table that has anything of an exchange.
const TABLES: [&str; 4] = ["flows", "exchanges", "bodies", "findings"];
const FINDINGS: &str = "SELECT dst_host, direction, rule, action, location, placeholder, \
    substring(fingerprint, 1, 8) AS fingerprint FROM findings ORDER BY ts, direction";

/// Exchanges, flows, bodies and findings: two prompts and their answers; the token twice, the invented one once.
const ALL: &str = "2,2,4,3";

/// File that the fake model writes what it is asked to.
pub(super) fn received(stage_directory: &std::path::Path) -> std::path::PathBuf {
    stage_directory.join("received")
}

/// Lines of the configuration.
pub(super) fn config() -> String {
    format!(
        "\n[[inspect.route]]\nhosts = [\"{LLM}\"]\nrequests = \"tokenise\"\nresponses = \"redact\"\n"
    )
}

/// Somebody's token, put together here, so that no scanner takes the source for a leak.
fn token() -> String {
    format!("{}_{}", "ghp", "aZ3kQ9xW7mN1vB5tY8rL2pD6sF4gH0jKcUeo")
}

/// As `weir_tests::origin::llm::invented`.
fn invented() -> String {
    format!("{}_{}", "ghp", "R7mXq2Lw9TzK4vBn8YcHs5JdPf1GaUeC0oiE")
}

pub(super) fn run(stage: &Stage) -> Result<()> {
    let token = token();
    println!(
        "a prompt with a token: the model gets a placeholder, the client gets its token back\n"
    );
    let answer = ask(stage, &format!("deploy with {token}"), false)?;
    println!("client: {answer}");
    ensure!(answer == format!("You said: deploy with {token}"), "the token did not come back");
    let left = prompts(stage)?;
    println!("model:  {left}\n");
    ensure!(!left.contains(&token), "the token has left");
    ensure!(left.contains("ghp_WEIR"), "no placeholder has left");

    println!(
        "a streamed answer, three characters an event, in which the model invents another token\n"
    );
    let answer = ask(stage, &format!("invent one like {token}"), true)?;
    println!("client: {answer}\n");
    ensure!(answer.contains(&format!("one like {token}\n")), "the token did not come back");
    ensure!(!answer.contains(&invented()), "the invented token has arrived");
    let left = prompts(stage)?;
    ensure!(!left.contains(&token), "the token has left");
    recorded(stage, &[&token, &invented()])?;
    seen(stage, &token)
}

/// What the model says.
fn ask(stage: &Stage, prompt: &str, stream: bool) -> Result<String> {
    let messages = json!([{"role": "user", "content": prompt}]);
    let body = json!({"model": "fake", "stream": stream, "messages": messages}).to_string();
    let url = format!("https://{LLM}/v1/chat/completions");
    let client = ["curl", "-sSf", "-H", "content-type: application/json", "--data", &body, &url];
    let text = sh::output(&mut clients::captured(stage, &client), Duration::from_secs(60))?;
    if stream {
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = events.filter(|data| *data != "[DONE]").map(serde_json::from_str::<Value>);
        let events = events.collect::<Result<Vec<_>, _>>().context("an event is no JSON")?;
        println!("{} events", events.len());
        let texts = events.iter().filter_map(|e| e.pointer("/choices/0/delta/content"));
        return Ok(texts.filter_map(Value::as_str).collect());
    }
    let answer: Value = serde_json::from_str(&text).context("the answer is no JSON")?;
    let content = answer.pointer("/choices/0/message/content").and_then(Value::as_str);
    Ok(content.context("an answer")?.to_owned())
}

/// All that the model was told.
fn prompts(stage: &Stage) -> Result<String> {
    Ok(std::fs::read_to_string(received(&stage.directory))?.trim().to_owned())
}

/// Nothing of the secrets in any row of the store.
fn recorded(stage: &Stage, secrets: &[&str]) -> Result<()> {
    // Rows arrive one by one: without the last, a secret could still be on its way.
    let of_model =
        format!("exchange_id IN (SELECT exchange_id FROM exchanges WHERE dst_host = '{LLM}')");
    let asked = format!(
        "SELECT (SELECT count() FROM exchanges WHERE dst_host = '{LLM}'), \
         (SELECT count() FROM flows WHERE sni = '{LLM}'), \
         (SELECT uniqExact(exchange_id, dir) FROM bodies WHERE {of_model}), \
         (SELECT count() FROM findings WHERE dst_host = '{LLM}')"
    );
    let until = Instant::now() + QUERY;
    loop {
        let answer = stage.ask(&["query", &asked, "--format", "csv"])?;
        let found = answer.lines().last().unwrap_or_default();
        if found == ALL {
            break;
        }
        if Instant::now() > until {
            bail!("exchanges, flows, bodies and findings with the model: {found}, not {ALL}");
        }
        sh::check()?;
        std::thread::sleep(Duration::from_millis(250));
    }
    for table in TABLES {
        // A part of it is long enough: what stands for a secret begins like it.
        let found = secrets.iter().map(|secret| {
            let part = secret.get(8..24).unwrap_or(secret);
            format!("countIf(position(toString(tuple(*)), '{part}') > 0)")
        });
        let sql = format!(
            "SELECT count() AS rows, {} AS found FROM {table}",
            found.collect::<Vec<_>>().join(" + ")
        );
        let answer = stage.ask(&["query", &sql, "--format", "csv"])?;
        let numbers = answer.lines().last().unwrap_or_default().to_owned();
        println!("{table}: {numbers} (rows, rows with a secret)");
        let (rows, with) = numbers.split_once(',').context("two numbers")?;
        ensure!(rows != "0", "there is nothing in {table}");
        ensure!(with == "0", "a secret is in {table}");
    }
    let findings = stage.ask(&["query", FINDINGS])?;
    println!("\n{FINDINGS}\n\n{findings}");
    ensure!(findings.contains("github-pat") && findings.contains("tokenised"), "no finding");
    Ok(())
}

/// Where the token has been, asked with the token, of which only a fingerprint is sent.
fn seen(stage: &Stage, token: &str) -> Result<()> {
    let file = stage.directory.join("token");
    std::fs::write(&file, token)?;
    let mut command = stage.weir(&["secrets", "seen", "-"]);
    command.stdin(std::fs::File::open(&file)?);
    let text = sh::output(&mut command, QUERY)?;
    println!("$ weir secrets seen - < token\n{text}");
    ensure!(text.contains(LLM) && text.contains("github-pat"), "the token was not found again");
    Ok(())
}
