//! A person logs in with `weir login` and a code, and asks for something.
//!
//! Nobody sits here: the demo opens the provider's page and approves, as Alice would in a browser.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{API, QUERY, Stage, clients};
use crate::sh::{self, Daemon};

const NAME: &str = "Alice";
const PATIENCE: Duration = Duration::from_secs(30);
const COUNT: &str = "SELECT identity, count() FROM exchanges GROUP BY identity ORDER BY identity";

/// Lines of the configuration.
pub(super) fn config(provider: &str) -> String {
    format!(
        "\n[[identity.issuer]]\nname = \"corp\"\nissuer = \"{provider}\"\nkind = \"people\"\n\
         client_id = \"weir-cli\"\ndanger_allow_http = true\n"
    )
}

pub(super) fn run(stage: &Stage, provider: &str) -> Result<()> {
    let log = stage.directory.join("login.log");
    let mut login = Daemon::start("weir login", &mut stage.weir(&["login", "--device"]), &log)?;
    login.wait_for("and enter ", PATIENCE)?;
    let text = login.log();
    let after = |before: &str| text.lines().find_map(|line| line.strip_prefix(before));
    let (page, code) = (after("open "), after("and enter "));
    let (page, code) = (page.context("no address")?, code.context("no code")?);
    println!("$ weir login --device\n{text}");
    let order = json!({ "url": page, "code": code, "user": "alice", "abort": false }).to_string();
    let address = format!("{provider}/__admin/device");
    sh::output(&mut sh::command(&["curl", "-sSf", "--data", &order, &address]), PATIENCE)?;
    let until = Instant::now() + PATIENCE;
    while !login.log().contains("logged in as") {
        ensure!(Instant::now() < until, "nobody was logged in:\n{}", login.log());
        sh::check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{}", login.log().lines().last().unwrap_or_default());
    println!("$ weir whoami\n{}", stage.ask(&["whoami"])?);
    let url = format!("https://{API}/headers?by=alice");
    clients::run(&mut clients::captured(stage, &["curl", "-sSf", &url]), "user-agent")
}

/// The person in the timeline, and everybody's requests.
pub(super) fn show(stage: &Stage) -> Result<()> {
    let until = Instant::now() + QUERY;
    let text = loop {
        let text = stage.ask(&["query", COUNT])?;
        if text.contains(NAME) {
            break text;
        }
        if Instant::now() > until {
            bail!("no exchange of {NAME} was recorded:\n{text}");
        }
        sh::check()?;
        std::thread::sleep(Duration::from_millis(250));
    };
    let timeline = stage.ask(&["timeline", "--by", "person"])?;
    println!("{timeline}\n{COUNT}\n\n{text}");
    let title = format!("== {NAME}  (person_oidc, session)");
    let hers = timeline.split("\n\n").find(|part| part.contains(&title));
    let hers = hers.context("she is not in the timeline")?;
    ensure!(hers.contains("by=alice") && !hers.contains("job="), "she and the jobs are mixed up");
    // Everybody's own requests, and nobody else's.
    let counted = stage.ask(&["query", COUNT, "--format", "csv"])?;
    for row in [format!("\"{NAME}\",1"), "\"acme/app#7001\",3".into(), "\"acme/lib#7002\",3".into()]
    {
        ensure!(counted.lines().any(|line| line == row), "`{row}` is not in:\n{counted}");
    }
    Ok(())
}
