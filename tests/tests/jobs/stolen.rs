//! A token that a job reads in the environment of another one.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

use serde_json::json;
use weir_tests::idp::now_s;

use crate::world::{RUNNER, World};

/// One process for all jobs, as of GitLab: what it starts is a stage, which has the job's token. It
/// does not come back before the stage has ended.
const STAGE: &str = r#"#!/bin/bash
bash -c '
cd "$DIR" || exit 9
"$WEIR" --config weir.toml ci-hook job-started --kind gitlab --require || exit 8
eval "$1"' stage "$1"
exit $?
"#;

impl World {
    /// A stage of a GitLab job, with a token in its environment.
    fn stage(&self, token: &str, steps: &str) -> Child {
        let runner = self.site.show("gitlab-runner");
        let mut command = self.captured(&[&runner, steps]);
        command.env("JOB_TOKEN", token);
        command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
    }

    fn gitlab_token(&self, job: u32) -> String {
        let now = now_s();
        self.idp.sign(&json!({
            "iss": self.idp.ci("gitlab"), "aud": "weir", "iat": now, "nbf": now, "exp": now + 300,
            "sub": "project_path:acme/app:ref_type:branch:ref:main", "jti": format!("token-{job}"),
            "namespace_id": "3", "namespace_path": "acme", "project_id": "21",
            "project_path": "acme/app", "pipeline_id": "574", "job_id": job.to_string(),
            "user_login": "alice", "runner_id": 7,
        }))
    }
}

#[test]
fn a_token_from_another_jobs_environment_is_refused_and_told() {
    let world = World::up_with("", |site| {
        let github = "[[identity.issuer]]\nname = \"gh\"\n";
        let config = std::fs::read_to_string(site.path("weir.toml")).unwrap();
        let url = config.split("issuer = \"").find(|text| text.contains("/ci/github")).unwrap();
        let url = url.split('"').next().unwrap().replace("/ci/github", "/ci/gitlab");
        let gitlab = format!(
            "[[identity.issuer]]\nname = \"gl\"\nissuer = \"{url}\"\nkind = \"gitlab\"\n\
             audience = \"weir\"\ndanger_allow_http = true\nclaims = {{ project_id = \"21\" }}\n"
        );
        site.reconfigure(github, &format!("{gitlab}{github}"));
        std::fs::write(site.path("gitlab-runner"), STAGE).unwrap();
        let mode = Permissions::from_mode(0o755);
        std::fs::set_permissions(site.path("gitlab-runner"), mode).unwrap();
    });
    let wait = "await() { until [ -e out/$1 ]; do sleep 0.05; done; }; ";
    let honest = world.stage(
        &world.gitlab_token(302),
        &format!("{wait} echo $$ > out/pid.tmp; mv out/pid.tmp out/pid; await stolen; $GET honest"),
    );
    world.await_file("pid");
    // The environment of a process is its user's to read.
    let steal = "token=$(tr '\\0' '\\n' < /proc/$(cat out/pid)/environ | sed -n 's/^JOB_TOKEN=//p'); \
                 [ -n \"$token\" ] && [ \"$token\" != \"$JOB_TOKEN\" ] || exit 7; ";
    let hook =
        "JOB_TOKEN=$token $WEIR --config weir.toml ci-hook job-started --kind gitlab --require";
    let thief = world.stage(
        &world.gitlab_token(303),
        &format!("{steal} {hook}; echo thief $?; $GET thief; echo \"$token\" > out/token"),
    );
    let (code, said) = world.finish(thief);
    assert_eq!(code, Some(0), "{said}{}", world.site.log());
    assert!(said.contains("thief 1\n200\n"), "{said}{}", world.site.log());
    // A process tree that is nobody's yet.
    let mut other = world.stage(world.body_of("token").trim(), "true");
    assert_eq!(other.wait().unwrap().code(), Some(8), "{}", world.site.log());
    world.make_file("stolen");
    let (code, said) = world.finish(honest);
    assert!(code == Some(0) && said.ends_with("200\n"), "{said}{}", world.site.log());
    assert_eq!(world.exchange("honest")["identity"], "acme/app#302");
    assert_eq!(world.exchange("thief")["identity"], "acme/app#303");
    let told = "SELECT identity, severity FROM alarms WHERE kind = 'token_second_anchor' ORDER BY identity";
    let want = ["acme/app#303".to_owned(), format!("uid:{RUNNER}")];
    let want = want.map(|identity| json!({ "identity": identity, "severity": "error" }));
    assert_eq!(world.site.rows(2, told), want);
}
