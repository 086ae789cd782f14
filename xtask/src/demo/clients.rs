//! The demo's clients: stock programs without any configuration for weir.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{API, GIT, Stage};
use crate::sh;

const LIMIT: Duration = Duration::from_secs(60);
const PYTHON: &str = "
import json, urllib.request
body = json.dumps({'from': 'python', 'question': 'who am i'}).encode()
request = urllib.request.Request('https://api.demo.test/echo', data=body,
    headers={'content-type': 'application/json'})
print(urllib.request.urlopen(request, timeout=20).read().decode())
";
const NODE: &str = "
fetch('https://api.demo.test/sse?events=3&gap_ms=20').then(async response => {
  console.log(response.status, (await response.text()).trim());
}).catch(error => { console.error(error); process.exit(1); });
";

/// Words that start a command whose /etc/hosts is the demo's.
pub(crate) fn namespace(stage: &Stage) -> Vec<String> {
    let hosts = stage.directory.join("hosts");
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    words.extend([format!("'{script}'"), "client".to_owned()]);
    words
}

/// A client in the demo's mount namespace, started by `weir run`.
pub(super) fn captured(stage: &Stage, client: &[&str]) -> Command {
    println!("$ weir run -- {}", client.join(" ").trim());
    let words = namespace(stage);
    let words: Vec<&str> = words.iter().map(|word| word.trim_matches('\'')).collect();
    let mut command = sh::command(&words);
    command.arg(&stage.weir).arg("--config").arg(&stage.config).args(["run", "--"]).args(client);
    // A proxy of the machine's own would hide the origin's address from the hook.
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env("HOME", &stage.directory).env("GIT_TERMINAL_PROMPT", "0");
    command
}

pub(super) fn run(command: &mut Command, expected: &str) -> Result<()> {
    let text = sh::output(command, LIMIT)?;
    println!("{}", text.trim());
    ensure!(text.contains(expected), "`{expected}` is not in what the client printed");
    Ok(())
}

pub(super) fn curl(stage: &Stage) -> Result<()> {
    let url = format!("https://{API}/headers");
    run(&mut captured(stage, &["curl", "-sSf", &url]), "user-agent")?;
    let upload = format!("https://{API}/sink");
    let form = ["curl", "-sSf", "--data", "hello from curl", &upload];
    run(&mut captured(stage, &form), "\"bytes\":15")
}

pub(super) fn git(stage: &Stage) -> Result<()> {
    let work = stage.directory.join("work");
    let path = work.display().to_string();
    let url = format!("https://{GIT}/git/demo.git");
    run(&mut captured(stage, &["git", "clone", "--quiet", &url, &path]), "")?;
    std::fs::write(work.join("README"), "made by the demo\n")?;
    local(&work, &["add", "README"])?;
    let author = ["-c", "user.name=Demo", "-c", "user.email=demo@example.com"];
    local(&work, &[&author[..], &["commit", "--quiet", "-m", "add a readme"]].concat())?;
    let push = ["git", "-C", &path, "push", "--quiet", "origin", "HEAD:refs/heads/main"];
    run(&mut captured(stage, &push), "")?;
    let head = local(&work, &["rev-parse", "HEAD"])?;
    let repository = stage.directory.join("repositories/demo.git");
    let pushed = local(&repository, &["rev-parse", "refs/heads/main"])?;
    ensure!(head == pushed, "the origin has {pushed}, not {head}");
    println!("pushed {}", head.trim());
    Ok(())
}

fn local(directory: &Path, arguments: &[&str]) -> Result<String> {
    sh::output(sh::command(&["git"]).args(arguments).current_dir(directory), LIMIT)
}

pub(super) fn python(stage: &Stage) -> Result<()> {
    run(&mut captured(stage, &["python3", "-c", PYTHON]), "who am i")
}

pub(super) fn node(stage: &Stage) -> Result<()> {
    run(&mut captured(stage, &["node", "-e", NODE]), "\"seq\":2")
}
