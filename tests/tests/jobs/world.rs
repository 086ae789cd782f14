//! A provider, an appliance that trusts it, and CI-like workers.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use weir_tests::appliance::{API, Site, wait_for};
use weir_tests::idp::Idp;

/// The runner's user, which has no name here.
pub(crate) const RUNNER: &str = "4711";

/// Steps may use `$GET TAG`, which prints the status of a request, and wait for files.
const WORKER: &str = r#"#!/bin/bash
cd "$DIR" || exit 9
"$WEIR" --config "$DIR/weir.toml" ci-hook job-started --kind github --require || exit 8
bash -c "$1"
status=$?
"$WEIR" --config "$DIR/weir.toml" ci-hook job-completed --kind github
exit $status
"#;
const GET: &str = r#"#!/bin/bash
exec curl -sS -m 20 -w '%{http_code}\n' "https://HOST/headers?tag=$1" -o "$DIR/out/$1.body"
"#;

pub(crate) struct World {
    pub(crate) idp: Idp,
    pub(crate) site: Site,
}

impl World {
    /// `identity` are lines of the table `[identity]`.
    pub(crate) fn up(identity: &str) -> Self {
        Self::up_with(identity, |_| {})
    }

    /// The same, with changes of the configuration before anything runs.
    pub(crate) fn up_with(identity: &str, change: impl FnOnce(&Site)) -> Self {
        let idp = Idp::start();
        let config = format!(
            "[identity]\nrunners = [\"{RUNNER}\"]\n{identity}\n[[identity.issuer]]\nname = \"gh\"\n\
             issuer = \"{}\"\nkind = \"github\"\naudience = \"weir\"\ndanger_allow_http = true\n\
             [[identity.issuer]]\nname = \"corp\"\nissuer = \"{}\"\nkind = \"people\"\n\
             client_id = \"weir-cli\"\ndanger_allow_http = true\n",
            idp.ci("github"),
            idp.issuer()
        );
        let mut site = Site::new("");
        let state = format!("[identity]\nstate_dir = {:?}\n", site.path("identity"));
        site.configure("weir.toml", &config.replacen("[identity]\n", &state, 1));
        change(&site);
        site.start();
        // Its own directory is root's alone.
        std::fs::copy(weir_tests::appliance::binary(), site.path("weir")).unwrap();
        let get = GET.replace("HOST", API);
        for (name, text) in [("Runner.Worker", WORKER), ("get", get.as_str())] {
            std::fs::write(site.path(name), text).unwrap();
            std::fs::set_permissions(site.path(name), Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::create_dir(site.path("out")).unwrap();
        std::fs::set_permissions(site.path("out"), Permissions::from_mode(0o777)).unwrap();
        Self { idp, site }
    }

    /// Starts a job whose provider calls it run `run`, with steps in bash.
    pub(crate) fn job(&self, run: u32, steps: &str) -> Child {
        let claims = json!({
            "sub": "repo:acme/app:ref:refs/heads/main", "repository": "acme/app",
            "repository_id": "77", "repository_owner": "acme", "repository_owner_id": "42",
            "run_id": run.to_string(), "run_attempt": "1", "check_run_id": format!("{run}1"),
            "actor": "octocat", "workflow": "build",
        });
        self.idp.job(&format!("credential-{run}"), &claims);
        let worker = self.site.show("Runner.Worker");
        let mut command = self.captured(&[&worker, steps]);
        command.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", format!("credential-{run}"));
        command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
    }

    /// A command of the runner's user, in the cgroup of all jobs.
    pub(crate) fn captured(&self, words: &[&str]) -> std::process::Command {
        let user = format!("--reuid={RUNNER}");
        let all = [&["setpriv", &user, "--clear-groups"], words].concat();
        let mut command = self.site.captured("runner", &all);
        let url = format!("{}/github/idtoken?api-version=2.0", self.idp.ci("github"));
        command.env("ACTIONS_ID_TOKEN_REQUEST_URL", url);
        command.env("DIR", self.site.path("")).env("WEIR", self.site.path("weir"));
        command.env("GET", self.site.path("get"));
        command
    }

    /// Waits for a file that a step makes.
    pub(crate) fn await_file(&self, name: &str) {
        let path = self.site.path("out").join(name);
        wait_for(&format!("{name}: {}", self.site.log()), || path.exists());
    }

    /// Makes a file that a step waits for.
    pub(crate) fn make_file(&self, name: &str) {
        std::fs::write(self.site.path("out").join(name), "").unwrap();
    }

    /// What a step wrote.
    pub(crate) fn body_of(&self, name: &str) -> String {
        std::fs::read_to_string(self.site.path("out").join(name)).unwrap()
    }

    /// The text that a request got.
    pub(crate) fn body(&self, tag: &str) -> String {
        self.body_of(&format!("{tag}.body"))
    }

    /// The recorded exchange of a request.
    pub(crate) fn exchange(&self, tag: &str) -> Value {
        let sql = format!(
            "SELECT identity, outcome, status, pid, flow_id FROM exchanges WHERE query_masked = 'tag={tag}'"
        );
        self.site.rows(1, &sql).remove(0)
    }

    /// Whom a request is recorded as, in `flows` or `exchanges`, but for its name.
    pub(crate) fn who(&self, table: &str, tag: &str) -> String {
        let id = self.exchange(tag)["flow_id"].as_str().unwrap().to_owned();
        let sql = format!(
            "SELECT arrayStringConcat([toString(identity_method), toString(identity_confidence), \
             toString(identity_state), subject, toString(repository), toString(workflow), run, \
             ci_job, toString(actor)], ' ') AS who FROM {table} WHERE flow_id = '{id}'"
        );
        self.site.rows(1, &sql).remove(0)["who"].as_str().unwrap().to_owned()
    }

    /// The recorded flow of a request, with how its identity is known.
    pub(crate) fn flow(&self, tag: &str) -> Value {
        let id = self.exchange(tag)["flow_id"].as_str().unwrap().to_owned();
        let sql =
            format!("SELECT identity, identity_src, outcome FROM flows WHERE flow_id = '{id}'");
        self.site.rows(1, &sql).remove(0)
    }

    /// What a finished job printed.
    pub(crate) fn finish(&self, job: Child) -> (Option<i32>, String) {
        let output = job.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
