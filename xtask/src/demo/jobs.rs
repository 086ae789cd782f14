//! Two jobs of a CI system at once, under one user and in one cgroup, told apart by their tokens.
//!
//! The provider is the tests' own (npm `oidc-provider` and issuers beside it), the jobs are shell
//! scripts that do what a runner's hook does.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{API, START, Stage, clients};
use crate::sh::{self, Daemon};

/// Runs of two repositories.
const JOBS: [Job; 2] = [FIRST, SECOND];
const FIRST: Job = Job {
    name: "build",
    repository: "acme/app",
    repository_id: "1001",
    run_id: "7001",
    actor: "ada",
};
const SECOND: Job = Job {
    name: "scan",
    repository: "acme/lib",
    repository_id: "1002",
    run_id: "7002",
    actor: "bob",
};
const QUERY: Duration = Duration::from_secs(30);
const WHO: &str = "SELECT identity, identity_method, identity_confidence, run, actor, \
    groupUniqArray(extract(query_masked, 'step=([a-z]+)')) AS steps, count() AS exchanges \
    FROM exchanges GROUP BY ALL ORDER BY identity, identity_confidence";
/// What a job asked for, and who the record says asked.
const STEPS: &str = "SELECT concat(extract(query_masked, 'job=([a-z]+)'), ' ', \
    extract(query_masked, 'step=([a-z]+)'), ' ', toString(repository), ' ', run, ' ', \
    toString(actor)) AS step FROM exchanges WHERE position(query_masked, 'step=') > 0 ORDER BY step";

/// `$1` this job, `$2` the other, `$3` the directory, then the command that registers. The job talks
/// only when both are registered, and ends after its daemon has talked.
const SCRIPT: &str = r#"
me=$1 other=$2 dir=$3; shift 3
wait_for() { n=0; until [ -e "$1" ]; do n=$((n + 1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done; }
ask() { curl -sSf -o /dev/null "$url?job=$1&step=$2"; }
"$@" --pid $$ || exit 1
: > "$dir/$me.ready"; wait_for "$dir/$other.ready"
ask "$me" own || exit 1
sh -c 'curl -sSf -o /dev/null "$url?job=$1&step=child"; exit $?' child "$me" || exit 1
(setsid sh -c 'curl -sSf -o /dev/null "$url?job=$1&step=daemon"; : > "$2/$1.done"' daemon "$me" "$dir" &)
wait_for "$dir/$me.done"
"#;

struct Job {
    name: &'static str,
    repository: &'static str,
    repository_id: &'static str,
    run_id: &'static str,
    actor: &'static str,
}

impl Job {
    fn claims(&self) -> String {
        let workflow =
            format!("{}/.github/workflows/{}.yml@refs/heads/main", self.repository, self.name);
        json!({
            "sub": format!("repo:{}:ref:refs/heads/main", self.repository),
            "repository": self.repository, "repository_id": self.repository_id,
            "repository_owner": "acme", "repository_owner_id": "42",
            "run_id": self.run_id, "run_attempt": "1", "check_run_id": format!("9{}", self.run_id),
            "workflow_ref": workflow, "job_workflow_ref": workflow, "actor": self.actor,
            "ref": "refs/heads/main", "event_name": "push", "runner_environment": "self-hosted",
        })
        .to_string()
    }

    /// As the record writes it.
    fn step(&self, step: &str) -> String {
        let Self { name, repository, repository_id, run_id, actor } = self;
        format!("{name} {step} {repository}#{repository_id} {run_id}.1 {actor}")
    }
}

/// The provider, and where it is.
pub(super) fn start(release: &Path, directory: &Path) -> Result<(Daemon, String)> {
    let mut command = Command::new(release.join("idp"));
    for job in &JOBS {
        command.arg("--job").arg(format!("{}={}", job.name, job.claims()));
    }
    let mut idp = Daemon::start("idp", &mut command, &directory.join("idp.log"))?;
    idp.wait_for("idp is up at ", START)?;
    let log = idp.log();
    let url = log.lines().find_map(|line| line.strip_prefix("idp is up at "));
    let url = url.context("the provider's address")?.to_owned();
    Ok((idp, url))
}

/// Lines of the configuration.
pub(super) fn config(provider: &str, directory: &Path) -> String {
    let state = directory.join("identity");
    format!(
        "\n[identity]\nstate_dir = \"{}\"\n[[identity.issuer]]\nname = \"ci\"\nissuer = \"{provider}/ci/gh\"\nkind = \"github\"\n\
         audience = \"weir\"\nclaims = {{ repository_owner_id = \"42\" }}\n\
         request_hosts = [\"127.0.0.1\"]\ndanger_allow_http = true\n",
        state.display()
    )
}

pub(super) fn run(stage: &Stage, provider: &str) -> Result<()> {
    let script = stage.directory.join("job.sh");
    std::fs::write(&script, SCRIPT)?;
    let both = format!(
        "export url=https://{API}/headers ACTIONS_ID_TOKEN_REQUEST_URL='{provider}/ci/gh/github/idtoken?v=1'\n\
         one() {{ me=$1 other=$2; shift 2; ACTIONS_ID_TOKEN_REQUEST_TOKEN=$me \
         sh {script} $me $other {dir} \"$@\"; }}\n\
         one {a} {b} \"$@\" & first=$!\none {b} {a} \"$@\" & second=$!\n\
         wait $first || exit 1\nwait $second",
        script = script.display(),
        dir = stage.directory.display(),
        a = FIRST.name,
        b = SECOND.name,
    );
    let weir = stage.weir.display().to_string();
    let config = stage.config.display().to_string();
    let hook =
        [&*weir, "--config", &config, "ci-hook", "job-started", "--kind", "github", "--require"];
    let client = [&["sh", "-c", &both, "jobs"][..], &hook].concat();
    clients::run(&mut clients::captured(stage, &client), "weir: this job is ")
}

/// The timeline of each job, and who asked how often.
pub(super) fn show(stage: &Stage) -> Result<()> {
    let mut want: Vec<String> =
        JOBS.iter().flat_map(|job| ["child", "daemon", "own"].map(|step| job.step(step))).collect();
    want.sort();
    let until = Instant::now() + QUERY;
    loop {
        let found = stage.ask(&["query", STEPS, "--format", "csv"])?;
        let found: Vec<&str> = found.lines().skip(1).map(|line| line.trim_matches('"')).collect();
        if found == want {
            break;
        }
        if Instant::now() > until {
            bail!("recorded:\n{}\ninstead of:\n{}", found.join("\n"), want.join("\n"));
        }
        sh::check()?;
        std::thread::sleep(Duration::from_millis(250));
    }
    for job in &JOBS {
        let text = stage.ask(&["timeline", "--by", "job", "--repository", job.repository])?;
        println!("{text}");
        let others = JOBS.iter().filter(|other| other.name != job.name);
        for other in others {
            ensure!(!text.contains(&format!("job={}", other.name)), "jobs are mixed up");
        }
    }
    println!("{WHO}\n\n{}", stage.ask(&["query", WHO])?);
    Ok(())
}
