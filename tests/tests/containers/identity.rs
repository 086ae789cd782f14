//! Whose a container is: that of the job which started it, as its provider says.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

use serde_json::json;
use weir_tests::appliance::{API, text, wait_for};
use weir_tests::docker::{IMAGE, isolated};
use weir_tests::idp::Idp;

use crate::World;
use crate::https::host_entry;

/// A CI-like worker: its hook, then a container that asks when it is told, with its files at `/out`.
const WORKER: &str = r#"#!/bin/bash
weir() { "$WEIR" --config "$DIR/weir.toml" "$@"; }
weir ci-hook job-started --kind github --require || exit 8
docker run --rm --network "$NETWORK" --add-host "$ENTRY" --volume "$DIR/out:/out" "$IMAGE" sh -c "
    touch /out/up-$RUN; while ! [ -e /out/both ]; do sleep 0.05; done
    curl -sS -o /dev/null -w '%{http_code}\n' $URL"
status=$?
weir ci-hook job-completed --kind github
exit $status
"#;

impl World {
    /// Run `run` of a job that the provider knows, in a cgroup of its own.
    fn worker(&self, idp: &Idp, run: u32, network: &str) -> Child {
        let credential = format!("credential-{run}");
        let claims = json!({
            "sub": "repo:acme/app:ref:refs/heads/main", "repository": "acme/app",
            "repository_id": "77", "repository_owner": "acme", "repository_owner_id": "42",
            "run_id": run.to_string(), "run_attempt": "1", "check_run_id": format!("{run}1"),
        });
        idp.job(&credential, &claims);
        let worker = self.site.show("Runner.Worker");
        let mut command = self.command_of(&format!("build-{run}"), &[&worker]);
        let url = format!("{}/github/idtoken?api-version=2.0", idp.ci("github"));
        command.env("ACTIONS_ID_TOKEN_REQUEST_URL", url);
        command.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", credential);
        command.env("DIR", self.site.path("")).env("WEIR", weir_tests::appliance::binary());
        command.env("RUN", run.to_string()).env("NETWORK", network).env("IMAGE", IMAGE);
        command.env("ENTRY", host_entry(self)).env("URL", format!("https://{API}/headers/{run}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

#[test]
fn containers_of_two_jobs_at_once_have_the_identity_of_theirs() {
    // Installed while there is a network to install it from.
    drop(Idp::start());
    isolated(|| {
        let idp = Idp::start();
        let state = tempfile::tempdir().unwrap();
        let world = World::with(
            false,
            &format!(
                "[identity]\nrequire = \"deny\"\nstate_dir = {:?}\n[[identity.issuer]]\n\
                 name = \"gh\"\nissuer = \"{}\"\nkind = \"github\"\naudience = \"weir\"\n\
                 danger_allow_http = true\n",
                state.path().join("identity"),
                idp.ci("github")
            ),
        );
        let worker = world.site.path("Runner.Worker");
        std::fs::write(&worker, WORKER).unwrap();
        std::fs::set_permissions(&worker, Permissions::from_mode(0o755)).unwrap();
        let out = world.site.path("out");
        std::fs::create_dir(&out).unwrap();
        let mut jobs: Vec<Child> = [(100, "bridge"), (200, "host")]
            .map(|(run, network)| world.worker(&idp, run, network))
            .into();
        for run in [100, 200] {
            wait_for(&format!("container {run}: {}", world.site.log()), || {
                assert!(
                    jobs.iter_mut().all(|job| job.try_wait().unwrap().is_none()),
                    "ended early"
                );
                out.join(format!("up-{run}")).exists()
            });
        }
        // Nobody's container, at the same time.
        let entry = host_entry(&world);
        let url = format!("https://{API}/headers/nobody");
        let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", &url];
        let start = ["run", "--rm", "--add-host", &entry, IMAGE];
        assert_eq!(world.docker.said(&[&start[..], &curl].concat()), "403");
        std::fs::write(out.join("both"), "").unwrap();
        for job in jobs {
            let output = job.wait_with_output().unwrap();
            assert!(output.status.success(), "{}{}", text(&output), world.site.log());
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.lines().any(|line| line == "200"), "{}", text(&output));
        }
        let sql = "SELECT path, identity, identity_method AS method, identity_confidence AS sure, \
                   run, outcome FROM exchanges ORDER BY path";
        let of_run = |run: u32| {
            json!({
                "path": format!("/headers/{run}"), "identity": format!("acme/app#{run}"),
                "method": "github_oidc", "sure": "cgroup", "run": format!("{run}.1"), "outcome": "ok",
            })
        };
        let nobody = json!({
            "path": "/headers/nobody", "identity": "user:root", "method": "uid", "sure": "uid",
            "run": "", "outcome": "unidentified",
        });
        assert_eq!(world.site.rows(3, sql), [of_run(100), of_run(200), nobody]);
    });
}
